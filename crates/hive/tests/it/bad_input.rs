//! What is wrong is said once, in a sentence that names the cause and the remedy; and nothing has happened.

use crate::harness::{Place, Up, assert_status, stderr, stdout};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

const MANY_MISTAKES: &str = "\
plan: wrong
colour: green
tickets:
  - name: a
    kind: BULID
    needs: [b, nowhere]
    with: {}
  - name: b
    kind: EXECUTE
    needs: [a]
    timeout: soon
    with: { command: [x] }
  - name: b
    kind: EXECUTE
    with: { command: [x] }
";

#[test]
fn every_mistake_of_a_plan_is_listed_with_its_place_and_nothing_is_submitted() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let file = place.path().join("wrong.yaml");
    std::fs::write(&file, MANY_MISTAKES).expect("a file");
    let name = file.to_str().expect("UTF-8");
    let output = up.hive(&["plan", "submit", name]);
    assert_status(&output, 64);
    let said = stderr(&output);
    let wanted = [
        ("2:1", "colour"),
        ("5:11", "BULID"),
        ("6:16", "nowhere"),
        ("11:14", "soon"),
        ("13:11", "b"),
    ];
    for (position, word) in wanted {
        let place = format!("{name}:{position}: ");
        let line = said.lines().find(|line| line.starts_with(&place));
        assert!(
            line.is_some_and(|line| line.contains(word)),
            "no {word} at {position} in:\n{said}"
        );
    }
    assert!(stdout(&up.hive(&["plan", "list"])).contains("no plans yet"));
    assert_eq!(up.stop(), Some(0));
}

/// The file never leaves the process, so no stack is needed to refuse it.
#[test]
fn plans_that_cannot_be_plans_are_refused_before_anything_is_connected() {
    let place = Place::new();
    let ring = "plan: ring\ntickets:\n  - { name: a, kind: EXECUTE, needs: [b], with: { command: [x] } }\n  \
                - { name: b, kind: EXECUTE, needs: [a], with: { command: [x] } }\n";
    let mut huge = "plan: huge\ntickets:\n".to_owned();
    for index in 0..10_000 {
        huge.push_str(&format!(
            "  - {{ name: t{index}, kind: EXECUTE, with: {{ command: [x] }} }}\n"
        ));
    }
    let cases: [(&[u8], &str); 5] = [
        (ring.as_bytes(), "a → b → a"),
        (huge.as_bytes(), "10000 tickets are too many"),
        (b"plan: \xff\ntickets: []\n", "UTF-8"),
        (b"", "holds no plan"),
        (b"plan: x\ntickets: [", ":"),
    ];
    for (bytes, word) in cases {
        let file = place.path().join("case.yaml");
        std::fs::write(&file, bytes).expect("a file");
        let output = place
            .hive(&["plan", "submit", file.to_str().expect("UTF-8")])
            .output()
            .expect("it runs");
        assert_status(&output, 64);
        let said = stderr(&output);
        assert!(said.contains(word), "expected {word:?} in:\n{said}");
        assert!(said.contains("case.yaml:"), "no position in:\n{said}");
    }
}

#[test]
fn a_missing_file_and_a_wrong_flag_are_bad_input_too() {
    let place = Place::new();
    for arguments in
        [&["plan", "submit", "/nowhere.yaml"] as &[&str], &["up", "--workers", "0"], &["fly"]]
    {
        assert_status(&place.hive(arguments).output().expect("it runs"), 64);
    }
    assert_status(&place.hive(&["--help"]).output().expect("it runs"), 0);
}

#[test]
fn without_a_stack_a_command_says_which_setting_is_missing() {
    let output = Place::new().hive(&["plan", "list"]).output().expect("it runs");
    assert_status(&output, 64);
    assert!(stderr(&output).contains("SPIFFE_ENDPOINT_SOCKET"), "{}", stderr(&output));
}

/// The one sentence that a start that cannot be ends with.
fn refusal(place: &Place, arguments: &[&str]) -> String {
    let output =
        place.hive(&["up", "--postgres", "off"]).args(arguments).output().expect("it runs");
    assert!(!output.status.success(), "it started: {}", stdout(&output));
    place.assert_nothing_is_left();
    let said = stderr(&output);
    assert_eq!(said.trim_end().lines().count(), 1, "more than a sentence:\n{said}");
    said
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let said = refusal(&Place::new(), &["--port-base", &port]);
    assert!(said.contains(&port) && said.contains("--port-base"), "{said}");
}

#[test]
fn a_vault_that_is_not_there_is_named_with_the_remedy() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let said = refusal(&Place::new(), &["--vault-addr", &format!("http://{gone}")]);
    assert!(said.contains(&gone.to_string()) && said.contains("--vault-addr"), "{said}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_the_remedy() {
    let said = refusal(&Place::new(), &["--data-dir", "/proc/hive"]);
    assert!(said.contains("/proc/hive") && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_workload_api_that_is_not_there_is_named() {
    let socket = "unix:///nowhere/agent.sock";
    let arguments = ["--spiffe-socket", socket, "--vault-addr", "http://127.0.0.1:1"];
    let said = refusal(&Place::new(), &arguments);
    assert!(said.contains(socket) || said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_data_directory_in_use_is_refused() {
    let place = Place::new();
    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    // Dropping the listener leaves the file: nobody listens there any more.
    drop(UnixListener::bind(data.join("workload.sock")).expect("a socket"));
    let data = data.to_str().expect("UTF-8");
    let arguments = ["--postgres", "off", "--workers", "1", "--data-dir", data];
    let up = Up::start(&place, &arguments);
    let second = place.hive(&["up"]).args(arguments).output().expect("it runs");
    assert_status(&second, 1);
    let said = stderr(&second);
    assert!(said.contains(&up.pid().to_string()) && said.contains("--data-dir"), "{said}");
    assert_eq!(up.stop(), Some(0));
    place.assert_nothing_is_left();
}

#[test]
fn every_wrong_setting_of_the_workload_api_is_named_by_every_service() {
    for service in ["registry", "orchestrator", "worker"] {
        let place = Place::new();
        let output = place
            .hive(&[service])
            .env("SPIFFE_ENDPOINT_SOCKET", "agent.sock")
            .env("SPIFFE_WORKLOAD_API_SOCKET", "tcp://agent:1")
            .env("SPIFFE_TRUST_DOMAIN", "a b")
            .output()
            .expect("it runs");
        assert_status(&output, 64);
        let said = stderr(&output);
        for wrong in [
            "SPIFFE_ENDPOINT_SOCKET is \"agent.sock\": it must begin with unix: or tcp:",
            "SPIFFE_WORKLOAD_API_SOCKET is \"tcp://agent:1\": ",
            "SPIFFE_TRUST_DOMAIN is \"a b\": ",
        ] {
            assert!(said.contains(wrong), "{service} does not say {wrong}:\n{said}");
        }
    }
}
