//! Who may say what to whom.

use crate::harness::{HIVE, Place, Up, assert_status, stderr, stdout};
use std::path::Path;

#[test]
fn the_operator_can_see_who_it_is_and_until_when() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let output = up.hive(&["identity"]);
    assert_status(&output, 0);
    let said = stdout(&output);
    let domain = up.ready["trust_domain"].as_str().expect("a trust domain");
    assert!(said.contains(&format!("spiffe://{domain}/ns/neural-hive/sa/operator")), "{said}");
    assert_eq!(said.matches("valid for").count(), 2, "{said}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn another_program_of_the_same_user_has_no_identity() {
    let place = Place::new();
    let up = Up::start(&place, &["--postgres", "off", "--workers", "1"]);
    let copy = place.path().join("hive-copy");
    std::fs::copy(HIVE, &copy).expect("a copy");
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
    std::fs::write(&plan, text).expect("a file");
    let directory = Path::new(HIVE).parent().and_then(Path::to_str).expect("UTF-8");
    let plan = plan.to_str().expect("UTF-8");
    // The workspace is what a ticket may read; here it is where the binary is.
    let output = up.hive(&["plan", "submit", plan, "--watch", "--workspace", directory]);
    assert_status(&output, 2);
    let said = stdout(&output);
    assert!(said.contains("no identity"), "{said}");
    assert_eq!(up.stop(), Some(0));
}
