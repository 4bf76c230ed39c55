//! A Python client that was generated from the field table which existing clients were generated from.

use super::access::{audience, token};
use super::*;
use hive_security::tls;
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const CLIENT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../hive-dev/tests/interop/python/registry.py");
/// Each of its calls has a deadline of its own.
const DEADLINE: Duration = Duration::from_secs(60);

/// An address at which connections are carried to the registry with this workload's certificate, as a proxy beside a
/// program does: gRPC's C core takes a server for who it is by a name in DNS, which an X.509-SVID does not have.
async fn beside(workload: Workload, address: &str, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let here = listener.local_addr().expect("an address").to_string();
    let (registry, stop) = (address.trim_start_matches("https://").to_owned(), stop.clone());
    let server = IdPattern::in_trust_domain(&workload.trust_domain(), REGISTRY.path);
    let server = server.expect("a pattern");
    tokio::spawn(async move {
        let accept = async {
            while let Ok((mut from, _)) = listener.accept().await {
                let (workload, server) = (workload.clone(), server.clone());
                let stream = TcpStream::connect(&registry).await.expect("it listens");
                tokio::spawn(async move {
                    let connected = tls::connect(&workload, server, stream).await;
                    let (mut to, _) = connected.expect("a handshake");
                    // Either side may hang up.
                    _ = copy_bidirectional(&mut from, &mut to).await;
                });
            }
        };
        tokio::select! { () = accept => {}, () = stop.cancelled() => {} }
    });
    here
}

#[tokio::test]
async fn an_existing_python_client_keeps_working() {
    let (authority, directory) = authority().await;
    let audience = audience(&authority);
    let worker_path = worker_path("w1");
    let worker = caller(&authority, &worker_path).await;
    let worker_token = token(&authority, &worker_path, &audience).await;
    let operator = caller(&authority, OPERATOR.path).await;
    let operator_token = token(&authority, OPERATOR.path, &audience).await;
    let stack = Stack::under(authority, directory).await;
    let known = json!({
        "worker": beside(worker, &stack.address, &stack.stop).await,
        "operator": beside(operator, &stack.address, &stack.stop).await,
        "worker_token": worker_token,
        "operator_token": operator_token,
    });
    let said = run_client(&known).await;
    let expected = [
        json!([
            "registers_with_the_defaults",
            [["python", "terraform"], { "slots": "2" }, ["default", "local", "1.0.0"], 1, ""]
        ]),
        json!([
            "is_refused_without_type_or_capabilities",
            ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
        ]),
        json!(["heartbeats_say_how_it_stands", [2, 3, 1, "NOT_FOUND", true]]),
        json!(["is_discovered", [[1, true], [0, true], [1, true], [0, true]]]),
        json!(["is_listed", [1, 1, 0]]),
        json!(["is_watched", [[true, true], [1, 5, 1, 3], 1]]),
        json!(["is_not_said_to_be_notified_when_it_is_not", [false, true]]),
        json!(["may_not_do_what_is_not_its_to_do", ["PERMISSION_DENIED", "UNAUTHENTICATED"]]),
        json!(["leaves", [true, "NOT_FOUND"]]),
    ];
    assert_eq!(said, expected);
}

/// What the client says came of its checks.
async fn run_client(known: &Value) -> Vec<Value> {
    let python =
        hive_dev::tools::python().expect("no Python environment: run `cargo xtask interop`");
    let mut client = Command::new(python)
        .arg(CLIENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut input = client.stdin.take().expect("a pipe");
    input.write_all(format!("{known}\n").as_bytes()).await.expect("it listens");
    let output = tokio::time::timeout(DEADLINE, client.wait_with_output()).await;
    let output = output.expect("it ends in time").expect("it ran");
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
