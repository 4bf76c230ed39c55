#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::*;
use crate::testing::audience;

/// A source that answers as it is told, when it is told.
struct Script {
    fetches: AtomicUsize,
    ttl: Mutex<Duration>,
    outcome: Mutex<Outcome>,
    /// One permit lets one fetch end.
    gate: Semaphore,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Denied,
    Issued,
    Unreachable,
}

impl Script {
    fn new(ttl: Duration) -> Arc<Self> {
        let (fetches, gate) = (AtomicUsize::new(0), Semaphore::new(10_000));
        Arc::new(Self { fetches, ttl: Mutex::new(ttl), outcome: Mutex::new(Outcome::Issued), gate })
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn answer(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap() = outcome;
    }
}

impl Fetch for Script {
    fn fetch<'a>(&'a self, spiffe_id: &'a SpiffeId, audience: &'a Audience) -> Fetching<'a> {
        Box::pin(async move {
            let number = self.fetches.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let outcome = *self.outcome.lock().unwrap();
            if outcome != Outcome::Issued {
                let (audience, denied) = (audience.to_string(), outcome == Outcome::Denied);
                return Err(Error::NoJwtSvid { audience, reason: "as told".to_owned(), denied });
            }
            let token = SecretString::from(format!("{audience}#{number}"));
            let expires_at = SystemTime::now() + *self.ttl.lock().unwrap();
            Ok(JwtSvid::new(spiffe_id.clone(), audience.clone(), token, expires_at))
        })
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://td/a").unwrap()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), poll).await.expect("the condition never came true");
}

/// Makes the refresh of what is held due now.
fn make_due(svids: &JwtSvids, text: &str) {
    svids.entry(&audience(text)).held().refresh_at = Some(SystemTime::now());
}

#[tokio::test]
async fn one_fetch_serves_all_who_ask_and_each_audience_has_its_own_token() {
    let script = Script::new(Duration::from_secs(300));
    let svids = Arc::new(JwtSvids::new(script.clone()));
    let ask = |text: &'static str| {
        let svids = svids.clone();
        tokio::spawn(async move { svids.svid(&id(), &audience(text)).await.unwrap() })
    };
    let asked: Vec<_> = (0..50).map(|n| ask(if n % 2 == 0 { "one" } else { "two" })).collect();
    for (n, asked) in asked.into_iter().enumerate() {
        let svid = asked.await.unwrap();
        let expected = if n % 2 == 0 { "one" } else { "two" };
        assert_eq!(svid.audience().as_str(), expected);
        assert!(svid.token().expose_secret().starts_with(expected));
    }
    assert_eq!(script.fetches(), 2);
}

#[tokio::test]
async fn past_half_of_its_life_a_token_is_refreshed_behind_the_call() {
    let script = Script::new(Duration::from_secs(300));
    let svids = JwtSvids::new(script.clone());
    let first = svids.svid(&id(), &audience("a")).await.unwrap();
    make_due(&svids, "a");
    // The call has the old one, at once.
    assert_eq!(
        svids.svid(&id(), &audience("a")).await.unwrap().token().expose_secret(),
        first.token().expose_secret()
    );
    until(|| svids.entry(&audience("a")).held().attempts == 2).await;
    assert_eq!(svids.svid(&id(), &audience("a")).await.unwrap().token().expose_secret(), "a#1");
    assert_eq!(script.fetches(), 2);
}

#[tokio::test]
async fn a_token_in_use_is_refreshed_although_nobody_calls_and_an_unused_one_is_not() {
    let script = Script::new(Duration::from_secs(300));
    let svids = Arc::new(JwtSvids::new(script.clone()));
    let keeping = svids.clone();
    let kept = tokio::spawn(async move { keeping.keep_ahead(|| Some(id())).await });
    for text in ["used", "unused"] {
        svids.svid(&id(), &audience(text)).await.unwrap();
        make_due(&svids, text);
        until(|| svids.entry(&audience(text)).held().attempts == 2).await;
    }
    svids.svid(&id(), &audience("used")).await.unwrap();
    make_due(&svids, "unused");
    make_due(&svids, "used");
    until(|| svids.entry(&audience("used")).held().attempts == 3).await;
    assert_eq!(svids.entry(&audience("unused")).held().attempts, 2);
    kept.abort();
}

