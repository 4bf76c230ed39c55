//! What is borrowed, seen and ended by hand.

use crate::harness::{assert_status, signal, stderr, stdout, wait_until};
use crate::lender::Lender;
use serde_json::Value;
use std::fs;
use std::process::Command;

/// Keeps a copy of the newest login.
const PROGRAM: &str = r#"
note() { cat "$HIVE_CREDENTIALS/db" > "$0.new"; mv "$0.new" "$0"; }
trap note HUP
trap 'exit 0' TERM
note
while :; do sleep 0.05; done
"#;

fn said(mut command: Command) -> Value {
    let output = command.output().expect("hive runs");
    assert_status(&output, 0);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_lease_is_listed_with_its_holder_and_is_extended_and_ended_by_hand() {
    let lender = Lender::start();
    let seen = lender.place.path().join("seen");
    let mut command = lender.hive(&["exec", "--credential", "db=database/creds/long"]);
    command.args(["--signal", "HUP", "--", "sh", "-c", PROGRAM]).arg(&seen);
    let mut hive = command.spawn().expect("hive runs");
    let user = || {
        let login: Value = serde_json::from_str(&fs::read_to_string(&seen).ok()?).ok()?;
        Some(login["username"].as_str()?.to_owned())
    };
    wait_until("it has a login", || user().is_some());
    let first = user();

    wait_until("the holder is listed", || {
        let mut list = lender.hive(&["lease", "list", "--json"]);
        list.env_remove("HIVE_VAULT_ROLE");
        let rows = said(list);
        rows[0]["holders"][0]["pid"] == hive.id() && rows[0]["holders"][0]["credential"] == "db"
    });
    let rows = said(lender.hive(&["lease", "list", "--prefix", "database/creds/long", "--json"]));
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    let (id, left) = (rows[0]["lease_id"].as_str().expect("an id"), rows[0]["left_s"].as_u64());
    assert!(id.starts_with("database/creds/long/") && rows[0]["confirmed"] == true, "{rows}");
    assert!((3_000..=3_600).contains(&left.expect("it ends")), "{rows}");
    let text = lender.hive(&["lease", "list"]).output().expect("hive runs");
    assert!(stdout(&text).contains(id) && stdout(&text).contains("sh ("), "{}", stdout(&text));

    let renewed = lender.hive(&["lease", "renew", id, "--increment", "1800"]).output();
    let renewed = renewed.expect("hive runs");
    assert_status(&renewed, 0);
    assert_eq!(stdout(&renewed), "30m00s left\n");
    let unknown = lender.hive(&["lease", "renew", "database/creds/long/none"]).output();
    assert_status(&unknown.expect("hive runs"), 1);

    let revoked = lender.hive(&["lease", "revoke", "--prefix", "database/creds/long"]).output();
    assert_status(&revoked.expect("hive runs"), 0);
    assert!(!lender.lent().contains(&first.clone().expect("a user")));
    signal("TERM", hive.id());
    assert_eq!(hive.wait().expect("it ends").code(), Some(0));
    lender.stop();
}

#[test]
fn the_password_of_a_static_role_is_all_that_is_printed_and_it_lets_one_in() {
    let lender = Lender::start();
    let printed = lender.hive(&["lease", "password", "--role", "temporal"]).output();
    let printed = printed.expect("hive runs");
    assert_status(&printed, 0);
    assert_eq!(stderr(&printed), "");
    let password = stdout(&printed);
    assert!(!password.is_empty() && !password.contains(char::is_whitespace));
    assert!(lender.lets_in("temporal", &password) && !lender.lets_in("temporal", "another"));

    let unknown = lender.hive(&["lease", "password", "--role", "nobody"]).output();
    let unknown = unknown.expect("hive runs");
    assert_status(&unknown, 1);
    assert_eq!(stdout(&unknown), "");
    let mut nowhere = lender.hive(&["lease", "password", "--role", "temporal", "--deadline", "1"]);
    // Nobody answers there, and nobody refuses either.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    nowhere.env("VAULT_ADDR", format!("http://{}", silent.local_addr().expect("an address")));
    let late = nowhere.output().expect("hive runs");
    assert_status(&late, 69);
    assert_eq!(stdout(&late), "");
    lender.stop();
}
