#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::SecretJson;

fn credential(name: &str, generation: u64) -> Credential {
    let data = json!({
        "username": format!("u{generation}"), "password": format!("p{generation}"), "port": 5432,
    });
    Credential::new(name, generation, SecretJson::new(data))
}

struct Stand {
    files: CredentialFiles,
    place: TempDir,
}

impl Stand {
    fn new(layout: Layout) -> Self {
        let place = tempfile::tempdir().unwrap();
        let layout = layout.settle(Duration::from_millis(20));
        let files = CredentialFiles::open(&place.path().join("c"), layout).unwrap();
        Self { files, place }
    }

    fn read(&self, path: &str) -> io::Result<String> {
        std::fs::read_to_string(self.files.directory().join(path))
    }

    async fn adopt(&self, name: &str, generation: u64) {
        self.files.adopt(&credential(name, generation)).await.unwrap();
    }

    /// Revisions that can be read.
    fn revisions(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.files.directory()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter(|name| name.starts_with("..") && name != "..data").collect();
        names.sort();
        names
    }
}

async fn soon(waited: impl Future<Output = ()>) {
    timeout(Duration::from_secs(10), waited).await.expect("it does not take long");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), reached).await.expect(what);
}

#[tokio::test]
async fn a_credential_is_a_document_fields_and_whatever_a_template_says() {
    let layout = Layout::new().json("db").unwrap().fields("cache").unwrap();
    let stand =
        Stand::new(layout.template("app.ini", "u={{ db.username }}{{ cache.port }}").unwrap());
    stand.adopt("db", 1).await;
    assert_eq!(stand.read("db").unwrap(), r#"{"password":"p1","port":5432,"username":"u1"}"#);
    assert!(stand.read("app.ini").is_err(), "it needs the other as well");
    stand.adopt("cache", 1).await;
    assert_eq!(stand.read("cache/password").unwrap(), "p1");
    assert_eq!(stand.read("cache/port").unwrap(), "5432");
    assert_eq!(stand.read("app.ini").unwrap(), "u=u15432");
}

#[tokio::test]
async fn everything_belongs_to_its_owner_alone_and_is_gone_in_the_end() {
    let stand = Stand::new(Layout::new().fields("db").unwrap());
    stand.adopt("db", 1).await;
    let directory = stand.files.directory().to_owned();
    let mode =
        |path: &str| std::fs::metadata(directory.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode(""), mode("..data"), mode("db"), mode("db/password")],
        [0o700, 0o700, 0o700, 0o600]
    );
    drop(stand.files);
    assert!(!directory.exists());
    assert_eq!(std::fs::read_dir(stand.place.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_opens_the_directory_of_a_moment_never_mixes_two_generations() {
    let stand =
        Stand::new(Layout::new().fields("db").unwrap().template("t", "{{ db.password }}").unwrap());
    stand.adopt("db", 1).await;
    let (directory, stop) = (stand.files.directory().to_owned(), Arc::new(AtomicBool::new(false)));
    let reader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let moment = directory.join(std::fs::read_link(directory.join("..data")).unwrap());
                let read = |path: &str| std::fs::read_to_string(moment.join(path)).unwrap();
                let (user, password, other) = (read("db/username"), read("db/password"), read("t"));
                assert_eq!((&user[1..], &other), (&password[1..], &password));
                reads += 1;
            }
            reads
        }
    });
    for generation in 2..200 {
        stand.adopt("db", generation).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 10);
}

#[tokio::test]
async fn the_generation_before_can_be_read_until_it_is_drained() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    stand.adopt("db", 1).await;
    stand.adopt("db", 2).await;
    assert_eq!(stand.revisions(), ["..1", "..2"]);
    soon(stand.files.drained(2)).await;
    assert_eq!(stand.revisions(), ["..2"]);
    assert!(stand.read("db").unwrap().contains("u2"));
}

#[tokio::test]
async fn a_program_has_its_time_to_move_over_after_it_was_told() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new().json("db").unwrap().settle(Duration::from_secs(60));
    let files = CredentialFiles::open(&place.path().join("c"), layout).unwrap();
    files.adopt(&credential("db", 1)).await.unwrap();
    files.adopt(&credential("db", 2)).await.unwrap();
    assert!(timeout(Duration::from_millis(300), files.drained(2)).await.is_err());
    assert!(files.directory().join("..1/db").exists(), "it may still read that");
}

#[tokio::test]
async fn a_program_that_cannot_be_told_still_uses_the_old_one_until_the_overlap_is_over() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    stand.adopt("db", 1).await;
    stand.files.on_change(Notice::command("false", [""; 0], Duration::from_secs(5)));
    stand.adopt("db", 2).await;
    assert!(timeout(Duration::from_millis(300), stand.files.drained(2)).await.is_err());
    let waiting = stand.files.clone();
    let drained = tokio::spawn(async move { waiting.drained(2).await });
    stand.files.cut(2).await;
    soon(async { drained.await.unwrap() }).await;
    soon(stand.files.drained(2)).await;
    assert_eq!(stand.revisions(), ["..2"]);
}

