//! Certificates with which clients log in, good ones and bad ones, and the authorities behind them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::prelude::{FromDer, X509Certificate};

const ID: &str = "spiffe://hive.test/ns/shop/sa/cart";
const DAY: Duration = Duration::from_secs(86_400);
/// `UTF8String`, and a text.
const TEXT: [u8; 7] = [0x0c, 5, b'h', b'e', b'l', b'l', b'o'];
const EXTENSION: [u64; 4] = [1, 2, 3, 4];

/// All of them by their names.
pub(crate) struct Clients {
    chains: BTreeMap<String, (Vec<CertificateDer<'static>>, Vec<u8>)>,
    /// For scripts: `$good_pem`, `$good_serial`, `$good_key`, and the list `$crl`.
    pub(crate) known: BTreeMap<String, String>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    fn new(name: &str, above: Option<&Self>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = Vec::new();
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer),
            None => params.self_signed(&key),
        };
        let certificate = certificate.expect("a certificate").der().clone();
        let der = key.serialize_der();
        Self { issuer: Issuer::new(params, key), certificate, key: der }
    }
}

/// Of a client, for some days.
fn params(name: &str, ids: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let uri = |id: &&str| SanType::URI((*id).try_into().expect("ASCII"));
    params.subject_alt_names = ids.iter().map(uri).collect();
    params.extended_key_usages = vec![Usage::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 10 * DAY).into());
    params
}

/// Positive, and of sixteen bytes.
fn serial() -> [u8; 16] {
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = 0x40 | serial[0] & 0x3f;
    serial
}

impl Clients {
    pub(crate) fn make() -> Self {
        let mut all = Self { chains: BTreeMap::new(), known: BTreeMap::new() };
        let authority = Authority::new("authority.test", None);
        let stranger = Authority::new("stranger.test", None);
        let between = Authority::new("between.test", Some(&authority));
        for (name, one) in
            [("authority", &authority), ("stranger", &stranger), ("between", &between)]
        {
            all.add(name, vec![one.certificate.clone()], one.key.clone());
        }
        for (name, params) in leaves() {
            all.issue(name, &params, &authority, &[]);
        }
        all.issue("foreign", &params("cart", &[ID]), &stranger, &[]);
        let below = params("cart", &[ID]);
        all.issue("below", &below, &between, std::slice::from_ref(&between.certificate));
        all.issue("lone", &params("cart", &[ID]), &between, &[]);
        let revoked = params("cart", &[ID]);
        let serial = revoked.serial_number.clone().expect("it was given");
        all.issue("revoked", &revoked, &authority, &[]);
        all.known.insert("crl".to_owned(), list(serial, &authority));
        all
    }

    fn issue(
        &mut self,
        name: &str,
        params: &CertificateParams,
        by: &Authority,
        between: &[CertificateDer<'static>],
    ) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &by.issuer).expect("a certificate");
        let chain = [std::slice::from_ref(certificate.der()), between].concat();
        self.add(name, chain, key.serialize_der());
    }

    fn add(&mut self, name: &str, chain: Vec<CertificateDer<'static>>, key: Vec<u8>) {
        let pem = super::recorder::pem("CERTIFICATE", &chain[0]);
        let (_, parsed) = X509Certificate::from_der(&chain[0]).expect("it was made");
        let ids = parsed.extensions().iter().find_map(|one| match one.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        let id: Vec<_> = ids.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
        let facts = [
            ("pem", pem),
            ("serial", parsed.tbs_certificate.serial.to_string()),
            ("key", id.join(":")),
        ];
        self.known.extend(facts.map(|(fact, value)| (format!("{name}_{fact}"), value)));
        self.chains.insert(name.to_owned(), (chain, key));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.chains.keys()
    }

    /// A client that shows one of them, or none.
    pub(crate) fn http(&self, ca_pem: &str, name: Option<&String>) -> reqwest::Client {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::pem_slice_iter(ca_pem.as_bytes()).map(|one| one.expect("PEM"));
        roots.add_parsable_certificates(ca);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
        let tls = tls.with_safe_default_protocol_versions().expect("versions");
        let tls = tls.with_root_certificates(roots);
        let tls = match name.map(|name| &self.chains[name]) {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
                let key = provider.key_provider.load_private_key(key).expect("a key");
                // As it is: rustls would not show one that it does not understand itself.
                let shown = SingleCertAndKey::from(CertifiedKey::new(chain.clone(), key));
                tls.with_client_cert_resolver(Arc::new(shown))
            }
            None => tls.with_no_client_auth(),
        };
        super::http_over(tls)
    }
}

/// Each differs from `good` in what its name says.
fn leaves() -> [(&'static str, CertificateParams); 10] {
    let same = || params("cart", &[ID]);
    let mut good = same();
    good.distinguished_name.push(DnType::OrganizationalUnitName, "shop");
    good.subject_alt_names.push(SanType::DnsName("cart.shop".try_into().expect("ASCII")));
    let email = "cart@shop.test".try_into().expect("ASCII");
    good.subject_alt_names.push(SanType::Rfc822Name(email));
    good.extended_key_usages.push(Usage::ServerAuth);
    good.custom_extensions = vec![CustomExtension::from_oid_content(&EXTENSION, TEXT.to_vec())];
    let mut demanding = good.clone();
    demanding.custom_extensions[0].set_criticality(true);
    let now = SystemTime::now();
    let during = |from: SystemTime, to: SystemTime| {
        let mut params = same();
        (params.not_before, params.not_after) = (from.into(), to.into());
        params
    };
    let used = |usage: Vec<Usage>| {
        let mut params = same();
        params.extended_key_usages = usage;
        params
    };
    [
        ("another", params("other", &["spiffe://hive.test/ns/shop/sa/other"])),
        ("anything", used(vec![Usage::Any])),
        ("demanding", demanding),
        ("early", during(now + DAY, now + 2 * DAY)),
        ("expired", during(now - 2 * DAY, now - DAY)),
        ("good", good),
        ("nameless", params("", &[ID])),
        ("next", same()),
        ("server", used(vec![Usage::ServerAuth])),
        ("useless", used(Vec::new())),
    ]
}

fn list(serial: SerialNumber, by: &Authority) -> String {
    let now = SystemTime::now();
    let revoked = RevokedCertParams {
        serial_number: serial,
        revocation_time: now.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + DAY).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&by.issuer).expect("a list");
    super::recorder::pem("X509 CRL", list.der())
}
