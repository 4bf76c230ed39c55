//! Whoever uses a credential, and how it moves to the next one.

use futures_util::future::BoxFuture;

use super::Credential;

/// Why a holder did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HolderError {
    /// The credential lacks a field, or a field has a value that cannot be used here. Trying again changes nothing.
    #[error("the credential {credential} cannot be used by {holder}: {what}")]
    Unusable {
        /// What the holder is, such as `the PostgreSQL pool`.
        holder: &'static str,
        /// The credential's name.
        credential: String,
        /// What is missing or wrong, without any value.
        what: &'static str,
    },
    /// The server that it is for refuses it. It may not know it yet.
    #[error("{server} refuses the credential {credential}")]
    Refused {
        /// The server, such as `PostgreSQL`.
        server: &'static str,
        /// The credential's name.
        credential: String,
        /// What the server said, without any secret.
        #[source]
        cause: Option<crate::Cause>,
    },
    /// The server that it is for could not be asked. The credential may well be good.
    #[error("{server} cannot be reached, so the credential {credential} could not be tried")]
    Unreachable {
        /// The server, such as `PostgreSQL`.
        server: &'static str,
        /// The credential's name.
        credential: String,
        /// What happened.
        #[source]
        cause: Option<crate::Cause>,
    },
}

impl HolderError {
    /// Whether the same credential may be taken a little later.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Unusable { .. })
    }
}

/// A pool, a client, a file: something that uses one credential and can be moved to its next generation.
///
/// The order is always the same: `probe` the new generation, `adopt` it, wait until the old one is `drained`; if that
/// takes longer than the overlap lasts, `cut`. Only then is the old generation revoked. Every method may be called
/// again, and every future may be dropped: each has a deadline that the caller sets.
pub trait Holder: Send + Sync + 'static {
    /// Proves that the server takes `fresh`, with a new connection, before anyone depends on it. Changes nothing.
    fn probe<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>>;

    /// From when this resolves, whatever begins uses `fresh`. What is under way goes on with what it has.
    fn adopt<'a>(&'a self, fresh: &'a Credential) -> BoxFuture<'a, Result<(), HolderError>>;

    /// Resolves once nothing here uses a generation below `generation` any more. Hurries idle users, breaks none.
    fn drained(&self, generation: u64) -> BoxFuture<'_, ()>;

    /// Ends whatever still uses a generation below `generation`: the overlap is over.
    fn cut(&self, generation: u64) -> BoxFuture<'_, ()>;

    /// No generation may be used any more: what begins from now on fails at once, with an error that says why. A later
    /// `adopt` ends this state.
    fn withdraw(&self) -> BoxFuture<'_, ()>;
}
