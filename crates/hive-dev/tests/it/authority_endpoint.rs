//! The endpoint's manners beyond the five methods: reflection, what is not implemented, and TCP.

use std::net::{Ipv4Addr, SocketAddr};

use hive_dev::authority::{Authority, AuthorityConfig};
use http::uri::PathAndQuery;
use spiffe::WorkloadApiClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::authority::{Place, Raw, end, every_method, in_time, next, wire, with_header};

/// Calls any method by its path.
async fn call(channel: Channel, path: &'static str, header: bool) -> Result<(), Code> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("it listens");
    let asked = wire::X509svidRequest {};
    let asked = if header { with_header(asked) } else { Request::new(asked) };
    let codec = ProstCodec::<_, wire::X509svidRequest>::default();
    let answer = grpc.unary(asked, PathAndQuery::from_static(path), codec).await;
    answer.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn what_is_not_implemented_says_so() {
    let place = Place::mine().await;
    let channel = place.channel().await;
    for (path, header, expected) in [
        ("/SpiffeWorkloadAPI/FetchWITSVID", true, Code::Unimplemented),
        ("/SpiffeWorkloadAPI/FetchWITBundles", true, Code::Unimplemented),
        ("/SpiffeWorkloadAPI/Other", false, Code::InvalidArgument),
        ("/spiffe.Other/Method", true, Code::Unimplemented),
        ("/spiffe.Other/Method", false, Code::Unimplemented),
    ] {
        assert_eq!(call(channel.clone(), path, header).await, Err(expected), "{path}");
    }
}

async fn reflect(channel: Channel, asked: MessageRequest) -> MessageResponse {
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut client = ServerReflectionClient::new(channel);
    let asked = futures_util::stream::iter([asked]);
    let answer = client.server_reflection_info(asked).await.expect("no header is needed");
    let answer: ServerReflectionResponse = next(&mut answer.into_inner()).await;
    answer.message_response.expect("an answer")
}

#[tokio::test]
async fn reflection_needs_neither_header_nor_identity() {
    let place = Place::empty(|_| {}).await;
    let channel = place.channel().await;
    let listed = reflect(channel.clone(), MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"SpiffeWorkloadAPI"), "{names:?}");
    for symbol in ["SpiffeWorkloadAPI", "SpiffeWorkloadAPI.FetchX509SVID", "X509SVID"] {
        let asked = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let found = reflect(channel.clone(), asked).await;
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
    }
}

#[tokio::test]
async fn the_same_endpoint_is_served_over_loopback_tcp_if_asked_for() {
    assert!(Place::empty(|_| {}).await.authority.tcp_endpoint().is_none());
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let place = Place::empty(|config| config.tcp_listen = listen).await;
    let endpoint = place.authority.tcp_endpoint().expect("it listens");
    let address = endpoint.replace("tcp://", "http://");
    let channel = Endpoint::try_from(address).expect("an address").connect().await;
    let mut raw = Raw::new(channel.expect("it listens"));
    for denied in every_method(&mut raw, Some("true")).await {
        let status = denied.expect_err("it has no entry");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    place.add("/a", hive_dev::authority::Selector::Pid(std::process::id()));
    let client = WorkloadApiClient::connect_to(endpoint).await.expect("it listens");
    let svid = in_time(client.fetch_x509_svid()).await.expect("an SVID");
    assert_eq!(svid.spiffe_id().to_string(), place.id("/a"));
}

#[tokio::test]
async fn no_listener_leaves_this_machine() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
    config.tcp_listen = Some(everywhere);
    let refused = Authority::start(config).await.err().expect("it is refused");
    assert!(refused.to_string().contains("loopback"), "{refused}");
}

#[tokio::test]
async fn crls_are_empty_and_mandatory_fields_are_not() {
    let place = Place::mine().await;
    let message = next(&mut place.x509_svids().await).await;
    assert!(message.crl.is_empty() && message.federated_bundles.is_empty());
    let svid = &message.svids[0];
    assert!(
        ![&svid.x509_svid, &svid.x509_svid_key, &svid.bundle].iter().any(|part| part.is_empty())
    );
    let mut raw = place.raw().await;
    let asked = with_header(wire::X509BundlesRequest {});
    let mut bundles = raw.fetch_x509_bundles(asked).await.expect("a stream").into_inner();
    assert!(next(&mut bundles).await.crl.is_empty());
    for (audience, svid) in [("", "a.b.c"), ("a", ""), ("", "")] {
        let (audience, svid) = (audience.to_owned(), svid.to_owned());
        let asked = with_header(wire::ValidateJwtsvidRequest { audience, svid });
        let refused = raw.validate_jwtsvid(asked).await.expect_err("a field is missing");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn open_streams_are_told_that_the_authority_stops() {
    let place = Place::mine().await;
    let mut svids = place.x509_svids().await;
    let mut raw = place.raw().await;
    let asked = with_header(wire::JwtBundlesRequest {});
    let mut bundles = raw.fetch_jwt_bundles(asked).await.expect("a stream").into_inner();
    next(&mut svids).await;
    next(&mut bundles).await;
    in_time(place.authority.stop()).await;
    assert_eq!(
        (end(&mut svids).await, end(&mut bundles).await),
        (Code::Unavailable, Code::Unavailable)
    );
}
