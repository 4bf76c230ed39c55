//! Starting and ending one child process of this binary.

use hive_runtime::ready::{self, Announcement};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a child may take to end by itself: longer than the services' own drain.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(8);

/// How much of a log is read for the last lines of a child that died.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 6;

/// What a child gets of this process's environment: where tools are, how to log, and how to trust a named vault.
/// Nothing else, for whatever
/// the user's shell holds is none of a service's business.
const INHERITED: [&str; 11] = [
    "HIVE_LOG",
    "HOME",
    "LANG",
    "PATH",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "TMPDIR",
    "TZ",
    "USER",
    "VAULT_CACERT",
    "VAULT_NAMESPACE",
];

/// One line of a child's standard output after the other.
pub(super) type Output = Lines<BufReader<ChildStdout>>;

/// Starts children of this binary.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    executable: PathBuf,
    logs: PathBuf,
}

impl Launcher {
    pub(super) fn new(logs: PathBuf) -> io::Result<Self> {
        Ok(Self { executable: std::env::current_exe()?, logs })
    }

    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// `hive` where a shell would find this very program under that name, else its path.
    pub(super) fn name_at_command_line(&self) -> String {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|directory| directory.join("hive"))
            .find(|program| program.is_file())
            .and_then(|program| program.canonicalize().ok());
        match found {
            Some(found) if found == self.executable => "hive".to_owned(),
            _ => self.executable.display().to_string(),
        }
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// A command line that runs what follows it so that it ends with this process.
    pub(super) fn prefix(&self) -> Vec<OsString> {
        let mut prefix = vec![self.executable.clone().into_os_string()];
        prefix.extend(end_with_us());
        prefix.extend(["dev", "launch", "--"].map(OsString::from));
        prefix
    }

    /// Starts `hive <arguments>` with exactly `environment` beside what is inherited, logging to a file of its
    /// own. It is a process group of its own, so that Ctrl-C reaches only the supervisor, which stops the
    /// children in order.
    ///
    /// Must be called on the thread that lives as long as this process (`harden::end_with_parent`).
    pub(super) fn spawn<'a>(
        &self,
        name: &str,
        arguments: &[&str],
        environment: impl IntoIterator<Item = &'a (&'static str, String)>,
    ) -> io::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log(name))?;
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Command::new(&self.executable)
            .args(end_with_us())
            .args(arguments)
            .env_clear()
            .envs(inherited)
            .envs(environment.into_iter().map(|(name, value)| (name, OsStr::new(value))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// The last lines that a child logged.
    pub(super) fn last_lines(&self, name: &str) -> Vec<String> {
        tail(&self.log(name)).unwrap_or_default()
    }
}

fn end_with_us() -> [OsString; 2] {
    ["--end-with-parent".into(), std::process::id().to_string().into()]
}

/// The child's standard output.
pub(super) fn output(child: &mut Child) -> Output {
    BufReader::new(child.stdout.take().expect("the child was spawned with a pipe")).lines()
}

/// Reads up to the line that says that the child serves. `None`: it ended its output without it.
pub(super) async fn announcement(output: &mut Output) -> Option<Announcement> {
    while let Ok(Some(line)) = output.next_line().await {
        if let Some(facts) = ready::parse(&line) {
            return Some(facts);
        }
    }
    None
}

/// Asks a child to end, waits, and ends it by force when it takes too long.
pub(super) async fn terminate(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // Already gone is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(TERMINATE_DEADLINE, child.wait()).await.is_err() {
        // The wait inside can only fail if the child is not ours.
        let _ = child.kill().await;
    }
}

/// How a process ended, continuing a sentence that begins with its name.
pub(super) fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("cannot be waited for ({error})"),
    }
}

fn tail(path: &Path) -> io::Result<Vec<String>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last = VecDeque::with_capacity(TAIL_LINES);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if last.len() == TAIL_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
    Ok(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log_are_kept_and_empty_ones_are_not() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join("x.log");
        let lines: String = (0..2_000).map(|line| format!("line {line}\n\n")).collect();
        std::fs::write(&path, lines).expect("it can be written");
        let last = tail(&path).expect("it can be read");
        assert_eq!(last.len(), TAIL_LINES);
        assert_eq!(last.last().map(String::as_str), Some("line 1999"));
    }
}
