//! Our development authority, inside this process.

use std::time::Duration;

use hive_dev::authority::{
    Authority, AuthorityConfig, BundleEndpoint, BundleProfile, EntryId, KeyKind, Method, Selector,
    SigningKey, Stage, Terms, Trouble,
};
use hive_security::TrustDomain;
use tempfile::TempDir;

use crate::domain::{Domain, Entry};

const ENDPOINT_PATH: &str = "/bundle-endpoint";

pub(crate) struct Ours {
    authority: Authority,
    _directory: TempDir,
}

impl Ours {
    fn key(&self, kind: KeyKind, id: &str) -> SigningKey {
        let keys = self.authority.signing_keys(kind).into_iter().map(|(key, _)| key);
        keys.into_iter().find(|key| key.id() == id).expect("it is known")
    }
}

impl Domain for Ours {
    type EntryId = EntryId;

    async fn start(trust_domain: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        config.trust_domain = Some(trust_domain.to_owned());
        let profile = BundleProfile::HttpsSpiffe { spiffe_path: ENDPOINT_PATH.to_owned() };
        config.bundle_endpoint = Some(BundleEndpoint::new(profile));
        let authority = Authority::start(config).await.expect("it starts");
        Self { authority, _directory: directory }
    }

    fn trust_domain(&self) -> TrustDomain {
        TrustDomain::parse(self.authority.trust_domain()).expect("a good name")
    }

    fn endpoint(&self) -> String {
        self.authority.endpoint()
    }

    async fn add(&self, entry: &Entry) -> EntryId {
        let seconds = |seconds: u32| Some(Duration::from_secs(seconds.into()));
        let selectors = [Selector::Path(entry.executable.clone())];
        let mut ours = hive_dev::authority::Entry::new(&entry.path, selectors);
        ours.terms = Terms {
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            jwt_ttl: seconds(entry.jwt_ttl_s),
            x509_ttl: seconds(entry.x509_ttl_s),
            ..Terms::default()
        };
        self.authority.add_entry(ours).expect("a good entry")
    }

    async fn delete(&self, entry: &EntryId) {
        assert!(self.authority.remove_entry(*entry), "it was there");
    }

    async fn active(&self, kind: KeyKind) -> String {
        let (key, stage) = self.authority.signing_keys(kind).remove(0);
        assert_eq!(stage, Stage::Active);
        key.id().to_owned()
    }

    async fn prepare(&self, kind: KeyKind) -> String {
        self.authority.prepare(kind).await.expect("prepared").id().to_owned()
    }

    async fn activate(&self, kind: KeyKind, key: &str) {
        self.authority.activate(&self.key(kind, key)).await.expect("activated");
    }

    async fn taint(&self, kind: KeyKind, key: &str) {
        self.authority.taint(&self.key(kind, key)).expect("tainted");
    }

    async fn revoke(&self, kind: KeyKind, key: &str) {
        self.authority.revoke(&self.key(kind, key)).expect("revoked");
    }

    /// Its keys are gone when it stops, so it only looks dead: connections break, and whatever is asked breaks them.
    async fn kill_agent(&mut self) {
        for method in [
            Method::FetchJwtBundles,
            Method::FetchJwtSvid,
            Method::FetchX509Bundles,
            Method::FetchX509Svid,
            Method::ValidateJwtSvid,
        ] {
            self.authority.weather().always(method, Trouble::Drop);
        }
        self.authority.weather().say_again();
    }

    async fn restart_agent(&mut self) {
        self.authority.weather().clear();
    }

    async fn bundle_document(&self) -> String {
        self.authority.bundle_document()
    }

    fn bundle_endpoint(&self) -> (String, String) {
        let url = self.authority.bundle_url().expect("it was asked for");
        (url, self.authority.spiffe_id(ENDPOINT_PATH).expect("a good path"))
    }

    async fn federate(&self, other: &impl Domain) {
        let (name, document) = (other.trust_domain(), other.bundle_document().await);
        assert!(self.authority.federate(name.as_str(), &document).expect("a good document"));
    }

    async fn refresh(&self, other: &impl Domain) {
        self.federate(other).await;
    }
}
