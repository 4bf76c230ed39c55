//! The development servers, seen from outside.

mod attestation;
mod authority;
mod authority_child;
mod authority_endpoint;
mod authority_entries;
mod authority_federation;
mod authority_relationships;
mod authority_rotation;
mod authority_weather;
mod database;
mod epoch;
mod fixture;
mod interop;
mod interop_grpc;
mod interop_rotation;
mod issuer;
mod proxy;
mod rotation;
mod stack;
mod standard;
mod vault;
