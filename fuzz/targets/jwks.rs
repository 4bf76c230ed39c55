//! JWT bundles as the Workload API sends them: no key verifies a token but the one that signed it.

#![no_main]

use std::sync::LazyLock;

use hive_fuzz::rng::{Rng, give_back};
use hive_fuzz::tokens::{AUDIENCE, BUNDLE, OTHER_BUNDLE, SIGNED, TRIED, publishes};
use hive_fuzz::{NOW, TRUST_DOMAIN, at, json};
use hive_security::fuzzing::{jwt_bundles, verify_jwt};
use hive_security::{Audience, JwtBundle, TrustDomain};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::Value;

static NAME: LazyLock<TrustDomain> =
    LazyLock::new(|| TrustDomain::parse(TRUST_DOMAIN).expect("it is a name"));
static WHO: LazyLock<Audience> =
    LazyLock::new(|| Audience::parse(AUDIENCE).expect("it is an audience"));
static PUBLISHED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(BUNDLE).expect("the fixture is JSON"));

fuzz_target!(|input: &[u8]| {
    let Some(bundles) = jwt_bundles(&NAME, input) else { return };
    let document: Value = serde_json::from_slice(input).expect("what was read is JSON");
    for index in TRIED {
        let token = SIGNED[index];
        if let Ok(verified) = verify_jwt(&bundles, token, &WHO, at(NOW)) {
            assert!(
                publishes(&document, token, &PUBLISHED, false),
                "nobody published the key of {token}"
            );
            assert_eq!(verified.spiffe_id().to_string(), "spiffe://td/workload");
        }
    }
    let bundle = bundles.bundle(&NAME).expect("it is the only one");
    again(bundle);
});

/// What is published for others says the same.
fn again(bundle: &JwtBundle) {
    let jwks = bundle.to_jwks();
    let bundles = jwt_bundles(&NAME, jwks.as_bytes()).expect("what is published can be read");
    let names = |bundle: &JwtBundle| {
        let mut names: Vec<String> = bundle.key_ids().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(bundles.bundle(&NAME).map(names), Some(names(bundle)));
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = Rng::new(seed);
    if rng.below(3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let donor = *rng.pick(&[BUNDLE, OTHER_BUNDLE]);
    let result = json::mutate(&data[..size], donor.as_bytes(), &mut rng);
    give_back(&result, data, max_size)
});
