//! Processes that lost their parent: they come to the supervisor, and end with it.
//!
//! A program that a ticket runs may start others. When the worker is killed, those are left over. The supervisor
//! is their subreaper (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`), so it becomes their parent and can find them.

use hive_runtime::processes::children_of;
use rustix::process::{Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use std::io;
use std::time::{Duration, Instant};

const SWEEP_DEADLINE: Duration = Duration::from_secs(5);
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// From now on every orphaned descendant becomes a child of this process.
pub(super) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Ends every process that is still a child of this one, and returns how many there were.
///
/// Call it once the services have ended: whatever is left then is an orphan.
pub(super) async fn end_all() -> usize {
    let deadline = Instant::now() + SWEEP_DEADLINE;
    let mut ended = 0;
    loop {
        let children = children_of(getpid());
        if children.is_empty() || Instant::now() > deadline {
            return ended;
        }
        for child in children {
            // Already gone is as good as killed.
            let _ = kill_process(child, Signal::KILL);
            ended += usize::from(matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(Some(_))));
        }
        // A killed process may leave children of its own, which arrive here next.
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}
