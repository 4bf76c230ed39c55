//! Names: SPIFFE IDs, trust domains, audiences.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The longest audience that is used or accepted, in bytes; the same as a SPIFFE ID's.
const AUDIENCE_MAX_BYTES: usize = 2048;

/// The name of a workload, such as `spiffe://example.org/ns/shop/sa/cart`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(spiffe::SpiffeId);

/// The authority that a workload belongs to, such as `example.org`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(spiffe::TrustDomain);

/// Whom a JWT-SVID is meant for. One token has one audience here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Audience(String);

impl SpiffeId {
    /// Reads a SPIFFE ID by the rules of the SPIFFE specification.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let id = spiffe::SpiffeId::new(text)
            .map_err(|error| Error::invalid("SPIFFE ID", text, &error))?;
        Ok(Self(id))
    }

    /// The SPIFFE ID with this path (`/ns/…`) in `trust_domain`.
    pub fn in_trust_domain(trust_domain: &TrustDomain, path: &str) -> Result<Self, Error> {
        Self::parse(&format!("spiffe://{trust_domain}{path}"))
    }

    /// The trust domain that vouches for it.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.0.trust_domain().clone())
    }

    /// The path, with its leading `/`; empty for the trust domain's own ID.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The segments of the path.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    pub(crate) fn inner(&self) -> &spiffe::SpiffeId {
        &self.0
    }
}

impl TrustDomain {
    /// Reads the name of a trust domain (or a SPIFFE ID in it).
    pub fn parse(text: &str) -> Result<Self, Error> {
        let name = spiffe::TrustDomain::new(text)
            .map_err(|error| Error::invalid("trust domain", text, &error))?;
        Ok(Self(name))
    }

    /// The name, without the scheme.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Audience {
    /// Reads an audience: any text of 1 to 2048 bytes without white space at its ends.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > AUDIENCE_MAX_BYTES || text.trim() != text {
            let reason = "it must have 1 to 2048 bytes and no white space at its ends";
            return Err(Error::invalid("audience", text, &reason));
        }
        Ok(Self(text.to_owned()))
    }

    /// The audience of `service` in `trust_domain`: `<service>.<trust domain>`.
    pub fn of_service(service: &str, trust_domain: &TrustDomain) -> Result<Self, Error> {
        Self::parse(&format!("{service}.{trust_domain}"))
    }

    /// The text in the `aud` claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<spiffe::SpiffeId> for SpiffeId {
    fn from(id: spiffe::SpiffeId) -> Self {
        Self(id)
    }
}

impl From<spiffe::TrustDomain> for TrustDomain {
    fn from(name: spiffe::TrustDomain) -> Self {
        Self(name)
    }
}

/// Lets a map of trust domains be asked for that of a SPIFFE ID, without a copy.
impl Borrow<spiffe::TrustDomain> for TrustDomain {
    fn borrow(&self) -> &spiffe::TrustDomain {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl FromStr for TrustDomain {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl FromStr for Audience {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}
