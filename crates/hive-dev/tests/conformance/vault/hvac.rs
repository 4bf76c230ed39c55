//! hvac, the client of Python programs: the same numbered checks with both, which must come to the same.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::vault::recorder::Recorder;
use crate::vault::stage::Stage;

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn hvac_finds_the_same_in_both() {
    let stage = Stage::set("$postgres $jwt").await;
    let (openbao, ours) = stage.recorders();
    let (theirs, ours) = tokio::join!(checks(&openbao), checks(&ours));
    stage.strike().await;
    assert!(theirs.len() >= 43, "only {} checks", theirs.len());
    let failed: Vec<_> = theirs.iter().filter(|check| check[2].get("failed").is_some()).collect();
    assert!(failed.is_empty(), "with OpenBao: {failed:#?}");
    let different = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours);
    let different: Vec<_> =
        different.map(|(theirs, ours)| format!("OpenBao {theirs}\n   ours {ours}")).collect();
    assert!(different.is_empty(), "{} differ\n{}", different.len(), different.join("\n"));
    assert_eq!(theirs.len(), ours.len());
}

/// The lines that the program prints: number, name, what came of it.
async fn checks(server: &Recorder) -> Vec<Value> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/python/vault.py");
    let mut command = Command::new(python());
    command.args(["-I", "-B"]).arg(program).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("`cargo xtask interop` puts hvac there");
    let known = json!({
        "address": server.address,
        "token": server.root_token(),
        "jwt": server.value("hvac", "jwt"),
        "jwks_url": server.value("hvac", "jwks_url"),
        "postgres": server.value("hvac", "postgres"),
        "username": server.value("hvac", "postgres_admin"),
        "password": "first-password",
    });
    let mut input = child.stdin.take().expect("it is a pipe");
    input.write_all(format!("{known}\n").as_bytes()).await.expect("it reads");
    drop(input);
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.expect("it ends in time").expect("it ran");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).expect("it prints text");
    text.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect()
}

fn python() -> PathBuf {
    let bin = hive_dev::tools::program("bao").expect("`cargo xtask real` puts OpenBao there");
    bin.with_file_name("../python/bin/python")
}
