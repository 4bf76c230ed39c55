//! The memory of a process that holds secrets ends up in no file, and no other process of its user can read it.

use crate::dev_lender::{DevLender, allowing_cores};
use crate::harness::{HIVE, Place, Up, signal, wait_until};
use secrecy::ExposeSecret;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

const ABORTED: i32 = 6;
/// Whom root becomes here: root itself may read everything.
const NOBODY: u32 = 65_534;

fn cores(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("it can be read").flatten();
    let is_core = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b"core")
    };
    entries.map(|entry| entry.path()).filter(is_core).collect()
}

/// `hive exec`, which lends a login to a program. Dropped: both are killed.
struct Lent {
    hive: Child,
    program: u32,
}

impl Lent {
    fn ended(&mut self) -> ExitStatus {
        self.hive.wait().expect("it ends")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.hive.kill().and_then(|()| self.hive.wait());
        let program = self.program.to_string();
        let _ = Command::new("kill").args(["-KILL", &program]).stderr(Stdio::null()).status();
    }
}

fn lend(lender: &DevLender) -> Lent {
    let note = lender.place.path().join("pid");
    let mut command = lender.hive(&["exec", "--credential", "db=database/creds/ledger"]);
    command.args(["--", "sh", "-c", "echo $$ > \"$0\"; exec sleep 600"]).arg(&note);
    let hive = allowing_cores(&command).spawn().expect("hive runs");
    let program = || fs::read_to_string(&note).ok()?.trim().parse().ok();
    wait_until("the program runs", || program().is_some());
    let program = program().expect("it runs");
    fs::remove_file(&note).expect("it is there");
    Lent { hive, program }
}

/// A shell that has read a secret and dies of a signal.
fn careless(directory: &Path, secret: &str) -> ExitStatus {
    let mut command = Command::new("sh");
    command.args(["-c", "read -r secret; kill -ABRT $$"]).current_dir(directory);
    let mut command = allowing_cores(&command);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("sh runs");
    writeln!(child.stdin.take().expect("a pipe"), "{secret}").expect("it reads");
    child.wait().expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_of_a_signal_leaves_no_core_behind() {
    let lender = DevLender::start(Place::new()).await;
    // The program has the login in its hands, and its death is reported as a shell would.
    let mut lent = lend(&lender);
    signal("ABRT", lent.program);
    assert_eq!(lent.ended().code(), Some(128 + ABORTED));
    let mut lent = lend(&lender);
    signal("ABRT", lent.hive.id());
    let ended = lent.ended();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(ABORTED), false), "hive exec");
    drop(lent);
    let password = lender.witness.seen_of("db-password").pop().expect("a login was issued");
    let (place, secrets, ended) = lender.abort().await;
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(ABORTED), false), "the vault");
    assert_eq!(cores(place.path()), [""; 0].map(PathBuf::from));

    // Whoever does not forbid it leaves a core, and the search finds in it what it held.
    let ended = careless(place.path(), password.expose_secret());
    assert!(ended.core_dumped(), "the kernel writes no cores at all, so nothing was shown");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("it is Linux");
    if !pattern.contains(['@', '/', '|']) {
        let core = fs::read(&cores(place.path())[0]).expect("it is there");
        assert_eq!(secrets.found("a core", &core), ["db-password in a core"]);
    }
}

/// The command as a user without rights, if this is root.
fn as_somebody(mut command: Command) -> Command {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Whether another process of the same user can open this file of a process.
fn can_open(pid: u32, file: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "exec < \"$0\"", &format!("/proc/{pid}/{file}")]).stderr(Stdio::null());
    as_somebody(command).status().expect("sh runs").success()
}

#[test]
fn no_other_process_of_its_user_reads_the_memory_of_a_service() {
    let place = Place::new();
    let program = place.path().join("hive");
    fs::copy(HIVE, &program).expect("it was built");
    if rustix::process::geteuid().is_root() {
        for path in [place.path(), &place.tmp()] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let arguments = ["up", "--json", "--postgres", "off", "--workers", "1"];
    let command = as_somebody(place.command(&program, &arguments));
    let mut up = Up::start_command(&place, command);
    for name in ["authority", "vault", "registry", "orchestrator", "worker-1"] {
        let pid = up.part(name);
        for file in ["environ", "maps", "mem"] {
            assert!(!can_open(pid, file), "{name}: /proc/{pid}/{file} can be read");
        }
    }
    // Of a process that does not forbid it, it can.
    let mut sleep = Command::new("sleep");
    let mut sleep = as_somebody({
        sleep.arg("600");
        sleep
    })
    .spawn()
    .expect("sleep runs");
    wait_until("it can be read", || can_open(sleep.id(), "environ"));
    sleep.kill().and_then(|()| sleep.wait()).expect("it is ours");
    assert_eq!(up.stop(), Some(0));
}
