//! The table of entries: who may be whom. It holds on to the processes it names, and forgets them when they end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hive_security::TrustDomain;
use rustls::pki_types::DnsName;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;
use super::attest::{Demands, Identity, ProcessKey, Rule, Rules, Sha256};
use super::process::Process;

/// Each entry of a process holds two descriptors; the usual limit of a process is 1024.
const ENTRIES_MAX: usize = 300;
const HINT_BYTES_MAX: usize = 1_024;
/// A certificate travels in every handshake.
const DNS_NAMES_MAX: usize = 16;
/// RFC 5280, appendix A.1: `ub-common-name`.
const COMMON_NAME_BYTES_MAX: usize = 64;

/// Identifies an entry, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub(super) u64);

/// Says which process has which identity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The path of the SPIFFE ID: `/ns/…`.
    pub spiffe_path: String,
    /// What the process must be. All must hold, and there must be at least one.
    pub selectors: Vec<Selector>,
    /// What comes with the identity. Can be changed later.
    pub terms: Terms,
}

/// What comes with an identity, besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// DNS names that its X.509-SVIDs carry beside the SPIFFE ID (X509-SVID standard, section 2); at most 16. The first,
    /// of at most 64 bytes, is their common name too, as SPIRE has it: Vault's logins by certificate want one.
    pub dns_names: Vec<String>,
    /// The trust domains whose bundles the workload gets, as far as they are known, besides its own. `None`, the
    /// default, means all; an empty set none. A workload with several identities gets the bundles of all of them.
    pub federates_with: Option<BTreeSet<TrustDomain>>,
    /// Tells the workload what this identity is for; at most 1024 bytes. Of two identities of one workload with the
    /// same hint, the earlier entry's has it and the other goes without: a hint is unique within an answer.
    pub hint: String,
    /// How long a JWT-SVID lives, if not [`AuthorityConfig::jwt_ttl`](super::AuthorityConfig::jwt_ttl).
    pub jwt_ttl: Option<Duration>,
    /// How long an X.509-SVID lives, if not [`AuthorityConfig::x509_ttl`](super::AuthorityConfig::x509_ttl).
    pub x509_ttl: Option<Duration>,
}

/// What an entry demands of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// Its effective group when it connected.
    Gid(u32),
    /// The path of its executable.
    Path(PathBuf),
    /// It is this very process. Such an entry is exclusive: the process has no identity by other selectors.
    Pid(u32),
    /// The SHA-256 of its executable, in hexadecimal digits.
    Sha256(String),
    /// Its effective user when it connected.
    Uid(u32),
}

impl Entry {
    /// The identity at `spiffe_path` for the processes that every one of `selectors` fits.
    pub fn new(
        spiffe_path: impl Into<String>,
        selectors: impl IntoIterator<Item = Selector>,
    ) -> Self {
        let selectors = selectors.into_iter().collect();
        Self { spiffe_path: spiffe_path.into(), selectors, terms: Terms::default() }
    }

    /// The identity at `spiffe_path` for the process that has this number now, and for no other.
    pub fn of_process(spiffe_path: impl Into<String>, pid: u32) -> Self {
        Self::new(spiffe_path, [Selector::Pid(pid)])
    }

    /// The same with a hint.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.terms.hint = hint.into();
        self
    }

    /// The same with X.509-SVIDs that carry these DNS names too.
    #[must_use]
    pub fn named(mut self, dns_names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.terms.dns_names = dns_names.into_iter().map(Into::into).collect();
        self
    }

    /// The same for a workload that gets the bundles of these trust domains and of no others.
    #[must_use]
    pub fn federating_with(mut self, domains: impl IntoIterator<Item = TrustDomain>) -> Self {
        self.terms.federates_with = Some(domains.into_iter().collect());
        self
    }
}

impl Terms {
    pub(super) fn check(&self) -> Result<(), Error> {
        // Workload API standard, section 5.2.1.
        let length = self.hint.len();
        if length > HINT_BYTES_MAX {
            return Err(Error::Hint { length });
        }
        self.dns_names.iter().enumerate().try_for_each(|(place, name)| {
            let refused =
                |reason: &str| Error::Name { name: name.clone(), reason: reason.to_owned() };
            match () {
                () if place >= DNS_NAMES_MAX => Err(refused("there are more than 16 DNS names")),
                () if DnsName::try_from(name.as_str()).is_err() => {
                    Err(refused("it is no DNS name"))
                }
                () if place == 0 && name.len() > COMMON_NAME_BYTES_MAX => {
                    Err(refused("the first DNS name is the common name, of at most 64 bytes"))
                }
                () => Ok(()),
            }
        })
    }
}

/// The table. Cheap to share.
pub(super) struct Entries {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    supervisor: Option<ProcessKey>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    next: u64,
    rows: BTreeMap<EntryId, Row>,
    operator_roots: Vec<Process>,
}