#[tokio::test]
async fn a_token_is_kept_while_the_source_is_unreachable_and_dropped_when_it_denies() {
    let script = Script::new(Duration::from_secs(300));
    let svids = JwtSvids::new(script.clone());
    svids.svid(&id(), &audience("a")).await.unwrap();
    script.answer(Outcome::Unreachable);
    make_due(&svids, "a");
    svids.svid(&id(), &audience("a")).await.unwrap();
    until(|| svids.entry(&audience("a")).held().failures == 1).await;
    assert!(svids.svid(&id(), &audience("a")).await.is_ok(), "it has not expired");
    assert_eq!(script.fetches(), 2, "the next refresh waits");
    script.answer(Outcome::Denied);
    make_due(&svids, "a");
    svids.svid(&id(), &audience("a")).await.unwrap();
    until(|| svids.entry(&audience("a")).held().failures == 2).await;
    assert!(matches!(
        svids.svid(&id(), &audience("a")).await,
        Err(Error::NoJwtSvid { denied: true, .. })
    ));
}

#[tokio::test]
async fn a_token_that_nobody_accepts_any_more_is_replaced_at_once_if_it_is_in_use() {
    let script = Script::new(Duration::from_secs(300));
    let svids = JwtSvids::new(script.clone());
    for text in ["used", "unused", "good"] {
        svids.svid(&id(), &audience(text)).await.unwrap();
    }
    svids.entry(&audience("unused")).held().used = false;
    svids.forget(Some(&id()), |svid| svid.audience().as_str() != "good");
    until(|| svids.entry(&audience("used")).held().attempts == 2).await;
    assert_eq!(script.fetches(), 4, "nobody asked for the unused one, and the good one stays");
    let token = async |text: &str| {
        let svid = svids.svid(&id(), &audience(text)).await.unwrap();
        svid.token().expose_secret().to_owned()
    };
    assert_eq!(token("used").await, "used#3");
    assert_eq!(token("good").await, "good#2");
    assert_eq!(token("unused").await, "unused#4", "fetched when it is asked for again");
}

#[tokio::test]
async fn an_expired_token_is_not_used_and_the_failure_to_replace_it_is_shared() {
    let script = Script::new(Duration::ZERO);
    let svids = Arc::new(JwtSvids::new(script.clone()));
    svids.svid(&id(), &audience("a")).await.unwrap();
    script.answer(Outcome::Unreachable);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let svids = svids.clone();
            tokio::spawn(async move { svids.svid(&id(), &audience("a")).await })
        })
        .collect();
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Err(Error::NoJwtSvid { denied: false, .. })));
    }
    assert!(script.fetches() <= 3, "{} fetches for 20 callers", script.fetches());
}

#[tokio::test]
async fn a_token_of_the_previous_identity_is_not_presented() {
    let script = Script::new(Duration::from_secs(300));
    let svids = JwtSvids::new(script.clone());
    svids.svid(&id(), &audience("a")).await.unwrap();
    let new_id = SpiffeId::parse("spiffe://td/b").unwrap();
    assert_eq!(svids.svid(&new_id, &audience("a")).await.unwrap().spiffe_id(), &new_id);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_is_given_up() {
    let script = Script::new(Duration::from_secs(300));
    script.gate.forget_permits(10_000);
    let svids = JwtSvids::new(script.clone());
    let error = svids.svid(&id(), &audience("a")).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 5s"), "{error}");
}

#[tokio::test]
async fn the_number_of_audiences_is_bounded() {
    let svids = JwtSvids::new(Script::new(Duration::from_secs(300)));
    for n in 0..2 * AUDIENCES_MAX {
        svids.svid(&id(), &audience(&format!("audience-{n}"))).await.unwrap();
    }
    assert_eq!(svids.entries.lock().unwrap().len(), AUDIENCES_MAX);
}

#[test]
fn a_refresh_is_due_between_half_and_seven_tenths_of_life_and_retries_slow_down() {
    for _ in 0..200 {
        let due = refresh_after(Duration::from_secs(100));
        assert!((50.0..=70.0).contains(&due.as_secs_f64()), "{due:?}");
        assert!(
            retry_after(0) < Duration::from_secs(2) && retry_after(60) <= RETRY_MAX.mul_f64(1.2)
        );
    }
}
