//! W1 to W17: the endpoint and its streams.

use std::time::{Duration, Instant};

use hive_dev::authority::Selector;
use prost::Message as _;
use prost_types::{FileDescriptorProto, ServiceDescriptorProto};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;

/// "As soon as possible, without delay", for three streams on a busy machine: nothing has been waited for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// The methods of the standard: name, request, response, and whether responses are a stream.
const METHODS: [(&str, &str, &str, bool); 5] = [
    ("FetchX509SVID", "X509SVIDRequest", "X509SVIDResponse", true),
    ("FetchX509Bundles", "X509BundlesRequest", "X509BundlesResponse", true),
    ("FetchJWTSVID", "JWTSVIDRequest", "JWTSVIDResponse", false),
    ("FetchJWTBundles", "JWTBundlesRequest", "JWTBundlesResponse", true),
    ("ValidateJWTSVID", "ValidateJWTSVIDRequest", "ValidateJWTSVIDResponse", false),
];

/// Its messages: the fields by number.
const FIELDS: [(&str, &[(&str, i32)]); 12] = [
    ("X509SVIDRequest", &[]),
    ("X509SVIDResponse", &[("svids", 1), ("crl", 2), ("federated_bundles", 3)]),
    (
        "X509SVID",
        &[("spiffe_id", 1), ("x509_svid", 2), ("x509_svid_key", 3), ("bundle", 4), ("hint", 5)],
    ),
    ("X509BundlesRequest", &[]),
    ("X509BundlesResponse", &[("crl", 1), ("bundles", 2)]),
    ("JWTSVIDRequest", &[("audience", 1), ("spiffe_id", 2)]),
    ("JWTSVIDResponse", &[("svids", 1)]),
    ("JWTSVID", &[("spiffe_id", 1), ("svid", 2), ("hint", 3)]),
    ("JWTBundlesRequest", &[]),
    ("JWTBundlesResponse", &[("bundles", 1)]),
    ("ValidateJWTSVIDRequest", &[("audience", 1), ("svid", 2)]),
    ("ValidateJWTSVIDResponse", &[("spiffe_id", 1), ("claims", 2)]),
];

/// What the server says of itself.
async fn description(place: &Place) -> FileDescriptorProto {
    let asked = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned());
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut client = ServerReflectionClient::new(place.channel().await);
    let answer = client.server_reflection_info(futures_util::stream::iter([asked])).await;
    let answer = next(&mut answer.expect("reflection").into_inner()).await.message_response;
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("{answer:?}") };
    let mut files = files
        .file_descriptor_proto
        .iter()
        .map(|file| FileDescriptorProto::decode(file.as_slice()).expect("a description"));
    files.find(|file| !file.service.is_empty()).expect("the file with the service")
}

#[tokio::test]
async fn w7_the_service_is_the_one_of_the_standard_and_nothing_was_added() {
    let place = Place::empty(|_| {}).await;
    let file = description(&place).await;
    assert_eq!(file.package(), "", "the paths are /SpiffeWorkloadAPI/…");
    let [service]: &[ServiceDescriptorProto] = &file.service else { panic!("{file:?}") };
    let methods = service.method.iter().map(|method| {
        assert!(!method.client_streaming());
        let of = |name: &str| name.trim_start_matches('.').to_owned();
        let (input, output) = (of(method.input_type()), of(method.output_type()));
        (method.name().to_owned(), input, output, method.server_streaming())
    });
    let expected = METHODS.map(|(name, input, output, streams)| {
        (name.to_owned(), input.to_owned(), output.to_owned(), streams)
    });
    assert_eq!(methods.collect::<Vec<_>>(), expected);
    let messages = file.message_type.iter().map(|message| {
        let fields = message.field.iter().map(|field| (field.name().to_owned(), field.number()));
        (message.name().to_owned(), fields.collect::<Vec<_>>())
    });
    let expected = FIELDS.map(|(name, fields)| {
        let fields = fields.iter().map(|(name, number)| ((*name).to_owned(), *number));
        (name.to_owned(), fields.collect::<Vec<_>>())
    });
    assert_eq!(messages.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn w9_the_first_message_comes_at_once() {
    let place = named("td").await;
    let mut raw = place.raw().await;
    let asked = Instant::now();
    next(&mut place.x509_svids().await).await;
    let bundles = raw.fetch_x509_bundles(with_header(wire::X509BundlesRequest {})).await;
    next(&mut bundles.expect("a stream").into_inner()).await;
    let bundles = raw.fetch_jwt_bundles(with_header(wire::JwtBundlesRequest {})).await;
    next(&mut bundles.expect("a stream").into_inner()).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn w9_every_message_is_whole_whatever_changed() {
    let place = named("td").await;
    let mut stream = place.x509_svids().await;
    let whole = |message: &wire::X509svidResponse, identities: usize, federated: usize| {
        assert_eq!((message.svids.len(), message.federated_bundles.len()), (identities, federated));
        for svid in &message.svids {
            for part in [&svid.x509_svid, &svid.x509_svid_key, &svid.bundle] {
                assert!(!part.is_empty());
            }
        }
    };
    whole(&next(&mut stream).await, 1, 0);
    place.add("/second", Selector::Pid(std::process::id()));
    whole(&next(&mut stream).await, 2, 0);
    let there = named("there.org").await;
    place.authority.federate("there.org", &there.authority.bundle_document()).expect("good");
    whole(&next(&mut stream).await, 2, 1);
    place.authority.rotate_x509().await.expect("rotated");
    whole(&next(&mut stream).await, 2, 1);
}

#[tokio::test]
async fn w17_jwt_bundles_are_key_sets_by_trust_domain_without_keys_of_other_uses() {
    let place = named("td").await;
    let there = named("there.org").await;
    place.authority.federate("there.org", &there.authority.bundle_document()).expect("good");
    place.authority.rotate_jwt().await.expect("rotated");
    let asked = with_header(wire::JwtBundlesRequest {});
    let answer = place.raw().await.fetch_jwt_bundles(asked).await.expect("a stream");
    let bundles = next(&mut answer.into_inner()).await.bundles;
    let count = |name: &str| {
        let set: Value = serde_json::from_slice(&bundles[name]).expect("RFC 7517");
        let keys = set["keys"].as_array().expect("a key set").clone();
        for key in &keys {
            assert_eq!((&key["use"], &key["kty"]), (&json!("jwt-svid"), &json!("EC")));
            assert!(key["kid"].is_string() && key["x"].is_string() && key["y"].is_string());
            assert!(key.get("d").is_none() && key.get("x5c").is_none(), "{key}");
        }
        keys.len()
    };
    assert_eq!((bundles.len(), count("spiffe://td"), count("spiffe://there.org")), (2, 2, 1));
}
