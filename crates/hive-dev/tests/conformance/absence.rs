//! Whoever serves the Workload API goes away and comes back; an identity is taken back.

use std::time::{Duration, Instant};

use hive_dev::authority::KeyKind;
use hive_security::{Error, Refusal};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};

use crate::domain::{Domain, Entry};
use crate::load::{ask, channel};
use crate::rotation::Pair;
use crate::waiting::{in_time, until};

/// How long a token lives that shall last while nobody can replace it.
const LONG_S: u32 = 120;

/// The protocol itself, for what a client does not show: when a stream said what.
#[allow(dead_code)]
#[path = "../../src/authority/wire.rs"]
mod wire;

type Raw = wire::spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel>;

crate::with_both!(
    no_request_fails_while_the_agent_is_killed_and_comes_back,
    use_stops_within_a_second_of_the_stream_saying_so,
);

async fn no_request_fails_while_the_agent_is_killed_and_comes_back<D: Domain>() {
    let (mut domain, kind) = (D::start("absence.test").await, KeyKind::X509);
    let pair = Pair::start(&domain, LONG_S).await;
    let load = pair.load().await;
    domain.kill_agent().await;
    let gone = Instant::now();
    // Longer than the clients wait between two attempts to connect.
    until("seven seconds have passed", async || gone.elapsed() > Duration::from_secs(7)).await;
    load.goes_on(500).await;
    domain.restart_agent().await;
    let new = domain.prepare(kind).await;
    pair.client.knows(kind, &domain.trust_domain(), &new, true).await;
    load.goes_on(500).await;
    let requests = load.end().await;
    eprintln!("the agent was away: {requests} requests, none failed");
    assert_eq!(pair.peer.end().await["allowed"], requests);
}

async fn use_stops_within_a_second_of_the_stream_saying_so<D: Domain>() {
    let domain = D::start("withdrawal.test").await;
    let pair = Pair::start(&domain, LONG_S).await;
    let Pair { client, audience, .. } = &pair;
    let workload = &client.workload;
    let channel = channel(workload, &pair.peer.address, &pair.server, audience);
    let ask = async || ask(&channel, Request::new(String::new())).await;
    assert!(ask().await.is_ok());
    let token = client.token(audience).await;
    let mut beside = svids(&domain.endpoint()).await;
    in_time("the state", beside.message()).await.expect("an identity");

    domain.delete(&pair.client_entry).await;
    let end = async {
        loop {
            if let Err(status) = beside.message().await {
                return status;
            }
        }
    };
    assert_eq!(in_time("the end", end).await.code(), Code::PermissionDenied);
    let said = Instant::now();
    let stopped = async || {
        workload.x509_svid().is_err()
            && workload.jwt_svid(audience).await.is_err()
            && matches!(workload.verify_jwt(&token, audience), Err(Refusal::NoTrust { .. }))
            && ask().await.is_err_and(|status| status.code() == Code::Unauthenticated)
    };
    until("nothing is used any more", stopped).await;
    let took = said.elapsed();
    eprintln!("use stopped {took:?} after the stream had said so");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(matches!(workload.x509_svid(), Err(Error::Withdrawn { .. })));

    domain.add(&Entry::new("/client")).await;
    until("the identity has come back", async || ask().await.is_ok()).await;
}

async fn svids(endpoint: &str) -> Streaming<wire::X509svidResponse> {
    let endpoint = Endpoint::try_from(endpoint.to_owned()).expect("an address");
    let mut client = Raw::new(endpoint.connect().await.expect("it listens"));
    let mut request = Request::new(wire::X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("ASCII"));
    client.fetch_x509svid(request).await.expect("a stream").into_inner()
}
