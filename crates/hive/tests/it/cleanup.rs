//! Ctrl-C at any moment leaves no process, no socket and no temporary folder.

use crate::harness::{PATIENCE, Place, Up, signal, stdout, wait_until};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn ctrl_c_while_starting_leaves_nothing_behind() {
    for delay_ms in [0, 20, 60, 120, 250, 500, 1_000] {
        let place = Place::new();
        let mut child = place
            .hive(&["up", "--json"])
            .stdout(Stdio::null())
            .spawn()
            .expect("hive can be started");
        // Not a wait for something: the moment of the signal is what this test varies.
        std::thread::sleep(Duration::from_millis(delay_ms));
        signal("INT", child.id());
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("it is ours").is_none() {
            assert!(Instant::now() < deadline, "it does not end after {delay_ms} ms");
            std::thread::sleep(Duration::from_millis(5));
        }
        place.assert_nothing_is_left();
    }
}

#[test]
fn ctrl_c_while_a_ticket_runs_ends_what_the_ticket_started() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    let plan = place.path().join("sleepers.yaml");
    std::fs::write(
        &plan,
        "plan: sleepers
tickets:
  - name: sleeper
    kind: EXECUTE
    timeout: 10m
    with: { command: [sh, -c, 'sleep 611 & sleep 612'] }
",
    )
    .expect("a file");
    let submitted = up.hive(&["plan", "submit", plan.to_str().expect("UTF-8")]);
    assert!(submitted.status.success(), "{}", stdout(&submitted));
    wait_until("both sleepers run", || {
        let running = place.processes().join("\n");
        running.contains("sleep 611") && running.contains("sleep 612")
    });
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn a_service_that_dies_is_reported_with_its_last_lines_and_started_again() {
    let place = Place::new();
    let mut up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let before = up.part("registry");
    signal("KILL", before);
    let ended = up.wait_for(|event| event["event"] == "service-ended");
    assert_eq!(ended["name"], "registry");
    assert!(ended["last_lines"].as_array().is_some_and(|lines| !lines.is_empty()), "{ended}");
    up.wait_for(|event| event["event"] == "service-ready" && event["name"] == "registry");
    assert_ne!(up.part("registry"), before);
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn a_killed_supervisor_takes_its_services_with_it() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off"]);
    signal("KILL", up.pid());
    wait_until("every process has ended", || place.processes().is_empty());
}
