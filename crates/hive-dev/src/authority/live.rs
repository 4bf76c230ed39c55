//! Streams of the Workload API: the whole state at once, after every change, and before a document grows old.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::attest::Identity;
use super::federation::Reach;
use super::issuer::{Issuer, Validity};
use super::malformed::Spoil;
use super::process::Watch;
use super::socket::Caller;
use super::weather::{Condition, Method};
use super::wire;
use super::workload_api::{Shared, caller, no_identity, not_issued, stopping};

/// A stream never speaks more often of its own accord, whatever its documents say.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// What a streaming method returns.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a stream says, and what makes it speak again.
pub(super) trait Subject: Send + 'static {
    type Message: Spoil + Send + 'static;

    const METHOD: Method;

    fn changes(issuer: &Issuer) -> watch::Receiver<u64>;

    /// The full state, and when it must be said anew at the latest.
    fn message(
        shared: &Shared,
        identities: &[Identity],
        validity: Validity,
    ) -> impl Future<Output = Result<(Self::Message, Option<Instant>), Status>> + Send;
}

pub(super) struct X509Svids;
pub(super) struct X509Bundles;
pub(super) struct JwtBundles;

impl Subject for X509Svids {
    type Message = wire::X509svidResponse;

    const METHOD: Method = Method::FetchX509Svid;

    fn changes(issuer: &Issuer) -> watch::Receiver<u64> {
        issuer.x509_changes()
    }

    async fn message(
        shared: &Shared,
        identities: &[Identity],
        validity: Validity,
    ) -> Result<(Self::Message, Option<Instant>), Status> {
        let (mut svids, mut ends) = (Vec::with_capacity(identities.len()), Vec::new());
        for identity in identities {
            let document = shared.issuer.x509_svid(identity, validity).await;
            let document = document.map_err(|error| not_issued(&error))?;
            ends.push(document.not_after);
            svids.push(wire::X509svid {
                spiffe_id: identity.spiffe_id.to_string(),
                x509_svid: document.certificate,
                x509_svid_key: document.key.to_vec(),
                bundle: shared.issuer.x509_bundle(),
                hint: identity.terms.hint.clone(),
            });
        }
        let now = shared.issuer.clock.now();
        let refresh_at = ends.into_iter().min().map(|end| half_life(now, end));
        let federated_bundles = shared.issuer.federation.x509_bundles(&Reach::of(identities));
        // Nothing is revoked by certificate: what is revoked is no longer in the bundle.
        Ok((wire::X509svidResponse { svids, crl: Vec::new(), federated_bundles }, refresh_at))
    }
}

impl Subject for X509Bundles {
    type Message = wire::X509BundlesResponse;

    const METHOD: Method = Method::FetchX509Bundles;

    fn changes(issuer: &Issuer) -> watch::Receiver<u64> {
        issuer.x509_changes()
    }

    async fn message(
        shared: &Shared,
        identities: &[Identity],
        _: Validity,
    ) -> Result<(Self::Message, Option<Instant>), Status> {
        let bundles = shared.issuer.x509_bundles(&Reach::of(identities));
        Ok((wire::X509BundlesResponse { crl: Vec::new(), bundles }, None))
    }
}

impl Subject for JwtBundles {
    type Message = wire::JwtBundlesResponse;

    const METHOD: Method = Method::FetchJwtBundles;

    fn changes(issuer: &Issuer) -> watch::Receiver<u64> {
        issuer.jwt_changes()
    }

    async fn message(
        shared: &Shared,
        identities: &[Identity],
        _: Validity,
    ) -> Result<(Self::Message, Option<Instant>), Status> {
        let bundles = shared.issuer.jwt_bundles(&Reach::of(identities));
        Ok((wire::JwtBundlesResponse { bundles }, None))
    }
}

/// One open stream. It holds no message: a slow reader is told the newest state when it reads again.
pub(super) struct Live<S> {
    shared: Arc<Shared>,
    caller: Caller,
    ended: Option<Watch>,
    identities: Vec<Identity>,
    news: News,
    refresh_at: Option<Instant>,
    progress: Progress,
    subject: PhantomData<S>,
}

/// Whatever may give a stream something to say.
struct News {
    entries: watch::Receiver<u64>,
    federation: watch::Receiver<u64>,
    keys: watch::Receiver<u64>,
    weather: watch::Receiver<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    New,
    Said,
    Over,
}

impl<S: Subject> Live<S> {
    pub(super) async fn open<T>(
        shared: &Arc<Shared>,
        request: &Request<T>,
    ) -> Result<Response<Messages<S::Message>>, Status> {
        let caller = caller(request)?;
        // Subscribed before the first look, so that no change falls in between.
        let news = News {
            entries: shared.entries.changes(),
            federation: shared.issuer.federation.changes(),
            keys: S::changes(&shared.issuer),
            weather: shared.weather.spoken.subscribe(),
        };
        let identities = shared.attest(&caller).await?;
        let watch = caller.process.as_ref().map(|process| process.watch()).transpose();
        let ended = watch.map_err(|_| Status::unavailable("too many open streams; try again"))?;
        let live = Self {
            shared: Arc::clone(shared),
            caller,
            ended,
            identities,
            news,
            refresh_at: None,
            progress: Progress::New,
            subject: PhantomData,
        };
        Ok(Response::new(Box::pin(unfold(live, Self::next))))
    }

