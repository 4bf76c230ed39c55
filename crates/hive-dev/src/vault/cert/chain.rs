//! From a certificate that was shown to one that is trusted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};
use x509_parser::num_bigint::BigUint;

use super::facts::{Certificate, not_now};

const OTHER_USE: &str = "x509: certificate specifies an incompatible key usage";
/// `id-kp-clientAuth` and `anyExtendedKeyUsage`, as they are encoded.
const CLIENT: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
const ANY: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0]);

/// What leads from the one to the other.
#[derive(Debug)]
pub(super) enum Link {
    /// A chain that would be good if this were not so.
    Broken(String),
    /// A chain.
    Good,
    /// A chain in which something was taken back.
    Revoked,
    /// Nothing.
    Nothing,
}

impl Link {
    pub(super) fn broken(&self) -> Option<&str> {
        match self {
            Self::Broken(why) => Some(why),
            _ => None,
        }
    }
}

/// `between` is what else was shown.
pub(super) fn link(
    shown: &Certificate,
    between: &[CertificateDer<'static>],
    trusted: &Certificate,
    now: SystemTime,
    is_revoked: &dyn Fn(&str) -> bool,
) -> Link {
    if shown.der == trusted.der {
        return match () {
            () if !shown.is_for_clients => Link::Broken(OTHER_USE.to_owned()),
            () if is_revoked(&shown.serial) => Link::Revoked,
            () => Link::Good,
        };
    }
    let anchor = webpki::anchor_from_trusted_cert(&trusted.der).ok();
    let Some(anchor) = anchor.filter(|_| trusted.is_authority) else { return Link::Nothing };
    let search = Search { shown: &shown.der, between, anchor: &[anchor], now };
    if let Err(link) = search.run(Use::Any, &|_| true) {
        return link;
    }
    if let Some(why) = trusted.fault(now) {
        return Link::Broken(why);
    }
    if search.run(Use::Client, &|_| true).is_err() {
        return Link::Broken(OTHER_USE.to_owned());
    }
    if is_revoked(&shown.serial) || is_revoked(&trusted.serial) {
        return Link::Revoked;
    }
    let is_clean = |path: &VerifiedPath<'_>| {
        let mut serials = path.intermediate_certificates().map(|one| one.serial());
        !serials.any(|serial| is_revoked(&BigUint::from_bytes_be(serial).to_string()))
    };
    if search.run(Use::Client, &is_clean).is_ok() { Link::Good } else { Link::Revoked }
}

struct Search<'a> {
    shown: &'a CertificateDer<'static>,
    between: &'a [CertificateDer<'static>],
    anchor: &'a [TrustAnchor<'a>],
    now: SystemTime,
}

impl Search<'_> {
    /// Whether there is a chain whose members all have this use, and that is accepted.
    fn run(&self, usage: Use, accepts: &dyn Fn(&VerifiedPath<'_>) -> bool) -> Result<(), Link> {
        let now = self.now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = UnixTime::since_unix_epoch(now);
        let refuse = |path: &VerifiedPath<'_>| match accepts(path) {
            true => Ok(()),
            false => Err(webpki::Error::CertRevoked),
        };
        let shown = EndEntityCert::try_from(self.shown).map_err(|_| Link::Nothing)?;
        let found = shown.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            self.anchor,
            self.between,
            now,
            usage,
            None,
            Some(&refuse),
        );
        let seconds = |at: UnixTime| i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        match found {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                Err(Link::Broken(not_now(self.now, "after", seconds(not_after))))
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
                Err(Link::Broken(not_now(self.now, "before", seconds(not_before))))
            }
            Err(_) => Err(Link::Nothing),
        }
    }
}

/// What the certificates of a chain may be used for.
#[derive(Clone, Copy)]
enum Use {
    Any,
    Client,
}

impl ExtendedKeyUsageValidator for Use {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let purposes: Vec<_> = purposes.collect::<Result<_, _>>()?;
        let fits = |purpose: &KeyPurposeId<'_>| *purpose == CLIENT || *purpose == ANY;
        match self {
            Self::Client if !purposes.is_empty() && !purposes.iter().any(fits) => {
                let (required, present) = (KeyUsage::client_auth(), Vec::new());
                let context = RequiredEkuNotFoundContext { required, present };
                Err(webpki::Error::RequiredEkuNotFoundContext(context))
            }
            _ => Ok(()),
        }
    }
}
