//! `hive doctor`: why this process has no identity, or a bad one, or gets nothing from Vault with it, and what to do
//! about it.
//!
//! The checks stand in the order in which things depend on each other. The first ones end the examination when they
//! fail, for what they find explains all the rest.

mod documents;
#[cfg(feature = "kafka")]
mod kafka;
mod process;
mod socket;
mod vault;

use super::stack;
use super::vault::Borrower;
use crate::exit;
use clap::Args;
use hive_security::{ProbeError, WorkloadConfig, probe};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct Options {
    /// Prints one JSON document for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    borrower: Borrower,
    /// What this workload needs of Vault, such as database/creds/orders:read. A path of …/creds/… that it may read is
    /// issued once and given back. May be given several times.
    #[arg(long, value_name = "PATH:CAPABILITY")]
    needs: Vec<vault::Need>,
    /// A listener for OAUTHBEARER, HOST:PORT, that must not believe forged tokens. It is shown a good one first.
    #[cfg(feature = "kafka")]
    #[arg(long, value_name = "BROKER")]
    kafka: Vec<String>,
    /// The authority of the brokers' certificates, a PEM file; else those of this machine. Without it, a broker on
    /// loopback is asked without TLS.
    #[cfg(feature = "kafka")]
    #[arg(long, value_name = "FILE")]
    kafka_ca: Option<std::path::PathBuf>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    #[serde(flatten)]
    problem: Option<Problem>,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Default, Serialize)]
struct Problem {
    cause: String,
    remedy: String,
    /// What SPIRE can know of this process, where that matters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    selectors: Vec<String>,
    /// The line that would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

type Finding = Result<String, Problem>;

pub(super) fn run(options: &Options) -> ExitCode {
    stack::block_on(async {
        let report = examine(options).await;
        let text = if options.json {
            serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
        } else {
            report.to_text()
        };
        // A closed terminal is no reason to change the exit status.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(if report.ok { exit::DONE } else { exit::ERROR })
    })
}

async fn examine(options: &Options) -> Report {
    let mut report = Report::default();
    let identity = report.fill().await;
    let vault = match stack::value("VAULT_ADDR") {
        Some(_) => vault::examine(&mut report, options).await,
        None => Some(()),
    };
    report.ok = identity.and(vault).is_some();
    #[cfg(feature = "kafka")]
    {
        let kafka = match identity {
            Some(()) => kafka::examine(&mut report, options).await,
            None => None,
        };
        report.ok &= kafka.is_some();
    }
    report
}

impl Report {
    /// Goes through the checks as far as they lead. `None` means that something is wrong.
    async fn fill(&mut self) -> Option<()> {
        let config = match setting() {
            Ok(config) => config,
            Err(problem) => {
                self.add("setting", Err(problem));
                return None;
            }
        };
        self.add("setting", Ok(config.endpoint.clone()));
        self.add("socket", socket::check(&config.endpoint))?;
        self.add("listener", socket::listener(&config.endpoint).await)?;
        let probed = match probe(&config).await {
            Ok(probed) => probed,
            Err(ProbeError::Denied(reason)) => {
                self.add("protocol", Ok("a SPIFFE Workload API answers".to_owned()));
                return self.add("identity", Err(process::unknown(&reason, &config)));
            }
            Err(error) => return self.add("protocol", Err(protocol(&error))),
        };
        self.add("protocol", Ok("a SPIFFE Workload API answers".to_owned()));
        let found = [
            self.add("identity", documents::identity(&probed)),
            self.add("trust domain", documents::trust_domain(&probed, &config)),
            self.add("clock", documents::clock(&probed)),
            self.add("X.509-SVID", documents::validity(&probed)),
            self.add("X.509 bundles", documents::x509_bundles(&probed)),
            self.add("JWT bundles", documents::jwt_bundles(&probed)),
        ];
        found.into_iter().collect()
    }

    fn add(&mut self, name: &'static str, finding: Finding) -> Option<()> {
        let ok = finding.is_ok();
        let (found, problem) = match finding {
            Ok(found) => (Some(found), None),
            Err(problem) => (None, Some(problem)),
        };
        self.checks.push(Check { name, ok, found, problem });
        ok.then_some(())
    }

    fn to_text(&self) -> String {
        self.checks.iter().map(Check::to_text).collect()
    }
}

impl Check {
    fn to_text(&self) -> String {
        let verdict = if self.ok { "ok" } else { "failed" };
        let said = match (&self.problem, &self.found) {
            (Some(problem), _) => &problem.cause,
            (None, Some(found)) => found,
            (None, None) => "",
        };
        let mut text = format!("{verdict:<8}{:<15}{said}\n", self.name);
        let Some(problem) = &self.problem else { return text };
        let indent = " ".repeat(8);
        text.push_str(&format!("{indent}remedy         {}\n", problem.remedy));
        for selector in &problem.selectors {
            text.push_str(&format!("{indent}selector       {selector}\n"));
        }
        if let Some(command) = &problem.command {
            text.push_str(&format!("{indent}command        {command}\n"));
        }
        text
    }
}

impl Problem {
    fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into(), ..Self::default() }
    }
}

fn setting() -> Result<WorkloadConfig, Problem> {
    WorkloadConfig::from_strings(stack::value).map_err(|wrong| {
        let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        Problem::new(
            wrong.join("; "),
            "set SPIFFE_ENDPOINT_SOCKET to the address of the SPIRE agent's Workload API, such as \
             unix:///run/spire/agent-sockets/api.sock; `hive up` prints the line for its own",
        )
    })
}

fn protocol(error: &ProbeError) -> Problem {
    let remedy = match error {
        ProbeError::Header(_) => {
            "connect to the SPIRE agent itself: something in between, such as a proxy, drops the gRPC metadata \
             workload.spiffe.io"
        }
        ProbeError::Malformed(_) => "update the server of the Workload API; its log says more",
        ProbeError::Silent => {
            "see whether the SPIRE agent is healthy (spire-agent healthcheck), and restart it if it hangs"
        }
        ProbeError::Unavailable(_) => {
            "wait until the SPIRE agent has reached its server; spire-agent healthcheck tells"
        }
        _ => {
            "another program listens there: correct SPIFFE_ENDPOINT_SOCKET, or start the SPIRE agent with this \
             socket_path"
        }
    };
    Problem::new(error.to_string(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_line_for_each_check_and_says_what_to_do() {
        let mut report = Report::default();
        assert_eq!(report.add("setting", Ok("unix:///a".to_owned())), Some(()));
        assert_eq!(report.add("socket", Err(Problem::new("nothing there", "start it"))), None);
        let text = report.to_text();
        let expected = "ok      setting        unix:///a\n\
                        failed  socket         nothing there\n        remedy         start it\n";
        assert_eq!(text, expected);
        let json = serde_json::to_value(&report).expect("it is JSON");
        assert_eq!(json["checks"][1]["cause"], "nothing there");
        assert_eq!(json["checks"][0]["found"], "unix:///a");
        assert!(json["checks"][0].get("cause").is_none(), "{json}");
    }
}
