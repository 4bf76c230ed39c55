//! Who is who: real processes ask the development authority.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hive_dev::authority::{Entry, Selector};
use spiffe::WorkloadApiClient;

use crate::authority::{Place, in_time, until};
use crate::authority_entries::sha256;

/// Asks for an identity in a process of its own: this test binary again, told where to ask.
struct Asker(Child);

const ASKER_ENDPOINT: &str = "HIVE_DEV_TEST_ASKER_ENDPOINT";

impl Asker {
    /// It asks once standard input ends, so that a test can register it first, or ask through a shell.
    fn start(endpoint: &str) -> Self {
        Self::start_as(&std::env::current_exe().expect("this binary"), endpoint)
    }

    /// From another file with the same program in it.
    fn start_as(binary: &Path, endpoint: &str) -> Self {
        let mut command = Command::new(binary);
        command.args(ASKER_ARGUMENTS);
        Self::spawn(command, endpoint)
    }

    fn spawn(mut command: Command, endpoint: &str) -> Self {
        command.env(ASKER_ENDPOINT, endpoint).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has become the program at `binary` by now.
    fn runs(&self, binary: &Path) -> bool {
        std::fs::read_link(format!("/proc/{}/exe", self.pid())).is_ok_and(|found| found == binary)
    }

    /// Lets it ask; the ID that it got, or the refusal.
    async fn answer(self) -> String {
        let output = tokio::task::spawn_blocking(|| self.0.wait_with_output());
        let output = in_time(output).await.expect("no panic").expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = text
            .lines()
            .find_map(|line| line.split_once("ANSWER ").map(|(_, answer)| answer.to_owned()));
        answer.unwrap_or_else(|| panic!("no answer in {text}"))
    }
}

const ASKER_ARGUMENTS: [&str; 4] = ["--exact", "attestation::asker", "--nocapture", "--ignored"];

/// Not a test: what [`Asker`] runs.
#[tokio::test]
#[ignore = "the other tests run it as a process of its own"]
async fn asker() {
    let Ok(endpoint) = std::env::var(ASKER_ENDPOINT) else { return };
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("standard input ends");
    let client = WorkloadApiClient::connect_to(endpoint).await.expect("it listens");
    match client.fetch_jwt_svid(["a"], None).await {
        Ok(svid) => println!("\nANSWER {}", svid.spiffe_id()),
        Err(error) => println!("\nANSWER refused: {error}"),
    }
}

#[tokio::test]
async fn the_entry_of_one_process_does_not_match_another() {
    let place = Place::mine().await;
    let (known, unknown) =
        (Asker::start(&place.authority.endpoint()), Asker::start(&place.authority.endpoint()));
    place.add("/ns/test/sa/child", Selector::Pid(known.pid()));
    assert_eq!(known.answer().await, place.id("/ns/test/sa/child"));
    assert!(unknown.answer().await.starts_with("refused"));
}

#[tokio::test]
async fn the_entry_of_an_ended_process_matches_nobody_and_cannot_be_made_again() {
    let place = Place::empty(|_| {}).await;
    let asker = Asker::start(&place.authority.endpoint());
    let pid = asker.pid();
    let entry = place.add("/ns/test/sa/child", Selector::Pid(pid));
    assert_eq!(asker.answer().await, place.id("/ns/test/sa/child"));
    let again = place.authority.add_entry(Entry::of_process("/ns/test/sa/child", pid));
    assert!(again.is_err_and(|error| error.to_string().contains(&pid.to_string())));
    until(async || !place.authority.remove_entry(entry)).await;
}

#[tokio::test]
async fn a_process_is_known_by_user_and_executable() {
    let place = Place::empty(|_| {}).await;
    let me = rustix::process::geteuid().as_raw();
    let selectors =
        vec![Selector::Uid(me), Selector::Path(std::env::current_exe().expect("this binary"))];
    let entry = Entry::new("/ns/test/sa/tool", selectors);
    let entry = place.authority.add_entry(entry).expect("a good entry");
    assert_eq!(
        Asker::start(&place.authority.endpoint()).answer().await,
        place.id("/ns/test/sa/tool")
    );
    place.authority.remove_entry(entry);
    let selectors = vec![Selector::Uid(me), Selector::Path(PathBuf::from("/bin/sh"))];
    place.authority.add_entry(Entry::new("/a", selectors)).expect("a good entry");
    assert!(Asker::start(&place.authority.endpoint()).answer().await.starts_with("refused"));
}

#[tokio::test]
async fn a_process_is_known_by_its_group_and_by_what_its_binary_holds() {
    let place = Place::empty(|_| {}).await;
    let group = rustix::process::getegid().as_raw();
    // The same program with a byte more at its end: it runs as before, and has another hash.
    let binary = std::env::current_exe().expect("this binary");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let other = directory.path().join("other");
    std::fs::copy(&binary, &other).expect("copied");
    let file = std::fs::OpenOptions::new().append(true).open(&other);
    std::io::Write::write_all(&mut file.expect("it is ours"), b"!").expect("written");
    for (name, selectors) in [
        ("/one", vec![Selector::Sha256(sha256(&binary)), Selector::Gid(group)]),
        ("/other", vec![Selector::Sha256(sha256(&other)), Selector::Path(other.clone())]),
        ("/never", vec![Selector::Sha256(sha256(&other)), Selector::Path(binary.clone())]),
        ("/nor", vec![Selector::Sha256(sha256(&binary)), Selector::Gid(group + 1)]),
    ] {
        place.authority.add_entry(Entry::new(name, selectors)).expect("a good entry");
    }
    let endpoint = place.authority.endpoint();
    let (one, another) = (Asker::start(&endpoint), Asker::start_as(&other, &endpoint));
    assert_eq!(one.answer().await, place.id("/one"));
    assert_eq!(another.answer().await, place.id("/other"));
    // A deleted binary is still the one that runs, but no longer at its path.
    let gone = Asker::start_as(&other, &endpoint);
    until(async || gone.runs(&other)).await;
    std::fs::remove_file(&other).expect("removed");
    let by_hash = Entry::new("/deleted", [Selector::Sha256(sha256_of_process(gone.pid()))]);
    place.authority.add_entry(by_hash).expect("a good entry");
    assert_eq!(gone.answer().await, place.id("/deleted"));
}

fn sha256_of_process(pid: u32) -> String {
    sha256(Path::new(&format!("/proc/{pid}/exe")))
}

/// This process as supervisor, with an operator's entry for this binary.
async fn supervised() -> Place {
    let place = Place::empty(|config| config.supervisor = Some(std::process::id())).await;
    let selectors = vec![Selector::Path(std::env::current_exe().expect("this binary"))];
    let operator = Entry::new("/ns/test/sa/operator", selectors);
    place.authority.add_operator_entry(operator).expect("a good entry");
    place
}

/// A shell that, when its standard input ends, runs an [`Asker`] as its child.
fn shell_that_asks(place: &Place) -> Asker {
    let mut shell = Command::new("/bin/sh");
    let binary = std::env::current_exe().expect("this binary");
    // The colon after it keeps the shell from becoming the asker.
    shell.arg("-c").arg("cat; \"$0\" \"$@\" </dev/null; :").arg(binary).args(ASKER_ARGUMENTS);
    Asker::spawn(shell, &place.authority.endpoint())
}

#[tokio::test]
async fn neither_an_unregistered_child_nor_a_services_child_is_the_operator() {
    let place = supervised().await;
    assert!(Asker::start(&place.authority.endpoint()).answer().await.starts_with("refused"));
    let service = shell_that_asks(&place);
    place.add("/ns/test/sa/service", Selector::Pid(service.pid()));
    assert!(service.answer().await.starts_with("refused"));
}

#[tokio::test]
async fn what_a_command_of_the_operator_starts_is_the_operator() {
    let place = supervised().await;
    let command = shell_that_asks(&place);
    place.authority.add_operator_root(command.pid()).expect("it runs");
    assert_eq!(command.answer().await, place.id("/ns/test/sa/operator"));
}
