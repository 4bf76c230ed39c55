//! Vault, as whoever this process is.

use super::stack::{self, Failure};
use clap::Args;
use hive_runtime::errors::chain;
use hive_security::Workload;
use hive_security::vault::{Login, LoginError, LoginMethod, VaultClient, VaultConfig, VaultError};

/// Who borrows.
#[derive(Args)]
pub(super) struct Borrower {
    /// The Vault role to log in with; `HIVE_VAULT_ROLE` if it is not given.
    #[arg(long, value_name = "ROLE")]
    vault_role: Option<String>,
}

impl Borrower {
    /// The role, if one is named.
    pub(super) fn role(&self) -> Option<String> {
        self.vault_role.clone().or_else(|| stack::value("HIVE_VAULT_ROLE"))
    }

    fn required_role(&self) -> Result<String, Failure> {
        let missing = "name the Vault role to log in with: --vault-role, or HIVE_VAULT_ROLE";
        self.role().ok_or_else(|| Failure::bad_input(missing))
    }

    /// How this process logs in.
    pub(super) fn method(&self, workload: Workload) -> Result<LoginMethod, Failure> {
        Ok(LoginMethod::JwtSvid { workload, role: self.required_role()? })
    }

    /// A login, for one command.
    pub(super) async fn session(&self) -> Result<Session, Failure> {
        // What can be wrong without asking anyone comes first.
        self.required_role()?;
        let vault = client()?;
        let method = self.method(stack::attach().await?)?;
        let login = method.login(&vault).await.map_err(|error| refused(&error))?;
        Ok(Session { vault, login })
    }
}

/// A token of one command's own.
pub(super) struct Session {
    pub(super) vault: VaultClient,
    pub(super) login: Login,
}

impl Session {
    /// Gives the token back, whatever came of the command. Everything that was leased with it ends as well.
    pub(super) async fn end<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(error) = self.vault.revoke_self(&self.login.token).await {
            eprintln!("hive: the token is left to expire: {}", chain(&error));
        }
        outcome
    }
}

/// The Vault at `VAULT_ADDR`.
pub(super) fn client() -> Result<VaultClient, Failure> {
    let missing = "VAULT_ADDR is not set; `hive up` prints the line that sets it for this shell";
    let address = stack::value("VAULT_ADDR").ok_or_else(|| Failure::bad_input(missing))?;
    VaultClient::new(config_at(address)?).map_err(|error| Failure::bad_input(chain(&error)))
}

/// A Vault at this address, by the variables that Vault's and OpenBao's own command lines read.
pub(crate) fn config_at(address: impl Into<String>) -> Result<VaultConfig, Failure> {
    let read = |path: String| {
        let text = std::fs::read_to_string(&path);
        text.map_err(|error| Failure::bad_input(format!("VAULT_CACERT is {path}: {error}")))
    };
    let ca_pem = stack::value("VAULT_CACERT").map(read).transpose()?;
    let namespace = stack::value("VAULT_NAMESPACE");
    Ok(VaultConfig { ca_pem, namespace, ..VaultConfig::at(address) })
}

pub(super) fn failed(error: &VaultError) -> Failure {
    let message = chain(error);
    if error.is_transient() { Failure::unavailable(message) } else { Failure::error(message) }
}

fn refused(error: &LoginError) -> Failure {
    let message = chain(error);
    if error.is_transient() { Failure::unavailable(message) } else { Failure::error(message) }
}
