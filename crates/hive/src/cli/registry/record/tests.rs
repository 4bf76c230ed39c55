//! Documents as they were written, as protocol buffers would write them, and as nobody should have.

use super::*;
use serde_json::json;

const ID: &str = "3b1c9d1e-6f0a-4c55-9f55-0a4f1a2b3c4d";

fn place() -> Place {
    Place { agent_type: AgentType::Worker, agent_id: ID.to_owned() }
}

fn read_json(document: &Value) -> Result<AgentInfo, String> {
    read(&place(), document.to_string().as_bytes())
}

/// What `json.dumps` of a whole record says.
const WRITTEN: &str = include_str!("../../../../tests/it/registry_import/record.json");

fn written() -> AgentInfo {
    AgentInfo {
        agent_id: ID.to_owned(),
        agent_type: AgentType::Worker.into(),
        capabilities: vec!["terraform".to_owned(), "python".to_owned()],
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
        telemetry: Some(AgentTelemetry {
            success_rate: 0.97,
            avg_duration_ms: 1_200,
            total_executions: 240,
            failed_executions: 7,
            last_execution_at: 1_717_171_717,
        }),
        registered_at: 1_717_000_000,
        last_seen: 1_717_171_720,
        namespace: "neural-hive-execution".to_owned(),
        cluster: "eu".to_owned(),
        version: "2.1.0".to_owned(),
        ..AgentInfo::default()
    }
}

#[test]
fn a_document_is_read_whole_in_either_way_of_writing_it() {
    assert_eq!(read(&place(), WRITTEN.as_bytes()), Ok(written()));
    let in_json = json!({
        "agentId": ID.to_ascii_uppercase(), "agentType": 1, "capabilities": ["terraform", "python"],
        "metadata": { "zone": "a" }, "registeredAt": "1717000000", "lastSeen": "1717171720",
        "telemetry": { "successRate": 0.97, "avgDurationMs": "1200", "totalExecutions": "240",
            "failedExecutions": "7", "lastExecutionAt": "1717171717" },
        "namespace": "neural-hive-execution", "cluster": "eu", "version": "2.1.0", "later": [1, 2],
    });
    let read = read_json(&in_json).expect("it is read");
    assert_eq!(read, AgentInfo { agent_id: ID.to_ascii_uppercase(), ..written() });
}

#[test]
fn what_is_not_said_is_left_to_the_registry() {
    let read = read_json(&json!({ "agent_id": ID, "agent_type": "WORKER", "telemetry": null }));
    let expected = AgentInfo {
        agent_id: ID.to_owned(),
        agent_type: AgentType::Worker.into(),
        ..AgentInfo::default()
    };
    assert_eq!(read, Ok(expected));
}

#[test]
fn what_is_wrong_is_named_and_not_quoted() {
    let good = json!({ "agent_id": ID, "agent_type": "WORKER" });
    let with = |name: &str, value: Value| {
        let mut document = good.clone();
        document[name] = value;
        document
    };
    let table = [
        (json!([ID]), "it is no JSON object"),
        (json!({ "agent_type": "WORKER" }), "agent_id: it is not the one in the key"),
        (with("agent_id", json!(7)), "agent_id: it must be text"),
        (
            with("agent_type", json!("DRONE")),
            "agent_type: it must be WORKER, SCOUT, GUARD or ANALYST",
        ),
        (with("agent_type", json!("AGENT_TYPE_UNSPECIFIED")), "agent_type: it must be WORKER"),
        (with("agent_type", json!("SCOUT")), "agent_type: it is not the one in the key"),
        (with("capabilities", json!("hunter2")), "capabilities: it must be a list of texts"),
        (with("capabilities", json!([1])), "capabilities: it must be a list of texts"),
        (with("metadata", json!({ "a": 1 })), "metadata: it must be an object of texts"),
        (with("registered_at", json!("soon")), "registered_at: it must be a whole number"),
        (with("last_seen", json!(1e300)), "last_seen: it must be a whole number"),
        (with("telemetry", json!([])), "telemetry: it must be an object"),
        (
            with("telemetry", json!({ "total_executions": "hunter2" })),
            "telemetry.total_executions: it must be a whole number",
        ),
        (with("telemetry", json!({ "success_rate": true })), "telemetry.success_rate: it must be"),
    ];
    for (document, expected) in table {
        let wrong = read_json(&document).expect_err(expected);
        assert!(wrong.starts_with(expected), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}

#[test]
fn bytes_that_are_no_json_are_named_by_place() {
    for bytes in [&b"\x80\x04\x95"[..], b"", b"{\"agent_id\": ", b"NaN", b"{} {}", b"\xff\xfe\x00"]
    {
        let wrong = read(&place(), bytes).expect_err("it is no JSON");
        assert!(wrong.starts_with("line "), "{wrong}");
    }
    let deep = "[".repeat(100_000);
    assert!(read(&place(), deep.as_bytes()).is_err(), "and the stack is not used up");
}

#[test]
fn only_the_key_of_an_agent_is_a_place() {
    let key = format!("worker:{ID}");
    assert_eq!(Place::of(key.as_bytes()), Some(place()));
    for key in
        ["index:worker", "worker", "WORKER:1", "drone:1", "events", "agent_type_unspecified:1", ""]
    {
        assert_eq!(Place::of(key.as_bytes()), None, "{key}");
    }
    assert_eq!(Place::of(b"worker:\xff"), None);
}
