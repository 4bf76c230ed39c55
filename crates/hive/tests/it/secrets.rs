//! Promise one: nothing that was issued can be found in anything that a run wrote.

use crate::harness::{Place, Up, assert_status, contains, stderr, stdout, wait_until};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hive_dev::witness::{Listener, VARIABLE};
use secrecy::ExposeSecret;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::path::{Path, PathBuf};
use std::process::Output;

/// A run of both plans in a stack whose secrets the test knows.
struct Run {
    place: Place,
    listener: Listener,
    up: Up,
    /// Everything that the commands printed.
    said: Vec<u8>,
}

impl Run {
    fn new() -> Self {
        let place = Place::new();
        let listener = Listener::bind(place.path().join("witness")).expect("a listener");
        let data = place.path().join("data");
        let arguments = ["--data-dir", data.to_str().expect("UTF-8")];
        let up = Up::start_with(&place, &arguments, &[(VARIABLE, listener.path())]);
        Self { place, listener, up, said: Vec::new() }
    }

    fn plan(&mut self, file: &str, status: i32) {
        let output = self.up.run_plan(&self.place.examples().join(file));
        assert_status(&output, status);
        self.note(&output);
    }

    fn note(&mut self, output: &Output) {
        self.said.extend_from_slice(&output.stdout);
        self.said.extend_from_slice(&output.stderr);
    }

    /// Each secret in the forms in which it could have been written.
    fn needles(&self) -> Vec<(String, Vec<u8>)> {
        let mut needles = Vec::new();
        for seen in self.listener.seen() {
            let secret = seen.value.expose_secret();
            needles.push((seen.kind.clone(), secret.as_bytes().to_vec()));
            if seen.kind == "x509-key" {
                let der = BASE64_STANDARD.decode(secret).expect("base64");
                needles.push((seen.kind.clone(), BASE64_URL_SAFE_NO_PAD.encode(&der).into_bytes()));
                needles.push((seen.kind, der));
            } else {
                needles.push((seen.kind, BASE64_STANDARD.encode(secret).into_bytes()));
            }
        }
        needles
    }
}

/// A database is part of the promise: without one there would be less to find.
fn require_postgres(up: &Up) {
    let environment = &up.ready["parts"];
    let has = environment
        .as_array()
        .is_some_and(|parts| parts.iter().any(|part| part["name"] == "postgres"));
    assert!(has, "this test needs `postgres` and `initdb`: install Debian's package postgresql");
}

#[test]
fn nothing_that_was_issued_is_found_in_anything_that_was_written() {
    let mut run = Run::new();
    require_postgres(&run.up);
    run.plan("release.yaml", 0);
    run.plan("release-broken.yaml", 2);
    let identity = run.up.hive(&["identity"]);
    run.note(&identity);
    let needles = run.needles();
    for kind in ["x509-key", "jwt-svid", "vault-token", "kv", "db-password", "db-admin"] {
        assert!(
            needles.iter().any(|(known, _)| known == kind),
            "no {kind} was issued: nothing to look for"
        );
    }
    let processes = look_at_processes(&run.place, &needles);
    assert_eq!(processes, Vec::<String>::new(), "in the arguments or environment of a process");
    for line in &run.up.printed {
        run.said.extend_from_slice(line.as_bytes());
    }
    let Run { place, up, said, .. } = run;
    assert_eq!(up.stop(), Some(0));

    assert_eq!(found("what was printed", &said, &needles), Vec::<String>::new());
    let mut hits = Vec::new();
    let mut looked_at = 0;
    for file in files(place.path()) {
        looked_at += 1;
        let bytes = std::fs::read(&file).expect("a file can be read");
        hits.extend(found(&file.display().to_string(), &bytes, &needles));
    }
    assert_eq!(hits, Vec::<String>::new());
    assert!(looked_at > 20, "only {looked_at} files: this looked in the wrong place");

    // The search itself must be able to find: one secret, planted.
    let planted = place.path().join("planted");
    std::fs::write(&planted, &needles[0].1).expect("a file");
    let bytes = std::fs::read(&planted).expect("it is there");
    assert!(!found("planted", &bytes, &needles).is_empty());
    place.assert_nothing_is_left();
}

fn found(place: &str, bytes: &[u8], needles: &[(String, Vec<u8>)]) -> Vec<String> {
    let hit = needles.iter().filter(|(_, needle)| contains(bytes, needle));
    hit.map(|(kind, _)| format!("{kind} in {place}")).collect()
}

fn look_at_processes(place: &Place, needles: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut hits = Vec::new();
    for process in place.processes() {
        let pid = process.split(':').next().unwrap_or_default();
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            hits.extend(found(&path, &std::fs::read(&path).unwrap_or_default(), needles));
        }
    }
    hits
}

/// Every file below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(below).expect("a directory can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(self::files(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_leased_role_writes_the_ledger_and_is_gone_when_the_ticket_is_over() {
    let mut run = Run::new();
    require_postgres(&run.up);
    run.plan("release.yaml", 0);
    let ledger = query(&run, "SELECT deployed_by FROM releases");
    assert_eq!(ledger.len(), 1, "one release, one row: {ledger:?}");
    assert!(ledger[0].starts_with("v-"), "not written by a leased role: {ledger:?}");
    wait_until("the role is gone", || {
        query(&run, "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'v-%'")
            .is_empty()
    });
    assert!(!run.listener.seen_of("db-password").is_empty(), "a password was issued");
    assert_eq!(run.up.stop(), Some(0));
}

#[test]
fn a_ticket_cannot_read_what_only_another_kind_of_ticket_may() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let plan = place.path().join("greedy.yaml");
    std::fs::write(
        &plan,
        "plan: greedy
tickets:
  - name: peek
    kind: EXECUTE
    with: { command: ['true'] }
    credentials: [{ name: key, path: secret/data/release, optional: true }]
",
    )
    .expect("a file");
    let output = up.run_plan(&plan);
    assert_status(&output, 2);
    let said = stdout(&output);
    assert!(said.contains("403") && said.contains("ticket-execute"), "{said}\n{}", stderr(&output));
    assert_eq!(up.stop(), Some(0));
}

fn query(run: &Run, sql: &'static str) -> Vec<String> {
    let parts = run.up.ready["parts"].as_array().expect("parts");
    let postgres = parts.iter().find(|part| part["name"] == "postgres").expect("a database");
    let place = postgres["place"].as_str().expect("an address");
    let (address, database) = place.split_once('/').expect("an address and a database");
    let (host, port) = address.split_once(':').expect("a host and a port");
    let password = run.listener.seen_of("db-admin").pop().expect("a superuser");
    let options = PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port.parse().expect("a port"))
        .database(database)
        .username("hive")
        .password(password.expose_secret());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = PgConnection::connect_with(&options).await.expect("it answers");
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("it can be asked")
    })
}
