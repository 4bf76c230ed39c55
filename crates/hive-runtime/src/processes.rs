//! Who descends from whom, as `/proc` shows it.

use rustix::process::Pid;

/// The processes whose parent is `parent` at this moment, ended but unreaped ones included.
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let names = processes.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.parse().ok()).filter_map(Pid::from_raw);
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

/// The fourth field of `stat`; the second, the program's name, may hold anything but ends with the last `)`.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getpid, getppid};

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
