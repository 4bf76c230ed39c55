//! One request, one answer: limits, headers, and the meaning of a status.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use reqwest::{Method, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::VaultError;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const TOTAL_DEADLINE: Duration = Duration::from_secs(10);
/// Vault's own limit for a request is 32 MiB, but nothing that we read comes near this.
const BODY_MAX_BYTES: usize = 1 << 20;

pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    namespace: Option<HeaderValue>,
}

/// A successful answer.
pub(super) struct Reply {
    operation: String,
    body: Zeroizing<Vec<u8>>,
}

impl Http {
    pub(super) fn new(
        address: &str,
        ca_pem: Option<&str>,
        namespace: Option<String>,
    ) -> Result<Self, VaultError> {
        let base = checked_base(address, ca_pem.is_some())?;
        let namespace = namespace
            .map(|name| header(&name, "a namespace that is no header value"))
            .transpose()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(ca_pem)?)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(TOTAL_DEADLINE)
            .build()
            .map_err(|_| config("the TLS settings of this process"))?;
        Ok(Self { client, base, namespace })
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&SecretString>,
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Reply, VaultError> {
        let operation = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let url = self.url(path)?;
        let mut request = self.client.request(method, url).headers(self.headers(token)?);
        if let Some(body) = body {
            request =
                request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_vec());
        }
        let response = request.send().await.map_err(|error| unreachable(&operation, &error))?;
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = bounded_body(response, &operation).await?;
        if (200..300).contains(&status) {
            return Ok(Reply { operation, body });
        }
        Err(classify(operation, status, retry_after, &texts(&body)))
    }

    /// A path from a plan is data: it must stay below `/v1/` and may not bring a query of its own.
    fn url(&self, path: &str) -> Result<Url, VaultError> {
        let (bare, query) =
            path.split_once('?').map_or((path, None), |(bare, query)| (bare, Some(query)));
        let odd = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        if bare.split('/').any(odd) || bare.contains(['#', '\\', '%']) {
            return Err(config("a path with empty, relative or encoded segments"));
        }
        let mut url = self.base.clone();
        url.set_path(&format!("/v1/{bare}"));
        url.set_query(query);
        Ok(url)
    }

    fn headers(&self, token: Option<&SecretString>) -> Result<HeaderMap, VaultError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert("x-vault-namespace", namespace.clone());
        }
        if let Some(token) = token {
            let mut value = header(token.expose_secret(), "a token that is no header value")?;
            value.set_sensitive(true);
            headers.insert("x-vault-token", value);
        }
        Ok(headers)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("base", &self.base.as_str())
            .field("namespace", &self.namespace)
            .finish()
    }
}

impl Reply {
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn misses(&self, what: &'static str) -> VaultError {
        VaultError::Protocol { operation: self.operation.clone(), what: missing(what) }
    }
}

