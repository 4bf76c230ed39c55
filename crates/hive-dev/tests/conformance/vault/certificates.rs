//! What certificates and lists of revoked ones say, without what is random in them.

use serde_json::{Map, Value, json};
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::OidRegistry;
use x509_parser::pem::Pem;
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, SubjectPublicKeyInfo, X509Certificate,
};

/// Seconds do not begin together on two servers.
const ROUNDED_TO_S: i64 = 10;

/// Of PEM, each block by what is in it; keys and requests by their label alone.
pub(crate) fn of_pem(text: &str) -> Option<Value> {
    let blocks: Result<Vec<_>, _> = Pem::iter_from_buffer(text.as_bytes()).collect();
    let blocks = blocks.ok().filter(|blocks| !blocks.is_empty())?;
    let mut blocks: Vec<_> = blocks
        .iter()
        .map(|block| {
            let label = block.label.as_str();
            of_der(&block.contents).unwrap_or_else(|| json!(format!("<{label}>")))
        })
        .collect();
    if blocks.len() == 1 { blocks.pop() } else { Some(Value::Array(blocks)) }
}

/// None: it is neither.
pub(crate) fn of_der(bytes: &[u8]) -> Option<Value> {
    if let Ok((_, certificate)) = X509Certificate::from_der(bytes) {
        return Some(certificate_shape(&certificate));
    }
    let (_, list) = CertificateRevocationList::from_der(bytes).ok()?;
    Some(list_shape(&list))
}

fn certificate_shape(certificate: &X509Certificate<'_>) -> Value {
    let (from, to) = (certificate.validity.not_before, certificate.validity.not_after);
    json!({
        "version": certificate.version.0,
        "signed with": certificate.signature_algorithm.algorithm.to_id_string(),
        "issuer": certificate.issuer.to_string(),
        "subject": certificate.subject.to_string(),
        "lifetime": rounded(to.timestamp() - from.timestamp()),
        "key": key_shape(certificate.public_key()),
        "extensions": extensions_shape(certificate.extensions()),
    })
}

fn list_shape(list: &CertificateRevocationList<'_>) -> Value {
    let next = list.next_update().map(|at| at.timestamp() - list.last_update().timestamp());
    let revoked: Vec<_> =
        list.iter_revoked_certificates().map(|one| extensions_shape(one.extensions())).collect();
    json!({
        "version": list.version().map(|version| version.0),
        "signed with": list.signature_algorithm.algorithm.to_id_string(),
        "issuer": list.issuer().to_string(),
        "next": next.map(rounded),
        "revoked": revoked,
        "extensions": extensions_shape(list.extensions()),
    })
}

fn key_shape(key: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
    let bits = key.subject_public_key.data.len() * 8;
    format!("{} {curve} {bits}", key.algorithm.algorithm.to_id_string())
}

fn extensions_shape(extensions: &[X509Extension<'_>]) -> Value {
    let names = OidRegistry::default().with_x509();
    let shape = |extension: &X509Extension<'_>| {
        let oid = extension.oid.to_id_string();
        let name = names.get(&extension.oid).map_or(oid, |entry| entry.sn().to_owned());
        let text = match extension.parsed_extension() {
            // A number that each server counts by itself, and hashes of keys.
            ParsedExtension::CRLNumber(_) => "a number".to_owned(),
            ParsedExtension::SubjectKeyIdentifier(id) => format!("{} bytes", id.0.len()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let length = id.key_identifier.as_ref().map(|id| id.0.len());
                let issuer = id.authority_cert_issuer.is_some();
                format!("{length:?} bytes, with the issuer: {issuer}")
            }
            other => format!("{other:?}"),
        };
        (name, json!({ "critical": extension.critical, "says": text }))
    };
    Value::Object(extensions.iter().map(shape).collect::<Map<_, _>>())
}

fn rounded(seconds: i64) -> i64 {
    (seconds + ROUNDED_TO_S / 2) / ROUNDED_TO_S * ROUNDED_TO_S
}
