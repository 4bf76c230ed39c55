//! Encryption and signatures with keys that never leave Vault.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::body::Body;
use super::client::VaultClient;
use super::counts::Operation;
use super::error::VaultError;
use super::http::{Call, Reply};
use super::route::Route;

/// A transit engine.
#[derive(Clone, Debug)]
pub struct Transit {
    vault: VaultClient,
    mount: String,
}

impl Transit {
    pub(super) fn new(vault: VaultClient, mount: &str) -> Self {
        Self { vault, mount: mount.to_owned() }
    }

    /// What was encrypted, as Vault writes it: `vault:v1:…`.
    pub async fn encrypt(
        &self,
        token: &SecretString,
        key: &str,
        plaintext: &SecretSlice<u8>,
    ) -> Result<String, VaultError> {
        let text = SecretString::from(STANDARD.encode(plaintext.expose_secret()));
        let body = Body::new().secret("plaintext", &text);
        Ok(self.ask::<Ciphertext>("encrypt", token, key, body).await?.1.ciphertext)
    }

    /// What was encrypted before.
    pub async fn decrypt(
        &self,
        token: &SecretString,
        key: &str,
        ciphertext: &str,
    ) -> Result<SecretSlice<u8>, VaultError> {
        #[derive(Deserialize)]
        struct Plaintext {
            plaintext: SecretString,
        }
        let body = Body::new().text("ciphertext", ciphertext);
        let (reply, raw) = self.ask::<Plaintext>("decrypt", token, key, body).await?;
        let bytes = STANDARD.decode(raw.plaintext.expose_secret());
        bytes.map(SecretSlice::from).map_err(|_| reply.odd("it is not base64"))
    }

    /// The same plaintext under the newest version of the key; it does not come here in between.
    pub async fn rewrap(
        &self,
        token: &SecretString,
        key: &str,
        ciphertext: &str,
    ) -> Result<String, VaultError> {
        let body = Body::new().text("ciphertext", ciphertext);
        Ok(self.ask::<Ciphertext>("rewrap", token, key, body).await?.1.ciphertext)
    }

    /// A signature, as Vault writes it: `vault:v1:…`.
    pub async fn sign(
        &self,
        token: &SecretString,
        key: &str,
        message: &[u8],
    ) -> Result<String, VaultError> {
        #[derive(Deserialize)]
        struct Signature {
            signature: String,
        }
        let body = Body::new().text("input", &STANDARD.encode(message));
        Ok(self.ask::<Signature>("sign", token, key, body).await?.1.signature)
    }

    /// Whether this is a signature of the message.
    pub async fn verify(
        &self,
        token: &SecretString,
        key: &str,
        message: &[u8],
        signature: &str,
    ) -> Result<bool, VaultError> {
        #[derive(Deserialize)]
        struct Verdict {
            valid: bool,
        }
        let body =
            Body::new().text("input", &STANDARD.encode(message)).text("signature", signature);
        Ok(self.ask::<Verdict>("verify", token, key, body).await?.1.valid)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        what: &'static str,
        token: &SecretString,
        key: &str,
        body: Body,
    ) -> Result<(Reply, T), VaultError> {
        let route = Route::mount(&self.mount)?.then(what).name(key)?;
        let call = Call::new(Operation::Transit, Method::POST, route).token(token);
        let reply = self.vault.call(call.body(body.bytes())).await?;
        let data = reply.data()?;
        Ok((reply, data))
    }
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}
