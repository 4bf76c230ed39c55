//! A running trust domain, as its operator sees it.

use std::path::PathBuf;

use hive_dev::authority::KeyKind;
use hive_security::TrustDomain;

/// What an operator does with a trust domain, whoever runs it.
pub(crate) trait Domain: Sized {
    /// Names an entry, to delete it.
    type EntryId;

    /// Starts one with this name; it serves when this returns.
    async fn start(trust_domain: &str) -> Self;

    fn trust_domain(&self) -> TrustDomain;

    /// The Workload API, as in `SPIFFE_ENDPOINT_SOCKET`.
    fn endpoint(&self) -> String;

    async fn add(&self, entry: &Entry) -> Self::EntryId;

    async fn delete(&self, entry: &Self::EntryId);

    /// The key that signs: the `kid` of JWT-SVIDs, the authority key identifier of X.509-SVIDs.
    async fn active(&self, kind: KeyKind) -> String;

    /// Publishes a new key, which signs nothing yet.
    async fn prepare(&self, kind: KeyKind) -> String;

    /// Lets the prepared key sign.
    async fn activate(&self, kind: KeyKind, key: &str);

    /// Says that an old key is not to be trusted for long; returns when the domain itself uses it no more.
    async fn taint(&self, kind: KeyKind, key: &str);

    /// Takes a tainted key out of the bundle.
    async fn revoke(&self, kind: KeyKind, key: &str);

    /// Ends whatever serves the Workload API, without a word to its clients.
    async fn kill_agent(&mut self);

    /// Serves the Workload API again, with everything as it was.
    async fn restart_agent(&mut self);

    /// The bundle as a SPIFFE bundle document.
    async fn bundle_document(&self) -> String;

    /// Where the bundle is served by `https_spiffe`, and the SPIFFE ID of who serves it.
    fn bundle_endpoint(&self) -> (String, String);

    /// Trusts another trust domain from now on.
    async fn federate(&self, other: &impl Domain);

    /// Looks at once whether another trust domain's bundle has changed.
    async fn refresh(&self, other: &impl Domain);
}

/// Which programs have which identity.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The path of the SPIFFE ID.
    pub(crate) path: String,
    pub(crate) executable: PathBuf,
    pub(crate) hint: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) x509_ttl_s: u32,
    pub(crate) jwt_ttl_s: u32,
    pub(crate) federates_with: Vec<TrustDomain>,
}

impl Entry {
    /// For this very program.
    pub(crate) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            executable: std::env::current_exe().expect("this program has a path"),
            hint: String::new(),
            dns_names: Vec::new(),
            x509_ttl_s: 3600,
            jwt_ttl_s: 300,
            federates_with: Vec::new(),
        }
    }

    /// For another program.
    pub(crate) fn of(mut self, executable: impl Into<PathBuf>) -> Self {
        self.executable = executable.into();
        self
    }

    pub(crate) fn hinted(mut self, hint: &str) -> Self {
        self.hint = hint.to_owned();
        self
    }

    pub(crate) fn named(mut self, dns_names: &[&str]) -> Self {
        self.dns_names = dns_names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub(crate) fn federated_with(mut self, other: TrustDomain) -> Self {
        self.federates_with.push(other);
        self
    }
}
