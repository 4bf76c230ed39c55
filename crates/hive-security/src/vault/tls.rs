//! How the client trusts Vault, and who it says that it is.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::VaultError;
use crate::Workload;
use crate::tls::CurrentSvid;

/// The CA given and no other: the machine's own roots have no say about Vault.
pub(super) fn settings(
    ca_pem: Option<&str>,
    identity: Option<&Workload>,
) -> Result<ClientConfig, VaultError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.unwrap_or_default().as_bytes()) {
        let certificate = certificate.map_err(|_| config("a CA file that is not PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| config("a CA file with a certificate that cannot be read"))?;
    }
    if ca_pem.is_some() && roots.is_empty() {
        return Err(config("a CA file without any certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|_| config("the TLS versions of this build"))?;
    let builder = builder.with_root_certificates(roots);
    let Some(workload) = identity else { return Ok(builder.with_no_client_auth()) };
    let mut settings =
        builder.with_client_cert_resolver(Arc::new(CurrentSvid::of(workload.clone())));
    // A resumed session would go on with the certificate of the first one.
    settings.resumption = Resumption::disabled();
    Ok(settings)
}

pub(super) fn checked_base(address: &str, has_ca: bool) -> Result<Url, VaultError> {
    let url = Url::parse(address)
        .map_err(|_| config("an address that is no URL: write http://127.0.0.1:8200"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(config("an address that holds a user name or password: remove it"));
    }
    match url.scheme() {
        "https" if has_ca => Ok(url),
        "https" => Err(config(
            "an https address without a CA: name the PEM file that Vault's certificate comes from",
        )),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(config(
            "plain http to another host: tokens would travel in the clear, use https and a CA",
        )),
        _ => Err(config("an address that is neither http nor https")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn config(what: &str) -> VaultError {
    VaultError::Config { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost:8200"] {
            assert!(checked_base(good, false).is_ok(), "{good}");
        }
        for bad in [
            "http://10.0.0.1:8200",
            "http://vault:8200",
            "https://vault:8200",
            "ftp://127.0.0.1",
            "vault",
        ] {
            assert!(checked_base(bad, false).is_err(), "{bad}");
        }
        assert!(checked_base("https://vault:8200", true).is_ok());
        assert!(checked_base("http://user:pass@127.0.0.1", false).is_err());
    }
}
