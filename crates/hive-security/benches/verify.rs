//! How fast a JWT-SVID is verified: against the bare cryptography and two other verifiers on the same key and token,
//! and when the token was seen before.
//!
//! `cargo bench -p hive-security --bench verify -- cold` runs the first part only.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic, and is no interface")]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, ParsedPublicKey, RsaEncoding,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use hive_security::{Audience, TrustDomain, Verifier};
use serde_json::{Value, json};

const AUDIENCE: &str = "registry.example.org";
const SEEN: usize = 100_000;

criterion_group!(benches, cold, first_sight, seen);
criterion_main!(benches);

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Signs tokens with one key, and knows it in each of the forms in which verifiers want it.
struct Issuer {
    algorithm: &'static str,
    jwk: Value,
    raw: ParsedPublicKey,
    sign: Sign,
}

impl Issuer {
    fn ecdsa(
        algorithm: &'static str,
        curve: &str,
        signing: &'static EcdsaSigningAlgorithm,
        verification: &'static dyn VerificationAlgorithm,
    ) -> Self {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let jwk = json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) });
        let raw = ParsedPublicKey::new(verification, &point).unwrap();
        let sign = move |message: &[u8]| {
            pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
        };
        Self { algorithm, jwk, raw, sign: Box::new(sign) }
    }

    fn rsa(
        algorithm: &'static str,
        encoding: &'static dyn RsaEncoding,
        verification: &'static dyn VerificationAlgorithm,
    ) -> Self {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        // PKCS#1: two headers of four bytes and the sign byte, then 2048 bits; the exponent is 65537.
        let jwk = json!({ "kty": "RSA", "n": encode(&public[9..265]), "e": "AQAB" });
        let raw = ParsedPublicKey::new(verification, &public).unwrap();
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Self { algorithm, jwk, raw, sign: Box::new(sign) }
    }

    fn es256() -> Self {
        Self::ecdsa(
            "ES256",
            "P-256",
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P256_SHA256_FIXED,
        )
    }

    fn all() -> [Self; 5] {
        [
            Self::es256(),
            Self::ecdsa(
                "ES384",
                "P-384",
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                &signature::ECDSA_P384_SHA384_FIXED,
            ),
            Self::ecdsa(
                "ES512",
                "P-521",
                &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
                &signature::ECDSA_P521_SHA512_FIXED,
            ),
            Self::rsa(
                "RS256",
                &signature::RSA_PKCS1_SHA256,
                &signature::RSA_PKCS1_2048_8192_SHA256,
            ),
            Self::rsa("PS256", &signature::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256),
        ]
    }

    /// As SPIRE writes them: one audience, five minutes, and a `jti`-like number that tells tokens apart.
    fn token(&self, number: usize) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "alg": self.algorithm, "kid": "0yNa1nJMvQRTxBuJ1mCFlQxJrCPVvsvn", "typ": "JWT" });
        let claims = json!({
            "aud": [AUDIENCE], "exp": now + 3600, "iat": now, "jti": format!("{number:032x}"),
            "sub": format!("spiffe://example.org/ns/shop/sa/cart-{number}"),
        });
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = (self.sign)(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }

    fn jwk(&self) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = json!("0yNa1nJMvQRTxBuJ1mCFlQxJrCPVvsvn");
        jwk["use"] = json!("jwt-svid");
        jwk
    }

    fn verifier(&self) -> Verifier {
        let document = json!({ "keys": [self.jwk()] }).to_string();
        Verifier::new([(TrustDomain::parse("example.org").unwrap(), document)]).unwrap()
    }

    fn spiffe(&self) -> spiffe::JwtBundleSet {
        let mut bundle = spiffe::JwtBundle::new("example.org".try_into().unwrap());
        bundle.add_jwk_authority_json(self.jwk().to_string().as_bytes()).unwrap();
        let mut bundles = spiffe::JwtBundleSet::new();
        bundles.add_bundle(bundle);
        bundles
    }

    fn jsonwebtoken(&self) -> (jsonwebtoken::DecodingKey, jsonwebtoken::Validation) {
        let text = |name: &str| self.jwk[name].as_str().unwrap();
        let key = match text("kty") {
            "EC" => jsonwebtoken::DecodingKey::from_ec_components(text("x"), text("y")),
            _ => jsonwebtoken::DecodingKey::from_rsa_components(text("n"), text("e")),
        };
        let mut validation = jsonwebtoken::Validation::new(self.algorithm.parse().unwrap());
        validation.set_audience(&[AUDIENCE]);
        (key.unwrap(), validation)
    }
}

