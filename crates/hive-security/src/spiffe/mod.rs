//! SPIFFE: names, documents, and where they come from.

pub(crate) mod bundle;
pub mod federation;
pub(crate) mod id;
pub(crate) mod jwt;
pub(crate) mod keys;
pub(crate) mod pattern;
pub(crate) mod probe;
pub(crate) mod source;
pub(crate) mod svid;
pub(crate) mod trust;
pub(crate) mod verify;