struct Row {
    rule: Rule,
    process: Option<Process>,
    /// Ends the task that waits for the process.
    _watched: Option<DropGuard>,
}

impl Entries {
    /// An empty table; tasks that wait for the end of processes run on the current runtime.
    pub(super) fn new(supervisor: Option<u32>) -> Result<Self, Error> {
        let open = |pid| Process::open(pid).map_err(|source| Error::NoProcess { pid, source });
        Ok(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            supervisor: supervisor.map(open).transpose()?.map(|process| process.key()),
            runtime: Handle::current(),
        })
    }

    pub(super) fn add(
        self: &Arc<Self>,
        identity: Identity,
        selectors: impl IntoIterator<Item = Selector>,
        for_operator: bool,
    ) -> Result<EntryId, Error> {
        identity.terms.check()?;
        let (process, demands) = resolve(selectors)?;
        let key = process.as_ref().map(Process::key);
        let rule = Rule { identity, process: key, demands, for_operator };
        let mut state = self.state();
        if state.rows.len() >= ENTRIES_MAX {
            return Err(Error::Full);
        }
        state.next += 1;
        let id = EntryId(state.next);
        let watched =
            process.as_ref().map(|process| self.forget_when_ended(id, process)).transpose()?;
        state.rows.insert(id, Row { rule, process, _watched: watched });
        drop(state);
        self.announce();
        Ok(id)
    }

    /// Changes what comes with the identity; false if there is no such entry.
    pub(super) fn change(&self, id: EntryId, terms: Terms) -> Result<bool, Error> {
        terms.check()?;
        let mut state = self.state();
        let Some(row) = state.rows.get_mut(&id) else { return Ok(false) };
        row.rule.identity.terms = terms;
        drop(state);
        self.announce();
        Ok(true)
    }

    pub(super) fn remove(&self, id: EntryId) -> bool {
        let removed = self.state().rows.remove(&id).is_some();
        if removed {
            self.announce();
        }
        removed
    }

    /// The process with this number, and everything below it, is the operator's.
    pub(super) fn add_operator_root(&self, pid: u32) -> Result<(), Error> {
        let root = Process::open(pid).map_err(|source| Error::NoProcess { pid, source })?;
        let mut state = self.state();
        state.operator_roots.retain(Process::is_running);
        if state.operator_roots.len() >= ENTRIES_MAX {
            return Err(Error::Full);
        }
        state.operator_roots.push(root);
        drop(state);
        self.announce();
        Ok(())
    }

    /// The entries as they are now, without those of ended processes.
    pub(super) fn rules(&self) -> Rules {
        let state = self.state();
        let running = |row: &&Row| row.process.as_ref().is_none_or(Process::is_running);
        let roots = state.operator_roots.iter().filter(|root| root.is_running());
        Rules {
            rules: state.rows.values().filter(running).map(|row| row.rule.clone()).collect(),
            operator_roots: roots.map(Process::key).collect(),
            supervisor: self.supervisor,
        }
    }

    /// Notified of every change after this call.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn forget_when_ended(
        self: &Arc<Self>,
        id: EntryId,
        process: &Process,
    ) -> Result<DropGuard, Error> {
        let pid = process.key().pid;
        let _entered = self.runtime.enter();
        let watch = process.watch().map_err(|source| Error::NoProcess { pid, source })?;
        let (table, removed) = (Arc::downgrade(self), CancellationToken::new());
        let guard = removed.clone().drop_guard();
        self.runtime.spawn(async move {
            tokio::select! {
                () = removed.cancelled() => return,
                () = watch.ended() => {}
            }
            tracing::debug!(pid, "a registered process ended");
            if let Some(table) = table.upgrade() {
                table.remove(id);
            }
        });
        Ok(guard)
    }

    fn announce(&self) {
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// Every change of the state is one statement, so a panicking holder leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns selectors into demands. An entry that demands nothing, or two different things of one kind, is a mistake.
fn resolve(
    selectors: impl IntoIterator<Item = Selector>,
) -> Result<(Option<Process>, Demands), Error> {
    let (mut pid, mut demands) = (None, Demands::default());
    for selector in selectors {
        let twice = match selector {
            Selector::Gid(value) => demands.gid.replace(value).is_some(),
            Selector::Path(value) => demands.path.replace(resolved(value)?).is_some(),
            Selector::Pid(value) => pid.replace(value).is_some(),
            Selector::Sha256(digits) => demands.sha256.replace(parse_sha256(&digits)?).is_some(),
            Selector::Uid(value) => demands.uid.replace(value).is_some(),
        };
        if twice {
            return Err(Error::Selectors {
                reason: "it has two of one kind, which no process can satisfy",
            });
        }
    }
    if pid.is_none() && demands == Demands::default() {
        return Err(Error::Selectors { reason: "it has none and would match every process" });
    }
    let open = |pid| Process::open(pid).map_err(|source| Error::NoProcess { pid, source });
    Ok((pid.map(open).transpose()?, demands))
}

fn parse_sha256(digits: &str) -> Result<Sha256, Error> {
    let refused = || Error::Selectors { reason: "a SHA-256 has exactly 64 hexadecimal digits" };
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(refused());
    }
    let mut hash = Sha256::default();
    for (index, byte) in hash.iter_mut().enumerate() {
        let pair = &digits[2 * index..2 * index + 2];
        *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
    }
    Ok(hash)
}

