//! Public keys of any trust domain, as their bundles give them, and the algorithms of the JWT-SVID standard.

use aws_lc_rs::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::algorithms::{self, Curve};

/// JWT-SVID standard, section 2.1: these nine and no others.
const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

pub(super) fn is_algorithm(name: &str) -> bool {
    ALGORITHMS.contains(&name)
}

/// A key that verifies JWT-SVIDs.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    kid: String,
    /// The only algorithm that it may be used with, if it says so.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Ec { curve: Curve, point: Vec<u8> },
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl PublicKey {
    /// None for whatever is no such key: it is to be ignored (Trust Domain and Bundle standard, section 4.2).
    pub(super) fn parse(jwk: &Value) -> Option<Self> {
        if text(jwk, "use")? != "jwt-svid" {
            return None;
        }
        let kid = text(jwk, "kid").filter(|kid| !kid.is_empty())?.to_owned();
        let algorithm = text(jwk, "alg").map(str::to_owned);
        let material = match text(jwk, "kty")? {
            "EC" => ec(jwk)?,
            "RSA" => Material::Rsa { n: bytes(jwk, "n")?, e: bytes(jwk, "e")? },
            _ => return None,
        };
        Some(Self { kid, algorithm, material })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether `signature` is this key's over `message`, by an algorithm that fits the key.
    pub(super) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|only| only != algorithm) {
            return false;
        }
        match &self.material {
            Material::Ec { curve, point } => {
                let key = UnparsedPublicKey::new(curve.verification, point);
                curve.algorithm == algorithm && key.verify(message, signature).is_ok()
            }
            Material::Rsa { n, e } => algorithms::rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }),
        }
    }
}

fn ec(jwk: &Value) -> Option<Material> {
    let curve = algorithms::curve(text(jwk, "crv")?)?;
    let point = curve.point(&bytes(jwk, "x")?, &bytes(jwk, "y")?)?;
    Some(Material::Ec { curve, point })
}

fn text<'a>(jwk: &'a Value, name: &str) -> Option<&'a str> {
    jwk.get(name)?.as_str()
}

fn bytes(jwk: &Value, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)?).ok().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA384,
        RsaKeyPair,
    };
    use serde_json::json;
    use x509_parser::prelude::FromDer;
    use x509_parser::public_key::RSAPublicKey;

    fn encode(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn each_curve_verifies_its_own_algorithm_and_no_other() {
        for (curve, algorithm, signing) in [
            ("P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            ("P-384", "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            ("P-521", "ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
        ] {
            let pair = EcdsaKeyPair::generate(signing).expect("a key");
            let (x, y) =
                pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
            let jwk = json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y), "kid": "k", "use": "jwt-svid" });
            let key = PublicKey::parse(&jwk).expect("a key");
            let signature = pair.sign(&SystemRandom::new(), b"text").expect("signed");
            for other in ALGORITHMS {
                assert_eq!(key.verifies(other, b"text", signature.as_ref()), other == algorithm);
            }
            assert!(!key.verifies(algorithm, b"test", signature.as_ref()));
        }
    }

    #[test]
    fn an_rsa_key_verifies_both_paddings() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let (_, public) = RSAPublicKey::from_der(pair.public_key().as_ref()).expect("DER");
        // DER marks a number as positive with a zero that a JWK leaves out.
        let n = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
        let e = public.exponent;
        let mut jwk =
            json!({ "kty": "RSA", "n": encode(n), "e": encode(e), "kid": "k", "use": "jwt-svid" });
        let key = PublicKey::parse(&jwk).expect("a key");
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"text", &mut signature)
            .expect("signed");
        assert!(key.verifies("RS256", b"text", &signature));
        assert!(
            !key.verifies("PS256", b"text", &signature)
                && !key.verifies("ES256", b"text", &signature)
        );
        pair.sign(&RSA_PSS_SHA384, &SystemRandom::new(), b"text", &mut signature).expect("signed");
        assert!(key.verifies("PS384", b"text", &signature));
        jwk["alg"] = "RS256".into();
        let only = PublicKey::parse(&jwk).expect("a key");
        assert!(!only.verifies("PS384", b"text", &signature), "it says what it is for");
    }

    #[test]
    fn what_is_no_key_for_jwt_svids_is_ignored() {
        let good = json!({ "kty": "EC", "crv": "P-256", "x": encode(&[1; 32]), "y": encode(&[2; 32]), "kid": "k", "use": "jwt-svid" });
        assert!(PublicKey::parse(&good).is_some());
        for (name, value) in [
            ("kty", json!("OKP")),
            ("crv", json!("P-224")),
            ("x", json!("AA")),
            ("kid", json!("")),
            ("use", json!("x509-svid")),
            ("use", json!("JWT-SVID")),
            ("use", Value::Null),
        ] {
            let mut jwk = good.clone();
            jwk[name] = value;
            assert!(PublicKey::parse(&jwk).is_none(), "{name}");
        }
    }
}
