//! X.509 bundles: by which certificates other workloads are known.

use std::collections::HashMap;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::Refusal;
use crate::spiffe::bundle::X509Bundle;
use crate::spiffe::id::{SpiffeId, TrustDomain};

/// Longer chains are refused before any signature is looked at; real ones have two or three certificates.
const CHAIN_MAX: usize = 16;

/// What a certificate is presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// By a client, or as a signature's origin.
    Client,
    /// By a server.
    Server,
}

/// The authorities of each trust domain. They are never pooled: a trust domain vouches for its own only.
#[derive(Debug, Default)]
pub(crate) struct X509Trust {
    anchors: HashMap<TrustDomain, Vec<TrustAnchor<'static>>>,
}

impl X509Trust {
    /// Takes over the authorities (DER certificates) of each trust domain. One that cannot be read is left
    /// out and reported, for the others are still good.
    pub(crate) fn new<'a>(bundles: impl IntoIterator<Item = (TrustDomain, Vec<&'a [u8]>)>) -> Self {
        let read = |(trust_domain, authorities): (TrustDomain, Vec<&[u8]>)| {
            let anchors =
                authorities.into_iter().filter_map(|der| anchor(&trust_domain, der)).collect();
            (trust_domain, anchors)
        };
        Self { anchors: bundles.into_iter().map(read).collect() }
    }

    pub(crate) fn of_bundles<'a>(bundles: impl IntoIterator<Item = &'a X509Bundle>) -> Self {
        Self::new(bundles.into_iter().map(|bundle| {
            let authorities = bundle.authorities.iter().map(AsRef::as_ref).collect();
            (bundle.trust_domain.clone(), authorities)
        }))
    }

    /// Whose certificate it is, if it chains to the bundle of the trust domain that it claims.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<SpiffeId, Refusal> {
        if intermediates.len() >= CHAIN_MAX {
            return Err(Refusal::Certificate { what: "its chain is too long" });
        }
        let spiffe_id = workload_id(leaf)?;
        let trust_domain = spiffe_id.trust_domain();
        let Some(anchors) = self.anchors.get(&trust_domain) else {
            return Err(Refusal::UnknownTrustDomain(trust_domain));
        };
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let untrusted = |error: webpki::Error| Refusal::Untrusted {
            spiffe_id: spiffe_id.clone(),
            reason: error.to_string(),
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(untrusted)?;
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(untrusted)?;
        // Key usage is not looked at by the path validation (RFC 5280 §6.1.4 n).
        for intermediate in path.intermediate_certificates() {
            may_sign(&intermediate.der())
                .map_err(|what| Refusal::Intermediate { spiffe_id: spiffe_id.clone(), what })?;
        }
        Ok(spiffe_id)
    }
}

/// The SPIFFE ID in a leaf certificate that has the profile of an X.509-SVID (X509-SVID.md §4 and §5.2).
pub(crate) fn workload_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
    let refuse = |what| Refusal::Certificate { what };
    let (rest, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| refuse("it is not a DER certificate"))?;
    if !rest.is_empty() {
        return Err(refuse("there are bytes after it"));
    }
    check_usage(&certificate).map_err(refuse)?;
    let uri = only_uri(&certificate).map_err(refuse)?;
    let spiffe_id = SpiffeId::parse(uri).map_err(|_| refuse("its URI is not a SPIFFE ID"))?;
    if spiffe_id.path().is_empty() {
        return Err(refuse(
            "its SPIFFE ID has no path, so it names a trust domain and not a workload",
        ));
    }
    Ok(spiffe_id)
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let constraints =
        certificate.basic_constraints().map_err(|_| "its basic constraints cannot be read")?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is the certificate of an authority");
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| "its key usage cannot be read")?
        .ok_or("it has no key usage")?;
    if !usage.critical {
        return Err("its key usage is not critical");
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err("its key may sign certificates or revocation lists");
    }
    if !usage.value.digital_signature() {
        return Err("its key may not make signatures");
    }
    Ok(())
}

/// The profile of a signing certificate (X509-SVID.md §4.1 and §4.3).
fn may_sign(der: &[u8]) -> Result<(), &'static str> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| "it is not a DER certificate")?;
    let constraints =
        certificate.basic_constraints().map_err(|_| "its basic constraints cannot be read")?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is not the certificate of an authority");
    }
    let usage = certificate.key_usage().map_err(|_| "its key usage cannot be read")?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err("its key usage lacks keyCertSign");
    }
    Ok(())
}

/// Whether a certificate may stand in a bundle.
pub(crate) fn check_authority(der: &[u8]) -> Result<(), &'static str> {
    may_sign(der)?;
    let anchor = anchor_from_trusted_cert(&CertificateDer::from(der)).map(drop);
    anchor.map_err(|_| "its certificate cannot be an authority's")
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, &'static str> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| "its subject alternative names cannot be read")?
        .ok_or("it has no subject alternative name")?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri),
        (None, _) => Err("it names no URI"),
        (Some(_), Some(_)) => Err("it names more than one URI"),
    }
}

fn anchor(trust_domain: &TrustDomain, der: &[u8]) -> Option<TrustAnchor<'static>> {
    let certificate = CertificateDer::from(der);
    let anchor = anchor_from_trusted_cert(&certificate).map(|anchor| anchor.to_owned());
    let anchor = anchor.map_err(|error| error.to_string());
    let anchor = may_sign(der).map_err(str::to_owned).and(anchor);
    anchor
        .inspect_err(|reason| {
            tracing::warn!(%trust_domain, reason, "an authority of a bundle cannot be used and is left out");
        })
        .ok()
}