    async fn next(mut self) -> Option<(Result<S::Message, Status>, Self)> {
        if self.progress == Progress::Over {
            return None;
        }
        let message = self.message().await;
        self.progress = if message.is_ok() { Progress::Said } else { Progress::Over };
        Some((message, self))
    }

    async fn message(&mut self) -> Result<S::Message, Status> {
        if self.progress == Progress::Said {
            self.wait_for_news().await?;
        }
        let condition =
            self.shared.weather.meet(S::METHOD, &self.caller, &self.shared.stop).await?;
        if condition == Condition::Late {
            self.identities = self.shared.attest_again(&self.caller).await?;
        }
        let validity = condition.validity();
        let (mut message, refresh_at) =
            S::message(&self.shared, &self.identities, validity).await?;
        self.refresh_at = refresh_at;
        if let Condition::Malformed(how) = condition {
            message.spoil(how);
        }
        Ok(message)
    }

    /// Returns when there is something new to say; an error if there is nobody to say it to any more.
    async fn wait_for_news(&mut self) -> Result<(), Status> {
        loop {
            let due = tokio::select! {
                () = self.shared.stop.cancelled() => return Err(stopping()),
                () = process_ended(self.ended.as_ref()) => return Err(no_identity()),
                () = reached(self.refresh_at) => true,
                _ = self.news.federation.changed() => true,
                _ = self.news.keys.changed() => true,
                _ = self.news.weather.changed() => true,
                _ = self.news.entries.changed() => false,
            };
            let identities = self.shared.attest_again(&self.caller).await?;
            let changed = identities != self.identities;
            self.identities = identities;
            if due || changed {
                return Ok(());
            }
        }
    }
}

async fn process_ended(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.ended().await,
        None => std::future::pending().await,
    }
}

async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn half_life(now: SystemTime, not_after: SystemTime) -> Instant {
    let left = not_after.duration_since(now).unwrap_or_default();
    Instant::now() + (left / 2).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::entries::Entries;
    use crate::authority::process::Process;
    use crate::authority::{AuthorityConfig, Selector, Terms};
    use futures_util::{StreamExt, poll};
    use hive_security::{SpiffeId, TrustDomain};
    use std::process::{Child, Command, Stdio};
    use tokio_util::sync::CancellationToken;

    /// A child of this process, which is its supervisor, as if it had connected.
    struct World {
        shared: Arc<Shared>,
        child: Child,
        caller: Caller,
    }

    fn identity(name: &str) -> Identity {
        let id = SpiffeId::parse(&format!("spiffe://dev.hive.internal/{name}"));
        Identity { spiffe_id: id.expect("a good ID"), terms: Terms::default() }
    }

    impl World {
        fn new() -> Self {
            let config = AuthorityConfig::new("/unused");
            let domain = TrustDomain::parse("dev.hive.internal").expect("a good name");
            let issuer = Issuer::new(&config, domain, "http://127.0.0.1:1".to_owned());
            let issuer = Arc::new(issuer.expect("good settings"));
            let entries = Arc::new(Entries::new(Some(std::process::id())).expect("we run"));
            let shared = Arc::new(Shared::new(issuer, entries, CancellationToken::new()));
            let child = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("cat");
            let process = Some(Process::open(child.id()).expect("it runs"));
            let caller = Caller { process, uid: 0, gid: 0, hang_up: CancellationToken::new() };
            Self { shared, child, caller }
        }

        fn register(&self) -> Vec<Identity> {
            let identity = identity("child");
            let selectors = [Selector::Pid(self.child.id())];
            self.shared.entries.add(identity.clone(), selectors, false).expect("it runs");
            vec![identity]
        }

        async fn stream(&self) -> Messages<wire::JwtBundlesResponse> {
            let mut request = Request::new(());
            request.extensions_mut().insert(Some(self.caller.clone()));
            let opened = Live::<JwtBundles>::open(&self.shared, &request).await;
            opened.expect("a stream").into_inner()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            // An error means that the test itself ended it.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[tokio::test]
    async fn a_child_that_calls_before_it_is_registered_is_waited_for() {
        let world = World::new();
        let mut attested = Box::pin(world.shared.attest(&world.caller));
        assert!(poll!(&mut attested).is_pending());
        let identities = world.register();
        assert_eq!(attested.await.expect("registered"), identities);
    }

    #[tokio::test]
    async fn a_child_that_is_never_registered_is_refused_after_the_deadline() {
        let world = World::new();
        let before = Instant::now();
        let refused = world.shared.attest(&world.caller).await.expect_err("nobody registers it");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(before.elapsed() >= crate::authority::workload_api::REGISTRATION_DEADLINE);
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_process_that_opened_it() {
        let mut world = World::new();
        // By user, so that no entry goes with the process: somebody else may still hold its connection.
        world
            .shared
            .entries
            .add(identity("anyone"), [Selector::Uid(0)], false)
            .expect("there is room");
        world.shared.entries.add_operator_root(world.child.id()).expect("it runs");
        let mut stream = world.stream().await;
        assert!(stream.next().await.expect("the state").is_ok());
        world.child.kill().expect("it is ours");
        let end = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        let status = end.expect("in time").expect("a reason").expect_err("it ended");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert!(stream.next().await.is_none());
    }
}
