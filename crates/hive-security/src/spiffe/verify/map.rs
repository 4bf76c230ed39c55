//! SPIFFE bundle maps (SPIFFE_Trust_Domain_and_Bundle.md §5): the bundle documents of several trust domains in one
//! file, each under its name and apart from the others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::document::{BundleDocument, JwkSet};
use crate::Refusal;
use crate::spiffe::id::TrustDomain;

/// The bundle documents of several trust domains, read whole or not at all.
///
/// ```
/// use hive_security::{BundleMap, Verifier};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let map = BundleMap::parse(br#"{"trust_domains":{"example.org":{"keys":[]}}}"#)?;
/// let verifier = Verifier::of_documents(map.documents())?;
/// # let _ = verifier;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleMap {
    documents: BTreeMap<TrustDomain, BundleDocument>,
}

#[derive(Deserialize)]
struct Map {
    trust_domains: Members,
}

/// What a name stands for may not depend on who reads it, so a name that comes twice is an error (§6.3).
struct Members(BTreeMap<String, JwkSet>);

impl BundleMap {
    /// Reads a map. `trust_domains` must be there, and may be empty; each name must be that of a trust domain, and
    /// stand there once.
    ///
    /// How often the map itself is to be read again is not in it: the refresh hints of single bundles say nothing
    /// about that (§5.1.1), so they are left out.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let refused = |what| Refusal::BundleMap { what };
        let text = std::str::from_utf8(json).map_err(|_| refused("it is not UTF-8"))?;
        let what = "it is no object in which trust_domains holds one JWK set for each name";
        let map: Map = serde_json::from_str(text).map_err(|_| refused(what))?;
        let mut documents = BTreeMap::new();
        for (name, set) in &map.trust_domains.0 {
            let trust_domain = TrustDomain::parse(name).ok().filter(|read| read.as_str() == name);
            let trust_domain =
                trust_domain.ok_or_else(|| refused("a name is no trust domain's"))?;
            let mut document = BundleDocument::read(&trust_domain, set)?;
            document.refresh_hint = None;
            documents.insert(trust_domain, document);
        }
        Ok(Self { documents })
    }

    /// The document of `trust_domain`.
    pub fn document(&self, trust_domain: &TrustDomain) -> Option<&BundleDocument> {
        self.documents.get(trust_domain)
    }

    /// All documents, by the name of their trust domains.
    pub fn documents(&self) -> impl Iterator<Item = &BundleDocument> {
        self.documents.values()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bundles by the names of their trust domains")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let Entry::Vacant(place) = members.entry(name) else {
                        return Err(A::Error::custom("a name that comes twice"));
                    };
                    place.insert(map.next_value()?);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Once)
    }
}
