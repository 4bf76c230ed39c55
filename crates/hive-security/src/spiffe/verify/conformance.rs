//! The clauses of the SPIFFE standards that bind a validator, each by its row in `conformance/spiffe.json`.
//!
//! They are written from the text of the standards, and go through the public [`Verifier`] with bundle documents
//! as a trust domain publishes them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bundle;
mod federation;
mod identifier;
mod jwt;
mod x509;

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::*;
use crate::Usage;
use crate::testing::{Authority, audience, leaf, unix_now};

const AUDIENCE: &str = "registry.td";

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "key", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "sub": "spiffe://td/a", "aud": [AUDIENCE], "iat": unix_now(), "exp": unix_now() + 300 })
}

/// `value` with `name` set, or removed where `to` is null.
fn with(mut value: Value, name: &str, to: Value) -> Value {
    let fields = value.as_object_mut().unwrap();
    if to.is_null() {
        fields.remove(name)
    } else {
        fields.insert(name.to_owned(), to)
    };
    value
}

/// The two elements of an authority's bundle document.
fn jwt_element(authority: &Authority) -> Value {
    with(authority.jwk(), "use", json!("jwt-svid"))
}

fn x509_element(certificate: &CertificateDer<'_>) -> Value {
    json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(certificate)] })
}

fn document(authority: &Authority) -> Value {
    json!({ "keys": [jwt_element(authority), x509_element(&authority.root)] })
}

fn verifier(authorities: &[&Authority]) -> Verifier {
    let documents = authorities
        .iter()
        .map(|authority| (authority.trust_domain.clone(), document(authority).to_string()));
    Verifier::new(documents).unwrap()
}

fn verifier_of(trust_domain: &str, keys: &Value) -> Verifier {
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    Verifier::new([(trust_domain, json!({ "keys": keys }).to_string())]).unwrap()
}

/// What becomes of a token that `authority` signed.
fn judge(authority: &Authority, header: &Value, claims: &Value) -> Result<VerifiedJwt, Refusal> {
    present(&verifier(&[authority]), &authority.sign(header, claims))
}

fn present(verifier: &Verifier, token: &str) -> Result<VerifiedJwt, Refusal> {
    verifier.verify_jwt(token, &audience(AUDIENCE), SystemTime::now())
}

/// What becomes of a certificate that `authority` issued.
fn judge_leaf(authority: &Authority, params: &CertificateParams) -> Result<SpiffeId, Refusal> {
    present_chain(&verifier(&[authority]), &authority.issue(params).0)
}

fn present_chain(verifier: &Verifier, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Refusal> {
    verifier.verify_x509(chain, Usage::Server, SystemTime::now())
}

/// A chain through one intermediate for each of `between`, from below the root to above the leaf.
fn chain_through(
    authority: &Authority,
    between: Vec<CertificateParams>,
    leaf: &CertificateParams,
) -> Vec<CertificateDer<'static>> {
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    let mut issuer: Option<Issuer<'static, KeyPair>> = None;
    for params in between {
        let (certificate, key) = issue(authority, issuer.as_ref(), &params);
        chain.insert(0, certificate);
        issuer = Some(Issuer::new(params, key));
    }
    chain.insert(0, issue(authority, issuer.as_ref(), leaf).0);
    chain
}

fn issue(
    authority: &Authority,
    issuer: Option<&Issuer<'static, KeyPair>>,
    params: &CertificateParams,
) -> (CertificateDer<'static>, KeyPair) {
    let Some(issuer) = issuer else {
        let (mut chain, key) = authority.issue(params);
        return (chain.remove(0), key);
    };
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().der().clone(), key)
}
