//! Wycheproof's vectors, through our own reading of keys and tokens; where they come from and which they are is in
//! `tests/wycheproof/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::token::Token;
use crate::spiffe::keys::{Algorithm, Key};

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

/// Vectors of one key.
#[derive(Deserialize)]
struct Group {
    key: Value,
    #[serde(default)]
    sha: String,
    #[serde(default)]
    mgf: String,
    #[serde(rename = "mgfSha", default)]
    mgf_sha: String,
    #[serde(rename = "sLen", default)]
    salt_bytes: usize,
    tests: Vec<Test>,
}

/// Number, result and comment; then a token, or a message and its signature in base64url.
#[derive(Deserialize)]
struct Test(u32, String, String, String, #[serde(default)] String);

/// How the vectors of a test went.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    accepted: usize,
    refused: usize,
    /// Not used, or judged otherwise than by Wycheproof, and by which rule.
    otherwise: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn add(&mut self, is_accepted: bool) {
        *(if is_accepted { &mut self.accepted } else { &mut self.refused }) += 1;
    }

    fn add_otherwise(&mut self, rule: &'static str) {
        *self.otherwise.entry(rule).or_default() += 1;
    }
}

fn groups(name: &str) -> Vec<Group> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wycheproof");
    let path = folder.join(format!("{name}_test.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str::<File>(&text).unwrap().groups
}

fn key(group: &Group) -> Result<Key, &'static str> {
    Key::from_jwk(group.key.to_string().as_bytes())
}

fn verifies(key: &Key, algorithm: Algorithm, Test(_, _, _, message, signature): &Test) -> bool {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    key.verifies(algorithm, &decode(message), &decode(signature))
}

/// The algorithm of this prefix, for the hash of the group; `None` if JWT-SVIDs have none for it.
fn algorithm(prefix: &str, group: &Group) -> Option<Algorithm> {
    Algorithm::parse(&format!("{prefix}{}", group.sha.strip_prefix("SHA-")?))
}

#[test]
fn every_ecdsa_vector_is_judged_as_wycheproof_does() {
    let mut tally = Tally::default();
    for name in ["secp256r1_sha256", "secp384r1_sha384", "secp521r1_sha512"] {
        for group in groups(&format!("ecdsa_{name}_p1363")) {
            let (key, algorithm) = (key(&group).unwrap(), algorithm("ES", &group).unwrap());
            for test in &group.tests {
                let accepted = verifies(&key, algorithm, test);
                assert_eq!(accepted, test.1 == "valid", "{name} {}: {}", test.0, test.2);
                tally.add(accepted);
            }
        }
    }
    println!("ECDSA: {tally:?}");
    assert_eq!((tally.accepted, tally.refused), (597, 263));
}

#[test]
fn every_rsa_pkcs1_vector_is_judged_as_wycheproof_does() {
    let mut tally = Tally::default();
    for bits in [2048, 3072, 4096, 8192] {
        for hash in [256, 384, 512] {
            for group in groups(&format!("rsa_signature_{bits}_sha{hash}")) {
                let (key, algorithm) = (key(&group).unwrap(), algorithm("RS", &group).unwrap());
                for test in &group.tests {
                    let accepted = verifies(&key, algorithm, test);
                    // "Acceptable" is a digest without its NULL, which RFC 8017 §9.2 does not let a verifier accept.
                    assert_eq!(accepted, test.1 == "valid", "{bits} {hash} {}: {}", test.0, test.2);
                    tally.add(accepted);
                }
            }
        }
    }
    println!("RSA PKCS #1 v1.5: {tally:?}");
    assert_eq!((tally.accepted, tally.refused), (89, 3017));
}

/// RFC 7518 §3.5: the hash is also that of the mask, and the salt is as long as it.
const SALT: &str = "the salt is not as long as the hash, so it is refused";
const CHANGED_TO_OURS: &str = "the salt was changed to be as long as the hash, so it is accepted";
const MASK: &str =
    "the mask has another hash or function than the message, so there is no algorithm for it";
const HASH: &str = "the hash is not one that JWT-SVIDs use, so there is no algorithm for it";

