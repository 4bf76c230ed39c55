//! Hashes by the names that the API has for them, and random bytes.

use aws_lc_rs::digest::{self, SHA3_256, SHA3_384, SHA3_512, SHA224, SHA256, SHA384, SHA512};
use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;

use super::key::random as random_bytes;
use super::{Body, Fault, Reply, decoded};
use crate::vault::fields;

const RANDOM_BYTES: i64 = 32;
const RANDOM_MAX: i64 = 128 * 1024;

/// A hash; None where there is no such.
pub(super) fn algorithm(name: &str) -> Option<&'static digest::Algorithm> {
    Some(match name {
        "sha1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "sha2-224" => &SHA224,
        "sha2-256" => &SHA256,
        "sha2-384" => &SHA384,
        "sha2-512" => &SHA512,
        "sha3-256" => &SHA3_256,
        "sha3-384" => &SHA3_384,
        "sha3-512" => &SHA3_512,
        _ => return None,
    })
}

/// A hash that an HMAC is made with.
pub(super) fn hmac_algorithm(name: &str) -> Option<hmac::Algorithm> {
    Some(match name {
        "sha2-224" => hmac::HMAC_SHA224,
        "sha2-256" => hmac::HMAC_SHA256,
        "sha2-384" => hmac::HMAC_SHA384,
        "sha2-512" => hmac::HMAC_SHA512,
        _ => return None,
    })
}

/// `hash` and `hash/<algorithm>`
pub(super) fn hash(in_path: Option<&str>, body: &Body) -> Result<Reply, Fault> {
    let refused = |text: String| Fault::new(400, text);
    let input = fields::text(body, "input").ok_or_else(|| refused("input missing".into()))?;
    let name = in_path.or_else(|| fields::text(body, "algorithm")).unwrap_or("sha2-256");
    let format =
        format(body, "hex", "unsupported encoding format %; must be \"hex\" or \"base64\"")?;
    let input = decoded(input)
        .map_err(|why| refused(format!("unable to decode input as base64: {why}")))?;
    let known = algorithm(name).filter(|_| name != "sha1");
    let known = known.ok_or_else(|| refused(format!("unsupported algorithm {name}")))?;
    let sum = digest::digest(known, &input);
    Ok(Reply::data(json!({ "sum": format(sum.as_ref()) })))
}

/// `random`, `random/<bytes>`, `random/<source>` and `random/<source>/<bytes>`
pub(super) fn random(path: &[&str], body: &Body) -> Result<Reply, Fault> {
    let refused = |text: String| Fault::new(400, text);
    let in_path = match path {
        [] | ["all" | "platform" | "seal"] => None,
        ["all" | "platform" | "seal", bytes] | [bytes] => Some(*bytes),
        _ => return Err(Fault::unsupported_path()),
    };
    let bytes = match in_path {
        Some(text) => text.parse().map_err(|_| {
            refused(format!(
                "error parsing url-set byte count: strconv.Atoi: parsing {text:?}: invalid syntax"
            ))
        })?,
        None => fields::number(body, "bytes")?.unwrap_or(RANDOM_BYTES),
    };
    if bytes < 1 {
        return Err(refused("'bytes' cannot be less than 1".into()));
    }
    if bytes > RANDOM_MAX {
        return Err(refused(format!("'bytes' should be less than {RANDOM_MAX}")));
    }
    let text = "unsupported encoding format \"%\"; must be \"hex\" or \"base64\"";
    let format = format(body, "base64", text)?;
    let bytes = random_bytes(usize::try_from(bytes).unwrap_or_default());
    Ok(Reply::data(json!({ "random_bytes": format(&bytes) })))
}

fn format(body: &Body, usual: &str, refusal: &str) -> Result<fn(&[u8]) -> String, Fault> {
    match fields::text(body, "format").unwrap_or(usual) {
        "base64" => Ok(|bytes| BASE64_STANDARD.encode(bytes)),
        "hex" => Ok(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        other => Err(Fault::new(400, refusal.replacen('%', other, 1))),
    }
}