#[tokio::test]
async fn a_command_is_run_once_for_all_credentials_that_change_together() {
    let stand = Stand::new(Layout::new().json("db").unwrap().json("cache").unwrap());
    let seen = stand.place.path().join("seen");
    let script = "cat \"$HIVE_CREDENTIALS\"/* >/dev/null && echo told >> \"$0\"";
    let arguments = ["-c", script, seen.to_str().unwrap()];
    stand.files.on_change(Notice::command("sh", arguments, Duration::from_secs(5)));
    stand.adopt("db", 1).await;
    stand.adopt("cache", 1).await;
    soon(stand.files.drained(1)).await;
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "told\n");
}

#[tokio::test]
async fn a_command_that_does_not_end_is_killed_with_what_it_started_and_run_again() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    let seen = stand.place.path().join("seen");
    let script = "if [ -e \"$0\" ]; then exit 0; fi; sleep 60 & echo $! > \"$0\"; wait";
    let arguments = ["-c", script, seen.to_str().unwrap()];
    stand.files.on_change(Notice::command("sh", arguments, Duration::from_millis(300)));
    stand.adopt("db", 1).await;
    soon(stand.files.drained(1)).await;
    let pid = std::fs::read_to_string(&seen).unwrap();
    let state = format!("/proc/{}/stat", pid.trim());
    until("it is gone", || {
        std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
}

#[tokio::test]
async fn a_process_is_signalled_and_one_that_has_ended_holds_up_nothing() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    let mut program =
        tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
    let signal = "SIGUSR1".parse().unwrap();
    stand.files.on_change(Notice::signal(program.id().unwrap(), signal).unwrap());
    stand.adopt("db", 1).await;
    use std::os::unix::process::ExitStatusExt;
    let ended = timeout(Duration::from_secs(10), program.wait()).await.expect("it was told");
    assert_eq!(ended.unwrap().signal(), Some(10));
    stand.adopt("db", 2).await;
    soon(stand.files.drained(2)).await;
    assert_eq!("KILL".parse::<Signal>(), Err(UnknownSignal), "that tells nobody anything");
}

#[tokio::test]
async fn withdrawn_credentials_are_in_no_file_until_others_come() {
    let stand = Stand::new(Layout::new().json("db").unwrap().fields("cache").unwrap());
    stand.adopt("db", 1).await;
    stand.adopt("cache", 1).await;
    stand.files.withdraw().await;
    assert!(stand.read("db").is_err() && stand.read("cache/password").is_err());
    let text = std::process::Command::new("grep")
        .args(["-rc", "p1"])
        .arg(stand.files.directory())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&text.stdout), "");
    stand.adopt("db", 2).await;
    assert!(stand.read("db").unwrap().contains("u2"));
    assert!(stand.read("cache/password").is_err(), "that one is still withdrawn");
}

#[tokio::test]
async fn a_credential_that_does_not_fit_changes_nothing() {
    let stand = Stand::new(Layout::new().template("t", "{{ db.username }}:{{ db.key }}").unwrap());
    let with_key = |key: &str| {
        let data = json!({ "username": "u", "key": key });
        Credential::new("db", 1, SecretJson::new(data))
    };
    stand.files.adopt(&with_key("k")).await.unwrap();
    for wrong in [with_key("two\nlines"), credential("db", 2)] {
        for result in [stand.files.probe(&wrong).await, stand.files.adopt(&wrong).await] {
            assert!(matches!(result, Err(HolderError::Unusable { .. })), "{result:?}");
        }
    }
    assert_eq!(stand.read("t").unwrap(), "u:k");
}

#[tokio::test]
async fn the_name_of_a_field_leads_nowhere_else() {
    let stand = Stand::new(Layout::new().fields("db").unwrap());
    for name in ["../../x", "..", "a/b", ""] {
        let wrong = Credential::new("db", 1, SecretJson::new(json!({ name: "hunter2" })));
        let result = stand.files.adopt(&wrong).await;
        assert!(matches!(result, Err(HolderError::Unusable { .. })), "{name}: {result:?}");
    }
    assert_eq!(stand.revisions(), [""; 0]);
    assert_eq!(std::fs::read_dir(stand.place.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_leaves_the_old_files_and_is_worth_another_try() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    stand.adopt("db", 1).await;
    // Whatever the user, root included: something else is in the place of the next revision, and cannot be removed.
    let blocked = stand.files.directory().join("..2");
    std::fs::write(&blocked, "").unwrap();
    let error = stand.files.adopt(&credential("db", 2)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(stand.read("db").unwrap().contains("u1"));
    std::fs::remove_file(&blocked).unwrap();
    stand.adopt("db", 2).await;
    assert!(stand.read("db").unwrap().contains("u2"));
}

#[test]
fn names_lead_nowhere_else_and_are_not_used_twice() {
    for name in ["", "..", "../x", "/etc/x", "a/b", ".hidden", "..data"] {
        assert!(matches!(Layout::new().json(name), Err(Error::Name(_))), "{name:?}");
        assert!(matches!(Layout::new().template(name, ""), Err(Error::Name(_))), "{name:?}");
    }
    assert!(matches!(Layout::new().json("a").unwrap().fields("a"), Err(Error::Name(_))));
    let wrong = Layout::new().template("a", "{{ x }}").unwrap_err();
    assert!(matches!(wrong, Error::Template { .. }));
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let stand = Stand::new(Layout::new().json("db").unwrap());
    let data = json!({ "password": "hunter2" });
    stand.files.adopt(&Credential::new("db", 1, SecretJson::new(data))).await.unwrap();
    assert!(!format!("{:?}", stand.files).contains("hunter2"));
}
