//! What a caller must show to be believed.

use http::Extensions;
use http::header::{AUTHORIZATION, HeaderMap};

use super::peer::{How, Peer, PeerCertificate, VerifiedCertificate};
use crate::spiffe::verify::LEEWAY;
use crate::{Audience, VerifiedJwt, Workload};

/// What a caller must show to be believed. There is no default: each server says it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Proof {
    /// An X.509-SVID in the handshake **and** a JWT-SVID for this audience with the call, both naming the
    /// same SPIFFE ID. Neither a stolen token nor a hijacked connection is enough.
    Both(Audience),
    /// Weaker: only the X.509-SVID of the handshake. Whoever can write to the connection is the caller, so
    /// nothing that pools or forwards connections of several callers may stand in between.
    DangerCertificateOnly,
    /// Weaker: only a JWT-SVID for this audience. Whoever holds the token is the caller until it expires.
    /// For servers behind something that ends TLS.
    DangerTokenOnly(Audience),
}

impl Proof {
    /// Who calls, or a sentence that says what is missing. The sentence never repeats a token.
    pub(super) fn check(
        &self,
        workload: &Workload,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Peer, String> {
        match self {
            Self::Both(audience) => {
                let certificate = certificate(extensions)?;
                let jwt = verified(workload, bearer(headers)?, audience)?;
                agreed(certificate, &jwt)
            }
            Self::DangerCertificateOnly => {
                let VerifiedCertificate { spiffe_id, expires_at } =
                    certificate(extensions)?.clone();
                Ok(Peer { spiffe_id, how: How::Certificate, expires_at })
            }
            Self::DangerTokenOnly(audience) => {
                let jwt = verified(workload, bearer(headers)?, audience)?;
                let (spiffe_id, expires_at) = (jwt.spiffe_id().clone(), accepted_until(&jwt));
                Ok(Peer { spiffe_id, how: How::Token, expires_at })
            }
        }
    }
}

fn certificate(extensions: &Extensions) -> Result<&VerifiedCertificate, String> {
    let seen = extensions.get::<PeerCertificate>();
    seen.and_then(|seen| seen.0.as_ref())
        .ok_or_else(|| "the connection presented no X.509-SVID".to_owned())
}

fn verified(workload: &Workload, token: &str, audience: &Audience) -> Result<VerifiedJwt, String> {
    workload
        .verify_jwt(token, audience)
        .map_err(|refusal| format!("the JWT-SVID was refused: {refusal}"))
}

fn agreed(certificate: &VerifiedCertificate, jwt: &VerifiedJwt) -> Result<Peer, String> {
    let VerifiedCertificate { spiffe_id, expires_at } = certificate;
    if jwt.spiffe_id() != spiffe_id {
        return Err(format!(
            "the JWT-SVID is of {}, but the connection's X.509-SVID is of {spiffe_id}",
            jwt.spiffe_id()
        ));
    }
    let expires_at = accepted_until(jwt).min(*expires_at);
    Ok(Peer { spiffe_id: spiffe_id.clone(), how: How::Both, expires_at })
}

/// A new call with the token would be accepted as long, so a stream that has begun is too.
fn accepted_until(jwt: &VerifiedJwt) -> std::time::SystemTime {
    jwt.expires_at().checked_add(LEEWAY).unwrap_or_else(|| jwt.expires_at())
}

/// The token of the one `authorization` header; several of them would leave open which one counts.
fn bearer(headers: &HeaderMap) -> Result<&str, String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value =
        values.next().ok_or("the call carries no JWT-SVID (metadata authorization: Bearer …)")?;
    if values.next().is_some() {
        return Err("the call carries more than one authorization".to_owned());
    }
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or("the authorization is not of the form Bearer <JWT-SVID>")?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("the authorization is not of the form Bearer <JWT-SVID>".to_owned());
    }
    Ok(token)
}
