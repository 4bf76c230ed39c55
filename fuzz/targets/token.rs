//! JWT-SVIDs: only what was signed is ever accepted, and only for its audience and in its time.

#![no_main]

use std::sync::LazyLock;

use hive_fuzz::rng::{Rng, give_back};
use hive_fuzz::tokens::{self, AUDIENCE, BUNDLE, OTHER_BUNDLE, SIGNED, SIGNING_INPUTS, Signer};
use hive_fuzz::{NOW, OTHER, TIMES, TRUST_DOMAIN, at, json, take};
use hive_security::{Audience, TrustDomain, VerifiedJwt, Verifier};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::Value;

/// The trust domain whose keys this process has.
const LIVE: &str = "live";

/// What verifiers grant to clocks that differ.
const LEEWAY_S: f64 = 30.0;

/// Kind, time and audience, and four choices; then the parts, each ended by a zero.
const HEAD: usize = 7;

struct World {
    signer: Signer,
    verifier: Verifier,
    audiences: [Audience; 3],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let signer = Signer::generate();
    let bundles = [(TRUST_DOMAIN, BUNDLE), (OTHER, OTHER_BUNDLE), (LIVE, &signer.bundle())];
    let bundles = bundles.map(|(name, document)| {
        (TrustDomain::parse(name).expect("it is a name"), document.to_owned())
    });
    let audience = |text| Audience::parse(text).expect("it is an audience");
    World {
        verifier: Verifier::new(bundles).expect("the fixtures are bundles"),
        signer,
        audiences: [AUDIENCE, "a", "elsewhere"].map(audience),
    }
});

fuzz_target!(init: { LazyLock::force(&WORLD); }, |input: &[u8]| {
    let mut input = input;
    let kind = take(&mut input) % 3;
    let seconds = TIMES[take(&mut input) % TIMES.len()];
    let audience = &WORLD.audiences[[0, 0, 0, 1, 2][take(&mut input) % 5]];
    let choices: [usize; 4] = std::array::from_fn(|_| take(&mut input));
    let token = match kind {
        0 => std::str::from_utf8(input).ok().map(str::to_owned),
        1 => Some(spliced(choices, input)),
        _ => Some(signed_here(choices, input)),
    };
    let Some(token) = token else { return };
    judge(&token, audience, seconds, kind == 2);
});

/// Header, payload and signature of issued tokens, or of the input where it has them.
fn spliced([header, payload, signature, joint]: [usize; 4], input: &[u8]) -> String {
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let mut text = |donor: usize, index: usize| match parts.next() {
        Some(part) if !part.is_empty() => tokens::encode(part),
        _ => SIGNED[donor % SIGNED.len()].split('.').nth(index).unwrap_or_default().to_owned(),
    };
    let (header, payload) = (text(header, 0), text(payload, 1));
    let mut bytes = tokens::part(signature, 2);
    for (byte, change) in bytes.iter_mut().zip(parts.next().unwrap_or_default()) {
        *byte ^= change;
    }
    let signature = tokens::encode(&bytes);
    match joint % 16 {
        8 => format!("{header}.{payload}.{signature}="),
        9 => format!("{header}.{payload}.{signature}\n"),
        10 => format!("{header}.{payload}.{signature}.{signature}"),
        11 => format!("{header}..{payload}.{signature}"),
        12 => format!("{header}.{payload}."),
        13 => format!("{header}=.{payload}.{signature}"),
        14 => format!(" {header}.{payload}.{signature}"),
        15 => format!("{header}.{payload}.{}A", &signature[..signature.len().saturating_sub(1)]),
        _ => format!("{header}.{payload}.{signature}"),
    }
}

/// Header and payload of the input, whatever they are, with a signature that is genuine.
fn signed_here([key, ..]: [usize; 4], input: &[u8]) -> String {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let mut text = || tokens::encode(parts.next().unwrap_or_default());
    let (header, payload) = (text(), text());
    WORLD.signer.sign(key, &format!("{header}.{payload}"))
}

/// Judged first when most tokens are good, so that the memory holds something by the time that counts.
fn judge(token: &str, audience: &Audience, seconds: u64, is_signed_here: bool) {
    let verifier = &WORLD.verifier;
    for moment in [NOW, seconds, seconds] {
        let judgement = verifier.verify_jwt_afresh(token, audience, at(moment));
        let remembered = verifier.verify_jwt(token, audience, at(moment));
        assert_eq!(remembered, judgement, "the memory judges otherwise");
        match judgement {
            Ok(verified) => check(&verified, token, audience, moment, is_signed_here),
            Err(refusal) => {
                let message = refusal.to_string();
                assert!(message.len() < 512, "a refusal is a sentence");
                assert!(
                    token.matches('.').count() < 2 || !message.contains(token),
                    "a refusal repeats the token"
                );
            }
        }
    }
}

/// Everything that an accepted token must have been, by another reader.
fn check(
    verified: &VerifiedJwt,
    token: &str,
    audience: &Audience,
    seconds: u64,
    is_signed_here: bool,
) {
    let (signed, _) = token.rsplit_once('.').expect("an accepted token has parts");
    assert!(is_signed_here || SIGNING_INPUTS.contains(signed), "it was never signed: {token}");
    let (header, payload) = signed.split_once('.').expect("an accepted token has three parts");
    let (header, claims) = (tokens::header(header), tokens::claims(payload));
    assert_eq!(
        claims.sub.to_ascii_lowercase(),
        verified.spiffe_id().to_string().to_ascii_lowercase()
    );
    assert_eq!(verified.spiffe_id().trust_domain().as_str() == LIVE, is_signed_here);
    let is_meant = |text: &Value| text == audience.as_str();
    let several = claims.aud.as_array();
    assert!(several.map_or_else(|| is_meant(&claims.aud), |several| several.iter().any(is_meant)));
    let now = seconds as f64;
    assert!(claims.exp.floor() + LEEWAY_S > now, "it has expired");
    assert!(claims.nbf.is_none_or(|nbf| nbf.floor() - LEEWAY_S <= now), "its time is to come");
    let header = header.as_object().expect("it is an object");
    assert!(header.keys().all(|name| matches!(name.as_str(), "alg" | "kid" | "typ")));
    assert!(header.get("typ").is_none_or(|typ| typ == "JWT" || typ == "JOSE"));
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = Rng::new(seed);
    if size < HEAD || data[0].is_multiple_of(3) || rng.below(3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let input = data[HEAD..size].to_vec();
    let mut parts: Vec<Vec<u8>> = input.splitn(3, |byte| *byte == 0).map(<[u8]>::to_vec).collect();
    parts.resize(3, Vec::new());
    let (at, donor) = (rng.below(2), rng.below(SIGNED.len()));
    match rng.below(8) {
        0 => parts[at] = tokens::part(donor, at),
        1 => data[rng.below(HEAD)] = rng.below(256) as u8,
        2 if parts[2].is_empty() => parts[2] = vec![0; rng.below(140)],
        2 => {
            let index = rng.below(parts[2].len());
            parts[2][index] ^= 1 << rng.below(8);
        }
        _ => parts[at] = json::mutate(&parts[at], &tokens::part(donor, at), &mut rng),
    }
    let mut result = data[..HEAD].to_vec();
    result.extend(parts.join(&0));
    give_back(&result, data, max_size)
});
