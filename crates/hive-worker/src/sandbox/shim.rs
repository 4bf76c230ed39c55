//! The inside of the sandbox: the two steps between the worker and the command.
//!
//! The *warden* is the worker's child. It sets the limits, becomes the parent of whatever its descendants
//! orphan, starts the second step, and kills everything below it when the command ends or its standard input closes.
//! The second step takes from itself what the command must not have, and becomes the command. It cannot
//! signal the warden: Landlock confines signals to the sandbox.

use super::{Confinement, Launcher};
use hive_runtime::harden::CORE_BYTES_MAX;
use hive_runtime::processes::children_of;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{
    Resource, Rlimit, Signal, WaitOptions, getpid, getppid, kill_process, setrlimit, waitpid,
};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

/// The status of a launcher that could not start its command; the last line on standard error says why.
pub(crate) const NOT_STARTED: i32 = 125;
/// The status of a warden whose worker let go.
const LET_GO: i32 = 124;

/// What every command may read and execute, where it exists.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"];
/// What programs commonly read, and which holds no secret.
const SYSTEM_FILES: [&str; 22] = [
    "/dev/random",
    "/dev/urandom",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo",
    "/proc/meminfo",
];
const DEVICES: [&str; 3] = ["/dev/full", "/dev/null", "/dev/zero"];

/// What the sandbox looks like: one JSON argument of the launcher.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) launcher: Launcher,
    pub(super) confinement: Confinement,
    pub(super) readable: Vec<PathBuf>,
    pub(super) writable: Vec<PathBuf>,
    /// The warden's process, once there is one: then this is the second step.
    pub(super) warden: Option<i32>,
}

impl Spec {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a spec has only text keys, and paths that were UTF-8")
    }
}

/// Becomes a command inside the sandbox. `arguments` are those after the launcher's own: `<spec> -- <command>…`.
pub fn exec_shim(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let problem = match parse(arguments) {
        Ok((spec, command)) if spec.warden.is_none() => match watch(spec, &command) {
            Ok(code) => std::process::exit(code),
            Err(problem) => problem,
        },
        Ok((spec, command)) => enter(&spec, &command),
        Err(problem) => problem,
    };
    eprintln!("{problem}");
    std::process::exit(NOT_STARTED)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Spec, Vec<OsString>), String> {
    let usage = "sandbox-exec is started by a worker: sandbox-exec <spec> -- <program> …";
    let mut arguments = arguments.into_iter();
    let spec = arguments.next().and_then(|spec| spec.into_string().ok()).ok_or(usage)?;
    let spec = serde_json::from_str(&spec).map_err(|error| format!("{usage}: {error}"))?;
    if arguments.next().is_none_or(|dashes| dashes != "--") {
        return Err(usage.to_owned());
    }
    let command: Vec<OsString> = arguments.collect();
    if command.is_empty() { Err(usage.to_owned()) } else { Ok((spec, command)) }
}

fn watch(mut spec: Spec, command: &[OsString]) -> Result<i32, String> {
    limit_resources()?;
    rustix::process::set_child_subreaper(Some(getpid()))
        .map_err(|error| format!("the warden cannot adopt orphans: {error}"))?;
    spec.warden = Some(getpid().as_raw_nonzero().get());
    std::thread::spawn(kill_everything_when_let_go);
    let launcher = spec.launcher.clone();
    let mut child = Command::new(&launcher.program)
        .args(&launcher.arguments)
        .arg(spec.to_json())
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| {
            format!("the launcher {} did not start: {error}", launcher.program.display())
        })?;
    let Ok(status) = child.wait() else {
        // It was reaped by the thread that found this warden let go, and that thread ends the process.
        loop {
            std::thread::park();
        }
    };
    kill_descendants();
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The worker never writes: a read that returns means that it closed its end, or is gone.
fn kill_everything_when_let_go() {
    let _ = std::io::stdin().read(&mut [0]);
    kill_descendants();
    std::process::exit(LET_GO);
}

/// Kills until nobody is left: each round orphans the next generation to this process.
fn kill_descendants() {
    let own = getpid();
    loop {
        let children = children_of(own);
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = rustix::process::kill_process_group(child, Signal::KILL);
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
    }
}

fn limit_resources() -> Result<(), String> {
    let limits = [
        // A core dump holds whatever secret the program read.
        (Resource::Core, CORE_BYTES_MAX),
        (Resource::Nofile, 4096),
        // Larger than any artifact the store accepts.
        (Resource::Fsize, 4 << 30),
    ];
    for (resource, limit) in limits {
        // Never raised: a worker that is held tighter stays so.
        let held = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(limit.min(held));
        setrlimit(resource, Rlimit { current: limit, maximum: limit })
            .map_err(|error| format!("the limit {resource:?} cannot be set: {error}"))?;
    }
    Ok(())
}

/// Returns only if it failed, with the reason.
fn enter(spec: &Spec, command: &[OsString]) -> String {
    if let Err(problem) = confine(spec) {
        return problem;
    }
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    format!("{} could not be started: {error}", command[0].display())
}

fn confine(spec: &Spec) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("the sandbox cannot be tied to its warden: {error}"))?;
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != spec.warden {
        return Err("the warden is gone".to_owned());
    }
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| format!("new privileges cannot be ruled out: {error}"))?;
    match spec.confinement {
        Confinement::Landlock => restrict_files(spec),
        Confinement::RlimitsOnly => Ok(()),
    }
}

fn restrict_files(spec: &Spec) -> Result<(), String> {
    // The newest rights that we know; an older kernel enforces those that it knows.
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let own_process = format!("/proc/{}", getpid());
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(SYSTEM, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(SYSTEM_FILES, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules([own_process], read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(DEVICES, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&spec.readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&spec.writable, all)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| format!("the sandbox could not be set up: {error}"))?;
    if restricted.ruleset == RulesetStatus::NotEnforced {
        return Err(NO_LANDLOCK.to_owned());
    }
    Ok(())
}

const NO_LANDLOCK: &str = "this kernel has no Landlock, so commands cannot be confined: \
     enable it (Linux 5.13 or later, lsm=landlock,…), or set HIVE_SANDBOX=rlimits-only to run them unconfined";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_that_is_called_by_hand_explains_itself() {
        for arguments in [vec![], vec!["{}"], vec!["{}", "--", "true"]] {
            let problem = parse(arguments.into_iter().map(OsString::from)).expect_err("not a spec");
            assert!(problem.contains("started by a worker"), "{problem}");
        }
    }
}
