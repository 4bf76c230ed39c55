//! Spoils answers: what arrives can be read as a message, and is worth nothing.

use super::weather::Malformed;
use super::wire;

/// Begins like a long DER sequence, and is neither that, nor text.
const GARBAGE: &[u8] = &[0x30, 0x82, 0xff, 0xff, 0x00, 0xde, 0xad, 0xbe, 0xef];

/// An answer that can be spoiled.
pub(super) trait Spoil {
    fn spoil(&mut self, how: Malformed);
}

impl Spoil for wire::X509svidResponse {
    fn spoil(&mut self, how: Malformed) {
        match how {
            Malformed::Empty => *self = Self::default(),
            Malformed::Garbage | Malformed::Torn => self.svids.iter_mut().for_each(|svid| {
                let parts = [&mut svid.x509_svid, &mut svid.x509_svid_key, &mut svid.bundle];
                parts.into_iter().for_each(|part| bytes(part, how));
            }),
        }
    }
}

impl Spoil for wire::X509BundlesResponse {
    fn spoil(&mut self, how: Malformed) {
        match how {
            Malformed::Empty => *self = Self::default(),
            Malformed::Garbage | Malformed::Torn => {
                self.bundles.values_mut().for_each(|bundle| bytes(bundle, how));
            }
        }
    }
}

impl Spoil for wire::JwtBundlesResponse {
    fn spoil(&mut self, how: Malformed) {
        match how {
            Malformed::Empty => *self = Self::default(),
            Malformed::Garbage | Malformed::Torn => {
                self.bundles.values_mut().for_each(|bundle| bytes(bundle, how));
            }
        }
    }
}

impl Spoil for wire::JwtsvidResponse {
    fn spoil(&mut self, how: Malformed) {
        match how {
            Malformed::Empty => *self = Self::default(),
            Malformed::Garbage => {
                self.svids.iter_mut().for_each(|svid| "no token".clone_into(&mut svid.svid));
            }
            // A token is ASCII, so every length is a boundary.
            Malformed::Torn => {
                self.svids.iter_mut().for_each(|svid| svid.svid.truncate(svid.svid.len() / 2));
            }
        }
    }
}

impl Spoil for wire::ValidateJwtsvidResponse {
    fn spoil(&mut self, how: Malformed) {
        match how {
            Malformed::Empty => *self = Self::default(),
            Malformed::Garbage => "no SPIFFE ID".clone_into(&mut self.spiffe_id),
            Malformed::Torn => self.claims = None,
        }
    }
}

fn bytes(part: &mut Vec<u8>, how: Malformed) {
    match how {
        Malformed::Empty => part.clear(),
        Malformed::Garbage => *part = GARBAGE.to_vec(),
        Malformed::Torn => part.truncate(part.len() / 2),
    }
}
