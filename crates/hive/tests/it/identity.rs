//! Who may say what to whom.

use crate::harness::{HIVE, PATIENCE, Place, Up, assert_status, signal, stderr, stdout};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

#[test]
fn the_operator_can_see_who_it_is_and_until_when() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let output = up.hive(&["identity"]);
    assert_status(&output, 0);
    let said = stdout(&output);
    let domain = up.ready["trust_domain"].as_str().expect("a trust domain");
    assert!(said.contains(&format!("spiffe://{domain}/ns/neural-hive/sa/operator")), "{said}");
    assert_eq!(said.matches("valid for").count(), 1, "{said}");
    assert!(said.contains(&format!("{domain}: 1 X.509 authority, 1 JWT key")), "{said}");
    assert_eq!(stdout(&up.hive(&["identity", "show"])).lines().count(), said.lines().count());
    assert_eq!(up.stop(), Some(0));
}

/// `hive identity verify -`, with this on its standard input.
fn verify(up: &Up, audience: &str, token: &str) -> Output {
    let mut child = up
        .command(&["identity", "verify", "-", "--audience", audience])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hive can be started");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(token.as_bytes()).expect("it reads");
    drop(input);
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_token_is_fetched_and_verified_and_never_repeated() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let fetched = up.hive(&["identity", "fetch", "jwt", "--audience", "shop"]);
    assert_status(&fetched, 0);
    let token = stdout(&fetched);
    assert_eq!(token.trim().split('.').count(), 3);

    let verified = verify(&up, "shop", &token);
    assert_status(&verified, 0);
    let said = stdout(&verified);
    assert!(said.contains("/ns/neural-hive/sa/operator") && said.contains("valid for"), "{said}");
    let forged = token.trim().replace('.', ".e");
    for (audience, token, reason) in [
        ("bank", token.as_str(), "another audience than bank"),
        ("shop", forged.as_str(), "not valid"),
        ("shop", "", "malformed"),
    ] {
        let refused = verify(&up, audience, token);
        assert_status(&refused, 1);
        let said = stdout(&refused) + &stderr(&refused);
        assert!(said.contains(reason), "{said}");
        assert!(token.is_empty() || !said.contains(token.trim()), "it was repeated");
    }
    let argument = up.hive(&["identity", "verify", token.trim(), "--audience", "shop"]);
    assert_status(&argument, 64);
    assert!(stderr(&argument).contains("can be read by every user"), "{}", stderr(&argument));
    assert!(!stderr(&argument).contains(token.trim()));

    let file = place.path().join("token");
    let path = file.to_str().expect("UTF-8");
    assert_status(&up.hive(&["identity", "fetch", "jwt", "--audience", "shop", "-o", path]), 0);
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_status(&verify(&up, "shop", &fs::read_to_string(&file).expect("a token")), 0);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn x509_documents_are_written_where_nobody_else_can_write() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let directory = place.path().join("documents");
    fs::create_dir(&directory).expect("a directory");
    let path = directory.to_str().expect("UTF-8");
    let write = || up.hive(&["identity", "fetch", "x509", "--write", path]);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let refused = write();
    assert_status(&refused, 64);
    assert!(stderr(&refused).contains("can be written by others"), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 0);

    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("it is ours");
    for _ in 0..2 {
        assert_status(&write(), 0);
    }
    let mut files: Vec<_> = fs::read_dir(&directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
            (entry.file_name().into_string().expect("UTF-8"), mode)
        })
        .collect();
    files.sort();
    let expected = [("bundle.0.pem", 0o644), ("svid.0.key", 0o600), ("svid.0.pem", 0o644)];
    assert_eq!(files, expected.map(|(name, mode)| (name.to_owned(), mode)));
    let key = fs::read_to_string(directory.join("svid.0.key")).expect("a key");
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn a_watch_says_what_it_holds_and_stops_when_it_is_interrupted() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let mut child = up
        .command(&["identity", "watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hive can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    let (x509, jwt) = (next(), next());
    assert!(x509.contains("X.509  spiffe://") && x509.contains("valid for"), "{x509}");
    assert!(jwt.contains("JWT    keys "), "{jwt}");
    signal("INT", child.id());
    let started = std::time::Instant::now();
    child.wait().expect("it ends");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn another_program_of_the_same_user_has_no_identity() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let copy = place.path().join("hive-copy");
    fs::copy(HIVE, &copy).expect("a copy");
    let output = std::process::Command::new(&copy)
        .arg("identity")
        .envs(&up.environment)
        .output()
        .expect("it runs");
    assert_status(&output, 69);
    assert!(stderr(&output).contains("no identity"), "{}", stderr(&output));
    assert_eq!(up.stop(), Some(0));
}

/// Authority has the size of a ticket: a program that a ticket runs is not the operator, although it is started by
/// the same user and may even be the very same program.
#[test]
fn a_program_that_a_ticket_runs_has_no_identity() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let plan = place.path().join("impostor.yaml");
    let socket = &up.environment["SPIFFE_ENDPOINT_SOCKET"];
    let text = format!(
        "plan: impostor
tickets:
  - name: whoami
    kind: EXECUTE
    timeout: 60s
    with: {{ command: [env, 'SPIFFE_ENDPOINT_SOCKET={socket}', '{HIVE}', identity] }}
"
    );
    fs::write(&plan, text).expect("a file");
    let directory = Path::new(HIVE).parent().and_then(Path::to_str).expect("UTF-8");
    let plan = plan.to_str().expect("UTF-8");
    // The workspace is what a ticket may read; here it is where the binary is.
    let output = up.hive(&["plan", "submit", plan, "--watch", "--workspace", directory]);
    assert_status(&output, 2);
    let said = stdout(&output);
    assert!(said.contains("no identity"), "{said}");
    assert_eq!(up.stop(), Some(0));
}
