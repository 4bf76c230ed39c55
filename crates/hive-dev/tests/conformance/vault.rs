//! One suite for two vaults: our development vault, and the real OpenBao.
//!
//! ```text
//!  calls/*.calls   requests, and which differences between the two answers are known and why (see `script`)
//!  clients         certificates with which clients log in over TLS
//!  stage           starts both, and whatever the calls need: PostgreSQL, Redis, an authority that signs tokens
//!  recorder        makes the calls on one server
//!  imported        keys that come from elsewhere, and backups that go from one to the other
//!  hvac            the client of Python programs, and rust_client the crate vaultrs: both find the same in both
//!  certificates    what those say, without what is random in them
//!  sealed          what transit seals on either opens in one way
//!  shape           what remains of an answer without ids, times and secrets
//! ```
//!
//! Both are configured over the API, from the root token on. The same calls are made on both, and status, the headers
//! of [`recorder::HEADERS`] and the shape of the body must be equal. A difference that a script accepts and that is
//! not there any more fails as well.

mod certificates;
mod clients;
mod hvac;
mod imported;
mod recorder;
mod rust_client;
mod script;
mod sealed;
mod shape;
mod stage;

use serde_json::Value;

use recorder::{Answer, Recorder};
use script::Step;
use stage::Stage;

/// A test for each file of calls.
macro_rules! answers {
    ($($name:ident),* $(,)?) => {
        mod answers_of {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let text = include_str!(concat!("vault/calls/", stringify!($name), ".calls"));
                super::are_equal(stringify!($name), text).await;
            })*
        }
    };
}

answers!(
    approle, cert, cert_plain, database, jwt, kubernetes, kv, leases, namespaces, pki, policies,
    quotas, redis, seal, sys, tokens, transit, wrapping,
);

/// The command line of OpenBao, with both.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_bao_end_alike() {
    let text = include_str!("vault/calls/bao.calls");
    let stage = Stage::set(text).await;
    let (openbao, ours) = stage.recorders();
    let program = hive_dev::tools::program("bao").expect("`cargo xtask real` puts OpenBao there");
    let homes = [tempfile::tempdir(), tempfile::tempdir()].map(|home| home.expect("a directory"));
    let openbao = openbao.commands(&program, homes[0].path());
    let ours = ours.commands(&program, homes[1].path());
    compare("bao", text, stage, openbao, ours).await;
}

async fn are_equal(name: &str, text: &str) {
    let stage = Stage::set(text).await;
    let (openbao, ours) = stage.recorders();
    compare(name, text, stage, openbao, ours).await;
}

async fn compare(name: &str, text: &str, stage: Stage, mut openbao: Recorder, mut ours: Recorder) {
    let steps = script::read(name, text);
    let (theirs, ours) = tokio::join!(openbao.run(&steps), ours.run(&steps));
    let mistakes: Vec<_> = (steps.iter().zip(theirs.iter().zip(&ours)))
        .flat_map(|(step, (theirs, ours))| compared(step, theirs, ours))
        .collect();
    assert!(mistakes.is_empty(), "{} differences\n{}", mistakes.len(), mistakes.join("\n"));
    stage.strike().await;
}

/// What is not accepted, and what was accepted in vain.
fn compared(step: &Step, theirs: &Answer, ours: &Answer) -> Vec<String> {
    let found = differences(theirs, ours);
    let covers = |at: &str, place: &str| {
        place == at || place.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'))
    };
    let accepted = |place: &str| step.differs.iter().any(|one| covers(&one.at, place));
    let unused = step.differs.iter().filter(|one| !found.iter().any(|(at, _)| covers(&one.at, at)));
    let unused = unused.map(|one| {
        format!("{}\n  at {}: no difference any more ({})", step.place, one.at, one.because)
    });
    let unknown = found.iter().filter(|(at, _)| !accepted(at));
    unknown.map(|(at, how)| format!("{}\n  at {at}: {how}", step.place)).chain(unused).collect()
}

fn differences(theirs: &Answer, ours: &Answer) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if theirs.status != ours.status {
        found.push((
            "status".to_owned(),
            format!("OpenBao {}, ours {}", theirs.status, ours.status),
        ));
    }
    for name in recorder::HEADERS {
        let (a, b) = (theirs.headers.get(name), ours.headers.get(name));
        if a != b {
            found.push((format!("header {name}"), format!("OpenBao {a:?}, ours {b:?}")));
        }
    }
    let (theirs, ours) = (shape::of(theirs), shape::of(ours));
    match (&theirs, &ours) {
        (Value::Object(_), Value::Object(_)) => {
            found.extend(shape::differences("", &theirs, &ours));
        }
        _ if theirs == ours => {}
        _ => found.push(("body".to_owned(), format!("OpenBao {theirs}, ours {ours}"))),
    }
    found
}

/// A client that follows nothing and knows no authority: the servers are on loopback.
fn plain_http() -> reqwest::Client {
    http_trusting(rustls::RootCertStore::empty())
}

/// A client that follows nothing and knows these authorities.
pub(crate) fn http_trusting(roots: rustls::RootCertStore) -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    http_over(tls.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

fn http_over(tls: rustls::ClientConfig) -> reqwest::Client {
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    client.redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}
