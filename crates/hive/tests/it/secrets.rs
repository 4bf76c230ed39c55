//! Promise one: nothing that was issued can be found in anything that a run wrote.

use crate::harness::{Place, Up, assert_status, stderr, stdout, wait_until};
use crate::search::Secrets;
use hive_dev::witness::{Listener, VARIABLE};
use secrecy::ExposeSecret;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::path::Path;
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
        let variables = [(VARIABLE, listener.path()), ("HIVE_LOG", Path::new("trace"))];
        let mut command = place.hive(&["up", "--json", "--data-dir"]);
        command.arg(data).envs(variables);
        // The search finds it there; inherited, nobody would look at it.
        let log = std::fs::File::create(place.path().join("up.log")).expect("a file");
        command.stderr(log);
        let up = Up::start_command(&place, command);
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
    let secrets = Secrets::of(&run.listener);
    for kind in ["x509-key", "jwt-svid", "vault-token", "kv", "db-password", "db-admin"] {
        assert!(secrets.count().contains_key(kind), "no {kind} was issued: nothing to look for");
    }
    secrets.assert_each_is_found_where_it_is_planted();
    let processes = secrets.found_in_processes();
    assert_eq!(processes, [""; 0], "in the arguments or environment of a process");
    for line in &run.up.printed {
        run.said.extend_from_slice(line.as_bytes());
    }
    let Run { place, up, said, .. } = run;
    assert_eq!(up.stop(), Some(0));

    assert_eq!(secrets.found("what was printed", &said), [""; 0]);
    let (hits, files, _) = secrets.found_below(place.path());
    assert_eq!(hits, [""; 0]);
    assert!(files > 20, "only {files} files: this looked in the wrong place");
    place.assert_nothing_is_left();
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
