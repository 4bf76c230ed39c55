//! The development servers, seen from outside.

mod attestation;
mod authority;
