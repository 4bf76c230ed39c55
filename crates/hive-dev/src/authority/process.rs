//! What the kernel says about processes: thin readers of `/proc` and pidfds. Nothing is decided here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hive_runtime::processes::stat;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::attest::{ProcessFacts, ProcessKey};
use super::hashes::{FileKey, Hashes};

/// The kernel's own bound on nesting is far lower; a chain read while it changes could loop.
const ANCESTORS_MAX: usize = 1_024;
/// How often a chain of ancestors is read again because it changed in between.
const READS_MAX: usize = 4;

/// A process that is held on to: the descriptor stays its own even when its number is used again.
#[derive(Clone, Debug)]
pub(super) struct Process {
    key: ProcessKey,
    descriptor: Arc<OwnedFd>,
}

impl Process {
    /// Holds on to the process that has this number now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let descriptor = Arc::new(pidfd_open(raw, PidfdFlags::empty())?);
        let start_time = stat(pid)?.start_time;
        let process = Self { key: ProcessKey { pid, start_time }, descriptor };
        // Still running after its start time was read: so the start time was its own.
        if process.is_running() { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(super) fn key(&self) -> ProcessKey {
        self.key
    }

    /// A descriptor that is readable marks an ended process, reaped or not.
    pub(super) fn is_running(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.descriptor.as_fd(), PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut polled, Some(&at_once)), Ok(0))
    }

    /// Something to wait with for its end.
    #[expect(
        deprecated,
        reason = "its successor is unsafe and asks only for what an `OwnedFd` guarantees"
    )]
    pub(super) fn watch(&self) -> io::Result<Watch> {
        // A duplicate, because one descriptor can be registered with the runtime only once.
        let descriptor = self.descriptor.try_clone()?;
        AsyncFd::with_interest(descriptor, Interest::READABLE).map(Watch)
    }

    /// What there is to know of it, if it still runs.
    /// Hashes its executable only if there is somewhere to keep the hash; that takes a moment.
    pub(super) fn facts(
        &self,
        (uid, gid): (u32, u32),
        hashes: Option<&Hashes>,
    ) -> Option<ProcessFacts> {
        let link = format!("/proc/{}/exe", self.key.pid);
        let sha256 = hashes.and_then(|hashes| hashes.of(&link));
        let executable = fs::read_link(&link).ok();
        // The process may have become another program in between: then the hash is not this one's.
        let sha256 = sha256.filter(|(file, _)| FileKey::at(&link).as_ref() == Some(file));
        let ancestors = ancestors(self.key);
        let sha256 = sha256.map(|(_, sha256)| sha256);
        // Read first, checked afterwards: only then is the answer about this process.
        let facts = ProcessFacts { key: self.key, uid, gid, executable, sha256, ancestors };
        self.is_running().then_some(facts)
    }
}

/// Waits for the end of a process.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    pub(super) async fn ended(&self) {
        // The only error is a runtime that is shutting down, and then nobody waits any more.
        let _ = self.0.readable().await;
    }
}

/// The chain of parents, read until it is the same twice; None if it never is.
fn ancestors(of: ProcessKey) -> Option<Vec<ProcessKey>> {
    let mut before = chain(of)?;
    for _ in 0..READS_MAX {
        let again = chain(of)?;
        if again == before {
            return Some(again);
        }
        before = again;
    }
    None
}

fn chain(of: ProcessKey) -> Option<Vec<ProcessKey>> {
    let mut chain = Vec::new();
    let mut parent = stat(of.pid).ok()?.parent;
    // Parent 0 is the kernel, or lies outside this process's view.
    while parent != 0 {
        let found = stat(parent).ok()?;
        chain.push(ProcessKey { pid: parent, start_time: found.start_time });
        if chain.len() > ANCESTORS_MAX {
            return None;
        }
        parent = found.parent;
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn this_process_knows_itself_and_its_parent() {
        let this = Process::open(std::process::id()).expect("it runs");
        let facts = this.facts((0, 0), None).expect("it still runs");
        assert_eq!(facts.executable, std::env::current_exe().ok());
        let parent = facts.ancestors.expect("they do not change").first().map(|key| key.pid);
        assert_eq!(parent, Some(std::os::unix::process::parent_id()));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_before_it_is_reaped() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let process = Process::open(child.id()).expect("it runs");
        let watch = process.watch().expect("it can be watched");
        assert!(process.is_running() && process.facts((0, 0), None).is_some());
        drop(child.stdin.take());
        let end = tokio::time::timeout(std::time::Duration::from_secs(10), watch.ended());
        end.await.expect("it ends");
        assert!(!process.is_running() && process.facts((0, 0), None).is_none());
        assert!(Process::open(child.id()).is_err());
        child.wait().expect("it is reaped");
    }

    #[test]
    fn no_process_has_number_zero() {
        assert!(Process::open(0).is_err());
        assert!(Process::open(u32::MAX).is_err());
    }
}
