//! Who may call what: each method, with every kind of caller.

use super::*;
use hive_dev::authority::{Method, Trouble};
use hive_security::tls;
use hyper_util::rt::TokioIo;
use std::str::FromStr;
use tokio::net::TcpStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel as Plain, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Whether an operator, the orchestrator, a worker and another replica may call each method. Nobody else may call any.
const MAY: [(&str, [bool; 4]); 13] = [
    ("Attend", [false, false, true, false]),
    ("Deliver", [false, false, false, true]),
    ("Deregister", [false, false, true, false]),
    ("DiscoverAgents", [true, true, true, false]),
    ("DiscoverMany", [true, true, true, false]),
    ("GetAgent", [true, true, true, false]),
    ("Heartbeat", [false, false, true, false]),
    ("HeartbeatMany", [false, false, true, false]),
    ("ImportAgents", [true, false, false, false]),
    ("ListAgents", [true, true, true, false]),
    ("NotifyAgent", [true, true, false, false]),
    ("Register", [false, false, true, false]),
    ("WatchAgents", [true, true, true, false]),
];
const NOBODY: &str = "/ns/elsewhere/sa/somebody";

/// A connection with this caller's certificate, and no tokens of its own.
fn connection(workload: &Workload, address: &str) -> Plain {
    let (workload, address) = (workload.clone(), address.trim_start_matches("https://").to_owned());
    let dial = move |_| {
        let (workload, address) = (workload.clone(), address.clone());
        async move {
            let server = IdPattern::in_trust_domain(&workload.trust_domain(), REGISTRY.path);
            let stream = TcpStream::connect(address).await?;
            let (stream, _) = tls::connect(&workload, server.expect("a pattern"), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Endpoint::from_static("http://registry").connect_with_connector_lazy(tower::service_fn(dial))
}

/// Calls a method with an empty message and this token. What is asked for does not matter to who may ask.
async fn call(connection: &Plain, method: &str, token: Option<&str>) -> Code {
    let mut grpc = tonic::client::Grpc::new(connection.clone());
    if let Err(error) = grpc.ready().await {
        panic!("no connection: {error}");
    }
    let mut request = tonic::Request::new(());
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", bearer);
    }
    let path = format!("/neural_hive.service_registry.ServiceRegistry/{method}");
    let path = PathAndQuery::from_str(&path).expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    code(grpc.server_streaming(request, path, codec).await)
}

/// A token for `audience`, for whoever this process is at `authority` now.
pub(super) async fn token(authority: &Authority, path: &str, audience: &str) -> String {
    let entry = authority.add_entry(Entry::of_process(path, std::process::id())).expect("an entry");
    let client = spiffe::WorkloadApiClient::connect_to(authority.endpoint()).await;
    let client = client.expect("the authority answers");
    let token = client.fetch_jwt_token([audience], None).await.expect("there is an entry");
    assert!(authority.remove_entry(entry));
    token
}

pub(super) fn audience(authority: &Authority) -> String {
    let trust_domain = TrustDomain::parse(authority.trust_domain()).expect("a trust domain");
    Audience::of_service(REGISTRY.name, &trust_domain).expect("a name").as_str().to_owned()
}

#[tokio::test]
async fn each_method_is_for_those_who_may_call_it_and_for_nobody_else() {
    assert!(POLICY.map(|(method, _)| method).is_sorted() && MAY.len() == POLICY.len());
    let (authority, directory) = authority().await;
    let audience = audience(&authority);
    let worker_path = worker_path("w1");
    let parties = [
        (OPERATOR.path, Some(0)),
        (ORCHESTRATOR.path, Some(1)),
        (&*worker_path, Some(2)),
        (REGISTRY.path, Some(3)),
        (NOBODY, None),
    ];
    let mut callers = Vec::new();
    for (path, party) in parties {
        let workload = caller(&authority, path).await;
        callers.push((path, party, workload, token(&authority, path, &audience).await));
    }
    let stack = Stack::under(authority, directory).await;
    for (path, party, workload, token) in callers {
        let connection = connection(&workload, &stack.address);
        for (method, may) in MAY {
            let code = call(&connection, method, Some(&token)).await;
            assert_ne!(code, Code::Unauthenticated, "{method} by {path}");
            let denied = code == Code::PermissionDenied;
            let may = party.is_some_and(|party: usize| may[party]);
            assert_eq!(denied, !may, "{method} by {path}: {code:?}");
        }
        assert_eq!(call(&connection, "Invented", Some(&token)).await, Code::PermissionDenied);
    }
}

/// What proves nothing to the registry, though the caller's certificate is good.
async fn refused_tokens(authority: &Authority, path: &str) -> Vec<(&'static str, Option<String>)> {
    let (foreign, _directory) = super::authority().await;
    let audience = audience(authority);
    authority.weather().next(Method::FetchJwtSvid, 1, Trouble::Expired);
    let expired = token(authority, path, &audience).await;
    let for_another = token(authority, path, "vault.elsewhere").await;
    let of_another_domain = token(&foreign, path, &audience).await;
    let of_another_caller = token(authority, &worker_path("w9"), &audience).await;
    vec![
        ("none", None),
        ("nonsense", Some("nonsense".to_owned())),
        ("expired", Some(expired)),
        ("for another audience", Some(for_another)),
        ("of another trust domain", Some(of_another_domain)),
        ("of another than the certificate", Some(of_another_caller)),
    ]
}

#[tokio::test]
async fn no_method_is_for_a_caller_that_does_not_prove_who_it_is() {
    let (authority, directory) = authority().await;
    let mut callers = Vec::new();
    // One who may call most of them, and one who may call the others.
    for path in [worker_path("w1"), OPERATOR.path.to_owned()] {
        let workload = caller(&authority, &path).await;
        callers.push((workload, refused_tokens(&authority, &path).await));
    }
    let stack = Stack::under(authority, directory).await;
    for (workload, refused) in callers {
        let connection = connection(&workload, &stack.address);
        for (method, _) in MAY {
            for (what, token) in &refused {
                let code = call(&connection, method, token.as_deref()).await;
                assert_eq!(code, Code::Unauthenticated, "{method} with a token: {what}");
            }
        }
    }
}

#[tokio::test]
async fn health_and_reflection_need_no_token() {
    let (authority, directory) = authority().await;
    let workload = caller(&authority, NOBODY).await;
    let stack = Stack::under(authority, directory).await;
    let connection = connection(&workload, &stack.address);
    let service = "neural_hive.service_registry.ServiceRegistry".to_owned();
    let mut health = HealthClient::new(connection.clone());
    for service in [service.clone(), String::new()] {
        let health = health.check(HealthCheckRequest { service }).await.expect("it is exempt");
        assert_eq!(health.into_inner().status, 1, "it serves");
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(service)),
    };
    let mut reflection = ServerReflectionClient::new(connection);
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await;
    let answer = answers.expect("it is exempt").into_inner().message().await.expect("an answer");
    let told = answer.and_then(|answer| answer.message_response);
    assert!(matches!(told, Some(MessageResponse::FileDescriptorResponse(_))), "{told:?}");
}
