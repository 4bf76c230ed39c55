//! One line per decision, and no more than a disk can bear.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::policy::Decision;

/// So many refusals of a kind are logged in one window; the others are counted and their number follows with
/// the next line. At some 400 bytes a line, a flood writes less than 40 MB a day.
const LINES_MAX: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// Paths are the caller's choice; what is quoted of them is bounded.
const PATH_MAX: usize = 200;

/// The log of one server's decisions.
///
/// Strangers and known callers have a bound each, so that the noise of the one hides nothing of the other.
#[derive(Debug, Default)]
pub(super) struct DecisionLog {
    unauthenticated: Bound,
    denied: Bound,
}

impl DecisionLog {
    pub(super) fn allowed(&self, path: &str, peer: &Peer, decision: &Decision) {
        tracing::debug!(
            target: "hive_security::policy",
            method = excerpt(path), caller = %peer.spiffe_id, %decision, "a call was allowed"
        );
    }

    pub(super) fn denied(&self, path: &str, peer: &Peer, decision: &Decision) {
        let Some(not_logged) = self.denied.admit(Instant::now()) else { return };
        tracing::warn!(
            target: "hive_security::policy",
            method = excerpt(path), caller = %peer.spiffe_id, reason = %decision, not_logged, "a call was denied"
        );
    }

    pub(super) fn revoked(&self, path: &str, peer: &Peer) {
        let Some(not_logged) = self.denied.admit(Instant::now()) else { return };
        tracing::warn!(
            target: "hive_security::policy",
            method = excerpt(path), caller = %peer.spiffe_id, not_logged, "a stream was ended by a new policy"
        );
    }

    pub(super) fn unauthenticated(&self, path: &str, reason: &str) {
        let Some(not_logged) = self.unauthenticated.admit(Instant::now()) else { return };
        tracing::warn!(
            target: "hive_security::policy",
            method = excerpt(path), reason, not_logged, "a call was not authenticated"
        );
    }
}

/// The beginning of a path, which fits into a line and a header.
pub(super) fn excerpt(path: &str) -> &str {
    let mut end = path.len().min(PATH_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

/// At most [`LINES_MAX`] lines in any [`WINDOW`] that begins with a line.
#[derive(Debug, Default)]
pub(super) struct Bound(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    lines: u32,
    not_logged: u64,
}

impl Bound {
    /// Whether to log this one: then, how many were not logged since the last line.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            state.began = Some(now);
            state.lines = 0;
        }
        if state.lines == LINES_MAX {
            state.not_logged += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.not_logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let (bound, start) = (Bound::default(), Instant::now());
        let written = (0..10_000).filter(|_| bound.admit(start).is_some()).count();
        assert_eq!(written, 60);
        assert_eq!(bound.admit(start + WINDOW), Some(9_940), "the next line says how many");
        assert_eq!(bound.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn a_long_path_is_quoted_in_part_and_never_cut_inside_a_character() {
        assert_eq!(excerpt("/a.B/C"), "/a.B/C");
        assert_eq!(excerpt(&"/".repeat(100_000)).len(), 200);
        assert_eq!(excerpt(&format!("/{}", "é".repeat(500))).len(), 199);
    }
}
