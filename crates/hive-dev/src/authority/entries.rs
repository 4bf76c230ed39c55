//! The table of entries: who may be whom. It holds on to the processes it names, and forgets them when they end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hive_security::SpiffeId;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;
use super::attest::{ProcessKey, Rule, Rules};
use super::process::Process;

/// Each entry of a process holds two descriptors; the usual limit of a process is 1024.
const ENTRIES_MAX: usize = 300;

/// Identifies an entry, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub(super) u64);

/// Says which process has which identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path of the SPIFFE ID: `/ns/…`.
    pub spiffe_path: String,
    /// What the process must be. All must hold, and there must be at least one.
    pub selectors: Vec<Selector>,
}

/// What an entry demands of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// The path of its executable.
    Path(PathBuf),
    /// It is this very process. Such an entry is exclusive: the process has no identity by other selectors.
    Pid(u32),
    /// Its effective user when it connected.
    Uid(u32),
}

impl Entry {
    /// The identity at `spiffe_path` for the process that has this number now, and for no other.
    pub fn of_process(spiffe_path: impl Into<String>, pid: u32) -> Self {
        Self { spiffe_path: spiffe_path.into(), selectors: vec![Selector::Pid(pid)] }
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
        spiffe_id: SpiffeId,
        selectors: impl IntoIterator<Item = Selector>,
        for_operator: bool,
    ) -> Result<EntryId, Error> {
        let (mut rule, process) = resolve(spiffe_id, selectors)?;
        rule.for_operator = for_operator;
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

/// Turns selectors into a rule. An entry that demands nothing, or two different things of one kind, is a mistake.
fn resolve(
    spiffe_id: SpiffeId,
    selectors: impl IntoIterator<Item = Selector>,
) -> Result<(Rule, Option<Process>), Error> {
    let (mut pid, mut uid, mut path) = (None, None, None);
    for selector in selectors {
        let twice = match selector {
            Selector::Path(value) => path.replace(value).is_some(),
            Selector::Pid(value) => pid.replace(value).is_some(),
            Selector::Uid(value) => uid.replace(value).is_some(),
        };
        if twice {
            return Err(Error::Selectors {
                reason: "it has two of one kind, which no process can satisfy",
            });
        }
    }
    if (&pid, &uid, &path) == (&None, &None, &None) {
        return Err(Error::Selectors { reason: "it has none and would match every process" });
    }
    let open = |pid| Process::open(pid).map_err(|source| Error::NoProcess { pid, source });
    let process = pid.map(open).transpose()?;
    let path = path.map(resolved).transpose()?;
    let key = process.as_ref().map(Process::key);
    Ok((Rule { spiffe_id, process: key, uid, path, for_operator: false }, process))
}

/// The kernel names executables by their real paths.
fn resolved(path: PathBuf) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|source| Error::NoExecutable { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://dev.hive.internal/a").expect("a good ID")
    }

    fn table() -> Arc<Entries> {
        Arc::new(Entries::new(None).expect("a table"))
    }

    #[tokio::test]
    async fn an_entry_that_demands_nothing_or_the_impossible_is_refused() {
        let entries = table();
        let (one, two) = (Selector::Uid(1), Selector::Uid(2));
        for selectors in [vec![], vec![one, two]] {
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
    async fn an_entry_is_removed_once() {
        let entries = table();
        let entry = entries.add(id(), [Selector::Uid(1)], false).expect("there is room");
        assert!(entries.remove(entry));
        assert!(!entries.remove(entry));
    }
}
