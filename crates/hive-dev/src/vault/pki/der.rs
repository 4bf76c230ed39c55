//! What rcgen does not write: PEM without a break at its end, keys in their oldest form, and two extensions.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::EcdsaKeyPair;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{CustomExtension, KeyPair};
use zeroize::Zeroizing;

use super::role::KeyKind;

const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
const AUTHORITY_INFORMATION: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 1];
/// `id-ad-ocsp` and `id-ad-caIssuers`, as they are encoded.
const OCSP: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
const CA_ISSUERS: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2];
/// Version 1, and the algorithm.
const VERSION_1_OF_ED25519: &[u8] = &[0x02, 1, 0, 0x30, 5, 0x06, 3, 0x2b, 0x65, 0x70];
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
/// `[6] IMPLICIT IA5String`: a URI among general names.
const URI: u8 = 0x86;

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned());
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----", lines.join("\n"))
}

/// The DER of the first block with this label.
pub(super) fn from_pem(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (_, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    BASE64_STANDARD.decode(body).ok()
}

/// A private key, with the label of its form: the old form of its kind, or PKCS #8 where that is asked for.
pub(super) fn private_key(
    key: &KeyPair,
    kind: KeyKind,
    is_pkcs8: bool,
) -> Option<(&'static str, Zeroizing<Vec<u8>>)> {
    let pkcs8 = Zeroizing::new(key.serialize_der());
    match kind {
        KeyKind::Ec(_) if !is_pkcs8 => {
            let pair = EcdsaKeyPair::from_pkcs8(kind.signing()?, &pkcs8).ok()?;
            let old: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().ok()?;
            Some(("EC PRIVATE KEY", Zeroizing::new(old.as_ref().to_vec())))
        }
        KeyKind::Rsa(_) if !is_pkcs8 => {
            Some(("RSA PRIVATE KEY", Zeroizing::new(inner_key(&pkcs8)?)))
        }
        KeyKind::Ed25519 => Some(("PRIVATE KEY", Zeroizing::new(without_public_key(&pkcs8)?))),
        _ => Some(("PRIVATE KEY", pkcs8)),
    }
}

/// PKCS #8 as it was before the public key could stand in it.
fn without_public_key(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let key = Zeroizing::new(encoded(OCTETS, &Zeroizing::new(inner_key(pkcs8)?)));
    Some(encoded(SEQUENCE, &Zeroizing::new([VERSION_1_OF_ED25519, &key].concat())))
}

/// PKCS #8 is a sequence of version, algorithm, and the old form as octets.
pub(in crate::vault) fn inner_key(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (_, content, _) = element(pkcs8)?;
    let (_, _, rest) = element(content)?;
    let (_, _, rest) = element(rest)?;
    let (tag, key, _) = element(rest)?;
    (tag == OCTETS).then(|| key.to_vec())
}

/// Tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let bytes = length.to_be_bytes();
    let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            der.push(0x80 | bytes.len() as u8);
            der.extend(bytes);
        }
    }
    der.extend(content);
    der
}

/// As RFC 5280 proposes: the SHA-1 of the public key.
pub(super) fn subject_key_identifier(public_key: &[u8]) -> CustomExtension {
    let id = encoded(OCTETS, digest(&SHA1_FOR_LEGACY_USE_ONLY, public_key).as_ref());
    CustomExtension::from_oid_content(SUBJECT_KEY_IDENTIFIER, id)
}

/// Where the authority's certificate and its OCSP servers are.
pub(super) fn authority_information(issuers: &[String], ocsp: &[String]) -> CustomExtension {
    let entry = |method: &[u8], url: &String| {
        encoded(SEQUENCE, &[method, &encoded(URI, url.as_bytes())].concat())
    };
    let issuers = issuers.iter().map(|url| entry(CA_ISSUERS, url));
    let all: Vec<u8> = ocsp.iter().map(|url| entry(OCSP, url)).chain(issuers).flatten().collect();
    CustomExtension::from_oid_content(AUTHORITY_INFORMATION, encoded(SEQUENCE, &all))
}
