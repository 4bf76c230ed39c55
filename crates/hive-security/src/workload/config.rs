//! What a workload is told about its identity.

use std::fmt;
use std::time::Duration;

use crate::spiffe::id::TrustDomain;
use crate::workload::endpoint::Endpoint;

/// The standard's variable, and the one of the system before this one.
const ENDPOINT: &str = "SPIFFE_ENDPOINT_SOCKET";
const ENDPOINT_BEFORE: &str = "SPIFFE_WORKLOAD_API_SOCKET";
const TRUST_DOMAIN: &str = "SPIFFE_TRUST_DOMAIN";

/// An entry may be younger than the process it names, and a node's first identities take minutes.
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);

/// Where this workload's identity comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkloadConfig {
    /// The Workload API's address as in `SPIFFE_ENDPOINT_SOCKET`; see [`Endpoint`].
    pub endpoint: String,
    /// How long to wait for the first identity: an entry may be younger than the process it names.
    pub attach_deadline: Duration,
    /// The trust domain that the identity must belong to; any if absent.
    pub trust_domain: Option<TrustDomain>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSetting {
    /// Its name.
    pub name: &'static str,
    /// What is wrong, continuing a sentence that begins with the name.
    pub reason: String,
}

impl WorkloadConfig {
    /// Identities of any trust domain from the Workload API at `endpoint`.
    pub fn new(endpoint: impl Into<String>, attach_deadline: Duration) -> Self {
        Self { endpoint: endpoint.into(), attach_deadline, trust_domain: None }
    }

    /// Reads the settings, or says everything that is wrong with them.
    ///
    /// `SPIFFE_ENDPOINT_SOCKET` is the standard's name for the address; `SPIFFE_WORKLOAD_API_SOCKET` is accepted
    /// too, and both may be set if they agree. `SPIFFE_TRUST_DOMAIN` says where the identity must belong to.
    /// `lookup` is where settings come from, such as `|name| std::env::var(name).ok()`.
    ///
    /// ```
    /// use hive_security::WorkloadConfig;
    ///
    /// let lookup = |name: &str| (name == "SPIFFE_ENDPOINT_SOCKET").then(|| "agent.sock".to_owned());
    /// let wrong = WorkloadConfig::from_strings(lookup).unwrap_err();
    /// assert!(wrong[0].to_string().starts_with("SPIFFE_ENDPOINT_SOCKET is \"agent.sock\": it must begin"));
    /// ```
    pub fn from_strings(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<WrongSetting>> {
        let mut wrong = Vec::new();
        let mut note = |name, reason| wrong.push(WrongSetting { name, reason });
        let (current, before) = (lookup(ENDPOINT), lookup(ENDPOINT_BEFORE));
        let endpoint = match (&current, &before) {
            (Some(text), _) => read(ENDPOINT, text, Endpoint::parse, &mut note),
            (None, Some(text)) => read(ENDPOINT_BEFORE, text, Endpoint::parse, &mut note),
            (None, None) => {
                note(ENDPOINT, "is required and not set".to_owned());
                None
            }
        };
        if let (Some(_), Some(text)) = (&current, &before)
            && let Some(other) = read(ENDPOINT_BEFORE, text, Endpoint::parse, &mut note)
            && endpoint.as_ref().is_some_and(|endpoint| *endpoint != other)
        {
            note(
                ENDPOINT_BEFORE,
                format!("names another socket than {ENDPOINT}; unset one of them"),
            );
        }
        let trust_domain = lookup(TRUST_DOMAIN)
            .and_then(|text| read(TRUST_DOMAIN, &text, TrustDomain::parse, &mut note));
        match endpoint {
            Some(endpoint) if wrong.is_empty() => {
                Ok(Self { trust_domain, ..Self::new(endpoint.to_string(), ATTACH_DEADLINE) })
            }
            _ => Err(wrong),
        }
    }
}

/// Parses one setting. The error's own words would name the thing and repeat the value, as its setting does.
fn read<T>(
    name: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, crate::Error>,
    note: &mut impl FnMut(&'static str, String),
) -> Option<T> {
    match parse(text) {
        Ok(value) => Some(value),
        Err(crate::Error::Invalid { value, reason, .. }) => {
            note(name, format!("is {value:?}: {reason}"));
            None
        }
        Err(error) => {
            note(name, format!("cannot be used: {error}"));
            None
        }
    }
}

impl fmt::Display for WrongSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.reason)
    }
}

impl std::error::Error for WrongSetting {}

/// Its name, and what is wrong.
impl From<WrongSetting> for (&'static str, String) {
    fn from(wrong: WrongSetting) -> Self {
        (wrong.name, wrong.reason)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn from(settings: &[(&str, &str)]) -> Result<WorkloadConfig, Vec<WrongSetting>> {
        WorkloadConfig::from_strings(|name| {
            settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn names(settings: &[(&str, &str)]) -> Vec<&'static str> {
        from(settings).unwrap_err().iter().map(|wrong| wrong.name).collect()
    }

    #[test]
    fn the_standard_name_and_the_one_before_it_are_read() {
        for name in [ENDPOINT, ENDPOINT_BEFORE] {
            let config = from(&[(name, "unix:/run/a.sock")]).unwrap();
            assert_eq!(config.endpoint, "unix:///run/a.sock");
            assert_eq!(config.trust_domain, None);
        }
        let both = [(ENDPOINT, "unix:///run/a.sock"), (ENDPOINT_BEFORE, "unix:/run/a.sock")];
        assert!(from(&both).is_ok(), "they agree");
        let config = from(&[(ENDPOINT, "tcp://127.0.0.1:1"), (TRUST_DOMAIN, "neural-hive.local")]);
        assert_eq!(config.unwrap().trust_domain.unwrap().as_str(), "neural-hive.local");
    }

    #[test]
    fn every_mistake_is_reported() {
        assert_eq!(names(&[]), [ENDPOINT]);
        assert_eq!(names(&[(TRUST_DOMAIN, "Not/a domain")]), [ENDPOINT, TRUST_DOMAIN]);
        let differ = [(ENDPOINT, "unix:///run/a.sock"), (ENDPOINT_BEFORE, "unix:///run/b.sock")];
        assert_eq!(names(&differ), [ENDPOINT_BEFORE]);
        let all = [(ENDPOINT, "a"), (ENDPOINT_BEFORE, "b"), (TRUST_DOMAIN, "?")];
        assert_eq!(names(&all), [ENDPOINT, ENDPOINT_BEFORE, TRUST_DOMAIN]);
    }
}
