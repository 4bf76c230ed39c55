//! Patterns of SPIFFE IDs: anchored at both ends and matched segment by segment.
//!
//! A prefix or an unanchored expression would let `…/sa/api-evil` pass for `…/sa/api`, so neither exists here.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::spiffe::id::{SpiffeId, TrustDomain};

/// Which SPIFFE IDs are meant: exact segments, `*` for any one segment, `**` (last only) for zero or more.
///
/// The trust domain is always exact.
///
/// ```
/// use hive_security::{IdPattern, SpiffeId};
///
/// let workers = IdPattern::parse("spiffe://example.org/ns/*/sa/worker-agents/**")?;
/// assert!(workers.matches(&SpiffeId::parse("spiffe://example.org/ns/a/sa/worker-agents/one")?));
/// assert!(!workers.matches(&SpiffeId::parse("spiffe://example.org/ns/a/sa/worker-agents-evil")?));
/// # Ok::<(), hive_security::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdPattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    /// Whether `**` ends it.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Any,
    Exactly(String),
}

impl IdPattern {
    /// Reads a pattern such as `spiffe://example.org/ns/*/sa/cart`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| {
            Error::invalid("SPIFFE ID pattern", text, "it must start with spiffe://")
        })?;
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at(path_at);
        Self::in_trust_domain(&TrustDomain::parse(trust_domain)?, path)
    }

    /// The pattern with this path (`/ns/*/…`) in `trust_domain`.
    pub fn in_trust_domain(trust_domain: &TrustDomain, path_pattern: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid("SPIFFE ID pattern", path_pattern, &reason);
        let closed = path_pattern.strip_suffix("/**");
        let mut segments = Vec::new();
        let path = closed.unwrap_or(path_pattern);
        if !path.is_empty() {
            let path =
                path.strip_prefix('/').ok_or_else(|| refuse("its path must start with /"))?;
            for segment in path.split('/') {
                segments.push(Segment::parse(segment).map_err(|reason| refuse(&reason))?);
            }
        }
        if segments.is_empty() && closed.is_none() {
            return Err(refuse(
                "it must have a path, for no workload is named by a trust domain alone",
            ));
        }
        Ok(Self { trust_domain: trust_domain.clone(), segments, open: closed.is_some() })
    }

    /// The pattern that only `id` matches.
    pub fn exactly(id: &SpiffeId) -> Self {
        let segments = id.segments().map(|segment| Segment::Exactly(segment.to_owned())).collect();
        Self { trust_domain: id.trust_domain(), segments, open: false }
    }

    /// Whether `id` is one of those meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.inner().trust_domain_name() != self.trust_domain.as_str() {
            return false;
        }
        let mut given = id.segments();
        for wanted in &self.segments {
            match (wanted, given.next()) {
                (Segment::Any, Some(_)) => {}
                (Segment::Exactly(wanted), Some(given)) if wanted == given => {}
                _ => return false,
            }
        }
        self.open || given.next().is_none()
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if text.is_empty() || text == "." || text == ".." || !text.chars().all(plain) {
            return Err(format!(
                "segment {text:?} must be *, or consist of letters, digits, '.', '-' and '_' (and ** may only be last)"
            ));
        }
        Ok(Self::Exactly(text.to_owned()))
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Any => f.write_str("/*")?,
                Segment::Exactly(text) => write!(f, "/{text}")?,
            }
        }
        f.write_str(if self.open { "/**" } else { "" })
    }
}

impl FromStr for IdPattern {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored_and_match_segment_by_segment() {
        let table = [
            ("spiffe://td/a/b", "spiffe://td/a/b", true),
            ("spiffe://td/a/b", "spiffe://td/a/b/c", false),
            ("spiffe://td/a/b", "spiffe://td/a", false),
            ("spiffe://td/a/b", "spiffe://td/a/bc", false),
            ("spiffe://td/a/b", "spiffe://td/A/b", false),
            ("spiffe://td/a/b", "spiffe://td2/a/b", false),
            ("spiffe://td/a/b", "spiffe://x.td/a/b", false),
            ("spiffe://td/*/b", "spiffe://td/a/b", true),
            ("spiffe://td/*/b", "spiffe://td/a/x/b", false),
            ("spiffe://td/*", "spiffe://td", false),
            ("spiffe://td/a/**", "spiffe://td/a", true),
            ("spiffe://td/a/**", "spiffe://td/a/b/c", true),
            ("spiffe://td/a/**", "spiffe://td/ab", false),
            ("spiffe://td/a/**", "spiffe://td/b/a", false),
            ("spiffe://td/a/*/**", "spiffe://td/a", false),
            ("spiffe://td/a/*/**", "spiffe://td/a/b", true),
            ("spiffe://td/**", "spiffe://td/anything/at/all", true),
            ("spiffe://td/**", "spiffe://other/anything", false),
        ];
        for (pattern, id, expected) in table {
            let matched = IdPattern::parse(pattern).unwrap().matches(&SpiffeId::parse(id).unwrap());
            assert_eq!(matched, expected, "{pattern} on {id}");
        }
    }

    #[test]
    fn a_pattern_that_could_surprise_is_not_accepted() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://*/a",
            "spiffe://td/a*",
            "spiffe://td/**/a",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/../a",
            "spiffe://td/***",
            "https://td/a",
            "spiffe://td/a?b",
            "spiffe://td/%61",
            "spiffe://td:1/a",
            "spiffe://u@td/a",
            " spiffe://td/a",
        ] {
            assert!(IdPattern::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_was_written() {
        for text in ["spiffe://td/a/*/b", "spiffe://td/a/**", "spiffe://td/**"] {
            assert_eq!(IdPattern::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_exact_pattern_matches_its_own_id_only() {
        let id = SpiffeId::parse("spiffe://td/a/b").unwrap();
        assert!(IdPattern::exactly(&id).matches(&id));
        assert!(!IdPattern::exactly(&id).matches(&SpiffeId::parse("spiffe://td/a/b/c").unwrap()));
    }
}
