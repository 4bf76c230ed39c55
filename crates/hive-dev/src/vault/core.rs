//! What a development vault consists of: mounts, policies, namespaces, tokens and leases in one place, under one lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use hive_security::clock::Clock;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::audit::Audit;
use super::engine::Mount;
pub(super) use super::leases::Lease;
use super::namespaces::Namespace;
use super::policy::Policies;
use super::quotas::Quotas;
use super::reply::{Fault, random_hex, random_uuid};
use super::seal::Seal;
pub(super) use super::tokens::{Token, TokenKey};
use super::weather::Weather;
use crate::witness::Witness;

/// All a development vault consists of.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) audit: Audit,
    pub(super) witness: Witness,
    pub(super) weather: Weather,
    pub(super) seal: Seal,
    pub(super) quotas: Quotas,
    pub(super) cluster: Cluster,
    state: Mutex<State>,
    /// Something ends earlier than the reaper thinks.
    pub(super) wake: Notify,
}

/// What the cluster is called.
pub(super) struct Cluster {
    pub(super) id: String,
    pub(super) name: String,
}

/// Whoever moves a mount asks at once.
const MOVES_MAX: usize = 64;

#[derive(Default)]
pub(super) struct State {
    /// By the SHA-256 of the token: the tokens themselves are nowhere.
    pub(super) tokens: HashMap<TokenKey, Token>,
    pub(super) leases: BTreeMap<String, Lease>,
    /// By full path, with the slash at the end.
    pub(super) mounts: BTreeMap<String, Arc<Mount>>,
    pub(super) policies: Policies,
    /// By path: `ns1/`, `ns1/ns2/`. The root namespace is not among them.
    pub(super) namespaces: BTreeMap<String, Namespace>,
    /// The id of an entity by the accessor of the auth method and the name it gave.
    pub(super) entities: HashMap<(String, String), String>,
    /// What each token keeps for itself.
    pub(super) cubbyholes: HashMap<TokenKey, BTreeMap<String, Map<String, Value>>>,
    /// Of mounts, the newest last: an id, whence and whither.
    pub(super) moves: VecDeque<(String, String, String)>,
}

impl State {
    /// Remembers it for who asks how it went.
    pub(super) fn note_move(&mut self, id: &str, from: &str, to: &str) {
        self.moves.push_back((id.to_owned(), from.to_owned(), to.to_owned()));
        if self.moves.len() > MOVES_MAX {
            self.moves.pop_front();
        }
    }
}

pub(super) fn token_key(token: &str) -> TokenKey {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

impl Core {
    pub(super) fn new(clock: Clock, audit: Audit, witness: Witness) -> Self {
        let cluster =
            Cluster { id: random_uuid(), name: format!("vault-cluster-{}", random_hex(8)) };
        Self {
            audit,
            witness,
            weather: Weather::new(clock.clone()),
            seal: Seal::default(),
            quotas: Quotas::default(),
            cluster,
            state: Mutex::default(),
            wake: Notify::new(),
            clock,
        }
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is mounted at or above a path, and the rest of the path.
    pub(super) fn mount<'a>(
        &self,
        namespace: &str,
        path: &'a str,
    ) -> Option<(Arc<Mount>, &'a str)> {
        let state = self.state();
        let slashes = path.match_indices('/').map(|(at, _)| at + 1).rev();
        for end in slashes {
            if let Some(mount) = state.mounts.get(&format!("{namespace}{}", &path[..end])) {
                return Some((Arc::clone(mount), &path[end..]));
            }
        }
        // `LIST secret` and the like: the mount itself, without its slash.
        let mount = state.mounts.get(&format!("{namespace}{path}/"))?;
        Some((Arc::clone(mount), ""))
    }

    pub(super) fn add_mount(&self, mount: Arc<Mount>) {
        self.state().mounts.insert(mount.full_path(), mount);
    }

    /// A secret that the witness did not hear of is not issued.
    pub(super) async fn witness(&self, kind: &str, value: &str) -> Result<(), Fault> {
        self.witness.note(kind, value).await.map_err(|error| {
            tracing::error!(%error, "a secret was not issued");
            Fault::internal()
        })
    }
}
