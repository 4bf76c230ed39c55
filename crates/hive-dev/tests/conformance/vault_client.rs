//! Every call of our Vault client, made to a real OpenBao.

mod engines;
mod logins;
mod system;

use hive_dev::openbao::OpenBao;
use hive_security::SecretJson;
use hive_security::vault::{VaultClient, VaultConfig};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::spire::find;

/// An OpenBao of its own for each test, and the client as somebody who may do everything.
struct World {
    bao: OpenBao,
    vault: VaultClient,
    root: SecretString,
    directory: TempDir,
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bao = OpenBao::dev(&find("bao"), directory.path()).await.expect("it starts");
        let vault = VaultClient::new(VaultConfig::at(&bao.address)).expect("a loopback address");
        let root = bao.root_token.clone();
        Self { bao, vault, root, directory }
    }

    async fn write(&self, path: &str, data: Value) -> Value {
        write(&self.vault, &self.root, path, data).await
    }

    /// A token that may do what is written here.
    async fn token(&self, policy: &str) -> SecretString {
        self.write("sys/policies/acl/narrow", json!({ "policy": policy })).await;
        let mut wanted = hive_security::vault::ChildToken::default();
        wanted.policies = vec!["narrow".to_owned()];
        self.vault.create_token(&self.root, &wanted).await.expect("a token").token
    }
}

async fn write(vault: &VaultClient, token: &SecretString, path: &str, data: Value) -> Value {
    let answer = vault.write(token, path, &SecretJson::new(data)).await;
    let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    answer.data.expose().expect("JSON")
}
