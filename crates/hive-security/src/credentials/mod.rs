//! Credentials that are replaced before they end, and the holders that move over to the new ones.
//!
//! A [`Credential`] is one generation of something borrowed. A [`Holder`] is whoever uses it: a connection pool, a
//! producer, a file. Holders are moved, never surprised: a new generation is *probed*, *adopted*, the old one is
//! *drained*, and only then revoked.

mod credential;
mod holder;

pub use credential::Credential;
pub use holder::{Holder, HolderError};
