//! Issues the documents in `fixtures/` anew, and forgets the keys: `cargo run --bin fixtures`.

use std::error::Error;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};
use hive_fuzz::tokens::{ec_jwk, encode};
use hive_fuzz::{NOW, OTHER, TRUST_DOMAIN};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType,
    date_time_ymd,
};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    std::fs::create_dir_all(&folder)?;
    let (own, other) = (Signer::generate()?, Signer::generate()?);
    let mut tokens = Vec::new();
    for algorithm in ALGORITHMS {
        tokens.push(own.sign(&header(algorithm), &claims(TRUST_DOMAIN))?);
    }
    tokens.extend(variants(&own)?);
    tokens.push(other.sign(&header("ES256"), &claims(OTHER))?);
    tokens.push(other.sign(&header("RS256"), &claims(OTHER))?);
    std::fs::write(folder.join("tokens.txt"), tokens.join("\n") + "\n")?;
    let (root, other_root) = certificates(&folder)?;
    std::fs::write(folder.join("bundle.json"), own.bundle(&root))?;
    std::fs::write(folder.join("other-bundle.json"), other.bundle(&other_root))?;
    Ok(())
}

const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// One key of each kind.
struct Signer {
    ec: Vec<(&'static str, EcdsaKeyPair)>,
    rsa: RsaKeyPair,
}

impl Signer {
    fn generate() -> Outcome<Self> {
        let ec = vec![
            ("ES256", EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            ("ES384", EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?),
            ("ES512", EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING)?),
        ];
        Ok(Self { ec, rsa: RsaKeyPair::generate(KeySize::Rsa2048)? })
    }

    fn sign(&self, header: &Value, claims: &Value) -> Outcome<String> {
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let algorithm = header["alg"].as_str().ok_or("a header names its algorithm")?;
        let random = SystemRandom::new();
        let signature = match self.ec.iter().find(|(name, _)| *name == algorithm) {
            Some((_, key)) => key.sign(&random, signed.as_bytes())?.as_ref().to_vec(),
            None => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(encoding(algorithm), &random, signed.as_bytes(), &mut signature)?;
                signature
            }
        };
        Ok(format!("{signed}.{}", encode(&signature)))
    }

    fn bundle(&self, root: &[u8]) -> String {
        use base64::Engine;
        let x5c = base64::engine::general_purpose::STANDARD.encode(root);
        // An RSAPublicKey of 2048 bits: two lengths and a zero, the modulus, and three bytes of exponent.
        let der = self.rsa.public_key().as_ref();
        let (n, e) = (encode(&der[9..265]), encode(&der[der.len() - 3..]));
        let mut keys: Vec<Value> = self.ec.iter().map(|(name, key)| ec_jwk(name, key)).collect();
        keys.push(json!({ "use": "jwt-svid", "kty": "RSA", "kid": "rsa", "n": n, "e": e }));
        keys.push(json!({ "use": "x509-svid", "kty": "EC", "x5c": [x5c] }));
        json!({ "spiffe_sequence": 1, "spiffe_refresh_hint": 300, "keys": keys }).to_string()
    }
}

fn encoding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        _ => &RSA_PKCS1_SHA256,
    }
}

fn header(algorithm: &str) -> Value {
    let kid = if algorithm.starts_with("ES") { algorithm.to_lowercase() } else { "rsa".to_owned() };
    json!({ "alg": algorithm, "kid": kid, "typ": "JWT" })
}

fn claims(trust_domain: &str) -> Value {
    json!({
        "sub": format!("spiffe://{trust_domain}/workload"), "aud": ["audience"], "iat": NOW, "exp": NOW + 300,
    })
}

