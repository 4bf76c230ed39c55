//! One `hive up` of a test's own: a free place, free ports, and everything it said.

use hive_api::names::REGISTRY;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_dev::authority::Authority;
use hive_security::connect::{self, Channel};
use hive_security::{Audience, IdPattern, Workload};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const HIVE: &str = env!("CARGO_BIN_EXE_hive");

/// Long enough for a busy machine; nothing here waits this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A place of this test's own, below which everything it starts writes.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("hive-it-").tempdir().expect("a place") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The temporary directory of what is started here. Empty again at the end, or something was left behind.
    pub(crate) fn tmp(&self) -> PathBuf {
        let path = self.path().join("tmp");
        std::fs::create_dir_all(&path).expect("a directory can be made");
        path
    }

    /// A copy of the examples, so that releases do not land in the repository.
    pub(crate) fn examples(&self) -> PathBuf {
        let to = self.path().join("examples");
        if !to.exists() {
            copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"), &to);
        }
        to
    }

    /// `hive` with these arguments, in an environment without a stack.
    pub(crate) fn hive(&self, arguments: &[&str]) -> Command {
        self.command(Path::new(HIVE), arguments)
    }

    /// The same for a copy of it.
    pub(crate) fn command(&self, hive: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(hive);
        command.args(arguments).env("TMPDIR", self.tmp()).stdin(Stdio::null());
        for name in ["SPIFFE_ENDPOINT_SOCKET", "VAULT_ADDR", "HIVE_ORCHESTRATOR_ADDR"] {
            command.env_remove(name);
        }
        command
    }

    /// Processes that know this place: by their command line or their environment.
    pub(crate) fn processes(&self) -> Vec<String> {
        let needle = self.path().to_str().expect("a UTF-8 path").as_bytes().to_vec();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter_map(|pid| {
                let read = |file| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let (line, environment) = (read("cmdline"), read("environ"));
                let known = contains(&line, &needle) || contains(&environment, &needle);
                known.then(|| {
                    format!("{pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
                })
            })
            .collect()
    }

    /// Nothing that was started here runs, and nothing temporary is left.
    pub(crate) fn assert_nothing_is_left(&self) {
        wait_until("every process has ended", || self.processes().is_empty());
        let left: Vec<_> = std::fs::read_dir(self.tmp())
            .expect("the directory is there")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("the examples are there") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != "releases" {
            copy(&path, &to.join(name));
        } else if path.is_file() {
            std::fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}

/// Whether `needle` stands in `haystack`. Most positions differ from it in the first byte already.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A running stack. Dropped: killed, so that a failing test leaves nothing either.
pub(crate) struct Up {
    child: Child,
    events: Receiver<Value>,
    /// Every line that it printed.
    pub(crate) printed: Vec<String>,
    pub(crate) ready: Value,
    pub(crate) environment: BTreeMap<String, String>,
    tmp: PathBuf,
}

impl Up {
    /// Starts a stack in `place` and waits until it is ready.
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.hive(&["up", "--json"]);
        command.args(arguments);
        Self::start_command(place, command)
    }

    /// Starts a stack by this command, which says `up --json`, and waits until it is ready.
    pub(crate) fn start_command(place: &Place, mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("hive can be started");
        let events = read_lines(&mut child);
        let mut up = Self {
            child,
            events,
            printed: Vec::new(),
            ready: Value::Null,
            environment: BTreeMap::new(),
            tmp: place.tmp(),
        };
        let ready = up.wait_for(|event| event["event"] == "ready");
        let environment = ready["environment"].as_object().expect("an environment");
        up.environment = environment
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().expect("a string").to_owned()))
            .collect();
        up.ready = ready;
        up
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process of one part, as it is now.
    pub(crate) fn part(&mut self, name: &str) -> u32 {
        while let Ok(event) = self.events.try_recv() {
            self.take_note(&event);
        }
        let parts = self.ready["parts"].as_array().expect("parts");
        let part = parts.iter().find(|part| part["name"] == name).expect("a part of this name");
        u32::try_from(part["pid"].as_u64().expect("a pid")).expect("a pid fits")
    }

    /// Waits for something that the stack says.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.take_note(&event);
                    if wanted(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it was not said in time: {:?}", self.printed)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!(
                        "the stack ended ({:?}) after saying {:?}",
                        self.child.wait(),
                        self.printed
                    )
                }
            }
        }
    }

    /// A service that was started again has a new process.
    fn take_note(&mut self, event: &Value) {
        self.printed.push(event.to_string());
        if event["event"] == "service-ready"
            && let Some(parts) = self.ready["parts"].as_array_mut()
        {
            parts.iter_mut().filter(|part| part["name"] == event["name"]).for_each(|part| {
                part["pid"] = event["pid"].clone();
            });
        }
    }

    /// `hive` inside this stack.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HIVE);
        command
            .args(arguments)
            .envs(&self.environment)
            .env("TMPDIR", &self.tmp)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn hive(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("hive can be run")
    }

    /// Submits a plan and follows it to its end.
    pub(crate) fn run_plan(&self, file: &Path) -> Output {
        self.hive(&["plan", "submit", file.to_str().expect("a UTF-8 path"), "--watch"])
    }

    /// Ctrl-C, and the exit status.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal("INT", self.pid());
        wait_until("the stack has ended", || self.child.try_wait().expect("it is ours").is_some());
        self.child.wait().expect("it has ended").code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // TERM first: only then does it end its children in order and remove its files.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            signal("TERM", self.child.id());
            let deadline = Instant::now() + Duration::from_secs(40);
            while Instant::now() < deadline && self.child.try_wait().is_ok_and(|s| s.is_none()) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
        }
    }
}

fn read_lines(child: &mut Child) -> Receiver<Value> {
    let stdout = child.stdout.take().expect("a pipe");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill can be run").success(), "process {pid} is gone already");
}

/// A client of a registry.
pub(crate) type Client = ServiceRegistryClient<Channel>;

/// A caller of the registry with an identity of its own, which lasts longer than the test.
pub(crate) async fn caller(authority: &Authority, path: &str) -> Workload {
    authority.caller(path, REGISTRY.name).await.expect("an identity")
}

/// Its client at this address.
pub(crate) fn client(workload: &Workload, address: &str) -> Client {
    let domain = workload.trust_domain();
    let server = IdPattern::in_trust_domain(&domain, REGISTRY.path).expect("a pattern");
    let audience = Audience::of_service(REGISTRY.name, &domain).expect("a name");
    let channel = connect::channel(workload, address, server, audience).expect("an address");
    ServiceRegistryClient::new(channel)
}

/// Polls a condition; there is no other way to see that another process has done something.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit status, with everything that was said in case it is not the expected one.
pub(crate) fn assert_status(output: &Output, expected: i32) {
    let (said, complained) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(expected), "stdout:\n{said}\nstderr:\n{complained}");
}

/// The story at the end of what `--watch` printed.
pub(crate) fn story(output: &Output) -> String {
    let text = stdout(output);
    let head = text.rfind("\nplan ").map_or(0, |at| at + 1);
    text[head..].trim_end().to_owned()
}

#[test]
fn the_search_finds_a_needle_wherever_it_stands() {
    for haystack in [&b"needle"[..], b"aneedle", b"nnneedle", b"need needle"] {
        assert!(contains(haystack, b"needle"));
    }
    assert!(!contains(b"need le", b"needle"));
}