#[test]
fn every_rsa_pss_vector_is_judged_as_wycheproof_does_unless_jws_has_a_rule_against_it() {
    let files = [
        "2048_sha256_mgf1_0",
        "2048_sha256_mgf1_32",
        "2048_sha384_mgf1_48",
        "3072_sha256_mgf1_32",
        "4096_sha256_mgf1_32",
        "4096_sha384_mgf1_48",
        "4096_sha512_mgf1_32",
        "4096_sha512_mgf1_64",
        "misc",
    ];
    let mut tally = Tally::default();
    for name in files {
        for group in groups(&format!("rsa_pss_{name}")) {
            for test in &group.tests {
                judge_pss(&group, test, &mut tally)
                    .unwrap_or_else(|| panic!("{name} {}: {}", test.0, test.2));
            }
        }
    }
    println!("RSA PSS: {tally:?}");
    assert_eq!((tally.accepted, tally.refused), (514, 274));
    let counts = [HASH, MASK, SALT, CHANGED_TO_OURS].map(|rule| tally.otherwise[rule]);
    assert_eq!(counts, [60, 72, 294, 1]);
}

/// `None` if it is judged wrong.
fn judge_pss(group: &Group, test: &Test, tally: &mut Tally) -> Option<()> {
    let Some(algorithm) = algorithm("PS", group) else {
        tally.add_otherwise(HASH);
        return Some(());
    };
    if group.mgf != "MGF1" || group.mgf_sha != group.sha {
        tally.add_otherwise(MASK);
        return Some(());
    }
    let key = key(group).ok()?;
    let accepted = verifies(&key, algorithm, test);
    if format!("SHA-{}", group.salt_bytes * 8) == group.sha {
        tally.add(accepted);
        return (accepted == (test.1 == "valid")).then_some(());
    }
    // Wycheproof's verifier was told another length, so what it calls changed may be what JWS asks for.
    let has_salt =
        test.2 == format!("s_len changed to {}", group.sha[4..].parse::<usize>().ok()? / 8);
    tally.add_otherwise(if has_salt { CHANGED_TO_OURS } else { SALT });
    (accepted == has_salt).then_some(())
}

const SYMMETRIC: &str = "the key is symmetric, and there is none of those in a bundle";

/// Where we judge otherwise, by the vector's name: what JWS calls valid and a JWT-SVID cannot be, and one key.
const OTHERWISE: [(&str, &str); 4] = [
    ("emptyPayload", "a payload without claims is no JWT-SVID's, so it is refused"),
    ("Figure20", "the key says PS256 and the token PS384 (RFC 7517 §4.4), so it is refused"),
    ("Figure27", "the key says ES521, which no standard knows, so it is refused"),
    (
        "rejectsKeyWithRocaVulnerability",
        "how a trust domain makes its keys is its own concern: a weak one is not told from others, so it is accepted",
    ),
];

/// Everything that the verifier does with a token before it looks at claims.
fn accepts(group: &Group, jws: &str) -> Result<(), String> {
    let keys: Vec<Key> = match group.key.get("keys").and_then(Value::as_array) {
        Some(several) => several
            .iter()
            .filter_map(|jwk| Key::from_jwk(jwk.to_string().as_bytes()).ok())
            .collect(),
        None => vec![key(group)?],
    };
    let token = Token::split(jws).map_err(|refusal| refusal.to_string())?;
    let header = token.header().map_err(|refusal| refusal.to_string())?;
    let named = |key: &&Key| header.kid.is_none() || key.kid.as_deref() == header.kid.as_deref();
    let mut candidates = keys.iter().filter(named);
    let verifies =
        |key: &Key| key.verifies(header.algorithm, token.signed.as_bytes(), token.signature());
    if candidates.any(verifies) { Ok(()) } else { Err("no key".to_owned()) }
}

#[test]
fn every_json_web_signature_is_judged_as_wycheproof_does_unless_a_rule_says_otherwise() {
    let mut tally = Tally::default();
    for file in ["json_web_signature", "json_web_key"] {
        for group in groups(file) {
            for test in &group.tests {
                judge_jws(&group, test, &mut tally)
                    .unwrap_or_else(|| panic!("{file} {}: {}", test.0, test.2));
            }
        }
    }
    println!("JWS and JWK: {tally:?}");
    assert_eq!((tally.accepted, tally.refused), (27, 334));
    let counts: Vec<usize> = tally.otherwise.values().copied().collect();
    assert_eq!(counts.iter().sum::<usize>(), 66, "{counts:?}");
}

/// `None` if it is judged wrong.
fn judge_jws(group: &Group, test: &Test, tally: &mut Tally) -> Option<()> {
    if group.key.is_null() {
        tally.add_otherwise(SYMMETRIC);
        return Some(());
    }
    let accepted = accepts(group, &test.3).is_ok();
    if accepted == (test.1 == "valid") {
        tally.add(accepted);
        return Some(());
    }
    let (_, rule) = OTHERWISE.into_iter().find(|(name, _)| *name == test.2)?;
    tally.add_otherwise(rule);
    Some(())
}