/// The kernel names executables by their real paths.
fn resolved(path: PathBuf) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|source| Error::NoExecutable { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hive_security::SpiffeId;
    use std::process::{Command, Stdio};

    fn id() -> Identity {
        let spiffe_id = SpiffeId::parse("spiffe://dev.hive.internal/a").expect("a good ID");
        Identity { spiffe_id, terms: Terms::default() }
    }

    fn table() -> Arc<Entries> {
        Arc::new(Entries::new(None).expect("a table"))
    }

    #[tokio::test]
    async fn an_entry_that_demands_nothing_or_the_impossible_is_refused() {
        let entries = table();
        let (one, two) = (Selector::Uid(1), Selector::Uid(2));
        let (short, odd) = ("ab".to_owned(), "g".repeat(64));
        let bad_hashes = [short, odd].map(|digits| vec![Selector::Sha256(digits)]);
        for selectors in [vec![], vec![one, two]].into_iter().chain(bad_hashes) {
            assert!(matches!(entries.add(id(), selectors, false), Err(Error::Selectors { .. })));
        }
        let nobody = [Selector::Pid(0)];
        assert!(matches!(entries.add(id(), nobody, false), Err(Error::NoProcess { .. })));
        assert!(entries.rules().rules.is_empty());
    }

    #[tokio::test]
    async fn the_entry_of_an_ended_process_goes_with_it() {
        let entries = table();
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        entries.add(id(), [Selector::Pid(child.id())], false).expect("it runs");
        assert_eq!(entries.rules().rules.len(), 1);
        let mut changes = entries.changes();
        child.kill().expect("it is ours");
        child.wait().expect("it is reaped");
        assert!(entries.rules().rules.is_empty());
        let change = tokio::time::timeout(Duration::from_secs(10), changes.changed());
        change.await.expect("in time").expect("the table lives");
        assert!(entries.state().rows.is_empty());
    }

    #[tokio::test]
    async fn the_table_is_bounded() {
        let entries = table();
        for _ in 0..ENTRIES_MAX {
            entries.add(id(), [Selector::Uid(1)], false).expect("there is room");
        }
        assert!(matches!(entries.add(id(), [Selector::Uid(1)], false), Err(Error::Full)));
    }

    #[tokio::test]
    async fn a_hint_of_more_than_1024_bytes_is_refused() {
        let entries = table();
        let terms = |length| Terms { hint: "h".repeat(length), ..Terms::default() };
        let long = Identity { terms: terms(1_025), ..id() };
        let refused = entries.add(long, [Selector::Uid(1)], false);
        assert!(matches!(refused, Err(Error::Hint { length: 1_025 })));
        let fits = Identity { terms: terms(1_024), ..id() };
        let entry = entries.add(fits, [Selector::Uid(1)], false).expect("it fits");
        assert!(matches!(entries.change(entry, terms(1_025)), Err(Error::Hint { .. })));
        assert!(matches!(entries.change(entry, Terms::default()), Ok(true)));
        assert!(matches!(entries.change(EntryId(99), Terms::default()), Ok(false)));
    }

    #[tokio::test]
    async fn dns_names_that_no_certificate_could_carry_are_refused() {
        let entries = table();
        let many = vec!["a.test".to_owned(); DNS_NAMES_MAX + 1];
        let long = format!("{}.{}.test", "a".repeat(40), "b".repeat(40));
        for names in [many, vec![long.clone()], vec![String::new()], vec!["a b".to_owned()]] {
            let named = Terms { dns_names: names.clone(), ..Terms::default() };
            let refused = entries.add(Identity { terms: named, ..id() }, [Selector::Uid(1)], false);
            assert!(matches!(refused, Err(Error::Name { .. })), "{names:?}");
        }
        let named = Terms { dns_names: vec!["a.test".to_owned(), long], ..Terms::default() };
        let good = Identity { terms: named, ..id() };
        assert!(entries.add(good, [Selector::Uid(1)], false).is_ok());
    }

    #[tokio::test]
    async fn an_entry_is_removed_once() {
        let entries = table();
        let entry = entries.add(id(), [Selector::Uid(1)], false).expect("there is room");
        assert!(entries.remove(entry));
        assert!(!entries.remove(entry));
    }
}
