//! A workload of the development authority, and a vault that believes it.

use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::vault::{Setup, Vault};
use hive_dev::witness::Witness;
use hive_security::epoch::{Epoch, Error, Request};
use hive_security::vault::LoginMethod;
use hive_security::{SecretJson, Workload, WorkloadConfig};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fixture::{client, setup};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A workload that the vault knows, and the vault.
pub(crate) struct Stack {
    pub(crate) vault: Vault,
    pub(crate) workload: Workload,
    pub(crate) audit: std::path::PathBuf,
    stop: CancellationToken,
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Stack {
    pub(crate) async fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        config.trust_domain = Some("hive.test".to_owned());
        let authority = Authority::start(config).await.expect("it starts");
        let worker = "/ns/neural-hive-execution/sa/worker-agents/one";
        authority.add_entry(Entry::of_process(worker, std::process::id())).expect("an entry");
        let attach = WorkloadConfig::new(authority.endpoint(), DEADLINE);
        let (workload, upkeep) = Workload::attach(attach).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        let mut setup = setup(&authority.keys_url(), directory.path());
        change(&mut setup);
        let audit = setup.audit_path.clone().expect("a log");
        let vault = Vault::start(setup, Witness::none()).await.expect("it starts");
        Self { vault, workload, audit, stop, authority, directory }
    }

    pub(crate) async fn open(&self, role: &str, requests: &[Request]) -> Result<Epoch, Error> {
        let (client, workload) = (client(&self.vault.address), self.workload.clone());
        Epoch::open(client, workload, role.to_owned(), requests.to_vec(), DEADLINE).await
    }

    pub(crate) fn audited(&self) -> String {
        std::fs::read_to_string(&self.audit).expect("there is an audit log")
    }

    pub(crate) fn keys_url(&self) -> String {
        self.authority.keys_url()
    }

    /// A token of its own, beside those that are under test.
    pub(crate) async fn login(&self, role: &str) -> SecretString {
        let login = LoginMethod::JwtSvid { workload: self.workload.clone(), role: role.to_owned() };
        login.login(&client(&self.vault.address)).await.expect("it may log in").token
    }

    pub(crate) async fn write(&self, token: &SecretString, path: &str, fields: Value) {
        let (path, body) =
            (format!("secret/data/{path}"), SecretJson::new(json!({ "data": fields })));
        client(&self.vault.address).write(token, &path, &body).await.expect("it is written");
    }

    /// The vault is gone; nobody answers at its address any more.
    pub(crate) async fn stop_vault(&mut self) {
        let directory = self.directory.path();
        let another = setup(&self.authority.keys_url(), &directory.join(".."));
        let another = Setup { audit_path: Some(directory.join("another.jsonl")), ..another };
        let another = Vault::start(another, Witness::none()).await.expect("it starts");
        std::mem::replace(&mut self.vault, another).stop().await.expect("nothing is left");
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.vault.stop().await.expect("nothing is left");
    }
}
