//! `kill -9` in the middle, again and again: no ticket is lost, and no outcome is applied twice.

use crate::harness::{Place, Up, assert_status, signal, story};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Output, Stdio};

/// Which process is killed when a ticket begins.
#[derive(Clone, Copy)]
enum Victim {
    Orchestrator,
    TheWorker,
}

#[test]
fn killing_the_orchestrator_in_each_phase_finishes_the_plan_once() {
    survive(Victim::Orchestrator);
}

#[test]
fn killing_the_worker_in_each_phase_finishes_the_plan_once() {
    survive(Victim::TheWorker);
}

fn survive(victim: Victim) {
    let place = Place::new();
    let data = place.path().join("data");
    let arguments = ["--postgres", "off", "--data-dir", data.to_str().expect("UTF-8")];
    let mut up = Up::start(&place, &arguments);
    let examples = place.examples();
    for phase in ["build", "test", "validate", "deploy", "verify"] {
        let output = run_and_kill(&mut up, &examples.join("release.yaml"), phase, victim);
        assert_status(&output, 0);
        assert!(story(&output).starts_with("plan release  done"), "{}", story(&output));
        // Otherwise the next deploy would find its release in place, with nothing left to do.
        std::fs::remove_dir_all(examples.join("releases")).expect("there is a release");
    }
    let output = run_and_kill(&mut up, &examples.join("release-broken.yaml"), "verify", victim);
    assert_status(&output, 2);
    assert_eq!(up.stop(), Some(0));
    assert_each_ticket_ended_once(&data.join("orchestrator"));
    place.assert_nothing_is_left();
}

/// Runs a plan and kills the victim at the moment at which `phase` is seen to run.
fn run_and_kill(up: &mut Up, plan: &Path, phase: &str, victim: Victim) -> Output {
    let mut child = up
        .command(&["plan", "submit", plan.to_str().expect("UTF-8"), "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hive can be run");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stdout = String::new();
    // A quick ticket may be over before its beginning is shown: then this is the moment right after.
    let begun = ["running", "done", "failed"].map(|state| format!("{phase}: {state}"));
    let mut killed = false;
    loop {
        let begin = stdout.len();
        if lines.read_line(&mut stdout).expect("it can be read") == 0 {
            break;
        }
        let line = &stdout[begin..];
        if !killed && begun.iter().any(|begun| line.starts_with(begun)) {
            killed = true;
            let name = match victim {
                Victim::Orchestrator => "orchestrator",
                Victim::TheWorker => line
                    .trim()
                    .rsplit(' ')
                    .next()
                    .filter(|name| name.starts_with("worker-"))
                    .unwrap_or("worker-1"),
            };
            let pid = up.part(name);
            signal("KILL", pid);
            up.wait_for(|event| event["event"] == "service-ready" && event["name"] == *name);
        }
    }
    assert!(killed, "{phase} was never seen to run:\n{stdout}");
    let mut stderr = Vec::new();
    let pipe = child.stderr.as_mut().expect("a pipe");
    pipe.read_to_end(&mut stderr).expect("it can be read");
    let status = child.wait().expect("it ends");
    Output { status, stdout: stdout.into_bytes(), stderr }
}

/// The log itself is asked: one `Ended` that says `Done` or `Failed` for every ticket and direction.
fn assert_each_ticket_ended_once(directory: &Path) {
    let ends = ends(directory);
    assert!(!ends.is_empty(), "the log holds no outcome");
    let twice: Vec<_> = ends.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "not exactly once: {twice:?}");
}

fn ends(directory: &Path) -> BTreeMap<String, u32> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let file = std::fs::read_dir(directory)
            .expect("the orchestrator's directory is there")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite")
            })
            .expect("a database");
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.expect("it can be opened");
        let rows = sqlx::query("SELECT plan_id, event FROM events").fetch_all(&pool).await;
        let mut ends = BTreeMap::new();
        for row in rows.expect("it can be read") {
            let (plan, event): (String, String) = (row.get(0), row.get(1));
            let event: serde_json::Value = serde_json::from_str(&event).expect("an event is JSON");
            if let Some(key) = final_end(&plan, &event) {
                *ends.entry(key).or_default() += 1;
            }
        }
        ends
    })
}

/// The ticket that this event ends for good, if it does.
fn final_end(plan: &str, event: &serde_json::Value) -> Option<String> {
    let text = event.to_string();
    let is_end = text.contains("ended") || text.contains("Ended");
    let is_final =
        ["\"done\"", "\"Done\"", "\"failed\"", "\"Failed\""].iter().any(|word| text.contains(word));
    let field = |name: &str| find(event, name).map(str::to_owned);
    (is_end && is_final).then(|| {
        format!(
            "{plan}/{}/{}",
            field("ticket").expect("a ticket"),
            field("direction").expect("a direction")
        )
    })
}

fn find<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let object = value.as_object()?;
    object
        .get(name)
        .and_then(serde_json::Value::as_str)
        .or_else(|| object.values().find_map(|inner| find(inner, name)))
}
