//! Spoils JSON where it matters: whole members and values, besides the single bytes that the fuzzer changes.

use crate::rng::Rng;

/// Values that are odd somewhere.
const VALUES: [&str; 30] = [
    "null",
    "true",
    "0",
    "-1",
    "1e309",
    "2000000000",
    "1999999970.5",
    "18446744073709551616",
    "9e15",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"td\"",
    "\"audience\"",
    "[\"audience\"]",
    "[\"a\",\"audience\"]",
    "\"spiffe://td/a\"",
    "\"spiffe://other/a\"",
    "\"spiffe://td\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"ES256\"",
    "\"RS256\"",
    "\"none\"",
    "\"es256\"",
    "\"rsa\"",
    "\"jwt-svid\"",
    "\"x509-svid\"",
    "\"AQAB\"",
];

/// Names that a header, a claim set, a key or a bundle has.
const NAMES: [&str; 30] = [
    "alg",
    "kid",
    "typ",
    "crit",
    "b64",
    "jwk",
    "aud",
    "sub",
    "exp",
    "nbf",
    "iat",
    "keys",
    "use",
    "kty",
    "crv",
    "x",
    "y",
    "n",
    "e",
    "x5c",
    "key_ops",
    "d",
    "k",
    "iss",
    "jti",
    "spiffe_sequence",
    "spiffe_refresh_hint",
    "oth",
    "x5t",
    "trust_domains",
];

/// One structural change of `text`, which need not be JSON; `donor` is another such text.
pub fn mutate(text: &[u8], donor: &[u8], rng: &mut Rng) -> Vec<u8> {
    let (from, to) = value(text, rng);
    let mut result = text[..from].to_vec();
    match rng.below(6) {
        0 => result.extend_from_slice(rng.pick(&VALUES).as_bytes()),
        1 => {
            let (from, to) = value(donor, rng);
            result.extend_from_slice(&donor[from..to]);
        }
        2 => {
            result.extend_from_slice(&text[from..to]);
            result.extend_from_slice(b",\"");
            result.extend_from_slice(rng.pick(&NAMES).as_bytes());
            result.extend_from_slice(b"\":");
            result.extend_from_slice(rng.pick(&VALUES).as_bytes());
        }
        3 => result.extend_from_slice(rng.pick(&["", " ", "\n", ",", "\u{feff}"]).as_bytes()),
        4 => {
            // A list of many, for whatever is counted.
            let repeated = vec![&text[from..to]; 1 + rng.below(40)];
            result.extend_from_slice(&repeated.join(&b','));
        }
        _ => {
            result.push(b'"');
            result.extend_from_slice(rng.pick(&NAMES).as_bytes());
            result.push(b'"');
        }
    }
    result.extend_from_slice(&text[to..]);
    result
}

/// Where some value, or name, or run between signs begins and ends.
fn value(text: &[u8], rng: &mut Rng) -> (usize, usize) {
    let is_sign = |byte: &u8| b",:{}[]".contains(byte);
    let start = rng.below(text.len() + 1);
    let from = text[..start].iter().rposition(is_sign).map_or(0, |at| at + 1);
    let to = text[start..].iter().position(is_sign).map_or(text.len(), |at| start + at);
    (from.min(to), to)
}
