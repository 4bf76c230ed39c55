//! The clauses of the SPIFFE standards that bind an issuer and a Workload API server, each by its row in
//! `conformance/spiffe.json`.
//!
//! They are written from the text of the standards, and look at what goes over the wire, not at how it is made.

mod identifier;
mod jwt;
mod workload_api;
mod x509;

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hive_security::{Audience, Refusal, SpiffeId, TrustDomain, Usage, VerifiedJwt, Verifier};
use rustls::pki_types::CertificateDer;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tonic::Code;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::authority::{Place, next, wire, with_header};
use crate::issuer::{Key, unix_now};

const ME: &str = "/ns/test/sa/me";

/// A trust domain of this name that knows this process.
async fn named(name: &str) -> Place {
    let place = Place::empty(|config| config.trust_domain = Some(name.to_owned())).await;
    place.add(ME, hive_dev::authority::Selector::Pid(std::process::id()));
    place
}

/// The default X.509-SVID of this process.
async fn x509_svid(place: &Place) -> wire::X509svid {
    next(&mut place.x509_svids().await).await.svids.remove(0)
}

/// The JWT-SVIDs of this process for the audience `a`.
async fn jwt_svids(place: &Place, spiffe_id: &str) -> Result<Vec<wire::Jwtsvid>, Code> {
    let asked =
        wire::JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: spiffe_id.to_owned() };
    let answer = place.raw().await.fetch_jwtsvid(with_header(asked)).await;
    answer.map(|answer| answer.into_inner().svids).map_err(|status| status.code())
}

async fn token(place: &Place) -> String {
    jwt_svids(place, "").await.expect("a token").remove(0).svid
}

/// What the server says of a token that is meant for the audience `a`.
async fn validate(place: &Place, token: &str) -> Result<wire::ValidateJwtsvidResponse, Code> {
    let asked = wire::ValidateJwtsvidRequest { audience: "a".to_owned(), svid: token.to_owned() };
    let answer = place.raw().await.validate_jwtsvid(with_header(asked)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

/// Header and claims of a token.
fn open(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    let decode = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url without padding");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!(parts.len(), 3);
    (decode(parts[0]), decode(parts[1]))
}

/// A trust domain whose keys this place knows, and that signs what no authority would.
struct Foreign(Key);

impl Foreign {
    fn of(place: &Place) -> Self {
        let key = Key::new("key");
        let document = json!({ "keys": [key.jwk("jwt-svid")] }).to_string();
        assert!(place.authority.federate("there.org", &document).expect("a good document"));
        Self(key)
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "key", "typ": "JWT" })
    }

    fn claims() -> Value {
        let now = unix_now();
        json!({ "sub": "spiffe://there.org/a", "aud": ["a"], "iat": now, "exp": now + 60 })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.0.sign_as(header, claims).expose_secret().to_owned()
    }
}

/// `value` with `name` set, or removed where `to` is null.
fn with(mut value: Value, name: &str, to: Value) -> Value {
    let fields = value.as_object_mut().expect("an object");
    if to.is_null() {
        fields.remove(name)
    } else {
        fields.insert(name.to_owned(), to)
    };
    value
}

/// Everyone's verifier, with the bundle document that this place publishes.
fn verifier(place: &Place) -> Verifier {
    let domain = TrustDomain::parse(place.authority.trust_domain()).expect("a good name");
    Verifier::new([(domain, place.authority.bundle_document())]).expect("a good document")
}

fn verify_jwt(place: &Place, token: &str) -> Result<VerifiedJwt, Refusal> {
    let audience = Audience::parse("a").expect("an audience");
    verifier(place).verify_jwt(token, &audience, SystemTime::now())
}

fn verify_x509(place: &Place, der: &[u8]) -> Result<SpiffeId, Refusal> {
    let chain = [CertificateDer::from(der)];
    verifier(place).verify_x509(&chain, Usage::Client, SystemTime::now())
}

/// Certificates that follow one another, to the last byte.
fn certificates(mut der: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).expect("DER");
        certificates.push(certificate);
        der = rest;
    }
    certificates
}

/// The URI names, which are the only names.
fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let names = certificate.subject_alternative_name().expect("one extension").expect("present");
    let uri = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => *uri,
        other => panic!("another name: {other:?}"),
    };
    names.value.general_names.iter().map(uri).collect()
}
