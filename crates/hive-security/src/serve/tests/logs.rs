//! Each decision is logged once, with its reason.

use std::fmt::{Debug, Write};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::*;

/// Keeps what is said about decisions.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(Level, String)>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "hive_security::policy"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push((*event.metadata().level(), line.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_decision_is_logged_once_with_its_reason_and_a_flood_is_not() {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let token = token(&authority, "/client/a", 60);
    let running = async || {
        let layer = Authenticate::new(&server.workload, audience(AUDIENCE), clients_only());
        let running = serve(&server, layer, None).await;
        let channel = dial(&client, &running);
        ask(&channel, "/test.Probe/Ask", Some(&token)).await;
        ask(&channel, "/other.Service/Ask", Some(&token)).await;
        ask(&channel, "/test.Probe/Ask", None).await;
        (running, channel)
    };
    // With one dispatcher, the first thread to reach a line decides whether anyone hears it, and another test's
    // thread has none. With two, everyone who listens is asked.
    let _second = tracing::Dispatch::new(Kept::default());
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(kept.clone());
    let (running, channel) = running().await;
    let lines = std::mem::take(&mut *kept.0.lock().unwrap());
    let expected = [
        (Level::DEBUG, ["a call was allowed", "spiffe://td/client/a", "allowed by rule 1"]),
        (Level::WARN, ["a call was denied", "/other.Service/Ask", "denied: no rule allows it"]),
        (Level::WARN, ["a call was not authenticated", "/test.Probe/Ask", "carries no JWT-SVID"]),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for ((level, line), (wanted, parts)) in lines.iter().zip(expected) {
        assert_eq!(*level, wanted);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(!line.contains("eyJ"), "the token is repeated: {line}");
    }
    for _ in 0..200 {
        ask(&channel, "/test.Probe/Ask", None).await;
    }
    assert_eq!(kept.0.lock().unwrap().len(), 59, "60 a minute, and one was before");
    assert_eq!(running.counts.tally().unauthenticated, 201);
}
