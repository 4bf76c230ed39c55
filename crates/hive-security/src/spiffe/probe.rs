//! One look at a Workload API, to say what is wrong with it. Services [attach](crate::Workload::attach) instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::UnixTime;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spiffe::{WorkloadApiClient, WorkloadApiError};
use tokio::time::timeout;

use crate::error::{bounded, causes};
use crate::spiffe::source::{JwtBundles, X509Material, own_jwt_bundles, x509_material};
use crate::spiffe::svid::X509Svid;
use crate::spiffe::trust::Usage;
use crate::workload::{Endpoint, WorkloadConfig};
use crate::{Error, Refusal};

/// The Workload API is on this machine, so a healthy one answers each question in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a Workload API hands out at this moment, used or not.
#[derive(Debug)]
pub struct Probed {
    x509: X509Material,
    jwt: JwtBundles,
    clocks: Option<Clocks>,
}

/// Two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// This machine's.
    pub here: SystemTime,
    /// The authority's, in whole seconds.
    pub authority: SystemTime,
}

/// Why a Workload API handed out nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It knows this process under no identity.
    #[error("it issues no identity to this process: {0}")]
    Denied(String),
    /// It did not see the security header, so something between it and us removes it.
    #[error("it did not see the header workload.spiffe.io: {0}")]
    Header(String),
    /// The endpoint is not an address.
    #[error(transparent)]
    Invalid(Error),
    /// It answered, with what cannot be used.
    #[error("its answer cannot be used: {0}")]
    Malformed(String),
    /// Somebody answered, and it is not a Workload API.
    #[error("what listens there is not a Workload API: {0}")]
    Protocol(String),
    /// Somebody listens and says nothing.
    #[error("it accepts the connection and does not answer")]
    Silent,
    /// It says that it is not ready.
    #[error("it is not ready: {0}")]
    Unavailable(String),
    /// There is no connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
}

/// Asks the Workload API of `config` once for everything, and judges nothing.
///
/// Takes some seconds at most. `config.attach_deadline` and `config.trust_domain` are not looked at.
pub async fn probe(config: &WorkloadConfig) -> Result<Probed, ProbeError> {
    let endpoint = Endpoint::parse(&config.endpoint).map_err(ProbeError::Invalid)?;
    reach(&endpoint).await?;
    let client = answered(WorkloadApiClient::connect_to(endpoint.to_string())).await?;
    let context = answered(client.fetch_x509_context()).await?;
    let malformed = |error: Error| ProbeError::Malformed(error.to_string());
    let x509 = x509_material(&context).map_err(malformed)?;
    let jwt = own_jwt_bundles(&answered(client.fetch_jwt_bundles()).await?);
    Ok(Probed { x509, jwt, clocks: clocks(&client).await })
}

impl Probed {
    /// The X.509-SVIDs, expired or not, and the X.509 bundles.
    pub fn x509(&self) -> &X509Material {
        &self.x509
    }

    /// The JWT bundles.
    pub fn jwt_bundles(&self) -> &JwtBundles {
        &self.jwt
    }

    /// What the clocks say, by a JWT-SVID that was issued a moment ago; `None` if there was none.
    pub fn clocks(&self) -> Option<Clocks> {
        self.clocks
    }

    /// Whether `svid` chains to the bundle of its own trust domain at `when`; with an SVID's
    /// [`valid_from`](X509Svid::valid_from) this does not depend on this machine's clock.
    pub fn verify(&self, svid: &X509Svid, when: SystemTime) -> Result<(), Refusal> {
        let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some((leaf, intermediates)) = svid.certificate_chain().split_first() else {
            return Err(Refusal::Certificate { what: "there is none" });
        };
        let when = UnixTime::since_unix_epoch(since);
        self.x509.trust.verify(leaf, intermediates, Usage::Client, when).map(drop)
    }
}

/// Whether anybody listens, in the operating system's own words.
async fn reach(endpoint: &Endpoint) -> Result<(), ProbeError> {
    let connected = async {
        match endpoint {
            Endpoint::Tcp(address) => tokio::net::TcpStream::connect(address).await.map(drop),
            Endpoint::Unix(path) => tokio::net::UnixStream::connect(path).await.map(drop),
        }
    };
    match timeout(PATIENCE, connected).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ProbeError::Unreachable(error.to_string())),
        Err(_) => Err(ProbeError::Silent),
    }
}

async fn answered<T>(
    question: impl Future<Output = Result<T, WorkloadApiError>>,
) -> Result<T, ProbeError> {
    match timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(|error| judge(&error)),
        Err(_) => Err(ProbeError::Silent),
    }
}

fn judge(error: &WorkloadApiError) -> ProbeError {
    let reason = reason(error);
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
            ProbeError::Denied(reason)
        }
        WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
            GrpcStatusCode::InvalidArgument => ProbeError::Header(reason),
            GrpcStatusCode::Unavailable | GrpcStatusCode::ResourceExhausted => {
                ProbeError::Unavailable(reason)
            }
            _ => ProbeError::Protocol(reason),
        },
        // Somebody listened a moment ago.
        WorkloadApiError::Transport(_) => ProbeError::Protocol(reason),
        _ => ProbeError::Malformed(reason),
    }
}

/// The error with its causes, of which tonic's own words say least. It never holds what was sent.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
    }
    bounded(&text)
}

/// An audience that nobody else asked for cannot be answered from a cache, so `iat` is the authority's clock.
async fn clocks(client: &WorkloadApiClient) -> Option<Clocks> {
    let audience = format!("clock-{:016x}.hive.internal", rand::random::<u64>());
    let svid =
        timeout(PATIENCE, client.fetch_jwt_svid([audience.as_str()], None)).await.ok()?.ok()?;
    let authority = UNIX_EPOCH.checked_add(Duration::from_secs(issued_at(svid.token())?))?;
    Some(Clocks { here: SystemTime::now(), authority })
}

fn issued_at(token: &str) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Issued {
        iat: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Issued>(&payload).ok().map(|issued| issued.iat)
}
