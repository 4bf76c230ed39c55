//! Programs of somebody else's, with credentials that change under them.

use crate::harness::{Place, assert_status, contains, signal, stderr, stdout, wait_until};
use crate::lender::Lender;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// Notes each login that it is told of, and ends with 7 when it is asked to.
const PROGRAM: &str = r#"
note() { cat "$HIVE_CREDENTIALS/db" >> "$0"; echo >> "$0"; }
trap note HUP
trap 'exit 7' TERM
note
echo "$HIVE_CREDENTIALS" > "$0.place"
while :; do sleep 0.05; done
"#;

fn logins(seen: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(seen).unwrap_or_default();
    let login = |line: &str| {
        let login: Value = serde_json::from_str(line).expect("whole lines");
        let field = |name: &str| login[name].as_str().expect("it has it").to_owned();
        (field("username"), field("password"))
    };
    text.lines().filter(|line| line.ends_with('}')).map(login).collect()
}

#[test]
fn a_program_is_told_of_each_new_login_and_in_the_end_all_is_given_back() {
    let lender = Lender::start();
    let seen = lender.place.path().join("seen");
    let template = lender.place.path().join("pgpass.in");
    fs::write(&template, "*:*:*:{{ db.username }}:{{ db.password }}\n").expect("written");
    let template = format!("{}:pgpass", template.display());
    let mut command = lender.hive(&["exec", "--credential", "db=database/creds/brief"]);
    command.args(["--template", &template, "--signal", "HUP", "--", "sh", "-c", PROGRAM]);
    let log = lender.place.path().join("log");
    let stderr = fs::File::create(&log).expect("a file");
    command.env("HIVE_LOG", "trace").arg(&seen).stderr(stderr);
    let mut hive = command.stdout(Stdio::null()).spawn().expect("hive runs");

    wait_until("it was told of three logins", || {
        let users: BTreeSet<_> = logins(&seen).into_iter().map(|(user, _)| user).collect();
        users.len() >= 3
    });
    let (user, password) = logins(&seen).pop().expect("a login");
    assert!(lender.lets_in(&user, &password), "the last one is good");
    let place = fs::read_to_string(lender.place.path().join("seen.place")).expect("it was noted");
    let place = Path::new(place.trim());
    let pgpass = fs::read_to_string(place.join("pgpass")).expect("it is there");
    assert!(pgpass.starts_with("*:*:*:v-") && pgpass.ends_with('\n'), "{pgpass:?}");
    for (_, password) in logins(&seen) {
        for process in fs::read_dir("/proc").expect("it is Linux").flatten() {
            for file in ["cmdline", "environ"] {
                let text = fs::read(process.path().join(file)).unwrap_or_default();
                assert!(!contains(&text, password.as_bytes()), "{:?}/{file}", process.path());
            }
        }
    }

    let limits = fs::read_to_string(format!("/proc/{}/limits", hive.id())).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    let words: Vec<_> = core.split_ascii_whitespace().collect();
    assert_eq!(words[4..6], ["1", "1"], "its memory could end up in a file");

    signal("TERM", hive.id());
    let status = hive.wait().expect("it ends");
    assert_eq!(status.code(), Some(7), "that of the program");
    let log = fs::read(log).expect("it is there");
    assert!(log.len() > 1_000, "nothing was logged, so nothing was looked at");
    for (_, password) in logins(&seen) {
        assert!(!contains(&log, password.as_bytes()), "a password was logged");
    }
    assert!(!place.exists(), "the files are gone");
    assert_eq!(lender.lent(), [""; 0], "so are the logins");
    lender.stop();
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_asked_for() {
    let place = Place::new();
    let template = place.path().join("t");
    fs::write(&template, "{{ db.password }}\n{{ x }}\n{{ y").expect("written");
    let template = format!("{}:out", template.display());
    let good = "db=database/creds/x";
    for (arguments, reason) in [
        (vec!["exec", "--", "true"], "--credential"),
        (vec!["exec", "--credential", "db", "--", "true"], "NAME=PATH"),
        (vec!["exec", "--credential", good], "PROGRAM"),
        (vec!["exec", "--credential", "../db=x", "--", "true"], "../db"),
        (vec!["exec", "--credential", good, "--signal", "KILL", "--", "true"], "use HUP"),
        (vec!["exec", "--credential", good, "--template", &template, "--", "true"], "line 2"),
        (vec!["exec", "--credential", good, "--", "true"], "VAULT_ADDR"),
    ] {
        let output = place.hive(&arguments).output().expect("hive runs");
        assert_status(&output, 64);
        assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}
