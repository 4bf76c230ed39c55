//! Signed payloads: DSSE (Dead Simple Signing Envelope) with the key of an X.509-SVID.
//!
//! There is one algorithm for each kind of key, so an envelope names none and none can be chosen for it:
//! ECDSA with SHA-256 on P-256, SHA-384 on P-384, SHA-512 on P-521; RSASSA-PSS with SHA-256 for RSA.

use rustls::SignatureScheme;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::EndEntityCert;

use crate::spiffe::svid::X509Svid;
use crate::spiffe::trust::Usage;
use crate::{Error, IdPattern, Refusal, SpiffeId, Workload};

const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
];

/// The same algorithms; each takes keys of its own kind only.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 4] = [
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ECDSA_P521_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// A payload, who signed it, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is, such as `application/vnd.neural-hive.ticket+proto`.
    pub payload_type: String,
    /// The bytes that were signed.
    pub payload: Vec<u8>,
    /// The signer's X.509-SVID, DER, leaf first.
    pub certificate_chain: Vec<Vec<u8>>,
    /// The signature over the pre-authentication encoding of type and payload.
    pub signature: Vec<u8>,
}

pub(crate) fn sign(svid: &X509Svid, payload_type: &str, payload: &[u8]) -> Result<Envelope, Error> {
    let unusable = |reason: String| Error::UnusableSvid { reason };
    let signer = svid
        .certified
        .key
        .choose_scheme(&SCHEMES)
        .ok_or_else(|| unusable("its key makes no signature that is used here".to_owned()))?;
    let signature = signer
        .sign(&pre_authentication_encoding(payload_type, payload))
        .map_err(|error| unusable(error.to_string()))?;
    Ok(Envelope {
        payload_type: payload_type.to_owned(),
        payload: payload.to_vec(),
        certificate_chain: svid.certificate_chain().iter().map(|der| der.to_vec()).collect(),
        signature,
    })
}

pub(crate) fn open(
    workload: &Workload,
    envelope: &Envelope,
    payload_type: &str,
    from: &IdPattern,
) -> Result<SpiffeId, Refusal> {
    if envelope.payload_type != payload_type {
        return Err(Refusal::PayloadType { expected: payload_type.to_owned() });
    }
    let chain: Vec<CertificateDer<'_>> =
        envelope.certificate_chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Refusal::Certificate { what: "the envelope holds none" });
    };
    let signer =
        workload.verify_certificate(leaf, intermediates, Usage::Client, UnixTime::now())?;
    verify_signature(leaf, envelope)?;
    if !from.matches(&signer) {
        return Err(Refusal::UnexpectedIdentity { expected: from.clone(), seen: signer });
    }
    Ok(signer)
}

fn verify_signature(leaf: &CertificateDer<'_>, envelope: &Envelope) -> Result<(), Refusal> {
    let signed = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let certificate = EndEntityCert::try_from(leaf)
        .map_err(|_| Refusal::Certificate { what: "it cannot be read" })?;
    let verifies = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        certificate.verify_signature(*algorithm, &signed, &envelope.signature).is_ok()
    };
    if ALGORITHMS.iter().any(verifies) { Ok(()) } else { Err(Refusal::Signature) }
}

/// The bytes that are signed: with both lengths, so no payload can be read as part of a type.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut encoded =
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

#[cfg(test)]
mod tests;
