//! What each process of this user holds, written down without any secret, for `hive lease list`.

use crate::cli::stack;
use hive_runtime::processes::stat;
use hive_security::adapters::files::{Error, have_private, in_memory};
use hive_security::credentials::Status;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file of one process is a few hundred bytes.
const BYTES_MAX: u64 = 1 << 20;

/// What one process holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Holding {
    pub(super) pid: u32,
    /// When it was started, in the kernel's ticks: another process of this number has another.
    started: u64,
    pub(super) program: String,
    pub(super) vault: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) credentials: Vec<Held>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) lease_id: Option<String>,
    /// Seconds since 1970.
    pub(super) expires_at: Option<u64>,
    pub(super) holders: usize,
}

/// The file of this process. Dropping it removes the file.
pub(in crate::cli) struct Notes {
    path: PathBuf,
    last: Option<Holding>,
}

impl Notes {
    pub(in crate::cli) fn open() -> Result<Self, Error> {
        let directory = directory();
        have_private(&directory)?;
        Ok(Self { path: directory.join(format!("{}.json", std::process::id())), last: None })
    }

    /// Writes down what is held now, if it has changed.
    pub(in crate::cli) fn write(&mut self, program: &str, status: &Status) {
        let holding = Holding::new(program, status);
        if self.last.as_ref() == Some(&holding) {
            return;
        }
        if let Err(error) = replace(&self.path, &holding) {
            tracing::debug!(%error, "`hive lease list` does not know what this process holds");
        }
        self.last = Some(holding);
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Holding {
    fn new(program: &str, status: &Status) -> Self {
        let pid = std::process::id();
        let seconds =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let held = status.credentials.iter().map(|credential| Held {
            name: credential.name.clone(),
            path: credential.path.clone(),
            lease_id: credential.lease_id.clone(),
            expires_at: credential.expires_at.map(seconds),
            holders: credential.holders,
        });
        Self {
            pid,
            started: started(pid).unwrap_or_default(),
            program: program.to_owned(),
            vault: stack::value("VAULT_ADDR").unwrap_or_default(),
            role: status.role.clone(),
            state: format!("{:?}", status.state).to_lowercase(),
            credentials: held.collect(),
        }
    }
}

/// What the processes of this user hold that still run. The files of those that were killed are removed.
pub(super) fn all() -> Vec<Holding> {
    let directory = directory();
    // Never read what somebody else may have put there.
    if !directory.exists() || have_private(&directory).is_err() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(&directory) else { return Vec::new() };
    let mut holdings: Vec<_> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    holdings.sort_by_key(|holding| holding.pid);
    holdings
}

fn read(path: &Path) -> Option<Holding> {
    let stem = path.file_stem()?.to_str()?;
    if fs::metadata(path).ok()?.len() > BYTES_MAX || stem.parse::<u32>().is_err() {
        return None;
    }
    let holding: Holding = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if started(holding.pid) == Some(holding.started) {
        return Some(holding);
    }
    let _ = fs::remove_file(path);
    None
}

fn replace(path: &Path, holding: &Holding) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(&serde_json::to_vec(holding)?)?;
    file.persist(path)?;
    Ok(())
}

fn started(pid: u32) -> Option<u64> {
    stat(pid).ok().map(|stat| stat.start_time)
}

fn directory() -> PathBuf {
    let runtime = stack::value("XDG_RUNTIME_DIR").map(PathBuf::from);
    let place = runtime.filter(|place| place.is_dir());
    let place = place.unwrap_or_else(|| in_memory(None, &std::env::temp_dir()));
    place.join(format!("neural-hive-leases-{}", rustix::process::geteuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(pid: u32, started: u64) -> Holding {
        let words = || String::from("x");
        let (program, vault, role, state) = (words(), words(), words(), words());
        Holding { pid, started, program, vault, role, state, credentials: Vec::new() }
    }

    #[test]
    fn a_process_that_ended_holds_nothing_even_if_its_number_is_taken_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let pid = std::process::id();
        let path = directory.path().join(format!("{pid}.json"));
        let alive = holding(pid, started(pid).expect("it runs"));
        replace(&path, &alive).expect("written");
        assert_eq!(read(&path), Some(alive));
        replace(&path, &holding(pid, 1)).expect("written");
        assert_eq!(read(&path), None);
        assert!(!path.exists(), "it is of no use");
    }
}
