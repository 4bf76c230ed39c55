//! Processes that lost their parent: they come to the supervisor, and end with it.
//!
//! A program that a ticket runs may start others. When the worker is killed, those are left over. The supervisor
//! is their subreaper (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`), so it becomes their parent and can find them.

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};
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
        let children = children();
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

fn children() -> Vec<Pid> {
    let me = getpid().as_raw_nonzero().get();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent(*pid) == Some(me))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Field 4 of `/proc/<pid>/stat`, after the command name, which may itself contain spaces and parentheses.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_child_is_this_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = i32::try_from(child.id()).expect("a pid fits");
        assert_eq!(parent(pid), Some(getpid().as_raw_nonzero().get()));
        assert!(children().iter().any(|known| known.as_raw_nonzero().get() == pid));
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }
}
