//! The trust domain's X.509 authority, and the X.509-SVIDs that it signs (X509-SVID standard, sections 2 to 4).

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_security::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::jwt::{coordinates, unix_seconds};
use super::rotation::Named;

/// How far `notBefore` lies in the past: clocks in one machine agree, containers' may not quite.
const BACKDATED: Duration = Duration::from_secs(10);

/// A signing certificate and its key.
pub(super) struct X509Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    /// Its subject key identifier.
    id: String,
    not_after: SystemTime,
}

/// An X.509-SVID: what a workload is given.
pub(super) struct X509Document {
    /// DER.
    pub(super) certificate: Vec<u8>,
    /// PKCS#8, DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) not_after: SystemTime,
}

impl X509Authority {
    /// A new self-signed authority; itself an SVID of the trust domain, whose ID has no path (section 3.2).
    pub(super) fn new(
        domain: &TrustDomain,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = parameters(&format!("spiffe://{domain}"), now, now + ttl)?;
        params.distinguished_name = authority_name();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().to_vec();
        let hex = |id: Vec<u8>| id.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = hex(params.key_identifier(&key));
        Ok(Self { issuer: Issuer::new(params, key), certificate, id, not_after: now + ttl })
    }

    /// As it stands in a bundle document: the certificate, and no `kid` (X509-SVID standard, section 6.1).
    pub(super) fn jwk(&self) -> Value {
        let (x, y) = coordinates(self.issuer.key().public_key_raw());
        let x5c = [STANDARD.encode(&self.certificate)];
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "x509-svid", "x5c": x5c })
    }

    /// DER.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs an X.509-SVID for `id` with a key of its own. It never outlives this authority. The DNS names stand beside
    /// the ID, and the first in the subject.
    pub(super) fn issue(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        now: SystemTime,
        ttl: Duration,
    ) -> Result<X509Document, rcgen::Error> {
        let mut key = KeyPair::generate()?;
        let not_after = self.not_after.min(now + ttl);
        let mut params = parameters(&id.to_string(), now, not_after)?;
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        if let Some(first) = dns_names.first() {
            params.distinguished_name.push(DnType::CommonName, first);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        let secret = Zeroizing::new(key.serialize_der());
        key.zeroize();
        Ok(X509Document { certificate, key: secret, not_after })
    }
}

impl Named for X509Authority {
    fn id(&self) -> &str {
        &self.id
    }
}

/// What both kinds of certificate share: one URI name, and no subject yet.
fn parameters(
    uri: &str,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    // Without a subject rcgen marks the alternative name critical, as RFC 5280 section 4.2.1.6 demands.
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_seconds(now - BACKDATED));
    params.not_after = epoch + Duration::from_secs(unix_seconds(not_after));
    Ok(params)
}

/// RFC 5280 section 4.1.2.6: an authority's subject is not empty. The number tells rotated ones apart.
fn authority_name() -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Neural Hive development");
    name.push(DnType::CommonName, format!("authority {:08x}", rand::random::<u32>()));
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::*;

    const TTL: Duration = Duration::from_secs(3_600);

    fn authority(ttl: Duration) -> (TrustDomain, X509Authority) {
        let domain = TrustDomain::parse("dev.hive.internal").expect("a good name");
        let authority = X509Authority::new(&domain, SystemTime::now(), ttl).expect("an authority");
        (domain, authority)
    }

    fn document(authority: &X509Authority, domain: &TrustDomain) -> X509Document {
        let id = SpiffeId::in_trust_domain(domain, "/ns/a/sa/b").expect("a good ID");
        authority.issue(&id, &[], SystemTime::now(), TTL).expect("an SVID")
    }

    fn parse(der: &[u8]) -> X509Certificate<'_> {
        let (rest, certificate) = X509Certificate::from_der(der).expect("a certificate");
        assert!(rest.is_empty());
        certificate
    }

    /// The URI names, and whether the extension is critical. Any other kind of name is a failure.
    fn names<'a>(certificate: &'a X509Certificate<'_>) -> (Vec<&'a str>, bool) {
        let names =
            certificate.subject_alternative_name().expect("one extension").expect("present");
        let uri = |name: &GeneralName<'a>| match name {
            GeneralName::URI(uri) => *uri,
            other => panic!("an unexpected name: {other:?}"),
        };
        (names.value.general_names.iter().map(uri).collect(), names.critical)
    }

    #[test]
    fn the_authority_has_the_profile_of_a_signing_certificate() {
        let (_, authority) = authority(TTL);
        let certificate = parse(authority.certificate());
        assert_eq!(names(&certificate), (vec!["spiffe://dev.hive.internal"], false));
        assert!(certificate.subject().iter().next().is_some());
        let constraints = certificate.basic_constraints().expect("one extension").expect("present");
        assert!(constraints.critical && constraints.value.ca);
        let usage = certificate.key_usage().expect("one extension").expect("present");
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        assert!(certificate.extended_key_usage().expect("at most one").is_none());
    }

    #[test]
    fn an_svid_has_the_profile_of_a_leaf() {
        let (domain, authority) = authority(TTL);
        let svid = document(&authority, &domain);
        let certificate = parse(&svid.certificate);
        assert_eq!(names(&certificate), (vec!["spiffe://dev.hive.internal/ns/a/sa/b"], true));
        assert!(certificate.subject().iter().next().is_none());
        let constraints = certificate.basic_constraints().expect("one extension").expect("present");
        assert!(!constraints.value.ca);
        let usage = certificate.key_usage().expect("one extension").expect("present");
        assert!(usage.critical && usage.value.digital_signature());
        assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
        let extended = certificate.extended_key_usage().expect("one extension").expect("present");
        assert!(extended.value.server_auth && extended.value.client_auth && !extended.value.any);
        assert!(certificate.extensions().iter().any(|extension| {
            matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
        }));
    }

    #[test]
    fn an_svid_lives_as_long_as_said_and_began_a_moment_ago() {
        let (domain, authority) = authority(TTL * 10);
        let svid = document(&authority, &domain);
        let validity = parse(&svid.certificate).validity().clone();
        let lives = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(lives, i64::try_from((TTL + BACKDATED).as_secs()).expect("it fits"));
        assert!(validity.is_valid());
    }

    #[test]
    fn an_svid_never_outlives_its_authority() {
        let (domain, authority) = authority(Duration::from_secs(60));
        assert_eq!(document(&authority, &domain).not_after, authority.not_after());
    }

    #[test]
    fn the_key_belongs_to_the_certificate_and_is_plain_pkcs8() {
        let (domain, authority) = authority(TTL);
        let svid = document(&authority, &domain);
        let key = KeyPair::try_from(svid.key.as_slice()).expect("PKCS#8");
        let certificate = parse(&svid.certificate);
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        let other = document(&authority, &domain);
        assert_ne!(other.key.as_slice(), svid.key.as_slice());
    }
}
