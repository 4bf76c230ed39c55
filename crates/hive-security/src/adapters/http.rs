//! Bearer tokens for HTTP clients.
//!
//! ```no_run
//! # async fn example(workload: hive_security::Workload, credential: hive_security::credentials::Credential) -> Result<(), Box<dyn std::error::Error>> {
//! use hive_security::adapters::http::{AttachBearer, Bearer, TokenHolder};
//! use hive_security::Audience;
//!
//! // This workload's JWT-SVID, held for each audience and refreshed before it expires:
//! let orders = Bearer::jwt_svid(&workload, Audience::parse("orders.shop")?);
//! let request = http::Request::get("https://orders.shop:8443/v1/orders")
//!     .header("authorization", orders.authorization().await?); // with reqwest and hyper alike
//! // Or a token that is leased, in the field `token`:
//! let holder = TokenHolder::new("token");
//! # use hive_security::credentials::Holder;
//! # holder.adopt(&credential).await?;
//! // Hand `holder` to whoever rotates the credential. A layer for tower sends it to one server and to nobody else:
//! let layer = AttachBearer::new(holder.bearer(), "https://ci.shop:443")?;
//! # let _ = (request, layer);
//! # Ok(())
//! # }
//! ```
//!
//! A header is made once for each token and shared by all requests. It is marked sensitive, so `Debug` does not show
//! it and HTTP/2 does not index it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tower::Layer;
use zeroize::Zeroizing;

use super::Barred;
use crate::connect::{Attached, TokenFor};
use crate::credentials::{Credential, Holder, HolderError};
use crate::{Audience, Cause, Error, Workload};

const HOLDER: &str = "the HTTP client";
const SERVER: &str = "the HTTP server";

/// Where the current token comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bearer(Source);

#[derive(Clone, Debug)]
enum Source {
    Leased(TokenHolder),
    Svid { workload: Workload, audience: Audience },
}

/// There is no token that could be sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoToken {
    /// The leased one was withdrawn, or has not been issued yet.
    #[error(transparent)]
    Barred(#[from] Barred),
    /// There is no JWT-SVID.
    #[error("there is no JWT-SVID to send")]
    Identity(#[from] Error),
    /// The JWT-SVID has a character that no header may have.
    #[error("the JWT-SVID cannot be sent in a header")]
    Unsendable,
}

impl Bearer {
    /// This workload's JWT-SVID for `audience`.
    pub fn jwt_svid(workload: &Workload, audience: Audience) -> Self {
        Self(Source::Svid { workload: workload.clone(), audience })
    }

    /// The value of the `authorization` header for a request that is made now; hold on to it no longer than to that.
    ///
    /// Waits only for the first JWT-SVID of an audience, five seconds at most; then, and for leased tokens always, it is
    /// there at once. Cancel-safe.
    pub async fn authorization(&self) -> Result<HeaderValue, NoToken> {
        match &self.0 {
            Source::Leased(holder) => Ok(holder.header()?),
            Source::Svid { workload, audience } => {
                let svid = workload.jwt_svid(audience).await?;
                svid.authorization().ok_or(NoToken::Unsendable)
            }
        }
    }
}

/// A [`tower`] layer for clients of one server: each request carries the current token, and a request that goes
/// elsewhere fails with [`NotSent::Elsewhere`](crate::connect::NotSent::Elsewhere). Whatever `authorization` it brings along is replaced.
#[derive(Clone, Debug)]
pub struct AttachBearer(TokenFor);

impl AttachBearer {
    /// For the server at `address`: `https://host:port`.
    pub fn new(bearer: Bearer, address: &str) -> Result<Self, Error> {
        TokenFor::new(bearer, address).map(Self)
    }
}

impl<S> Layer<S> for AttachBearer {
    type Service = Attached<S>;

    fn layer(&self, inner: S) -> Attached<S> {
        self.0.attach_to(inner)
    }
}

/// Moves requests from one leased token to the next. Clones share it.
///
/// A generation is drained when the last header that was made of it is dropped; with [`AttachBearer`] that is when the
/// server has answered. A request that is under way at the end of the overlap is left to the server.
#[derive(Clone)]
pub struct TokenHolder(Arc<Shared>);

struct Shared {
    field: String,
    current: ArcSwapOption<Held>,
    /// Headers that may still be on their way.
    older: Mutex<Vec<Gone>>,
    /// Nobody waits for generations below this one any more.
    cut: watch::Sender<u64>,
    probe: Option<Probe>,
}

type Probe =
    Box<dyn Fn(HeaderValue) -> BoxFuture<'static, Result<StatusCode, Cause>> + Send + Sync>;

struct Held {
    generation: u64,
    header: HeaderValue,
    gone: watch::Receiver<()>,
}

/// Closed when the last clone of a header is dropped.
#[derive(Clone)]
struct Gone {
    generation: u64,
    gone: watch::Receiver<()>,
}

/// What the clones of a header share; wiped with the last of them.
struct Text {
    value: Zeroizing<Vec<u8>>,
    _alive: watch::Sender<()>,
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.value
    }
}

