//! Bundle endpoints on loopback, good ones and others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod endpoint;
mod following;
mod profiles;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use self::endpoint::{Answer, Endpoint};
use super::*;
use crate::rotating::Rotating;
use crate::spiffe::verify::{BundleDocument, Verifier};
use crate::testing::Authority;
use crate::{Refusal, SpiffeId, TrustDomain};

const DEADLINE: Duration = Duration::from_secs(20);
const PATH: &str = "/bundle-endpoint";

/// The bundle document of one or more authorities of a trust domain.
fn bundle(authorities: &[&Authority], sequence: u64) -> Value {
    let x509 = authorities.iter().map(|authority| {
        json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(&authority.root)] })
    });
    let jwt = authorities.iter().map(|authority| {
        let mut key = authority.jwk();
        key["use"] = json!("jwt-svid");
        key
    });
    json!({ "keys": x509.chain(jwt).collect::<Vec<_>>(), "spiffe_sequence": sequence })
}

fn document(authority: &Authority, sequence: u64) -> BundleDocument {
    let json = bundle(&[authority], sequence).to_string();
    BundleDocument::parse(&authority.trust_domain, json.as_bytes()).unwrap()
}

/// An endpoint of `authority` itself, which serves its first bundle.
async fn self_serving(authority: &Authority) -> Endpoint {
    let endpoint = Endpoint::of_svid(&authority.svid(PATH)).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[authority], 1)));
    endpoint
}

/// With the endpoint of `authority`, as the operator would set it up.
fn by_spiffe(authority: &Authority, url: &str) -> Relationship {
    let bundle = EndpointBundle::Given(document(authority, 1));
    let profile = Profile::HttpsSpiffe { endpoint_id: authority.id(PATH), bundle };
    relationship(&authority.trust_domain, url, profile)
}

fn by_web(trust_domain: &TrustDomain, url: &str, pem: &str) -> Relationship {
    let profile = Profile::HttpsWeb(WebRoots::from_pem(pem).unwrap());
    relationship(trust_domain, url, profile)
}

fn relationship(trust_domain: &TrustDomain, url: &str, profile: Profile) -> Relationship {
    let polling = Polling::between(Duration::from_millis(20), Duration::from_millis(40));
    let relationship = Relationship::new(trust_domain.clone(), url, profile).unwrap();
    relationship.polled(polling).answered_within(DEADLINE)
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}
