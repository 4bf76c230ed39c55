//! What credentials count.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{family, sample, seconds};
use crate::credentials::{Board, RotationState, Status, lock};

const STATES: [(RotationState, &str); 8] = [
    (RotationState::Active, "active"),
    (RotationState::Closing, "closing"),
    (RotationState::Degraded, "degraded"),
    (RotationState::Done, "done"),
    (RotationState::Opening, "opening"),
    (RotationState::Overlap, "overlap"),
    (RotationState::Rotating, "rotating"),
    (RotationState::Withdrawn, "withdrawn"),
];

/// Of several sets, those of one role are added up, so that no series is told twice.
pub(super) fn render(f: &mut fmt::Formatter<'_>, boards: &[Arc<Board>]) -> fmt::Result {
    if boards.is_empty() {
        return Ok(());
    }
    let sets: Vec<_> = boards.iter().map(|board| (board.status(), &**board)).collect();
    states(f, &sets)?;
    expiries(f, &sets)?;
    generations(f, &sets)?;
    gauges(f, &sets)?;
    renewals(f, &sets)?;
    outcomes(f, &sets)?;
    rotations(f, &sets)?;
    totals(f, &sets)
}

type Set<'a> = (Status, &'a Board);

fn states(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    let name = "hive_credentials_state";
    family(f, name, "gauge", "1 for the state in which the credentials of a role are.")?;
    for (status, _) in sets {
        for (state, word) in STATES {
            let is_it = u8::from(status.state == state);
            sample(f, name, &[("role", &status.role), ("state", word)], is_it)?;
        }
    }
    Ok(())
}

fn expiries(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    let name = "vault_token_expiry_timestamp_seconds";
    family(f, name, "gauge", "When the login token in use ends, if nothing extends it.")?;
    for (status, _) in sets {
        if let Some(at) = status.token_expires_at {
            sample(f, name, &[("role", &status.role)], seconds(at))?;
        }
    }
    let name = "hive_lease_expiry_timestamp_seconds";
    family(f, name, "gauge", "When a lease in use ends, if nothing extends it.")?;
    for (status, _) in sets {
        for credential in &status.credentials {
            let Some(at) = credential.expires_at else { continue };
            let (mount, role) = place(&credential.path);
            let labels = [("credential", &*credential.name), ("mount", mount), ("role", role)];
            sample(f, name, &labels, seconds(at))?;
        }
    }
    Ok(())
}

fn generations(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    let name = "hive_credential_generation";
    family(f, name, "gauge", "The number of a credential; it grows each time its holders move.")?;
    for (status, _) in sets {
        for credential in &status.credentials {
            let labels = [("credential", &*credential.name), ("role", &status.role)];
            sample(f, name, &labels, credential.generation)?;
        }
    }
    let name = "hive_credential_holders";
    family(f, name, "gauge", "How many holders use a credential.")?;
    for (status, _) in sets {
        for credential in &status.credentials {
            let labels = [("credential", &*credential.name), ("role", &status.role)];
            sample(f, name, &labels, credential.holders)?;
        }
    }
    Ok(())
}

fn gauges(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    type Of = fn(&Status) -> usize;
    let gauges: [(&str, &str, Of); 2] = [
        ("hive_leases_held", "Leases and tokens that are held, older ones included.", |s| s.held),
        ("hive_epochs_draining", "Older epochs that somebody still uses.", |s| s.draining),
    ];
    for (name, help, of) in gauges {
        family(f, name, "gauge", help)?;
        for (status, _) in sets {
            sample(f, name, &[("role", &status.role)], of(status))?;
        }
    }
    Ok(())
}

fn renewals(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    let name = "vault_credential_renewals_total";
    family(f, name, "counter", "Renewals of leases, by the path that issued them.")?;
    for (status, board) in sets {
        for (path, counts) in lock(&board.counts.renewals).iter() {
            for (word, count) in ["success", "error"].iter().zip(counts) {
                let labels =
                    [("credential_type", &**path), ("role", &status.role), ("status", word)];
                sample(f, name, &labels, count)?;
            }
        }
    }
    Ok(())
}

