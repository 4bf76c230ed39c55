//! The authority as a child process that takes orders.

use std::process::Stdio;

use hive_dev::authority::AuthorityConfig;
use serde_json::Value;
use spiffe::WorkloadApiClient;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::authority::in_time;

/// Not a test: the authority as a child process, run by the test below.
#[tokio::test]
#[ignore = "another test runs it as a process of its own"]
async fn child() {
    let environment = &hive_runtime::config::ProcessEnvironment;
    let Ok(config) = hive_runtime::config::read(environment, AuthorityConfig::read) else { return };
    let ready = hive_runtime::ready::Ready::on_standard_output();
    let stop = tokio_util::sync::CancellationToken::new();
    hive_dev::authority::run(config, ready, stop).await.expect("a good end");
}

#[tokio::test]
async fn a_child_takes_orders_and_ends_with_its_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("api.sock");
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "authority_child::child", "--nocapture", "--ignored"])
        .env("HIVE_DEV_SOCKET", &socket)
        .env("HIVE_DEV_TRUST_DOMAIN", "dev-child.hive.internal")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut orders = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut json = async || loop {
        // The test harness writes to the same standard output.
        let line = in_time(lines.next_line()).await.expect("read").expect("a line");
        let json =
            line.find('{').and_then(|start| serde_json::from_str::<Value>(&line[start..]).ok());
        if let Some(json) = json {
            return json;
        }
    };
    let ready = json().await;
    assert_eq!(ready["ready"]["trust_domain"], "dev-child.hive.internal");
    assert_eq!(ready["ready"]["socket"], socket.display().to_string());
    let order = format!("{{\"register\":{{\"pid\":{},\"path\":\"/a\"}}}}\n", std::process::id());
    orders.write_all(order.as_bytes()).await.expect("it listens");
    assert_eq!(json().await["ok"]["spiffe_id"], "spiffe://dev-child.hive.internal/a");
    let client = WorkloadApiClient::connect_to(format!("unix://{}", socket.display()))
        .await
        .expect("it listens");
    let svid = client.fetch_x509_svid().await.expect("an SVID");
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://dev-child.hive.internal/a");
    drop(orders);
    let status = in_time(child.wait()).await.expect("it ends");
    assert!(status.success() && !socket.exists());
}
