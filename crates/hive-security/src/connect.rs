//! For clients: a channel to one server, and JWT-SVIDs for requests of plain HTTP.

mod attach;
mod renewed;
mod unsent;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::header::{AUTHORIZATION, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::Service;

pub(crate) use self::attach::TokenFor;
pub use self::attach::{AttachJwt, Attached, NotSent};
use self::renewed::Renewed;
use self::unsent::{Unsent, was_refused};
use crate::error::causes;
use crate::serve::ConnectionAge;
use crate::{Audience, Error, IdPattern, Workload, tls};

/// A server that is there accepts within milliseconds; one that is not should not hold up a retry.
const TCP_DEADLINE: Duration = Duration::from_secs(2);

/// Two round trips and two signatures, and before that a place in the line of a server to which everybody comes back at once.
/// Waiting there costs it nothing, and coming again does.
const TLS_DEADLINE: Duration = Duration::from_secs(10);

/// Why there was no connection is of no interest for longer, if nobody waited to hear it.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// A call that was not taken, for its connection was closing, is handed to the next one. That may be the same again
/// until everybody has noticed, hence more than twice.
const ATTEMPTS_MAX: u32 = 5;

/// A connection without traffic is asked for a sign of life, and given up after the second without one: a
/// peer that vanished with its machine sends no end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(5);

/// A channel to one server: lazy, reconnecting, cheap to clone, and usable by generated clients.
///
/// Each call carries this workload's JWT-SVID for the server's audience. Where there is none, the call fails
/// with `UNAUTHENTICATED` (the identity was denied or withdrawn) or `UNAVAILABLE` (the Workload API is out of
/// reach) without having been sent. A connection that cannot be made is `UNAVAILABLE`, with a sentence that
/// says who was expected and who was met.
///
/// A connection is used for new calls for half an hour at most ([`max_connection_age`](Self::max_connection_age)), and
/// never longer than its certificate is good for; then another is made, with the SVIDs and bundles of that moment, and
/// the old one ends with the last call on it.
#[derive(Clone, Debug)]
pub struct Channel {
    connection: Arc<Renewed>,
    workload: Workload,
    /// Whom calls carry a JWT-SVID for, if they carry one.
    audience: Option<Arc<Audience>>,
}

/// A channel to the server at `address` (`https://host:port`), which must be one of `server` and is addressed
/// as `audience`.
///
/// Nothing is connected until the first call. The caller gives each call its deadline.
pub fn channel(
    workload: &Workload,
    address: &str,
    server: IdPattern,
    audience: Audience,
) -> Result<Channel, Error> {
    let channel = channel_without_jwt(workload, address, server)?;
    Ok(Channel { audience: Some(Arc::new(audience)), ..channel })
}

/// As [`channel`], to a server that knows its callers by their certificate only, such as etcd: no call carries a
/// JWT-SVID, which it would take for a token of its own or could pass on.
pub fn channel_without_jwt(
    workload: &Workload,
    address: &str,
    server: IdPattern,
) -> Result<Channel, Error> {
    let address = Address::parse(address)?;
    let tls = tls::client_config(workload, server.clone())?;
    let dialler = Dialler::new(address, server, &tls, Some(workload.clone()));
    let connection = Arc::new(Renewed::new(dialler, ConnectionAge::default())?);
    Ok(Channel { connection, workload: workload.clone(), audience: None })
}

impl Channel {
    /// The same channel with another age at which a connection takes no new calls. It begins anew, unconnected.
    pub fn max_connection_age(self, age: ConnectionAge) -> Result<Self, Error> {
        let connection = Arc::new(Renewed::new(self.connection.dialler(), age)?);
        Ok(Self { connection, ..self })
    }
}

type Answer = Result<http::Response<Body>, Status>;

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    /// Always ready: what a call waits for, it waits for itself, so that nobody holds on to an old connection.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let connection = Arc::clone(&self.connection);
        let (workload, audience) = (self.workload.clone(), self.audience.clone());
        Box::pin(async move {
            if let Some(audience) = audience {
                let authorization = authorization(&workload, &audience).await?;
                request.headers_mut().insert(AUTHORIZATION, authorization);
            }
            send(connection.current(), request).await.map_err(status_of_transport)
        })
    }
}