/// Genuine, and not all of them good.
fn variants(own: &Signer) -> Outcome<Vec<String>> {
    let with = |name: &str, value: Value| {
        let mut claims = claims(TRUST_DOMAIN);
        claims[name] = value;
        claims
    };
    let es256 = header("ES256");
    let several = [
        (json!({ "alg": "ES256" }), with("aud", json!("audience"))),
        (json!({ "alg": "RS256", "typ": "JOSE" }), with("aud", json!(["a", "audience", "b"]))),
        (json!({ "alg": "ES256", "kid": "other" }), claims(TRUST_DOMAIN)),
        (json!({ "alg": "ES256", "kid": "es256", "crit": ["exp"] }), claims(TRUST_DOMAIN)),
        (es256.clone(), with("aud", json!(["elsewhere"]))),
        (es256.clone(), with("aud", json!([]))),
        (es256.clone(), with("exp", json!(NOW - 100))),
        (es256.clone(), with("exp", Value::Null)),
        (es256.clone(), with("nbf", json!(NOW + 100))),
        (es256.clone(), with("nbf", json!(NOW))),
        (es256.clone(), with("sub", json!("spiffe://td"))),
        (es256.clone(), with("sub", json!("spiffe://other/workload"))),
        (es256, with("exp", json!(4_102_444_800.5))),
    ];
    several.iter().map(|(header, claims)| own.sign(header, claims)).collect()
}

/// Writes the certificates, and returns the roots of the two trust domains.
fn certificates(folder: &Path) -> Outcome<(Vec<u8>, Vec<u8>)> {
    let write =
        |name: &str, der: &[u8]| std::fs::write(folder.join(name).with_extension("der"), der);
    let (root_params, root_key) = (authority(TRUST_DOMAIN)?, KeyPair::generate()?);
    let root = root_params.self_signed(&root_key)?;
    let (other_params, other_key) = (authority(OTHER)?, KeyPair::generate()?);
    let other_root = other_params.self_signed(&other_key)?;
    write("root", root.der())?;
    write("other-root", other_root.der())?;
    let root_issuer = Issuer::new(root_params, root_key);
    let (middle_params, middle_key) =
        (authority(TRUST_DOMAIN)?, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?);
    write("intermediate", middle_params.signed_by(&middle_key, &root_issuer)?.der())?;
    let middle_issuer = Issuer::new(middle_params, middle_key);
    let other_issuer = Issuer::new(other_params, other_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write("good-leaf", leaf("spiffe://td/a")?.signed_by(&key, &root_issuer)?.der())?;
    write("good-below", leaf("spiffe://td/b")?.signed_by(&key, &middle_issuer)?.der())?;
    write("good-other", leaf("spiffe://other/a")?.signed_by(&key, &other_issuer)?.der())?;
    for (name, params) in bad_leaves()? {
        write(&format!("bad-{name}"), params.signed_by(&key, &root_issuer)?.der())?;
    }
    Ok((root.der().to_vec(), other_root.der().to_vec()))
}

fn authority(trust_domain: &str) -> Outcome<CertificateParams> {
    let mut params = leaf(&format!("spiffe://{trust_domain}"))?;
    params.distinguished_name.push(DnType::CommonName, trust_domain);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages.clear();
    Ok(params)
}

fn leaf(uri: &str) -> Outcome<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2100, 1, 1));
    Ok(params)
}

/// Genuine, and none of them an X.509-SVID of a workload of this trust domain that is good at [`NOW`].
fn bad_leaves() -> Outcome<Vec<(&'static str, CertificateParams)>> {
    let mut ca = leaf("spiffe://td/a")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut signs = leaf("spiffe://td/a")?;
    signs.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let mut two = leaf("spiffe://td/a")?;
    two.subject_alt_names.push(SanType::URI("spiffe://td/b".try_into()?));
    let mut none = leaf("spiffe://td/a")?;
    none.subject_alt_names = vec![SanType::DnsName("td".try_into()?)];
    let mut over = leaf("spiffe://td/a")?;
    over.not_after = date_time_ymd(2021, 1, 1);
    Ok(vec![
        ("ca", ca),
        ("signs", signs),
        ("two-uris", two),
        ("no-uri", none),
        ("over", over),
        ("rootless", leaf("spiffe://td")?),
        ("foreign", leaf("spiffe://other/a")?),
    ])
}
