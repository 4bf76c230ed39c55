//! Moving to this registry from one that kept its agents in a real Redis.

mod old;

use crate::harness::{assert_status, stderr, stdout};
use hive_api::registry::{AgentInfo, AgentTelemetry, HeartbeatRequest};
use old::{Old, id, record};
use serde_json::json;
use std::process::Output;

const FAR: &str = "/ns/elsewhere/sa/somebody";

fn lines(output: &Output) -> Vec<String> {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    stdout(output).lines().map(squeezed).collect()
}

/// What an agent was, as the registry shows it now.
fn shown(number: usize, owner: &str, kept: &AgentInfo) -> AgentInfo {
    AgentInfo {
        agent_id: id(number),
        agent_type: 1,
        capabilities: vec!["python".to_owned(), "terraform".to_owned()],
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
        telemetry: Some(AgentTelemetry {
            success_rate: 0.97,
            avg_duration_ms: 1_200,
            total_executions: 240,
            failed_executions: 7,
            last_execution_at: 1_717_171_717,
        }),
        status: 1,
        registered_at: 1_717_000_000,
        last_seen: 1_717_171_720,
        namespace: "neural-hive-execution".to_owned(),
        cluster: "eu".to_owned(),
        version: "2.1.0".to_owned(),
        spiffe_id: owner.to_owned(),
        liveness: 1,
        ..kept.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_move_with_all_that_they_were_and_their_owner_goes_on_with_them() {
    let mut old = Old::start().await;
    for number in 0..300 {
        old.write("worker", number, &record("WORKER", number)).await;
    }
    let owner = old.owner();
    let import = ["--owner", &*owner];
    let tried = old.import(&[&import[..], &["--dry-run"]].concat()).await;
    assert_status(&tried, 0);
    assert_eq!(lines(&tried), ["300 would be imported", "0 would be refused"]);
    assert_eq!(old.agents().await, []);

    let imported = old.import(&import).await;
    assert_status(&imported, 0);
    assert_eq!(lines(&imported), ["300 imported", "0 refused"]);
    let agents = old.agents().await;
    assert_eq!(agents.len(), 300);
    for (number, agent) in agents.iter().enumerate() {
        assert_eq!(*agent, shown(number, &owner, agent));
    }

    // Its process goes on where it was, and what is newer is never overwritten.
    let telemetry = AgentTelemetry { success_rate: 0.9, total_executions: 9, ..Default::default() };
    let heartbeat = HeartbeatRequest { agent_id: id(7), telemetry: Some(telemetry) };
    old.worker.heartbeat(heartbeat).await.expect("it is its own");
    let before = old.agents().await;
    assert_eq!(before[7].telemetry, Some(telemetry));
    let again = old.import(&import).await;
    assert_status(&again, 0);
    let known = "300 known to the registry already, and left as they are";
    assert_eq!(lines(&again), ["0 imported", known, "0 refused"]);
    assert_eq!(old.agents().await, before);
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_is_named_and_the_rest_is_taken() {
    let mut old = Old::start().await;
    old.write("worker", 1, &record("WORKER", 1)).await;
    let as_text = json!({
        "agentId": id(2), "agentType": "SCOUT", "capabilities": ["look"], "registeredAt": "1717000000",
        "telemetry": { "successRate": 0.4, "totalExecutions": "10" }, "status": "HEALTHY", "later": {},
    });
    old.write("scout", 2, &as_text.to_string()).await;
    let little = json!({ "agent_id": id(3), "agent_type": "GUARD", "capabilities": ["guard"] });
    old.write("guard", 3, &little.to_string()).await;
    let unable = json!({ "agent_id": id(4), "agent_type": "WORKER", "capabilities": [] });
    old.write("worker", 4, &unable.to_string()).await;
    old.write("worker", 5, &record("WORKER", 6)).await;
    old.write("analyst", 7, "\u{1b}[2J{").await;
    old.write("worker", 8, &format!("\"{}\"", "x".repeat(70_000))).await;
    old.redis(&["RPUSH", &old::key("worker", 9), "a"]).await;
    old.redis(&["SET", "neural-hive:agents:lock", "1"]).await;
    old.redis(&["SET", "neural-hive:agentsX:worker:1", "1"]).await;
    for number in 0..3 {
        let key = format!("pheromone:default:worker:{}:success", id(number));
        old.redis(&["SET", &key, "2.5"]).await;
    }
    old.write("worker", 10, &record("WORKER", 10)).await;
    old.redis(&["DEL", &old::key("worker", 10)]).await;
    old.write("worker", 11, &record("WORKER", 11)).await;
    old.ends_before_it_is_read(&old::key("worker", 11));

    let owner = format!("{}/{{type}}", old.owner());
    let imported = old.import(&["--owner", &owner]).await;
    assert_status(&imported, 1);
    let expected = [
        "3 imported",
        "5 refused",
        "1 ended while they were read",
        "2 index entries without an agent, ignored",
        "3 pheromones, ignored: they count for nothing here",
        "1 other keys, ignored",
    ];
    assert_eq!(lines(&imported), expected, "{}", stderr(&imported));
    let said = stderr(&imported);
    for (kind, number, why) in [
        ("worker", 4, "capabilities: it is empty"),
        ("worker", 5, "agent_id: it is not the one in the key"),
        ("analyst", 7, "line 1, column 1: it is not JSON"),
        ("worker", 8, "it has more than 65536 bytes"),
        ("worker", 9, "WRONGTYPE"),
    ] {
        let key = format!("hive: {}: ", old::key(kind, number));
        let line = said.lines().find(|line| line.starts_with(&key));
        assert!(line.is_some_and(|line| line.contains(why)), "{key}{why} is not in\n{said}");
    }
    assert!(said.contains("neural-hive:agents:lock: ignored"), "{said}");
    let agents = old.agents().await;
    let told: Vec<_> = agents
        .iter()
        .map(|agent| (&*agent.agent_id, agent.agent_type, agent.status, &*agent.spiffe_id))
        .collect();
    let owned = |name: &str| format!("{}/{name}", old.owner());
    let expected = [
        (&*id(1), 1, 1, &*owned("worker")),
        (&*id(2), 2, 3, &*owned("scout")),
        (&*id(3), 3, 1, &*owned("guard")),
    ];
    assert_eq!(told, expected);
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_named_and_must_be_one_that_may_register() {
    let mut old = Old::start().await;
    old.write("worker", 1, &record("WORKER", 1)).await;
    assert_status(&old.import(&[]).await, 64);
    assert_status(&old.import(&["--owner", "the workers"]).await, 64);
    let stranger = format!("spiffe://{}{FAR}", old.trust_domain());
    let refused = old.import(&["--owner", &stranger]).await;
    assert_status(&refused, 1);
    assert!(stderr(&refused).contains("may not register agents here"), "{}", stderr(&refused));
    let others = format!("scout={}", old.owner());
    let refused = old.import(&["--owner-of", &others]).await;
    assert_status(&refused, 1);
    assert!(stderr(&refused).contains("nobody is named to own it"), "{}", stderr(&refused));
    assert_eq!(old.agents().await, []);
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_comes_from_a_file_or_from_vault_and_is_never_shown() {
    let old = Old::start().await;
    let owner = old.owner();
    let password = old.password().to_owned();
    let in_url = format!("redis://:{password}@127.0.0.1:1");
    let refused = old.hive(&["registry", "import", "--redis", &in_url, "--owner", &owner]).await;
    assert_status(&refused, 64);
    assert!(stderr(&refused).contains("--redis-password-file"), "{}", stderr(&refused));
    let from_vault = ["--redis-password-kv", "service-registry/redis", "--vault-role", "importer"];
    let arguments = ["registry", "import", "--redis", &old.url(), "--owner", &owner];
    let imported = old.hive(&[&arguments[..], &from_vault].concat()).await;
    assert_status(&imported, 0);
    let missing = ["--redis-password-kv", "service-registry/other", "--vault-role", "importer"];
    let refused = old.hive(&[&arguments[..], &missing].concat()).await;
    assert_ne!(refused.status.code(), Some(0));
    let without = old.hive(&arguments).await;
    assert_status(&without, 1);
    assert!(stderr(&without).contains("NOAUTH"), "{}", stderr(&without));
    for output in [refused, imported, without] {
        assert!(!(stdout(&output) + &stderr(&output)).contains(&password));
    }
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_through_tls_and_only_if_its_authority_is_known() {
    let mut old = Old::start().await;
    old.write("worker", 1, &record("WORKER", 1)).await;
    let (url, authority) = old.behind_tls().await;
    let (owner, file) = (old.owner(), old.password_file());
    let arguments = ["registry", "import", "--redis", &url, "--redis-password-file", &file];
    let arguments = [&arguments[..], &["--owner", &owner]].concat();
    let refused = old.hive(&arguments).await;
    assert_ne!(refused.status.code(), Some(0), "its authority is a stranger's");
    let imported = old.hive(&[&arguments[..], &["--redis-ca", &authority]].concat()).await;
    assert_status(&imported, 0);
    assert_eq!(lines(&imported)[0], "1 imported");
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_said_to_be() {
    let mut old = Old::start().await;
    old.write("worker", 1, &record("WORKER", 1)).await;
    let (owner, file) = (old.owner(), old.password_file());
    let arguments = ["registry", "import", "--redis", "redis://127.0.0.1:1", "--owner", &owner];
    let no_redis = old.hive(&arguments).await;
    assert_status(&no_redis, 69);
    let slow = format!("redis://{}", old.deaf());
    let arguments = ["registry", "import", "--redis", &slow, "--redis-password-file", &file];
    let arguments = [&arguments[..], &["--owner", &owner, "--deadline", "1"]].concat();
    let late = old.hive(&arguments).await;
    assert_status(&late, 69);
    assert!(stderr(&late).contains("it is not done within 1 s"), "{}", stderr(&late));
    old.stop_registry().await;
    assert_status(&old.import(&["--owner", &owner]).await, 69);
    old.stop().await;
}
