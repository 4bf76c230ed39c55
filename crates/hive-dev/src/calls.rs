//! The HTTP client with which the development servers ask others.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// A client that believes these authorities, and none of the machine's; with none, plain HTTP is left. It uses no proxy.
pub(crate) fn client(roots: RootCertStore) -> Option<reqwest::ClientBuilder> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let tls = builder.with_safe_default_protocol_versions().ok()?;
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    Some(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy())
}
