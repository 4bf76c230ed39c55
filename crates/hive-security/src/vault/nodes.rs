//! The addresses of one cluster, and what is known about each.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use super::sys::Health;

/// How long an address is left alone after its first failure; twice as long after each further one.
const OUT_FIRST: Duration = Duration::from_secs(1);
const OUT_MAX: Duration = Duration::from_secs(30);
/// How long what the nodes said about themselves is believed.
const KNOWN_FOR: Duration = Duration::from_secs(30);

pub(super) struct Nodes {
    urls: Vec<Url>,
    known: Mutex<Known>,
}

struct Known {
    nodes: Vec<Node>,
    /// When all were asked.
    asked: Option<Instant>,
    cluster_id: Option<String>,
}

#[derive(Clone, Default)]
struct Node {
    rank: Rank,
    failures: u32,
    out_until: Option<Instant>,
}

/// What a node is good for, the best first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    Active,
    Standby,
    #[default]
    Unknown,
    Sealed,
    Away,
}

impl Nodes {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        let nodes = vec![Node::default(); urls.len()];
        Self { urls, known: Mutex::new(Known { nodes, asked: None, cluster_id: None }) }
    }

    pub(super) fn urls(&self) -> &[Url] {
        &self.urls
    }

    pub(super) fn are_several(&self) -> bool {
        self.urls.len() > 1
    }

    /// Whether it is time to ask the nodes for their state.
    pub(super) fn are_to_be_asked(&self) -> bool {
        self.are_several() && self.known().asked.is_none_or(|asked| asked.elapsed() > KNOWN_FOR)
    }

    pub(super) fn learn(&self, ranks: &[Rank]) {
        let mut known = self.known();
        known.asked = Some(Instant::now());
        for (node, rank) in known.nodes.iter_mut().zip(ranks) {
            node.rank = *rank;
        }
    }

    /// The addresses in the order in which they are tried: those left alone come last, for where all are, one has to
    /// be tried.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let (known, now) = (self.known(), Instant::now());
        let mut order: Vec<_> = (0..self.urls.len()).collect();
        let key = |place: &usize| {
            let node = known.nodes.get(*place).cloned().unwrap_or_default();
            (node.out_until.is_some_and(|until| until > now), node.rank, node.failures)
        };
        order.sort_by_key(key);
        order
    }

    pub(super) fn answered(&self, place: usize) {
        if let Some(node) = self.known().nodes.get_mut(place) {
            (node.failures, node.out_until) = (0, None);
        }
    }

    /// It gave no answer, or cannot serve: it is left alone for a while, and all are asked again.
    pub(super) fn failed(&self, place: usize) {
        let mut known = self.known();
        known.asked = None;
        if let Some(node) = known.nodes.get_mut(place) {
            let out = OUT_FIRST.saturating_mul(1 << node.failures.min(5)).min(OUT_MAX);
            node.failures = node.failures.saturating_add(1);
            node.out_until = Some(Instant::now() + out);
        }
    }

    /// Whether the cluster behind the addresses is another one than before.
    pub(super) fn is_another_cluster(&self, health: &Health) -> bool {
        let Some(id) = health.cluster_id.clone() else { return false };
        self.known().cluster_id.replace(id.clone()).is_some_and(|before| before != id)
    }

    /// The node that a redirect leads to, if it is one of ours and the path is the one that was asked.
    pub(super) fn redirected(&self, asked: &Url, location: &str) -> Option<usize> {
        let target = asked.join(location).ok()?;
        let is_same = |url: &Url| {
            url.scheme() == target.scheme()
                && url.host() == target.host()
                && url.port_or_known_default() == target.port_or_known_default()
        };
        let is_plain = target.username().is_empty() && target.password().is_none();
        let stays = target.scheme() == asked.scheme() && target.path() == asked.path();
        self.urls.iter().position(is_same).filter(|_| is_plain && stays)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rank {
    pub(super) fn of(health: &Health) -> Self {
        match (health.initialized && !health.sealed, health.standby) {
            (false, _) => Self::Sealed,
            (true, true) => Self::Standby,
            (true, false) => Self::Active,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn nodes(count: u16) -> Nodes {
        let url = |place| Url::parse(&format!("http://127.0.0.1:{}", 8200 + place)).unwrap();
        Nodes::new((0..count).map(url).collect())
    }

    #[test]
    fn the_active_node_comes_first_and_one_that_failed_last() {
        let nodes = nodes(3);
        nodes.learn(&[Rank::Sealed, Rank::Standby, Rank::Active]);
        assert_eq!(nodes.in_order(), [2, 1, 0]);
        nodes.failed(2);
        assert!(nodes.are_to_be_asked());
        assert_eq!(nodes.in_order(), [1, 0, 2]);
        nodes.answered(2);
        assert_eq!(nodes.in_order(), [2, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_left_alone_for_longer_and_longer_and_not_for_ever() {
        let nodes = nodes(2);
        nodes.learn(&[Rank::Active, Rank::Standby]);
        for expected_s in [1, 2, 4, 8, 16, 30, 30] {
            nodes.failed(0);
            tokio::time::advance(Duration::from_secs(expected_s) - Duration::from_millis(1)).await;
            assert_eq!(nodes.in_order(), [1, 0], "{expected_s}");
            tokio::time::advance(Duration::from_millis(2)).await;
            assert_eq!(nodes.in_order(), [0, 1], "{expected_s}");
        }
    }

    #[test]
    fn a_redirect_is_followed_to_our_own_addresses_and_the_same_path_only() {
        let nodes = nodes(2);
        let asked = Url::parse("http://127.0.0.1:8200/v1/secret/data/a").unwrap();
        let leads = |location| nodes.redirected(&asked, location);
        assert_eq!(leads("http://127.0.0.1:8201/v1/secret/data/a"), Some(1));
        let bad = [
            "http://127.0.0.1:8202/v1/secret/data/a",
            "http://evil.example/v1/secret/data/a",
            "http://evil.example:8201/v1/secret/data/a",
            "https://127.0.0.1:8201/v1/secret/data/a",
            "http://127.0.0.1:8201/v1/secret/data/b",
            "http://user@127.0.0.1:8201/v1/secret/data/a",
            "//evil.example/v1/secret/data/a",
            "http://127.0.0.1:8201@evil.example/v1/secret/data/a",
            "",
            "::",
        ];
        for bad in bad {
            assert!(leads(bad).is_none() || leads(bad) == Some(0) && bad.is_empty(), "{bad}");
        }
    }
}
