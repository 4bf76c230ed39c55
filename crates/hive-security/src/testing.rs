//! A small world for tests: authorities that issue SVIDs, and workloads made of them without a socket.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::rotating::{Publisher, Rotating};
use crate::spiffe::bundle::X509Bundle;
use crate::spiffe::jwt::{Fetch, Fetching};
use crate::spiffe::keys::{Key, Keys};
use crate::spiffe::source::{JwtState, X509Material, X509State};
use crate::spiffe::svid::{JwtSvid, X509Svid};
use crate::spiffe::trust::X509Trust;
use crate::spiffe::verify::JwtTrust;
use crate::{Audience, SpiffeId, TrustDomain, Workload};

/// Signs for one trust domain.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
    jwt_key: EcdsaKeyPair,
}

/// A workload, and the means to change what it holds.
pub(crate) struct Stand {
    pub(crate) workload: Workload,
    pub(crate) x509: Publisher<X509State>,
    pub(crate) jwt: Publisher<JwtState>,
    pub(crate) fetches: Arc<AtomicUsize>,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Arc<Self> {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        // Authorities of one name are told apart by their keys only, as in a rotation.
        params.distinguished_name.push(rcgen::DnType::CommonName, trust_domain.as_str());
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        let jwt_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Arc::new(Self { trust_domain, issuer: Issuer::new(params, key), root, jwt_key })
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::in_trust_domain(&self.trust_domain, path).unwrap()
    }

    pub(crate) fn svid(&self, path: &str) -> X509Svid {
        self.svid_of(&leaf(&self.id(path).to_string()))
    }

    pub(crate) fn svid_of(&self, params: &CertificateParams) -> X509Svid {
        let (chain, key) = self.issue(params);
        X509Svid::from_der(chain, &key.serialize_der()).unwrap()
    }

    pub(crate) fn issue(
        &self,
        params: &CertificateParams,
    ) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()], key)
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.jwt_key.public_key().as_ref();
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "kid": "key", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
    }

    pub(crate) fn keys(&self) -> Keys {
        HashMap::from([(
            self.trust_domain.clone(),
            vec![Key::from_jwk(self.jwk().to_string().as_bytes()).unwrap()],
        )])
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = signed_part(header, claims);
        let signature = self.jwt_key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn token(&self, path: &str, audience: &Audience) -> String {
        let claims = json!({
            "sub": self.id(path).to_string(), "aud": [audience.as_str()],
            "iat": unix_now(), "exp": unix_now() + 300, "jti": rand::random::<u64>().to_string(),
        });
        self.sign(&json!({ "alg": "ES256", "kid": "key", "typ": "JWT" }), &claims)
    }

    pub(crate) fn trust(&self) -> X509Trust {
        X509Trust::new([(self.trust_domain.clone(), vec![self.root.as_ref()])])
    }

    pub(crate) fn bundle(&self) -> X509Bundle {
        let trust_domain = self.trust_domain.clone();
        X509Bundle { trust_domain, authorities: vec![self.root.clone()] }
    }

    pub(crate) fn material(&self, path: &str) -> X509State {
        Ok(X509Material::new(vec![Arc::new(self.svid(path))], vec![self.bundle()]))
    }

    /// A workload of this trust domain.
    pub(crate) fn workload(self: &Arc<Self>, path: &str) -> Stand {
        let (x509, x509_rotating) = Rotating::new(self.material(path));
        let (jwt, jwt_rotating) = Rotating::new(Ok(JwtTrust::new(self.keys()).into()));
        let fetches = Arc::new(AtomicUsize::new(0));
        let fetch = Arc::new(Mint { authority: Arc::clone(self), fetches: Arc::clone(&fetches) });
        let workload = Workload::assemble(x509_rotating, jwt_rotating, fetch).unwrap();
        Stand { workload, x509, jwt, fetches }
    }
}

/// Issues a JWT-SVID for each fetch, and counts them.
struct Mint {
    authority: Arc<Authority>,
    fetches: Arc<AtomicUsize>,
}

impl Fetch for Mint {
    fn fetch<'a>(&'a self, spiffe_id: &'a SpiffeId, audience: &'a Audience) -> Fetching<'a> {
        Box::pin(async move {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            let token = SecretString::from(self.authority.token(spiffe_id.path(), audience));
            let expires_at = SystemTime::now() + Duration::from_secs(300);
            Ok(JwtSvid::new(spiffe_id.clone(), audience.clone(), token, expires_at))
        })
    }
}

/// A certificate with the profile of an X.509-SVID.
pub(crate) fn leaf(spiffe_id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri(spiffe_id)];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn signed_part(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn audience(text: &str) -> Audience {
    Audience::parse(text).unwrap()
}
