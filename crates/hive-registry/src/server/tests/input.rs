//! Bad input on the wire: the right code, the name of the field, and nothing stored.

use super::*;
use hive_api::registry::{NotifyAgentRequest, WatchAgentsRequest};
use prost::Message;
use std::collections::HashMap;
use tonic::codegen::http::uri::PathAndQuery;

/// Sends bytes that no client would write.
async fn send(channel: &Channel, method: &'static str, message: Raw) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("it is always ready");
    let codec = tonic_prost::ProstCodec::<Raw, ()>::default();
    let path = PathAndQuery::from_static(method);
    grpc.unary(tonic::Request::new(message), path, codec).await.expect_err("it is refused")
}

/// A registration whose text may be no text.
#[derive(Clone, PartialEq, Message)]
struct Raw {
    #[prost(int32, tag = "1")]
    agent_type: i32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    capabilities: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    namespace: Vec<u8>,
}

const REGISTER: &str = "/neural_hive.service_registry.ServiceRegistry/Register";

async fn nothing_is_stored(stack: &mut Stack) {
    let listed = stack.operator.list_agents(ListAgentsRequest::default()).await.expect("allowed");
    assert_eq!(listed.into_inner().agents, []);
}

#[tokio::test]
async fn text_that_is_not_utf8_is_the_callers_mistake() {
    let mut stack = Stack::start().await;
    let good = Raw { agent_type: 1, capabilities: vec![b"BUILD".to_vec()], namespace: vec![] };
    let table = [
        (Raw { capabilities: vec![b"\xff".to_vec()], ..good.clone() }, "capabilities"),
        (Raw { namespace: b"a\xc3".to_vec(), ..good }, "namespace"),
    ];
    for (message, field) in table {
        let refused = send(&stack.worker_channel, REGISTER, message).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    nothing_is_stored(&mut stack).await;
}

#[tokio::test]
async fn a_request_of_ten_megabytes_is_not_read() {
    let mut stack = Stack::start().await;
    let metadata = HashMap::from([("k".to_owned(), "v".repeat(10 << 20))]);
    let refused = stack.worker.register(RegisterRequest { metadata, ..able(&["BUILD"]) }).await;
    assert_eq!(code(refused), Code::ResourceExhausted);
    nothing_is_stored(&mut stack).await;
}

#[tokio::test]
async fn a_malformed_registration_stores_nothing() {
    let mut stack = Stack::start().await;
    let table = [
        (able(&[]), "capabilities: "),
        (able(&["a,b"]), "capabilities: "),
        (RegisterRequest { agent_type: 9, ..able(&["BUILD"]) }, "agent_type: "),
        (
            RegisterRequest {
                metadata: [("k".to_owned(), "v".repeat(2_048))].into(),
                ..able(&["BUILD"])
            },
            "metadata: ",
        ),
    ];
    for (request, field) in table {
        let refused = stack.worker.register(request).await.expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    nothing_is_stored(&mut stack).await;
}

#[tokio::test]
async fn what_a_question_must_not_say_is_named() {
    let mut stack = Stack::start().await;
    let filters = || [("colour".to_owned(), "red".to_owned())].into();
    let named = |refused: Status, field: &str| {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{refused}");
    };
    let malformed = GetAgentRequest { agent_id: "w1".to_owned() };
    named(stack.operator.get_agent(malformed).await.expect_err("no UUID"), "agent_id: ");
    let request = DiscoverAgentsRequest { filters: filters(), ..wanted("BUILD") };
    let refused = stack.operator.discover_agents(request).await.expect_err("no such filter");
    named(refused, "filters[\"colour\"]: ");
    let request = DiscoverAgentsRequest { max_results: -1, ..wanted("BUILD") };
    let refused = stack.operator.discover_agents(request).await.expect_err("negative");
    named(refused, "max_results: ");
    for (request, field) in [
        (ListAgentsRequest { agent_type: 7, ..Default::default() }, "agent_type: "),
        (ListAgentsRequest { page_size: -1, ..Default::default() }, "page_size: "),
        (ListAgentsRequest { page_token: "7".to_owned(), ..Default::default() }, "page_token: "),
    ] {
        named(stack.operator.list_agents(request).await.expect_err(field), field);
    }
    let request = WatchAgentsRequest { agent_type: 7, ..Default::default() };
    named(stack.operator.watch_agents(request).await.expect_err("unknown"), "agent_type: ");
    let agent_id = stack.registered("a").await;
    let request = NotifyAgentRequest { agent_id, ..Default::default() };
    let refused = stack.operator.notify_agent(request).await.expect_err("no type");
    named(refused, "notification_type: ");
}
