//! Who descends from whom, and who is who, as `/proc` shows it.

use rustix::process::Pid;

/// The part of `/proc/<pid>/stat` that tells one process from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stat {
    /// Number of the parent; zero for the first process of all.
    pub parent: u32,
    /// When it was started, in the kernel's ticks since boot: another process of the same number has another.
    pub start_time: u64,
}

/// What the kernel says of the process that has this number now. The error is that there is none, or that it may not
/// be looked at.
pub fn stat(pid: u32) -> std::io::Result<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    let malformed = || std::io::ErrorKind::InvalidData.into();
    parse_stat(&String::from_utf8_lossy(&text)).ok_or_else(malformed)
}

/// The processes whose parent is `parent` at this moment, ended but unreaped ones included.
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let names = processes.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.parse().ok()).filter_map(Pid::from_raw);
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

fn parent_of(process: Pid) -> Option<Pid> {
    let pid = process.as_raw_nonzero().get().try_into().ok()?;
    Pid::from_raw(stat(pid).ok()?.parent.try_into().ok()?)
}

/// The name in parentheses may itself contain parentheses and spaces: fields are counted from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // proc_pid_stat(5): field 3 is the state, 4 the parent, 22 the start time.
    Some(Stat { parent: fields.get(1)?.parse().ok()?, start_time: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getpid, getppid};

    #[test]
    fn a_name_full_of_parentheses_hides_nothing() {
        let rest = "S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let expected = Some(Stat { parent: 7, start_time: 4242 });
        assert_eq!(parse_stat(&format!("12 (sh) {rest}")), expected);
        assert_eq!(parse_stat(&format!("12 (a) S 1 (b) {rest}")), expected);
        assert_eq!(parse_stat("12 (sh) S 7"), None);
    }

    #[test]
    fn the_parent_of_this_process_is_found_in_proc() {
        assert_eq!(parent_of(getpid()), getppid());
    }

    #[test]
    fn the_parent_of_a_child_is_this_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = Pid::from_child(&child);
        assert_eq!(parent_of(pid), Some(getpid()));
        assert!(children_of(getpid()).contains(&pid));
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }
}