/// Makes the call; once more where the connection closed and the server has not looked at it.
async fn send(
    mut connection: tonic::transport::Channel,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, tonic::transport::Error> {
    let unsent = Unsent::new(request);
    let mut attempts = 1;
    loop {
        std::future::poll_fn(|cx| connection.poll_ready(cx)).await?;
        match connection.call(unsent.lend()).await {
            Err(error) if attempts < ATTEMPTS_MAX && unsent.is_intact(&error) => attempts += 1,
            answer => return answer,
        }
    }
}

async fn authorization(workload: &Workload, audience: &Audience) -> Result<HeaderValue, Status> {
    let svid = workload.jwt_svid(audience).await.map_err(|error| status_of_identity(&error))?;
    svid.authorization().ok_or_else(|| Status::internal("the JWT-SVID cannot be sent as metadata"))
}

fn status_of_identity(error: &Error) -> Status {
    let message = format!("this call was not sent: {error}");
    match error {
        Error::NoJwtSvid { denied: false, .. } => Status::unavailable(message),
        _ => Status::unauthenticated(message),
    }
}

/// Why a call did not get through, in a sentence.
///
/// A connection that breaks is `UNAVAILABLE` here, also where tonic calls it `UNKNOWN`, (before the call was sent)
/// `CANCELLED` or (the server was closing) `INTERNAL`: nobody cancelled it, and whoever may repeat the call should.
fn status_of_transport(error: tonic::transport::Error) -> Status {
    let mut reasons: Vec<String> = Vec::new();
    for cause in causes(&error) {
        if let Some(unreachable) = cause.downcast_ref::<Unreachable>() {
            return Status::unavailable(unreachable.to_string());
        }
        let reason = cause.to_string();
        if reasons.last() != Some(&reason) {
            reasons.push(reason);
        }
    }
    let reason = format!("the connection broke: {}", reasons.join(": "));
    if was_refused(&error) {
        return Status::unavailable(reason);
    }
    match Status::from_error(Box::new(error)).code() {
        Code::Cancelled | Code::Unknown => Status::unavailable(reason),
        code => Status::new(code, reason),
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
struct Address {
    /// As it is dialled: `host:port`.
    authority: String,
    name: ServerName<'static>,
}

/// Connects to one server, as often as needed.
#[derive(Clone)]
struct Dialler {
    address: Address,
    server: IdPattern,
    connector: TlsConnector,
    /// Who dials; without a certificate of its own a call would only be refused at the other end.
    workload: Option<Workload>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {address}, where a server that is {server} should be: {reason}")]
struct Unreachable {
    address: String,
    server: String,
    reason: String,
}

impl Address {
    fn parse(address: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid("address", address, reason);
        let authority = address
            .strip_prefix("https://")
            .map(|rest| rest.strip_suffix('/').unwrap_or(rest))
            .ok_or_else(|| refuse("it must start with https://"))?;
        let uri: http::uri::Authority =
            authority.parse().map_err(|_| refuse("it must have the form https://host:port"))?;
        if uri.port_u16().is_none() || authority.contains('@') {
            return Err(refuse("it must have the form https://host:port"));
        }
        let host = uri.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| refuse("its host is neither a name nor an IP address"))?;
        Ok(Self { authority: authority.to_owned(), name })
    }
}

impl Dialler {
    fn new(
        address: Address,
        server: IdPattern,
        tls: &Arc<ClientConfig>,
        workload: Option<Workload>,
    ) -> Self {
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self { address, server, connector: TlsConnector::from(Arc::new(tls)), workload }
    }

    /// Connects at the first call, and as often as needed.
    fn channel(self) -> Result<tonic::transport::Channel, Error> {
        let authority = &self.address.authority;
        let invalid = |error: &dyn ToString| Error::invalid("address", authority, error);
        let origin = format!("https://{authority}").parse().map_err(|error| invalid(&error))?;
        // TLS is the dialler's, so tonic must not look for its own; the origin says what is spoken.
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| invalid(&error))?
            .origin(origin)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_DEADLINE)
            .keep_alive_while_idle(true);
        let connect = tower::service_fn(move |_: http::Uri| {
            let dialler = self.clone();
            async move { dialler.dial_on().await.map(tls::Gathered::new).map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector_lazy(connect))
    }

    /// How long the certificate of a handshake of this moment is good for, at least: later ones are newer. Nothing if
    /// there is none to be had now. `None` for whoever needs none.
    fn certificate_left(&self) -> Option<Duration> {
        let svid = self.workload.as_ref()?.x509_svid();
        let left = svid.map(|svid| svid.expires_at().duration_since(SystemTime::now()));
        Some(left.ok().and_then(Result::ok).unwrap_or_default())
    }

    /// Dials in a task of its own. tonic looks after a connection that is being made only while a call waits for it: one whose
    /// call had given up would stand still, half done, while the server has done its half in vain. This one goes on, the next
    /// call finds it, and only one is ever made at a time.
    async fn dial_on(self) -> Result<TlsStream<TcpStream>, Unreachable> {
        loop {
            let dialler = self.clone();
            let dialled = async move { (dialler.dial().await, Instant::now()) };
            match AbortOnDropHandle::new(tokio::spawn(dialled)).await {
                Ok((Err(_), at)) if at.elapsed() > STALE_AFTER => {}
                Ok((dialled, _)) => return dialled,
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, Unreachable> {
        if let Some(Err(error)) = self.workload.as_ref().map(Workload::x509_svid) {
            return Err(self.unreachable(&error));
        }
        let tcp = timeout(TCP_DEADLINE, TcpStream::connect(&self.address.authority))
            .await
            .map_err(|_| self.unreachable(&format!("nobody accepted within {TCP_DEADLINE:?}")))?
            .map_err(|error| self.unreachable(&error))?;
        tcp.set_nodelay(true).map_err(|error| self.unreachable(&error))?;
        timeout(TLS_DEADLINE, self.connector.connect(self.address.name.clone(), tcp))
            .await
            .map_err(|_| self.unreachable(&format!("no TLS handshake within {TLS_DEADLINE:?}")))?
            .map_err(|error| self.unreachable(&tls::explain(&error)))
    }

    fn unreachable(&self, reason: &(impl ToString + ?Sized)) -> Unreachable {
        let unreachable = Unreachable {
            address: self.address.authority.clone(),
            server: self.server.to_string(),
            reason: reason.to_string(),
        };
        tracing::warn!(%unreachable, "a connection failed");
        unreachable
    }
}

#[cfg(test)]
mod tests;
