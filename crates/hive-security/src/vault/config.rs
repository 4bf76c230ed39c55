//! Where Vault is.

use crate::Workload;

/// Where Vault is and how to trust it.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// `http://` for loopback only, else `https://`.
    pub address: String,
    /// Further addresses of the same cluster. Each call goes to the best one that is known, by its state.
    pub other_addresses: Vec<String>,
    /// The certificate authorities that Vault's certificate must come from, PEM. Required for `https://`.
    pub ca_pem: Option<String>,
    /// The namespace of every call, if any; see [`VaultClient::in_namespace`](super::VaultClient::in_namespace).
    pub namespace: Option<String>,
    /// Where the JWT login is mounted, usually `jwt`.
    pub jwt_mount: String,
    /// Whose X.509-SVID is presented to Vault, the current one at each handshake. Required for
    /// [`LoginMethod::X509Svid`](super::LoginMethod::X509Svid).
    pub identity: Option<Workload>,
}

impl VaultConfig {
    /// Vault at this address, with the JWT login at `jwt`, no namespace, and no certificate authority.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            other_addresses: Vec::new(),
            ca_pem: None,
            namespace: None,
            jwt_mount: "jwt".to_owned(),
            identity: None,
        }
    }
}
