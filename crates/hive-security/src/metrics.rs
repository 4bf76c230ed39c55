//! What this workload and its servers count, in the text format of Prometheus.

use std::fmt::{self, Display, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

mod credentials;
mod vault;

use crate::Workload;
use crate::credentials::{Board, Credentials};
use crate::serve::{Authenticate, Counts};
use crate::vault::{self as client, VaultClient};

/// The metrics of a workload, of its credentials and of the servers it runs; [`default`](Self::default) is without a
/// workload. Whoever has an endpoint for metrics shows them there; no
/// port is opened here.
///
/// | name | type | labels | what it says |
/// |---|---|---|---|
/// | `spiffe_svid_expiry_timestamp_seconds` | gauge | `svid_type` | when the default X.509-SVID expires |
/// | `spiffe_last_update_timestamp_seconds` | gauge | `svid_type` | when the Workload API sent what is in use |
/// | `spiffe_svid_fetch_total` | counter | `svid_type`, `status` | JWT-SVIDs asked of the Workload API: `success`, `denied`, `error` |
/// | `hive_tls_handshakes_total` | counter | `status` | handshakes of its servers: `success`, `failed`, `expired`, `gone` (the client hung up first), `shed` (another came, and no place was left) |
/// | `grpc_auth_attempts_total` | counter | `service`, `status` | calls: `success`, `failure`, `exempt` |
/// | `grpc_auth_failures_total` | counter | `service`, `reason` | `unauthenticated` (who calls was not proved), `unauthorized` (no rule allows it) |
/// | `grpc_auth_streams_ended_total` | counter | `service`, `reason` | streams cut off: a document `expired`, a new policy `revoked` them |
///
/// Credentials add theirs; all of them carry the Vault `role`:
///
/// | name | type | labels | what it says |
/// |---|---|---|---|
/// | `hive_credentials_state` | gauge | `state` | 1 for the state they are in |
/// | `vault_token_expiry_timestamp_seconds` | gauge | | when the login token ends |
/// | `hive_lease_expiry_timestamp_seconds` | gauge | `credential`, `mount`, `role` of the engine | when a lease ends |
/// | `hive_credential_generation` | gauge | `credential` | grows each time holders move |
/// | `hive_credential_holders` | gauge | `credential` | who would have to move |
/// | `hive_leases_held`, `hive_epochs_draining` | gauge | | what Vault keeps for us; what is still used of the old |
/// | `vault_logins_total`, `vault_token_renewals_total` | counter | `status` | `success`, `error` |
/// | `vault_credential_renewals_total` | counter | `credential_type`, `status` | by the path of the engine |
/// | `hive_credential_issues_total`, `hive_credential_refreshes_total`, `hive_revocations_total`, `hive_probes_total` | counter | `status` | |
/// | `hive_rotations_total` | counter | `reason` | why new ones were needed |
/// | `hive_overlap_seconds` | summary | | how long the old were kept for their users |
/// | `hive_fail_closed_total` | counter | | times when nothing could be used any more: alert |
/// | `hive_overlap_cuts_total` | counter | | the old were taken from their users: lengthen the overlap |
/// | `hive_leases_left_total` | counter | | could not be given back: alert |
/// | `hive_leases_entrusted_total` | counter | | ended by the end of their token |
///
/// What is asked of Vault, by credentials and by the clients that were added:
///
/// | name | type | labels | what it says |
/// |---|---|---|---|
/// | `vault_requests_total` | counter | `operation`, `status` | calls, by `success` or the kind of the error |
/// | `vault_request_duration_seconds` | histogram | `operation` | how long they took, retries at other addresses included |
///
/// While the identity is withdrawn, its gauges are absent: there is nothing that could expire.
///
/// ```no_run
/// # fn example(workload: &hive_security::Workload, layer: &hive_security::serve::Authenticate) {
/// use hive_security::metrics::Metrics;
///
/// let metrics = Metrics::of(workload).and_server("orders", layer);
/// println!("{metrics}");
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    workload: Option<Workload>,
    servers: Vec<(String, Arc<Counts>)>,
    credentials: Vec<Arc<Board>>,
    clients: Vec<Arc<client::Counts>>,
}

impl Metrics {
    /// The metrics of this workload's identity.
    pub fn of(workload: &Workload) -> Self {
        Self { workload: Some(workload.clone()), ..Self::default() }
    }

    /// Also those of a set of credentials, and of its calls to Vault. The sets of one process have different Vault roles.
    #[must_use]
    pub fn and_credentials(mut self, credentials: &Credentials) -> Self {
        self.credentials.push(Arc::clone(credentials.board()));
        self.and_client(credentials.calls())
    }

