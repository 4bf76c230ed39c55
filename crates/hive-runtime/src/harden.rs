//! What a process that holds secrets does first: no core dumps, no strangers attached, no life after its parent.

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use std::io;

/// The limit of a core dump's size, in bytes, by which there is none. Where the kernel hands cores to a program, such as
/// systemd-coredump, it does so whatever the limit is, also 0, except for this one (`core(5)`, `fs/coredump.c`). A file
/// of one byte is never written: the least is a page.
pub const CORE_BYTES_MAX: u64 = 1;

/// Forbids core dumps, which would write every secret of this process to disk. What it starts inherits this.
pub fn forbid_core_dumps() -> io::Result<()> {
    let limit = Some(CORE_BYTES_MAX);
    Ok(setrlimit(Resource::Core, Rlimit { current: limit, maximum: limit })?)
}

/// Allows as many open files, and so connections, as the system lets this process have. The usual limit of 1024 is for
/// programs that call `select`.
pub fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Forbids other processes of the same user to read this one's memory or attach to it.
///
/// The links of `/proc/<pid>` become unreadable too, so a process that is attested by the path of its
/// executable must not call this.
pub fn forbid_inspection() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Asks the kernel for SIGTERM when the parent ends, so that nothing outlives its supervisor.
///
/// `parent` is the process that must still be there: it may have ended before this call, and then the kernel
/// would never send the signal.
///
/// The kernel watches the *thread* that spawned this process. The parent must spawn from a thread that lives as
/// long as the parent itself: a worker thread of a tokio runtime does, a thread of its blocking pool does not.
pub fn end_with_parent(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let expected = i32::try_from(parent).ok().and_then(Pid::from_raw);
    if getppid() == expected {
        Ok(())
    } else {
        Err(io::Error::other(format!("the parent process {parent} has already ended")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_dumps_are_forbidden_for_good() {
        forbid_core_dumps().expect("lowering a limit is always allowed");
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(1), Some(1)));
    }

    #[test]
    fn as_many_files_can_be_open_as_the_system_allows() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let lower = maximum.map_or(1 << 20, |maximum| maximum - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum }).expect("it is lower");
        raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        assert!(end_with_parent(u32::MAX).is_err());
        // Undo the request: the test runner's parent may end before it does.
        set_parent_process_death_signal(None).expect("asking for nothing is always allowed");
    }
}
