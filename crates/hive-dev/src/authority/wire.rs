//! The Workload API's messages and service, generated from `proto/workload.proto`.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::restriction
)]

use std::fmt;

tonic::include_proto!("_");

/// What server reflection tells of the service.
pub(super) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("workload");

// These carry secrets, so their `Debug` says only whose they are.

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let svid = X509svid { x509_svid_key: vec![222; 3], ..X509svid::default() };
        let token = Jwtsvid { svid: "hunter2".to_owned(), ..Jwtsvid::default() };
        let asked = ValidateJwtsvidRequest { svid: "hunter2".to_owned(), ..Default::default() };
        let shown = format!("{svid:?} {token:?} {asked:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("222"), "{shown}");
    }
}
