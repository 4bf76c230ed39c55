//! One fetch: the request, the redirects, the limits, and what went wrong.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::{HeaderMap, header};
use reqwest::{Client, Response, Url, redirect};
use rustls::{AlertDescription, CertificateError, OtherError};
use tokio::time::timeout;

use super::relationship::{Relationship, check_url, name};
use super::{Error, proof};
use crate::error::{bounded, causes};
use crate::spiffe::verify::BundleDocument;

/// A bundle of a hundred keys has some 100 KiB.
pub(super) const DOCUMENT_MAX_BYTES: usize = 4 << 20;
/// From the address that is configured to the one that answers.
const REDIRECTS_MAX: usize = 5;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn fetch(
    relationship: &Relationship,
    latest: Option<&BundleDocument>,
) -> Result<BundleDocument, Error> {
    let limit = relationship.deadline;
    let slow = |_| Error::Slow { endpoint: name(&relationship.url), limit };
    timeout(limit, attempt(relationship, latest)).await.map_err(slow)?
}

async fn attempt(
    relationship: &Relationship,
    latest: Option<&BundleDocument>,
) -> Result<BundleDocument, Error> {
    let client = Client::builder()
        .tls_backend_preconfigured(proof::client_config(relationship, latest).await?)
        // They are followed here, where each target is looked at.
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .build()
        .map_err(|error| failed(&relationship.url, &error))?;
    let document = get(&client, relationship.url.clone()).await?;
    BundleDocument::parse(&relationship.trust_domain, &document).map_err(Error::Document)
}

/// The TLS of `client` demands the same of every target (§5.2.1.4 and §5.2.2.4).
async fn get(client: &Client, mut url: Url) -> Result<Vec<u8>, Error> {
    for _ in 0..=REDIRECTS_MAX {
        let request = client.get(url.clone()).header(header::ACCEPT, "application/json");
        let response = request.send().await.map_err(|error| failed(&url, &error))?;
        match response.status().as_u16() {
            200 => return bounded_body(&url, response).await,
            // The configured address is asked again next time, even where this says "permanently".
            301 | 302 | 303 | 307 | 308 => url = target(&url, response.headers())?,
            status => return Err(Error::Status { endpoint: name(&url), status }),
        }
    }
    Err(Error::Redirect { endpoint: name(&url), what: "this was too often" })
}

fn target(url: &Url, headers: &HeaderMap) -> Result<Url, Error> {
    let refused = |what| Error::Redirect { endpoint: name(url), what };
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| refused("does not say where to"))?;
    let target = url.join(location).map_err(|_| refused("what it names is not a URL"))?;
    check_url(&target)
        .map_err(|_| refused("what it names is not an https URL, or holds user information"))?;
    Ok(target)
}

async fn bounded_body(url: &Url, mut response: Response) -> Result<Vec<u8>, Error> {
    let limit = DOCUMENT_MAX_BYTES;
    let too_large = || Error::TooLarge { endpoint: name(url), limit };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(url, &error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn failed(url: &Url, error: &reqwest::Error) -> Error {
    let endpoint = name(url);
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(error)) => {
            Error::Impostor { endpoint, reason: bounded(&certificate_reason(error)) }
        }
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            let reason = "it demands a client certificate, which no bundle endpoint may".to_owned();
            Error::Unreachable { endpoint, reason }
        }
        Some(error) => Error::Unreachable { endpoint, reason: bounded(&error.to_string()) },
        None => Error::Unreachable { endpoint, reason: bounded(&innermost(error)) },
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(OtherError(cause)) => cause.to_string(),
        error => error.to_string(),
    }
}

/// What rustls said, wherever it is: an `io::Error` does not name its content among its sources.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let content = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match content {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

/// The last cause says what the system saw; those before it repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}
