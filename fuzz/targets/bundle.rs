//! SPIFFE bundle documents of two trust domains: a token or chain is accepted only if the document of its own trust
//! domain publishes the key that signed it, for that use.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_fuzz::certificates::{GOOD, INTERMEDIATE, OTHER_ROOT, ROOT, public_key};
use hive_fuzz::rng::{Rng, give_back};
use hive_fuzz::tokens::{AUDIENCE, BUNDLE, OTHER_BUNDLE, SIGNED, TRIED, elements, publishes};
use hive_fuzz::{NOW, OTHER, TRUST_DOMAIN, at, json};
use hive_security::{Audience, Refusal, TrustDomain, Usage, Verifier};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

struct World {
    names: [TrustDomain; 2],
    audience: Audience,
    published: [Value; 2],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let read = |text| serde_json::from_str(text).expect("the fixture is JSON");
    World {
        names: [TRUST_DOMAIN, OTHER].map(|name| TrustDomain::parse(name).expect("it is a name")),
        audience: Audience::parse(AUDIENCE).expect("it is an audience"),
        published: [BUNDLE, OTHER_BUNDLE].map(read),
    }
});

// The document of the first trust domain, a zero, and that of the second.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let texts: [&[u8]; 2] = std::array::from_fn(|_| parts.next().unwrap_or(br#"{"keys":[]}"#));
    let verifier = match Verifier::new(WORLD.names.clone().into_iter().zip(texts)) {
        Ok(verifier) => verifier,
        Err(refusal) => return assert!(matches!(refusal, Refusal::Bundle { .. })),
    };
    let twice =
        Verifier::new([(WORLD.names[0].clone(), texts[0]), (WORLD.names[0].clone(), texts[1])]);
    assert!(twice.is_err(), "two bundles of one trust domain are merged");
    let documents = texts.map(elements);
    tokens(&verifier, &documents);
    chains(&verifier, &documents);
});

fn tokens(verifier: &Verifier, documents: &[Value; 2]) {
    let last_two = [SIGNED.len() - 2, SIGNED.len() - 1];
    for index in TRIED.into_iter().chain(last_two) {
        let (token, owner) = (SIGNED[index], usize::from(last_two.contains(&index)));
        if let Ok(verified) = verifier.verify_jwt_afresh(token, &WORLD.audience, at(NOW)) {
            assert_eq!(verified.spiffe_id().trust_domain(), WORLD.names[owner]);
            let is_published = publishes(&documents[owner], token, &WORLD.published[owner], true);
            assert!(is_published, "nobody published the key of {token}");
        }
    }
}

/// Certificates, DER.
type Certificates = &'static [&'static [u8]];

fn chains(verifier: &Verifier, documents: &[Value; 2]) {
    let chains: [(Certificates, Certificates, usize); 3] = [
        (&[GOOD[0].0], &[ROOT], 0),
        (&[GOOD[1].0, INTERMEDIATE], &[ROOT, INTERMEDIATE], 0),
        (&[GOOD[2].0], &[OTHER_ROOT], 1),
    ];
    for (chain, authorities, owner) in chains {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
        if let Ok(id) = verifier.verify_x509(&chain, Usage::Client, at(NOW)) {
            assert_eq!(id.trust_domain(), WORLD.names[owner]);
            assert!(
                is_authority(&documents[owner], authorities),
                "nobody published an authority of {id}"
            );
        }
    }
}

/// Whether an element for X.509-SVIDs has a certificate with the key of one of `authorities`.
fn is_authority(document: &Value, authorities: &[&[u8]]) -> bool {
    let holds = |key: &Value| {
        let first = key["x5c"][0].as_str().and_then(|text| STANDARD.decode(text).ok());
        key["use"] == "x509-svid"
            && first.is_some_and(|der| {
                authorities.iter().any(|authority| {
                    let wanted = public_key(authority);
                    der.windows(wanted.len()).any(|window| window == wanted)
                })
            })
    };
    document["keys"].as_array().is_some_and(|keys| keys.iter().any(holds))
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
