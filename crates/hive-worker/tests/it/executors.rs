use crate::world::{World, reason};
use hive_plan::TicketKind;
use hive_worker::executors::{Done, Failure, Work};
use serde_json::{Value, json};
use std::time::Duration;

fn build() -> Value {
    json!({ "source": "hello", "command": ["cargo", "build", "--release", "--locked"], "artifact": "target/release/hello" })
}

fn deploy(artifact: &str, release: &str) -> Value {
    json!({ "artifact": artifact, "file": "hello", "into": "releases", "release": release })
}

async fn built(world: &World) -> Done {
    world.execute(TicketKind::Build, build()).await.expect("it builds")
}

fn current(world: &World) -> Option<String> {
    let link = std::fs::read_link(world.workspace.join("releases/current")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

#[tokio::test]
async fn the_example_is_built_tested_judged_released_and_verified() {
    let world = World::new();
    let done = built(&world).await;
    let (artifact, file) = (&done.outputs["artifact"], &done.outputs["file"]);
    assert_eq!(file, "hello");
    assert!(done.outputs["size_bytes"].parse::<u64>().unwrap() > 100_000);
    assert!(
        !world.workspace.join("hello/target").exists(),
        "the source is copied, not built in place"
    );

    let tested = world
        .execute(
            TicketKind::Test,
            json!({ "source": "hello", "command": ["cargo", "test", "--locked"] }),
        )
        .await;
    assert_eq!(tested.expect("it passes").outputs["summary"], "5 passed, 0 failed");

    let input = json!({ "release": "hello-1.2.0", "max_size_bytes": 8_000_000 });
    let judged = json!({ "policy": "policy/release.rego", "artifact": artifact, "input": input });
    assert_eq!(world.execute(TicketKind::Validate, judged).await, Ok(Done::default()));

    let released = world
        .execute(TicketKind::Deploy, deploy(artifact, "hello-1.2.0"))
        .await
        .expect("it is released");
    let verify =
        json!({ "command": [released.outputs["program"], "--version"], "expect": "hello 1.2.0" });
    let verified = world.execute(TicketKind::Execute, verify).await.expect("it is what it says");
    assert_eq!(verified.message, "hello 1.2.0");
}

#[tokio::test]
async fn a_build_that_fails_says_why() {
    let world = World::new();
    std::fs::write(world.workspace.join("hello/src/main.rs"), "fn main() { nothing() }").unwrap();
    let reason = reason(world.execute(TicketKind::Build, build()).await);
    assert!(reason.starts_with("exited with status 101: error: could not compile"), "{reason}");
}

#[tokio::test]
async fn a_test_that_fails_says_how_many() {
    let world = World::new();
    let source = "fn main() {}\n#[test]\nfn good() {}\n#[test]\nfn bad() { panic!() }";
    std::fs::write(world.workspace.join("hello/src/main.rs"), source).unwrap();
    std::fs::remove_dir_all(world.workspace.join("hello/tests")).unwrap();
    let reason = reason(
        world
            .execute(TicketKind::Test, json!({ "source": "hello", "command": ["cargo", "test"] }))
            .await,
    );
    assert_eq!(reason, "exited with status 101: 1 passed, 1 failed");
}

#[tokio::test]
async fn an_artifact_that_was_not_made_or_is_a_link_out_is_refused() {
    let world = World::new();
    for command in ["true", "mkdir -p target && ln -s /etc/hostname target/x", "mkdir -p target/x"]
    {
        let parameters =
            json!({ "source": "hello", "command": ["sh", "-c", command], "artifact": "target/x" });
        let reason = reason(world.execute(TicketKind::Build, parameters).await);
        assert!(reason.contains("no artifact target/x"), "{reason}");
    }
    let escaping = json!({ "source": "hello", "command": ["true"], "artifact": "../x" });
    assert!(
        reason(world.execute(TicketKind::Build, escaping).await)
            .contains("not a file below the source")
    );
}

#[tokio::test]
async fn what_a_policy_denies_fails_for_good() {
    let world = World::new();
    let stored = world.tools.artifacts.store("hello", &mut b"12345".as_slice()).unwrap();
    let input = json!({ "release": "Hello!", "max_size_bytes": 3 });
    let parameters = json!({ "policy": "policy/release.rego", "artifact": stored.digest.to_string(), "input": input });
    let verdict = world.execute(TicketKind::Validate, parameters).await;
    let Err(Failure::Final(reason)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(
        reason,
        "Hello! is not a release name such as hello-1.2.0; hello has 5 bytes, and 3 are allowed"
    );
}

#[tokio::test]
async fn an_undone_deploy_brings_the_previous_release_back() {
    let world = World::new();
    let artifact = world
        .tools
        .artifacts
        .store("hello", &mut b"program".as_slice())
        .unwrap()
        .digest
        .to_string();
    for (plan, release) in [("p1", "hello-1"), ("p2", "hello-2")] {
        world
            .run(TicketKind::Deploy, &world.work(plan, deploy(&artifact, release)))
            .await
            .expect("released");
    }
    assert_eq!(current(&world).as_deref(), Some("hello-2"));
    let undo = world.work("p2", deploy(&artifact, "hello-2"));
    let undone = world.undo(TicketKind::Deploy, &undo).await.expect("undone");
    assert_eq!(undone.message, "hello-1 is current again");
    assert_eq!(current(&world).as_deref(), Some("hello-1"));
    assert!(!world.workspace.join("releases/releases/hello-2").exists());
}

#[tokio::test]
async fn a_seal_is_made_with_the_key_of_the_credential_and_without_it_nothing_is_released() {
    let world = World::new();
    let artifact = world
        .tools
        .artifacts
        .store("hello", &mut b"program".as_slice())
        .unwrap()
        .digest
        .to_string();
    let mut parameters = deploy(&artifact, "hello-1");
    parameters["seal"] = json!("signing-key");
    let refused = reason(world.execute(TicketKind::Deploy, parameters.clone()).await);
    assert!(refused.contains("credential signing-key has no field key"), "{refused}");
    assert!(!world.workspace.join("releases").exists());

    let key = [("signing-key", json!({ "key": "a key for a test" }))];
    let work =
        Work { credentials: world.credentials("t", &key, &[]), ..world.work("p1", parameters) };
    let done = world.run(TicketKind::Deploy, &work).await.expect("released");
    let release = std::path::Path::new(&done.outputs["release"]);
    let seal = std::fs::read_to_string(release.join("release.json.seal")).unwrap();
    assert!(seal.starts_with("hmac-sha256:") && seal.trim().len() == 12 + 64, "{seal}");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(release.join("release.json")).unwrap()).unwrap();
    assert_eq!(
        (&manifest["sealed_by"], &manifest["digest"]),
        (&json!("signing-key"), &json!(artifact))
    );
}

#[tokio::test]
async fn a_ledger_that_is_not_there_is_said_and_one_that_does_not_answer_undoes_the_deploy() {
    let world = World::new()
        .with_ledger(hive_worker::config::LedgerAddress::parse("127.0.0.1:1/hive").unwrap());
    let artifact = world
        .tools
        .artifacts
        .store("hello", &mut b"program".as_slice())
        .unwrap()
        .digest
        .to_string();
    let mut parameters = deploy(&artifact, "hello-1");
    parameters["ledger"] = json!("database");
    let login = [("database", json!({ "username": "u", "password": "p" }))];
    let work = Work {
        credentials: world.credentials("t1", &login, &[]),
        ..world.work("p1", parameters.clone())
    };
    let refused = reason(world.run(TicketKind::Deploy, &work).await);
    assert!(refused.contains("ledger at 127.0.0.1:1 cannot be reached"), "{refused}");
    assert_eq!(current(&world), None);
    assert!(!world.workspace.join("releases/releases/hello-1").exists());

    let skipped = [("database", "nothing is mounted at database")];
    let work = Work {
        credentials: world.credentials("t2", &[], &skipped),
        ..world.work("p1", parameters)
    };
    let done = world.run(TicketKind::Deploy, &work).await.expect("released");
    assert_eq!(done.message, "no ledger: nothing is mounted at database");
}

#[tokio::test]
async fn what_is_printed_must_be_what_is_expected() {
    let world = World::new();
    let parameters = json!({ "command": ["echo", "hello 1.2.0"], "expect": "hello 9.9.9" });
    let refused = reason(world.execute(TicketKind::Execute, parameters).await);
    assert_eq!(refused, r#"printed "hello 1.2.0", expected "hello 9.9.9""#);
    let killed = json!({ "command": ["sh", "-c", "kill -9 $$"] });
    assert_eq!(reason(world.execute(TicketKind::Execute, killed).await), "was killed by signal 9");
}

#[tokio::test]
async fn a_command_is_a_list_and_never_a_shell_line() {
    let world = World::new();
    let done = world
        .execute(TicketKind::Execute, json!({ "command": ["echo", "$HOME; id", "`id`"] }))
        .await
        .expect("it runs");
    assert_eq!(done.message, "$HOME; id `id`");
}

#[tokio::test]
async fn an_undo_command_runs_where_there_is_one() {
    let world = World::new();
    let with = world.work("p1", json!({ "command": ["true"], "undo": ["echo", "taken back"] }));
    assert_eq!(world.undo(TicketKind::Execute, &with).await.expect("undone").message, "taken back");
    let without = world.work("p1", json!({ "command": ["true"] }));
    assert_eq!(reason(world.undo(TicketKind::Execute, &without).await), "the ticket has no undo");
    let build = world.work("p1", build());
    assert_eq!(reason(world.undo(TicketKind::Build, &build).await), "BUILD leaves nothing to undo");
}

#[tokio::test]
async fn credentials_are_files_that_only_their_ticket_reads() {
    let world = World::new();
    let script = "cat $HIVE_CREDENTIALS/key; env | grep -c swordfish; (echo x > $HIVE_CREDENTIALS/key) || echo kept";
    let key = [("key", json!({ "value": "swordfish" }))];
    let parameters =
        json!({ "command": ["sh", "-c", script], "expect": "{\"value\":\"swordfish\"}0\nkept\n" });
    let work =
        Work { credentials: world.credentials("t", &key, &[]), ..world.work("p1", parameters) };
    world.run(TicketKind::Execute, &work).await.expect("it reads its own");
}

#[tokio::test]
async fn a_ticket_that_takes_too_long_is_stopped_at_its_deadline() {
    let mut world = World::new();
    world.timeout = Duration::from_millis(500);
    let verdict = world
        .execute(TicketKind::Execute, json!({ "command": ["sh", "-c", "echo half; sleep 100"] }))
        .await;
    assert_eq!(verdict, Err(Failure::TimedOut(Some("half".to_owned()))));
}

#[tokio::test]
async fn unknown_parameters_and_paths_that_lead_out_are_refused() {
    let world = World::new();
    let unknown = json!({ "command": ["true"], "shell": true });
    assert!(
        reason(world.execute(TicketKind::Execute, unknown).await).contains("unknown field `shell`")
    );
    let mut outside = build();
    outside["source"] = json!("../elsewhere");
    assert!(
        reason(world.execute(TicketKind::Build, outside).await)
            .contains("leads out of the workspace")
    );
}
