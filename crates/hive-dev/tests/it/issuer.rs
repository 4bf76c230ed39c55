//! Signs JWTs and serves the keys, so that a test can sign what no authority would.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Key {
    pub(crate) fn new(kid: &str) -> Self {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
        Self { pair, kid: kid.to_owned() }
    }

    pub(crate) fn jwk(&self, purpose: &str) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": purpose, "x": x, "y": y })
    }

    pub(crate) fn sign(&self, claims: &Value) -> SecretString {
        self.sign_as(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid }), claims)
    }

    /// Whatever the header says, it is a signature of ES256.
    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> SecretString {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        SecretString::from(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

/// Claims of a token that is good for the next minute.
pub(crate) fn claims(subject: &str, audience: &str) -> Value {
    let now = unix_now();
    json!({ "sub": subject, "aud": [audience], "iat": now, "exp": now + 60 })
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Serves keys over HTTP on loopback.
pub(crate) struct Keys {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    keys: Mutex<Vec<Value>>,
    fetched: AtomicUsize,
}

impl Keys {
    pub(crate) async fn serve(keys: Vec<Value>) -> Self {
        let shared = Arc::new(Shared { keys: Mutex::new(keys), fetched: AtomicUsize::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be listened on");
        let url = format!("http://{}/keys", listener.local_addr().expect("it is bound"));
        let app = Router::new().route("/keys", get(answer)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    pub(crate) fn set(&self, keys: Vec<Value>) {
        *self.shared.keys.lock().expect("not poisoned") = keys;
    }

    pub(crate) fn fetched(&self) -> usize {
        self.shared.fetched.load(Ordering::SeqCst)
    }
}

async fn answer(State(shared): State<Arc<Shared>>) -> Json<Value> {
    shared.fetched.fetch_add(1, Ordering::SeqCst);
    let keys = shared.keys.lock().expect("not poisoned").clone();
    Json(json!({ "keys": keys }))
}