    /// Also those of this client's calls to Vault, and its clones'.
    #[must_use]
    pub fn and_vault(self, vault: &VaultClient) -> Self {
        self.and_client(&vault.counts())
    }

    /// Sets that share a client are counted once.
    fn and_client(mut self, counts: &Arc<client::Counts>) -> Self {
        if !self.clients.iter().any(|known| Arc::ptr_eq(known, counts)) {
            self.clients.push(Arc::clone(counts));
        }
        self
    }

    /// Also those of a server's decisions, under the name `service`.
    #[must_use]
    pub fn and_server(mut self, service: &str, layer: &Authenticate) -> Self {
        self.servers.push((service.to_owned(), layer.counts()));
        self
    }
}

/// The metrics of this moment, in the text format of Prometheus.
impl Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(workload) = &self.workload {
            identity(f, workload)?;
            fetches(f, workload)?;
            handshakes(f, workload)?;
        }
        self.decisions(f)?;
        credentials::render(f, &self.credentials)?;
        vault::render(f, &self.clients)
    }
}

impl Metrics {
    fn decisions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tallies = self.servers.iter().map(|(service, counts)| (&**service, counts.tally()));
        let tallies: Vec<_> = tallies.collect();
        let name = "grpc_auth_attempts_total";
        family(f, name, "counter", "Calls, by whether they were let through.")?;
        for (service, tally) in &tallies {
            let failed = tally.denied + tally.unauthenticated;
            let counts =
                [("success", tally.allowed), ("failure", failed), ("exempt", tally.exempt)];
            samples(f, name, service, "status", counts)?;
        }
        let name = "grpc_auth_failures_total";
        family(f, name, "counter", "Calls that were not let through, by why.")?;
        for (service, tally) in &tallies {
            let counts =
                [("unauthenticated", tally.unauthenticated), ("unauthorized", tally.denied)];
            samples(f, name, service, "reason", counts)?;
        }
        let name = "grpc_auth_streams_ended_total";
        family(f, name, "counter", "Streams that were cut off, by why.")?;
        for (service, tally) in &tallies {
            let counts = [("expired", tally.expired), ("revoked", tally.revoked)];
            samples(f, name, service, "reason", counts)?;
        }
        Ok(())
    }
}

fn identity(f: &mut fmt::Formatter<'_>, workload: &Workload) -> fmt::Result {
    let x509 = workload.x509().current();
    let jwt = workload.jwt_bundles().current();
    let expiry = x509.as_ref().as_ref().ok().and_then(|material| material.svids().first());
    let name = "spiffe_svid_expiry_timestamp_seconds";
    family(f, name, "gauge", "When the default X.509-SVID expires.")?;
    if let Some(svid) = expiry {
        sample(f, name, &[("svid_type", "x509_svid")], seconds(svid.expires_at()))?;
    }
    let name = "spiffe_last_update_timestamp_seconds";
    family(f, name, "gauge", "When the Workload API sent what is in use.")?;
    if let Ok(material) = &*x509 {
        sample(f, name, &[("svid_type", "x509_svid")], seconds(material.received_at()))?;
    }
    if let Ok(bundles) = &*jwt {
        sample(f, name, &[("svid_type", "jwt_svid")], seconds(bundles.received_at()))?;
    }
    Ok(())
}

fn fetches(f: &mut fmt::Formatter<'_>, workload: &Workload) -> fmt::Result {
    let name = "spiffe_svid_fetch_total";
    family(f, name, "counter", "JWT-SVIDs that were asked of the Workload API.")?;
    let fetches = workload.jwt_svid_fetches();
    let outcomes =
        [("success", fetches.succeeded), ("denied", fetches.denied), ("error", fetches.failed)];
    for (status, count) in outcomes {
        sample(f, name, &[("svid_type", "jwt_svid"), ("status", status)], count)?;
    }
    Ok(())
}

fn handshakes(f: &mut fmt::Formatter<'_>, workload: &Workload) -> fmt::Result {
    let name = "hive_tls_handshakes_total";
    family(f, name, "counter", "Handshakes of this workload's servers, by how they ended.")?;
    let handshakes = workload.handshakes();
    let outcomes = [
        ("success", handshakes.succeeded),
        ("failed", handshakes.failed),
        ("expired", handshakes.expired),
        ("gone", handshakes.gone),
        ("shed", handshakes.shed),
    ];
    outcomes.iter().try_for_each(|(status, count)| sample(f, name, &[("status", status)], count))
}

