//! Readiness: a service says once, on one line of standard output, that it serves, and where.
//!
//! Whoever started it reads that line instead of polling. Logs go to standard error, so the line is alone.

use std::collections::BTreeMap;
use std::io::Write;
use tokio::sync::oneshot;

/// The duty to announce. Dropping it without an announcement is how a failed start looks.
#[must_use = "a service that never announces itself is never ready"]
#[derive(Debug)]
pub struct Ready(To);

#[derive(Debug)]
enum To {
    Channel(oneshot::Sender<Announcement>),
    StandardOutput,
}

/// What was announced: `address` and whatever else the service wants known. Nothing secret.
pub type Announcement = BTreeMap<String, String>;

impl Ready {
    /// Announces as one JSON line on standard output: `{"ready":{"address":"…"}}`.
    pub fn on_standard_output() -> Self {
        Self(To::StandardOutput)
    }

    /// Announces to whoever holds the receiver, for services that run inside another process.
    pub fn channel() -> (Self, oneshot::Receiver<Announcement>) {
        let (sender, receiver) = oneshot::channel();
        (Self(To::Channel(sender)), receiver)
    }

    /// The service serves at `address`.
    pub fn announce(self, address: impl Into<String>) {
        self.announce_facts([("address", address.into())]);
    }

    /// The service serves, and these facts are worth knowing.
    pub fn announce_facts<'a>(self, facts: impl IntoIterator<Item = (&'a str, String)>) {
        let facts: Announcement =
            facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
        match self.0 {
            // A starter that no longer listens has no use for the news.
            To::Channel(sender) => drop(sender.send(facts)),
            To::StandardOutput => print_line(&facts),
        }
    }
}

/// The announcement in `line`, if it is one.
pub fn parse(line: &str) -> Option<Announcement> {
    let mut line: BTreeMap<String, Announcement> = serde_json::from_str(line).ok()?;
    line.remove("ready")
}

fn print_line(facts: &Announcement) {
    let line = serde_json::json!({ "ready": facts });
    let mut stdout = std::io::stdout().lock();
    // A closed standard output means that nobody waits for the line.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_can_be_read_back() {
        let (ready, mut receiver) = Ready::channel();
        ready.announce("127.0.0.1:7000");
        let announced = receiver.try_recv().expect("it was announced");
        let line = serde_json::json!({ "ready": announced }).to_string();
        assert_eq!(
            parse(&line).and_then(|mut a| a.remove("address")).as_deref(),
            Some("127.0.0.1:7000")
        );
        assert_eq!(parse("listening"), None);
    }
}
