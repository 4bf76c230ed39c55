//! The development servers, seen from outside.

mod attestation;
mod authority;
mod database;
mod epoch;
mod fixture;
mod issuer;
mod vault;