fn family(f: &mut fmt::Formatter<'_>, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn samples<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    service: &str,
    label: &str,
    counts: [(&str, u64); N],
) -> fmt::Result {
    counts.iter().try_for_each(|(value, count)| {
        sample(f, name, &[("service", service), (label, value)], count)
    })
}

fn sample(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    labels: &[(&str, &str)],
    value: impl Display,
) -> fmt::Result {
    f.write_str(name)?;
    for (index, (label, text)) in labels.iter().enumerate() {
        write!(f, "{}{label}=\"", if index == 0 { '{' } else { ',' })?;
        for character in text.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')?;
    }
    writeln!(f, "}} {value}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::Error;
    use crate::serve::MethodPolicy;
    use crate::testing::{Authority, audience, unix_now};

    fn value(text: &str, sample: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    #[tokio::test]
    async fn the_identity_is_told_with_timestamps_and_fetches_by_their_outcome() {
        let stand = Authority::new("td").workload("/a");
        let expiry = stand.workload.x509_svid().unwrap().expires_at();
        stand.workload.jwt_svid(&audience("a")).await.unwrap();
        stand.workload.jwt_svid(&audience("b")).await.unwrap();
        let text = Metrics::of(&stand.workload).to_string();
        let x509 = r#"{svid_type="x509_svid"}"#;
        let told = value(&text, &format!("spiffe_svid_expiry_timestamp_seconds{x509}"));
        assert_eq!(told, Some(seconds(expiry)), "{text}");
        for kind in [x509, r#"{svid_type="jwt_svid"}"#] {
            let told = value(&text, &format!("spiffe_last_update_timestamp_seconds{kind}"));
            assert!(told.is_some_and(|at| (unix_now() - 5..=unix_now()).contains(&at)), "{text}");
        }
        for (status, count) in [("success", 2), ("denied", 0), ("error", 0)] {
            let sample =
                format!(r#"spiffe_svid_fetch_total{{svid_type="jwt_svid",status="{status}"}}"#);
            assert_eq!(value(&text, &sample), Some(count), "{text}");
        }
    }

    #[test]
    fn a_withdrawn_identity_has_no_gauges() {
        let stand = Authority::new("td").workload("/a");
        let reason = || Error::Withdrawn { reason: "no identity issued".to_owned() };
        stand.x509.publish(Err(reason()));
        stand.jwt.publish(Err(reason()));
        let text = Metrics::of(&stand.workload).to_string();
        assert!(!text.contains("timestamp_seconds{"), "{text}");
    }

    #[tokio::test]
    async fn every_line_is_in_the_format_and_every_decision_in_a_line() {
        use std::convert::Infallible;
        use tower::{Layer, ServiceExt};

        let stand = Authority::new("td").workload("/a");
        let layer = Authenticate::new(&stand.workload, audience("a"), MethodPolicy::new());
        let echo = tower::service_fn(|_| async {
            Ok::<_, Infallible>(http::Response::new(tonic::body::Body::empty()))
        });
        for path in ["/grpc.health.v1.Health/Check", "/a.B/C", "/a.B/C"] {
            let request = http::Request::post(path).body(tonic::body::Body::empty()).unwrap();
            layer.layer(echo).oneshot(request).await.unwrap();
        }
        let text = Metrics::of(&stand.workload).and_server("a \"b\"", &layer).to_string();
        let service = r#"service="a \"b\"""#;
        for (sample, count) in [
            (format!(r#"grpc_auth_attempts_total{{{service},status="success"}}"#), 0),
            (format!(r#"grpc_auth_attempts_total{{{service},status="failure"}}"#), 2),
            (format!(r#"grpc_auth_attempts_total{{{service},status="exempt"}}"#), 1),
            (format!(r#"grpc_auth_failures_total{{{service},reason="unauthenticated"}}"#), 2),
            (format!(r#"grpc_auth_failures_total{{{service},reason="unauthorized"}}"#), 0),
            (format!(r#"grpc_auth_streams_ended_total{{{service},reason="revoked"}}"#), 0),
        ] {
            assert_eq!(value(&text, &sample), Some(count), "{sample} in\n{text}");
        }
        let mut families = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(rest.split(' ').next().unwrap()), "twice: {line}");
            } else if !line.starts_with("# HELP ") {
                assert!(families.contains(line.split('{').next().unwrap()), "no type: {line}");
            }
        }
        assert_eq!(families.len(), 7);
    }
}