fn outcomes(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    type Of = fn(&Board) -> [u64; 2];
    let counters: [(&str, &str, Of); 6] = [
        ("vault_logins_total", "Logins.", |b| b.counts.logins.read()),
        ("vault_token_renewals_total", "Renewals of login tokens.", |b| {
            b.counts.token_renewals.read()
        }),
        ("hive_credential_issues_total", "Credentials that were asked for.", |b| {
            b.counts.issues.read()
        }),
        ("hive_credential_refreshes_total", "Credentials without a lease, asked for again.", |b| {
            b.counts.refreshes.read()
        }),
        ("hive_revocations_total", "Leases and tokens that were given back.", |b| {
            b.counts.revocations.read()
        }),
        ("hive_probes_total", "Trials of new credentials by their holders.", |b| {
            b.counts.probes.read()
        }),
    ];
    for (name, help, of) in counters {
        family(f, name, "counter", help)?;
        for (status, board) in sets {
            for (word, count) in ["success", "error"].iter().zip(of(board)) {
                sample(f, name, &[("role", &status.role), ("status", word)], count)?;
            }
        }
    }
    Ok(())
}

fn rotations(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    let name = "hive_rotations_total";
    family(f, name, "counter", "New credentials that were put to use, by why.")?;
    for (status, board) in sets {
        for (reason, count) in lock(&board.counts.rotations).iter() {
            sample(f, name, &[("reason", *reason), ("role", &status.role)], count)?;
        }
    }
    let name = "hive_overlap_seconds";
    family(f, name, "summary", "How long older credentials were kept for those who used them.")?;
    for (status, board) in sets {
        let micros = board.counts.overlap_micros.load(Ordering::Relaxed);
        let lasted = Duration::from_micros(micros).as_secs_f64();
        sample(f, "hive_overlap_seconds_sum", &[("role", &status.role)], lasted)?;
        let overlaps = board.counts.overlaps.load(Ordering::Relaxed);
        sample(f, "hive_overlap_seconds_count", &[("role", &status.role)], overlaps)?;
    }
    Ok(())
}

fn totals(f: &mut fmt::Formatter<'_>, sets: &[Set<'_>]) -> fmt::Result {
    type Of = fn(&Board) -> &AtomicU64;
    let counters: [(&str, &str, Of); 4] = [
        ("hive_fail_closed_total", "Times when no credentials could be used any more.", |b| {
            &b.counts.withdrawals
        }),
        ("hive_overlap_cuts_total", "Older credentials that were taken from their users.", |b| {
            &b.counts.cuts
        }),
        (
            "hive_leases_left_total",
            "Given up: they live on until they expire. Should stay 0.",
            |b| &b.counts.left,
        ),
        (
            "hive_leases_entrusted_total",
            "Not revoked by name; their token's end ended them.",
            |b| &b.counts.orphans,
        ),
    ];
    for (name, help, of) in counters {
        family(f, name, "counter", help)?;
        for (status, board) in sets {
            let count = of(board).load(Ordering::Relaxed);
            sample(f, name, &[("role", &status.role)], count)?;
        }
    }
    Ok(())
}

/// The mount and the role of a path such as `database/creds/app`.
fn place(path: &str) -> (&str, &str) {
    let verbs = ["/creds/", "/static-creds/", "/data/", "/issue/", "/sign/"];
    verbs.iter().find_map(|verb| path.split_once(verb)).unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_mount_and_a_role() {
        assert_eq!(place("database/creds/app"), ("database", "app"));
        assert_eq!(place("team/db/static-creds/app"), ("team/db", "app"));
        assert_eq!(place("secret/data/a/b"), ("secret", "a/b"));
        assert_eq!(place("cubbyhole/x"), ("cubbyhole/x", ""));
    }
}