impl TokenHolder {
    /// The token is in this field of the credential.
    pub fn new(field: impl Into<String>) -> Self {
        Self::make(field.into(), None)
    }

    /// The same, with a request that proves a new token before it is used: `ask` makes it with the header that it is given and
    /// says how it was answered. 401 and 403 refuse the token; so do no other answers below 500.
    pub fn with_probe<F>(
        field: impl Into<String>,
        ask: impl Fn(HeaderValue) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<StatusCode, Cause>> + Send + 'static,
    {
        Self::make(field.into(), Some(Box::new(move |header| ask(header).boxed())))
    }

    /// The current token of this holder, for requests.
    pub fn bearer(&self) -> Bearer {
        Bearer(Source::Leased(self.clone()))
    }

    fn make(field: String, probe: Option<Probe>) -> Self {
        let (current, older, cut) = (ArcSwapOption::empty(), Mutex::default(), watch::channel(0).0);
        Self(Arc::new(Shared { field, current, older, cut, probe }))
    }

    fn header(&self) -> Result<HeaderValue, Barred> {
        let held = self.0.current.load();
        held.as_ref().map(|held| held.header.clone()).ok_or(Barred { server: SERVER })
    }

    fn held(&self, credential: &Credential) -> Result<Held, HolderError> {
        let unusable = |what| HolderError::Unusable {
            holder: HOLDER,
            credential: credential.name().to_owned(),
            what,
        };
        let token = credential.field(&self.0.field);
        let token = token.ok_or_else(|| unusable("it lacks the field with the token"))?;
        let value = Zeroizing::new(["Bearer ", token.expose_secret()].concat().into_bytes());
        let (alive, gone) = watch::channel(());
        let value = Bytes::from_owner(Text { value, _alive: alive });
        let mut header = HeaderValue::from_maybe_shared(value)
            .map_err(|_| unusable("the token has a character that no header may have"))?;
        header.set_sensitive(true);
        Ok(Held { generation: credential.generation(), header, gone })
    }

    async fn try_out(&self, fresh: &Credential) -> Result<(), HolderError> {
        let held = self.held(fresh)?;
        let Some(ask) = &self.0.probe else { return Ok(()) };
        let credential = fresh.name().to_owned();
        match ask(held.header).await {
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(HolderError::Refused { server: SERVER, credential, cause: None })
            }
            Ok(status) if status.is_server_error() => {
                Err(HolderError::Unreachable { server: SERVER, credential, cause: None })
            }
            Ok(_) => Ok(()),
            Err(cause) => {
                Err(HolderError::Unreachable { server: SERVER, credential, cause: Some(cause) })
            }
        }
    }

    fn replace(&self, fresh: Option<Held>) {
        let mut older = self.0.older();
        if let Some(before) = self.0.current.swap(fresh.map(Arc::new)) {
            older.push(Gone { generation: before.generation, gone: before.gone.clone() });
        }
        older.retain(|older| older.gone.has_changed().is_ok());
    }

    async fn await_drained(&self, generation: u64) {
        let mut cut = self.0.cut.subscribe();
        let left: Vec<Gone> =
            self.0.older().iter().filter(|older| older.generation < generation).cloned().collect();
        let all_gone = async {
            for mut older in left {
                // Nothing is ever sent; the error says that the last header is gone.
                while older.gone.changed().await.is_ok() {}
            }
        };
        tokio::select! {
            () = all_gone => {}
            _ = cut.wait_for(|cut| *cut >= generation) => {}
        }
    }
}

impl Shared {
    fn older(&self) -> MutexGuard<'_, Vec<Gone>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for TokenHolder {
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        self.try_out(fresh).boxed()
    }

    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>> {
        async {
            self.replace(Some(self.held(fresh)?));
            Ok(())
        }
        .boxed()
    }

    fn drained(&self, generation: u64) -> BoxFuture<'_, ()> {
        self.await_drained(generation).boxed()
    }

    fn cut(&self, generation: u64) -> BoxFuture<'_, ()> {
        async move {
            self.0.cut.send_modify(|cut| *cut = generation.max(*cut));
        }
        .boxed()
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        async { self.replace(None) }.boxed()
    }
}

impl fmt::Debug for TokenHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.0.current.load().as_ref().map(|held| held.generation);
        f.debug_struct("TokenHolder")
            .field("field", &self.0.field)
            .field("generation", &generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
