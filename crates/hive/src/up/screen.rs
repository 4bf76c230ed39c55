//! What `hive up` says: one screen for people, or one JSON object a line for programs.

use super::service::Event;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// Where everything is, once it is there.
pub(super) struct Overview {
    pub(super) trust_domain: String,
    pub(super) data_directory: String,
    /// Whether it is removed at the end.
    pub(super) temporary: bool,
    /// What each part is called, where it is, and a remark.
    pub(super) parts: Vec<Part>,
    /// How this program is called at a command line.
    pub(super) program: String,
    /// What a shell needs in order to use this stack.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) ready_after: Duration,
    pub(super) first_call_after: Duration,
}

/// One line of the overview.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    pub(super) place: String,
    pub(super) remark: String,
}

/// The mouth of `hive up`.
pub(super) struct Screen {
    json: bool,
    /// With a command, standard output belongs to the command.
    to_stderr: bool,
}

impl Screen {
    pub(super) fn new(json: bool, to_stderr: bool) -> Self {
        Self { json, to_stderr }
    }

    pub(super) fn ready(&self, overview: &Overview) {
        if self.json {
            self.say(&overview.json().to_string());
        } else if self.to_stderr {
            let ms = overview.ready_after.as_millis();
            self.say(&format!("hive: {} parts ready in {ms} ms", overview.parts.len()));
        } else {
            self.say(&overview.text());
        }
    }

    pub(super) fn event(&self, event: &Event) {
        if self.json { self.say(&event_json(event)) } else { self.event_text(event) }
    }

    fn event_text(&self, event: &Event) {
        let text = match event {
            Event::Ready { name, pid, .. } => format!("{name} is ready again (process {pid})"),
            Event::Ended { name, how, last_lines, again_in } => format!(
                "{name} {how}; starting it again in {:.1} s{}",
                again_in.as_secs_f32(),
                quoted(last_lines)
            ),
            Event::GaveUp { name, how, last_lines } => {
                format!("{name} {how}, and the stack cannot go on without it{}", quoted(last_lines))
            }
        };
        self.say(&text);
    }

    /// A closed pipe is no reason to stop the stack.
    fn say(&self, text: &str) {
        let _ = if self.to_stderr {
            writeln!(std::io::stderr().lock(), "{text}")
        } else {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        };
    }
}

fn quoted(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = write!(text, "\n  | {line}");
        text
    })
}

fn event_json(event: &Event) -> String {
    let value = match event {
        Event::Ready { name, pid, facts } => {
            json!({ "event": "service-ready", "name": name, "pid": pid, "facts": facts })
        }
        Event::Ended { name, how, last_lines, again_in } => json!({
            "event": "service-ended", "name": name, "how": how, "last_lines": last_lines,
            "again_in_ms": again_in.as_millis() as u64,
        }),
        Event::GaveUp { name, how, last_lines } => json!({
            "event": "service-gave-up", "name": name, "how": how, "last_lines": last_lines,
        }),
    };
    value.to_string()
}

impl Overview {
    fn json(&self) -> serde_json::Value {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|part| {
                json!({
                    "name": part.name, "pid": part.pid, "place": part.place, "remark": part.remark,
                })
            })
            .collect();
        let environment: serde_json::Map<_, _> = self
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        json!({
            "event": "ready",
            "ready_ms": self.ready_after.as_millis() as u64,
            "first_call_ms": self.first_call_after.as_millis() as u64,
            "trust_domain": self.trust_domain,
            "data_dir": self.data_directory,
            "parts": parts,
            "environment": environment,
        })
    }

    fn text(&self) -> String {
        let fate = if self.temporary { "removed at the end" } else { "kept" };
        let mut text = format!(
            "Neural Hive\n\n  {:<13} {}\n  {:<13} {}  ({fate})\n\n",
            "trust domain", self.trust_domain, "data", self.data_directory
        );
        let width = self.parts.iter().map(|part| part.place.chars().count()).max().unwrap_or(0);
        for part in &self.parts {
            let line = format!("  {:<13} {:<width$}  {}", part.name, part.place, part.remark);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let _ = write!(
            text,
            "\nAll ready in {} ms; first authenticated call after {} ms. Ctrl-C stops it and leaves nothing behind.\n\n\
             Try next, in another shell:\n\n",
            self.ready_after.as_millis(),
            self.first_call_after.as_millis()
        );
        for (name, value) in &self.environment {
            let _ = writeln!(text, "  export {name}={value}");
        }
        for arguments in [
            "plan submit examples/release.yaml --watch",
            "plan submit examples/release-broken.yaml --watch",
            "identity",
        ] {
            let _ = writeln!(text, "  {} {arguments}", self.program);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview() -> Overview {
        let part = |name: &str, place: &str, remark: &str| Part {
            name: name.to_owned(),
            pid: Some(7),
            place: place.to_owned(),
            remark: remark.to_owned(),
        };
        Overview {
            trust_domain: "dev-1.hive.internal".to_owned(),
            data_directory: "/tmp/hive-x".to_owned(),
            temporary: true,
            parts: vec![
                part("authority", "unix:///tmp/hive-x/workload.sock", "SPIFFE Workload API"),
                part("vault", "http://127.0.0.1:8200", "KV v2"),
            ],
            program: "hive".to_owned(),
            environment: vec![("VAULT_ADDR", "http://127.0.0.1:8200".to_owned())],
            ready_after: Duration::from_millis(312),
            first_call_after: Duration::from_millis(330),
        }
    }

    #[test]
    fn the_screen_is_aligned_and_says_what_to_try_next() {
        let text = overview().text();
        let columns: Vec<_> = text
            .lines()
            .filter_map(|line| line.find("SPIFFE Workload API").or_else(|| line.find("KV v2")))
            .collect();
        assert_eq!(columns.len(), 2, "{text}");
        assert_eq!(columns[0], columns[1], "{text}");
        assert!(text.contains("ready in 312 ms"), "{text}");
        assert!(
            text.contains("  export VAULT_ADDR=http://127.0.0.1:8200\n  hive plan submit"),
            "{text}"
        );
    }

    #[test]
    fn a_program_reads_the_same_facts() {
        let json = overview().json();
        assert_eq!(json["ready_ms"], 312);
        assert_eq!(json["parts"][1]["place"], "http://127.0.0.1:8200");
        assert_eq!(json["environment"]["VAULT_ADDR"], "http://127.0.0.1:8200");
    }
}
