//! Agents of another registry, on the wire.

use super::*;
use hive_api::registry::{AgentInfo, AgentTelemetry, ImportAgentsRequest, ImportResult};

const ID: &str = "3b1c9d1e-6f0a-4c55-9f55-0a4f1a2b3c4d";

impl Stack {
    fn owner(&self, worker: &str) -> String {
        format!("spiffe://{}{}", self.authority.trust_domain(), worker_path(worker))
    }

    async fn import(&self, agents: &[AgentInfo], dry_run: bool) -> Vec<ImportResult> {
        let request = ImportAgentsRequest { agents: agents.to_vec(), dry_run };
        let answer = self.operator.clone().import_agents(request).await;
        answer.expect("an operator may").into_inner().results
    }

    async fn agent(&self, agent_id: &str) -> Option<AgentInfo> {
        let get = GetAgentRequest { agent_id: agent_id.to_owned() };
        self.operator.clone().get_agent(get).await.ok()?.into_inner().agent
    }
}

fn old(agent_id: &str, owner: String) -> AgentInfo {
    AgentInfo {
        agent_id: agent_id.to_owned(),
        agent_type: 1,
        capabilities: vec!["BUILD".to_owned()],
        registered_at: 1_000,
        spiffe_id: owner,
        ..AgentInfo::default()
    }
}

#[tokio::test]
async fn an_imported_agent_is_its_owners_and_a_second_import_changes_nothing() {
    let stack = Stack::start().await;
    let agents = [old(ID, stack.owner("w1"))];
    let told = stack.import(&agents, true).await;
    assert_eq!((told[0].code, told[0].known), (0, false));
    assert_eq!(stack.agent(ID).await, None, "nothing was changed");

    let told = stack.import(&agents, false).await;
    assert_eq!((&*told[0].agent_id, told[0].code, told[0].known), (ID, 0, false));
    let agent = stack.agent(ID).await.expect("it is there");
    assert_eq!((agent.registered_at, agent.spiffe_id), (1_000, stack.owner("w1")));

    let telemetry = AgentTelemetry { success_rate: 0.9, total_executions: 9, ..Default::default() };
    let heartbeat = HeartbeatRequest { agent_id: ID.to_owned(), telemetry: Some(telemetry) };
    assert_eq!(
        code(stack.other.clone().heartbeat(heartbeat.clone()).await),
        Code::PermissionDenied
    );
    assert_eq!(code(stack.worker.clone().heartbeat(heartbeat).await), Code::Ok);
    let before = stack.agent(ID).await;
    let changed = AgentInfo { capabilities: vec!["TEST".to_owned()], ..agents[0].clone() };
    let told = stack.import(&[changed], false).await;
    assert_eq!((told[0].code, told[0].known), (0, true));
    assert_eq!(stack.agent(ID).await, before);
    let told = stack.import(&[old(ID, stack.owner("w2"))], false).await;
    assert_eq!(told[0].code, Code::InvalidArgument as i32);
    assert!(told[0].error.contains(&stack.owner("w1")), "{told:?}");
    assert_eq!(stack.agent(ID).await, before);
}

#[tokio::test]
async fn each_agent_has_its_answer_and_too_many_are_refused() {
    let stack = Stack::start().await;
    let id = |number: usize| format!("3b1c9d1e-6f0a-4c55-9f55-{number:012}");
    let owner = stack.owner("w1");
    let mut agents: Vec<_> = (0..128).map(|number| old(&id(number), owner.clone())).collect();
    agents[77].capabilities.clear();
    let told = stack.import(&agents, false).await;
    for (number, told) in told.iter().enumerate() {
        let expected = if number == 77 { Code::InvalidArgument } else { Code::Ok };
        assert_eq!((&told.agent_id, told.code), (&id(number), expected as i32));
    }
    assert!(told[77].error.starts_with("capabilities: "), "{:?}", told[77]);
    agents.push(old(&id(128), owner));
    let request = ImportAgentsRequest { agents, dry_run: true };
    assert_eq!(code(stack.operator.clone().import_agents(request).await), Code::InvalidArgument);
}
