//! X.509-SVIDs: a chain is accepted only if its leaf was issued, and an issued leaf only if it is an X.509-SVID.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_fuzz::certificates::{
    self, ALL, GOOD, OTHER_ROOT, ROOT, children, element, join, public_key, split, wrap,
};
use hive_fuzz::rng::{Rng, give_back};
use hive_fuzz::{OTHER, TIMES, TRUST_DOMAIN, at, take};
use hive_security::fuzzing::x509_material;
use hive_security::{SpiffeId, TrustDomain, Usage, Verifier};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;

/// Kind, time and usage.
const HEAD: usize = 3;

struct World {
    key: rcgen::KeyPair,
    verifier: Verifier,
}

/// The authority of the first trust domain has a second certificate here, with a key that this process has.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .expect("the kernel has random numbers");
    let live_root = replace_key(ROOT, &key.subject_public_key_info());
    let bundle = |roots: &[&[u8]]| {
        let keys = roots.iter().map(|der| {
            serde_json::json!({ "use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(der)] })
        });
        serde_json::json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    };
    let name = |text| TrustDomain::parse(text).expect("it is a name");
    let bundles =
        [(name(TRUST_DOMAIN), bundle(&[ROOT, &live_root])), (name(OTHER), bundle(&[OTHER_ROOT]))];
    World { verifier: Verifier::new(bundles).expect("they are bundles"), key }
});

fuzz_target!(init: { LazyLock::force(&WORLD); }, |input: &[u8]| {
    let mut input = input;
    let is_signed_here = take(&mut input) % 2 == 1;
    let seconds = TIMES[take(&mut input) % TIMES.len()];
    let usage = [Usage::Client, Usage::Server][take(&mut input) % 2];
    let mut chain = split(input);
    if is_signed_here {
        let Some(leaf) = chain.first_mut() else { return };
        let Some(signed) = sign(leaf) else { return };
        *leaf = signed;
    }
    let ders: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    match WORLD.verifier.verify_x509(&ders, usage, at(seconds)) {
        Ok(id) if is_signed_here => check(&chain[0], &id, seconds),
        Ok(id) => {
            let issued = GOOD.iter().find(|(der, _)| *der == chain[0]);
            assert_eq!(issued.map(|(_, whose)| (*whose).to_owned()), Some(id.to_string()));
        }
        Err(refusal) => assert!(refusal.to_string().len() < 4_096, "a refusal is a sentence"),
    }
    // The way of an own X.509-SVID, with a key that fits none of the chains.
    let own = x509_material(&chain.concat(), &WORLD.key.serialize_der());
    assert!(own.is_none(), "the key of another certificate was taken over");
});

/// The certificate with the same signed part, whatever it is, and a genuine signature of the authority.
fn sign(der: &[u8]) -> Option<Vec<u8>> {
    let outermost = element(der, 0, der.len())?;
    let [signed, algorithm, _] = children(der, outermost)[..] else { return None };
    let signature = WORLD.key.sign(&der[signed.start..signed.end]).ok()?;
    let mut content = der[signed.start..algorithm.end].to_vec();
    content.extend(wrap(3, &[&[0], &signature[..]].concat()));
    Some(wrap(0x30, &content))
}

/// Everything that an accepted X.509-SVID must have been, by another reader; what that one cannot read is not judged.
fn check(der: &[u8], id: &SpiffeId, seconds: u64) {
    assert_eq!(
        id.trust_domain().as_str(),
        TRUST_DOMAIN,
        "an authority vouched for another trust domain"
    );
    assert!(!id.path().is_empty(), "no workload has this name");
    let Some(seen) = independent::read(der) else { return };
    let uris: Vec<_> = seen.uris.iter().map(|uri| canonical(uri)).collect();
    assert_eq!(uris, [id.to_string()]);
    assert!(!seen.is_authority, "it is an authority");
    assert!(seen.may_only_sign_data, "its key usage is wrong");
    assert!((seen.not_before..=seen.not_after).contains(&seconds), "it is not its time");
}

/// Scheme and trust domain count without their case (SPIFFE-ID, section 2); the path counts as it is.
fn canonical(uri: &str) -> String {
    let path = uri.match_indices('/').nth(2).map_or(uri.len(), |(at, _)| at);
    uri[..path].to_ascii_lowercase() + &uri[path..]
}

mod independent {
    use std::time::Duration;

    use x509_cert::Certificate;
    use x509_cert::der::Decode;
    use x509_cert::ext::pkix::name::GeneralName;
    use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

    /// What counts in a certificate.
    pub(crate) struct Seen {
        pub(crate) uris: Vec<String>,
        pub(crate) is_authority: bool,
        pub(crate) may_only_sign_data: bool,
        pub(crate) not_before: u64,
        pub(crate) not_after: u64,
    }

    pub(crate) fn read(der: &[u8]) -> Option<Seen> {
        let signed = Certificate::from_der(der).ok()?.tbs_certificate;
        let (_, names) = signed.get::<SubjectAltName>().ok()??;
        let uri = |name: &GeneralName| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
            _ => None,
        };
        let constraints = signed.get::<BasicConstraints>().ok()?;
        let usage = signed.get::<KeyUsage>().ok()?;
        let seconds = |time: Duration| time.as_secs();
        Some(Seen {
            uris: names.0.iter().filter_map(uri).collect(),
            is_authority: constraints.is_some_and(|(_, constraints)| constraints.ca),
            may_only_sign_data: usage.is_some_and(|(critical, usage)| {
                critical && usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
            }),
            not_before: seconds(signed.validity.not_before.to_unix_duration()),
            not_after: seconds(signed.validity.not_after.to_unix_duration()),
        })
    }
}

/// The certificate with another key. A trusted one's own signature is nobody's concern.
fn replace_key(der: &[u8], key: &[u8]) -> Vec<u8> {
    let old = public_key(der);
    assert_eq!(old.len(), key.len(), "both are keys of P-256");
    let at = der.windows(old.len()).position(|window| window == old).expect("it is in there");
    let mut der = der.to_vec();
    der[at..at + key.len()].copy_from_slice(key);
    der
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = Rng::new(seed);
    if size < HEAD || rng.below(3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut chain = split(&data[HEAD..size]);
    let donor = *rng.pick(&ALL);
    let at = rng.below(chain.len());
    match rng.below(10) {
        0 => chain.insert(at, donor.to_vec()),
        1 if !chain.is_empty() => drop(chain.remove(at)),
        2 => data[rng.below(HEAD)] = rng.below(256) as u8,
        3 if !chain.is_empty() => chain[at] = donor.to_vec(),
        _ if chain.is_empty() => chain.push(donor.to_vec()),
        _ => chain[at] = certificates::mutate(&chain[at], donor, &mut rng),
    }
    let mut result = data[..HEAD].to_vec();
    result.extend(join(&chain));
    give_back(&result, data, max_size)
});
