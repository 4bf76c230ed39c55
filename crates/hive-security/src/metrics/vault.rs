//! What was asked of Vault, by all clients together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{family, sample};
use crate::vault::{Counts, Durations};

pub(super) fn render(f: &mut fmt::Formatter<'_>, clients: &[Arc<Counts>]) -> fmt::Result {
    if clients.is_empty() {
        return Ok(());
    }
    requests(f, clients)?;
    durations(f, clients)
}

fn requests(f: &mut fmt::Formatter<'_>, clients: &[Arc<Counts>]) -> fmt::Result {
    let mut counts = BTreeMap::<_, u64>::new();
    for tally in clients.iter().flat_map(|client| client.tallies()) {
        *counts.entry((tally.operation.as_str(), tally.status)).or_default() += tally.count;
    }
    let name = "vault_requests_total";
    family(f, name, "counter", "Calls to Vault, by what was asked and how it ended.")?;
    for ((operation, status), count) in counts {
        sample(f, name, &[("operation", operation), ("status", status)], count)?;
    }
    Ok(())
}

fn durations(f: &mut fmt::Formatter<'_>, clients: &[Arc<Counts>]) -> fmt::Result {
    let mut all = BTreeMap::<_, Durations>::new();
    for more in clients.iter().flat_map(|client| client.durations()) {
        match all.get_mut(more.operation.as_str()) {
            Some(sum) => add(sum, &more),
            None => drop(all.insert(more.operation.as_str(), more)),
        }
    }
    family(
        f,
        "vault_request_duration_seconds",
        "histogram",
        "How long calls to Vault took, in vain or not.",
    )?;
    all.iter().try_for_each(|(operation, durations)| histogram(f, operation, durations))
}

/// The buckets of all clients have the same bounds.
fn add(sum: &mut Durations, more: &Durations) {
    sum.sum_s += more.sum_s;
    sum.count += more.count;
    for ((_, below), (_, more)) in sum.buckets.iter_mut().zip(&more.buckets) {
        *below += more;
    }
}

fn histogram(f: &mut fmt::Formatter<'_>, operation: &str, all: &Durations) -> fmt::Result {
    let name = "vault_request_duration_seconds_bucket";
    for (bound, below) in &all.buckets {
        sample(f, name, &[("operation", operation), ("le", &bound.to_string())], below)?;
    }
    sample(f, name, &[("operation", operation), ("le", "+Inf")], all.count)?;
    let label = [("operation", operation)];
    sample(f, "vault_request_duration_seconds_sum", &label, all.sum_s)?;
    sample(f, "vault_request_duration_seconds_count", &label, all.count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::Duration;

    use super::super::Metrics;
    use crate::vault::{Operation, VaultClient, VaultConfig, VaultError};

    #[test]
    fn the_calls_of_all_clients_are_added_up_and_those_of_a_clone_counted_once() {
        let client = || VaultClient::new(VaultConfig::at("http://127.0.0.1:8200")).unwrap();
        let (one, two) = (client(), client());
        let operation = "GET secret/data/a".to_owned();
        let denied = VaultError::Denied { operation, by_policy: true };
        one.counts().add(Operation::KvRead, &Ok(()), Duration::from_millis(3));
        one.counts().add(Operation::KvRead, &Err::<(), _>(denied), Duration::from_millis(30));
        two.counts().add(Operation::KvRead, &Ok(()), Duration::from_secs(11));
        let metrics = Metrics::default().and_vault(&one).and_vault(&one.clone()).and_vault(&two);
        let text = metrics.to_string();
        let buckets = "vault_request_duration_seconds_bucket{operation=\"kv_read\"";
        for line in [
            "# TYPE vault_requests_total counter",
            r#"vault_requests_total{operation="kv_read",status="denied"} 1"#,
            r#"vault_requests_total{operation="kv_read",status="success"} 2"#,
            "# TYPE vault_request_duration_seconds histogram",
            &format!(r#"{buckets},le="0.002"}} 0"#),
            &format!(r#"{buckets},le="0.005"}} 1"#),
            &format!(r#"{buckets},le="10"}} 2"#),
            &format!(r#"{buckets},le="+Inf"}} 3"#),
            r#"vault_request_duration_seconds_sum{operation="kv_read"} 11.033"#,
            r#"vault_request_duration_seconds_count{operation="kv_read"} 3"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
        assert!(!text.contains("secret/data"), "{text}");
        assert!(!Metrics::default().to_string().contains("vault_"));
    }
}