fn missing(what: &'static str) -> &'static str {
    match what {
        "auth" => "it carries no `auth`",
        _ => "it is not the expected JSON",
    }
}

fn checked_base(address: &str, has_ca: bool) -> Result<Url, VaultError> {
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

/// The CA given and no other: the machine's own roots have no say about Vault.
fn tls(ca_pem: Option<&str>) -> Result<ClientConfig, VaultError> {
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
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn header(value: &str, what: &str) -> Result<HeaderValue, VaultError> {
    HeaderValue::from_str(value).map_err(|_| config(what))
}

fn config(what: &str) -> VaultError {
    VaultError::Config { what: what.to_owned() }
}

/// Only a failed connect is sure to have had no effect; everything after it may have arrived.
fn unreachable(operation: &str, error: &reqwest::Error) -> VaultError {
    let cause = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "it took too long",
        (_, true) => "the connection failed",
        _ => "the connection broke",
    };
    VaultError::Unreachable {
        operation: operation.to_owned(),
        cause,
        never_sent: error.is_connect(),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

async fn bounded_body(
    mut response: reqwest::Response,
    operation: &str,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let mut body = Zeroizing::new(Vec::with_capacity(4096));
    while let Some(chunk) =
        response.chunk().await.map_err(|error| unreachable(operation, &error))?
    {
        if body.len() + chunk.len() > BODY_MAX_BYTES {
            let what = "it is larger than 1 MiB";
            return Err(VaultError::Protocol { operation: operation.to_owned(), what });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    errors: Vec<String>,
}

/// The error texts, for `classify` only: they may quote what was sent, so they go no further.
fn texts(body: &[u8]) -> String {
    serde_json::from_slice::<Failure>(body).unwrap_or_default().errors.join("\n")
}

fn classify(
    operation: String,
    status: u16,
    retry_after: Option<Duration>,
    text: &str,
) -> VaultError {
    match status {
        400 if is_lease_gone(text) => VaultError::LeaseGone { operation },
        403 => VaultError::Denied { operation },
        404 => VaultError::NotFound { operation },
        // The database engine says so with 400, although the path is right and the name is missing.
        400 if text.starts_with("unknown role") => VaultError::NotFound { operation },
        412 | 472 | 473 | 300..=399 => VaultError::NotServing { operation, status },
        429 => VaultError::Limited { operation, retry_after },
        500..=599 if status == 503 && text.contains("sealed") => VaultError::Sealed { operation },
        // The engine behind Vault failed, for which Vault answers 400 when a lease is renewed or revoked.
        400 if text.contains("failed to renew entry") || text.contains("failed to revoke") => {
            VaultError::Server { operation, status }
        }
        500..=599 => VaultError::Server { operation, status },
        400..=499 => VaultError::Rejected { operation, status },
        _ => VaultError::Protocol { operation, what: "its status is not one that Vault uses" },
    }
}

fn is_lease_gone(text: &str) -> bool {
    text.contains("lease not found") || text.contains("invalid lease")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, text: &str) -> VaultError {
        classify("GET x".to_owned(), status, None, text)
    }

    #[test]
    fn the_text_tells_a_lost_lease_from_a_failing_database() {
        assert!(matches!(class(400, "lease not found"), VaultError::LeaseGone { .. }));
        assert!(matches!(class(400, "invalid lease"), VaultError::LeaseGone { .. }));
        let database_down =
            class(400, "failed to renew entry: dial tcp 127.0.0.1:5432: connection refused");
        assert!(
            matches!(database_down, VaultError::Server { status: 400, .. })
                && database_down.is_transient()
        );
        assert!(matches!(class(400, "error validating token"), VaultError::Rejected { .. }));
    }

    #[test]
    fn every_status_has_a_class() {
        let transient = [412, 429, 472, 473, 500, 502, 503, 504, 307];
        assert!(transient.iter().all(|status| class(*status, "").is_transient()));
        assert!(matches!(class(503, "Vault is sealed"), VaultError::Sealed { .. }));
        assert!(matches!(class(403, ""), VaultError::Denied { .. }));
        assert!(matches!(class(404, ""), VaultError::NotFound { .. }));
        assert!(matches!(class(400, "unknown role: x"), VaultError::NotFound { .. }));
        assert!([400, 401, 403, 404, 405].iter().all(|status| !class(*status, "").is_transient()));
    }

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

    #[test]
    fn a_path_cannot_leave_the_api() {
        let http = Http::new("http://127.0.0.1:1", None, None).expect("a valid configuration");
        for bad in ["../sys", "secret//x", "secret/./x", "a/%2e%2e/b", "a#b", "", "/sys"] {
            assert!(http.url(bad).is_err(), "{bad}");
        }
        assert_eq!(
            http.url("secret/data/release").expect("a good path").path(),
            "/v1/secret/data/release"
        );
    }

    #[test]
    fn a_token_with_a_line_break_is_refused_and_not_shown() {
        let http = Http::new("http://127.0.0.1:1", None, None).expect("a valid configuration");
        let error =
            http.headers(Some(&SecretString::from("hvs.\nabc"))).expect_err("not a header value");
        assert!(!format!("{error:?} {error}").contains("hvs."));
    }
}