fn cold(criterion: &mut Criterion) {
    for issuer in Issuer::all() {
        let mut group = criterion.benchmark_group(format!("cold/{}", issuer.algorithm));
        let token = issuer.token(1);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        group.bench_function("raw", |bencher| {
            bencher.iter(|| {
                issuer.raw.verify_sig(black_box(signed).as_bytes(), black_box(&signature)).unwrap();
            });
        });
        let (verifier, audience) = (issuer.verifier(), audience());
        group.bench_function("hive", |bencher| {
            bencher.iter(|| {
                verifier.verify_jwt_afresh(black_box(&token), &audience, SystemTime::now()).unwrap()
            });
        });
        // Neither knows P-521.
        if issuer.algorithm != "ES512" {
            let bundles = issuer.spiffe();
            group.bench_function("spiffe", |bencher| {
                bencher.iter(|| {
                    spiffe::JwtSvid::parse_and_validate(black_box(&token), &bundles, &[AUDIENCE])
                        .unwrap()
                });
            });
            let (key, validation) = issuer.jsonwebtoken();
            group.bench_function("jsonwebtoken", |bencher| {
                bencher.iter(|| {
                    jsonwebtoken::decode::<Value>(black_box(&token), &key, &validation).unwrap()
                });
            });
        }
        group.finish();
    }
}

/// Tokens that are new, with all that it takes to remember them.
fn first_sight(criterion: &mut Criterion) {
    let issuer = Issuer::es256();
    let tokens: Vec<String> = (0..SEEN).map(|number| issuer.token(number)).collect();
    let audience = audience();
    criterion.bench_function("first sight/ES256", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for round in 0..iterations.div_ceil(SEEN as u64) {
                let verifier = issuer.verifier();
                let left = (iterations - round * SEEN as u64).min(SEEN as u64) as usize;
                let began = Instant::now();
                for token in &tokens[..left] {
                    verifier.verify_jwt(token, &audience, SystemTime::now()).unwrap();
                }
                took += began.elapsed();
            }
            took
        });
    });
}

fn seen(criterion: &mut Criterion) {
    let issuer = Issuer::es256();
    let (verifier, audience) = (issuer.verifier(), audience());
    let tokens: Vec<String> = (0..SEEN).map(|number| issuer.token(number)).collect();
    let now = SystemTime::now();
    let before = resident_kib();
    for token in &tokens {
        verifier.verify_jwt(token, &audience, now).unwrap();
    }
    println!("{SEEN} remembered tokens take {} KiB", resident_kib() - before);
    let mut group = criterion.benchmark_group("seen before");
    let next = AtomicUsize::new(0);
    // A step that is prime to their number visits them all, and never the neighbour.
    let pick = || &tokens[next.fetch_add(7919, Ordering::Relaxed) % SEEN];
    group.bench_function(BenchmarkId::new("threads", 1), |bencher| {
        // A token that comes from a socket was just written, unlike these, which lie about in 50 MB.
        let received = || pick().clone();
        let verify = |token: &mut String| verifier.verify_jwt(token, &audience, now).unwrap();
        bencher.iter_batched_ref(received, verify, BatchSize::SmallInput);
    });
    group.bench_function(BenchmarkId::new("threads", 8), |bencher| {
        bencher.iter_custom(|iterations| {
            let share = iterations.div_ceil(8);
            let began = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let mut received = String::with_capacity(1024);
                        for _ in 0..share {
                            received.clear();
                            received.push_str(pick());
                            black_box(verifier.verify_jwt(&received, &audience, now).unwrap());
                        }
                    });
                }
            });
            began.elapsed()
        });
    });
    group.finish();
}

fn audience() -> Audience {
    Audience::parse(AUDIENCE).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
