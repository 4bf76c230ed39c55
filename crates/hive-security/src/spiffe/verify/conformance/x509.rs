//! X1 to X12: the X.509-SVID.

use rcgen::{
    BasicConstraints, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType,
};

use rustls_pki_types::UnixTime;

use super::*;
use crate::spiffe::trust::X509Trust;
use crate::testing::uri;
use crate::{TrustDomain, Usage};

fn good() -> CertificateParams {
    leaf("spiffe://td/a")
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = good();
    change(&mut params);
    params
}

/// An intermediate authority, which must have a name for its leafs to find it.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn assert_refused(words: &str, change: impl FnOnce(&mut CertificateParams)) {
    let refusal = judge_leaf(&Authority::new("td"), &changed(change)).unwrap_err();
    assert!(refusal.to_string().contains(words), "{words}: {refusal}");
}

fn assert_accepted(change: impl FnOnce(&mut CertificateParams)) {
    let verified = judge_leaf(&Authority::new("td"), &changed(change)).unwrap();
    assert_eq!(verified.to_string(), "spiffe://td/a");
}

fn through(between: Vec<CertificateParams>) -> Result<SpiffeId, Refusal> {
    let authority = Authority::new("td");
    present_chain(&verifier(&[&authority]), &chain_through(&authority, between, &good()))
}

#[test]
fn x1_one_uri_and_any_other_names() {
    assert_accepted(|p| {
        p.subject_alt_names.extend([
            SanType::DnsName("td.example".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::Rfc822Name("a@td.example".try_into().unwrap()),
        ]);
    });
    assert_refused("more than one URI", |p| p.subject_alt_names.push(uri("spiffe://td/b")));
    assert_refused("more than one URI", |p| p.subject_alt_names.push(uri("https://td/b")));
    assert_refused("no subject alternative name", |p| p.subject_alt_names.clear());
    assert_refused("names no URI", |p| {
        p.subject_alt_names = vec![SanType::DnsName("td".try_into().unwrap())];
    });
}

#[test]
fn x2_the_spiffe_id_has_a_path() {
    assert_refused("has no path", |p| p.subject_alt_names = vec![uri("spiffe://td")]);
    assert_refused("not a SPIFFE ID", |p| p.subject_alt_names = vec![uri("spiffe://td/")]);
}

#[test]
fn x3_a_critical_name_is_accepted_with_and_without_a_subject() {
    let name: &[u8] = b"spiffe://td/a";
    let mut content = vec![0x30, name.len() as u8 + 2, 0x86, name.len() as u8];
    content.extend(name);
    for (critical, subject) in [(true, false), (false, true), (true, true)] {
        assert_accepted(|p| {
            let mut names = CustomExtension::from_oid_content(&[2, 5, 29, 17], content.clone());
            names.set_criticality(critical);
            p.subject_alt_names.clear();
            p.custom_extensions.push(names);
            if subject {
                p.distinguished_name.push(DnType::CommonName, "a");
            }
        });
    }
}

#[test]
fn x5_a_signing_certificate_does_not_authenticate() {
    assert_refused("of an authority", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    });
    let authority = Authority::new("td");
    let root = std::slice::from_ref(&authority.root);
    assert!(matches!(
        present_chain(&verifier(&[&authority]), root),
        Err(Refusal::Certificate { .. })
    ));
}

#[test]
fn x6_a_leaf_is_no_authority_and_an_intermediate_is() {
    assert_refused("of an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_accepted(|p| p.is_ca = IsCa::ExplicitNoCa);
    // Where the extension is absent, cA has its default: false.
    assert_accepted(|p| p.is_ca = IsCa::NoCa);
    assert!(through(vec![authority_params("between")]).is_ok());
    for not_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let mut params = authority_params("between");
        params.is_ca = not_ca;
        assert!(matches!(through(vec![params]), Err(Refusal::Untrusted { .. })));
    }
}

#[test]
fn x7_the_key_usage_of_a_leaf_is_there_critical_and_for_signatures_only() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    assert_refused("no key usage", |p| p.key_usages.clear());
    assert_refused("may not make signatures", |p| p.key_usages = vec![KeyEncipherment]);
    assert_refused("may sign certificates", |p| p.key_usages.push(KeyCertSign));
    assert_refused("may sign certificates", |p| p.key_usages.push(CrlSign));
    assert_refused("not critical", |p| {
        p.key_usages.clear();
        // A bit string with digitalSignature alone.
        let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
        p.custom_extensions.push(usage);
    });
    assert_accepted(|p| p.key_usages = vec![DigitalSignature, KeyEncipherment, KeyAgreement]);
}

#[test]
fn x7_an_intermediate_must_be_allowed_to_sign_certificates() {
    for usages in [vec![], vec![KeyUsagePurpose::DigitalSignature], vec![KeyUsagePurpose::CrlSign]]
    {
        let mut params = authority_params("between");
        params.key_usages = usages;
        let refusal = through(vec![params]).unwrap_err();
        assert!(matches!(refusal, Refusal::Intermediate { .. }), "{refusal:?}");
    }
}

#[test]
fn x7_an_authority_that_may_not_sign_certificates_vouches_for_nobody() {
    use KeyUsagePurpose::{CrlSign, KeyCertSign};
    for (usages, trusted) in [(vec![KeyCertSign], true), (vec![CrlSign], false), (vec![], false)] {
        let mut params = authority_params("between");
        params.key_usages = usages;
        let chain = chain_through(&Authority::new("td"), vec![params], &good());
        // As the Workload API hands it over: a document of a bundle with such an authority is refused as a whole.
        let trust = X509Trust::new([(TrustDomain::parse("td").unwrap(), vec![&*chain[1]])]);
        let judged = trust.verify(&chain[0], &[], Usage::Client, UnixTime::now());
        assert_eq!(judged.is_ok(), trusted, "{judged:?}");
    }
}

#[test]
fn x8_an_extended_key_usage_must_allow_the_use_that_is_made() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    assert_accepted(|p| p.extended_key_usages = vec![ServerAuth, ClientAuth]);
    assert_accepted(|p| p.extended_key_usages.clear());
    let authority = Authority::new("td");
    for (usages, server, client) in [
        (vec![ServerAuth], true, false),
        (vec![ClientAuth], false, true),
        (vec![CodeSigning], false, false),
    ] {
        let chain = authority.issue(&changed(|p| p.extended_key_usages = usages)).0;
        let verify = |usage| verifier(&[&authority]).verify_x509(&chain, usage, SystemTime::now());
        assert_eq!(
            (verify(Usage::Server).is_ok(), verify(Usage::Client).is_ok()),
            (server, client)
        );
    }
}

#[test]
fn x9_validity_is_honoured_on_the_whole_path() {
    let authority = Authority::new("td");
    let verifier = verifier(&[&authority]);
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    for (from, to) in [(1980, 2000), (2990, 2999)] {
        let limited = |mut params: CertificateParams| {
            (params.not_before, params.not_after) = (year(from), year(to));
            params
        };
        let leaf_only = chain_through(&authority, vec![], &limited(good()));
        let between = vec![limited(authority_params("between"))];
        for chain in [leaf_only, chain_through(&authority, between, &good())] {
            let refusal = present_chain(&verifier, &chain).unwrap_err();
            assert!(matches!(refusal, Refusal::Untrusted { .. }), "{refusal:?}");
        }
    }
}

#[test]
fn x9_the_signatures_lead_to_the_bundle() {
    let (ours, impostor) = (Authority::new("td"), Authority::new("td"));
    let verifier = verifier(&[&ours]);
    let forged = impostor.issue(&good()).0;
    assert!(matches!(present_chain(&verifier, &forged), Err(Refusal::Untrusted { .. })));
    let mut torn = chain_through(&ours, vec![authority_params("between")], &good());
    torn.truncate(1);
    assert!(matches!(present_chain(&verifier, &torn), Err(Refusal::Untrusted { .. })), "a gap");
    let mut bytes = ours.issue(&good()).0.remove(0).to_vec();
    bytes.push(0);
    assert!(matches!(present_chain(&verifier, &[bytes.into()]), Err(Refusal::Certificate { .. })));
}

#[test]
fn x9_a_path_length_is_honoured() {
    let limited = |length| {
        let mut params = authority_params("upper");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        vec![params, authority_params("lower")]
    };
    assert!(through(limited(1)).is_ok());
    assert!(matches!(through(limited(0)), Err(Refusal::Untrusted { .. })));
}

#[test]
fn x9_a_chain_of_more_than_16_certificates_is_refused() {
    let authority = Authority::new("td");
    let verifier = verifier(&[&authority]);
    let mut chain = authority.issue(&good()).0;
    chain.resize(16, authority.root.clone());
    assert!(present_chain(&verifier, &chain).is_ok());
    chain.push(authority.root.clone());
    let refusal = present_chain(&verifier, &chain).unwrap_err();
    assert_eq!(refusal, Refusal::Certificate { what: "its chain is too long" });
}

#[test]
fn x10_another_scheme_is_refused() {
    for other in ["https://td/a", "urn:td:a", "spiffes://td/a"] {
        assert_refused("not a SPIFFE ID", |p| p.subject_alt_names = vec![uri(other)]);
    }
}

#[test]
fn x11_only_the_bundle_of_the_peers_trust_domain_counts() {
    let (ours, theirs) = (Authority::new("td"), Authority::new("other"));
    let both = verifier(&[&ours, &theirs]);
    let forged = theirs.issue(&good()).0;
    assert!(
        matches!(present_chain(&both, &forged), Err(Refusal::Untrusted { .. })),
        "bundles are pooled"
    );
    let foreign = theirs.issue(&leaf("spiffe://other/a")).0;
    assert!(present_chain(&both, &foreign).is_ok());
    let refusal = present_chain(&verifier(&[&ours]), &foreign).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownTrustDomain(theirs.trust_domain.clone()));
    // A name that begins alike is another name.
    let longer = ours.issue(&leaf("spiffe://td.example/a")).0;
    assert!(matches!(present_chain(&both, &longer), Err(Refusal::UnknownTrustDomain(_))));
}

#[test]
fn x12_a_critical_extension_that_is_not_understood_is_refused_anywhere() {
    let odd = |critical| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    let with_odd = |mut params: CertificateParams, critical| {
        params.custom_extensions.push(odd(critical));
        params
    };
    for (critical, accepted) in [(false, true), (true, false)] {
        let on_leaf = judge_leaf(&Authority::new("td"), &with_odd(good(), critical));
        let between = through(vec![with_odd(authority_params("between"), critical)]);
        assert_eq!(
            (on_leaf.is_ok(), between.is_ok()),
            (accepted, accepted),
            "critical: {critical}"
        );
    }
}

#[test]
fn x12_a_constraint_on_uris_is_refused_and_one_on_other_names_is_not() {
    let constrained = |permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>| {
        let mut params = authority_params("between");
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
        through(vec![params])
    };
    let dns = || vec![GeneralSubtree::DnsName("td.example".into())];
    assert!(constrained(dns(), vec![]).is_ok());
    for kind in [PERMITTED, EXCLUDED] {
        let mut params = authority_params("between");
        params.custom_extensions.push(uri_constraint(kind));
        let refusal = through(vec![params]).unwrap_err();
        assert!(matches!(refusal, Refusal::Untrusted { .. }), "{kind:x}: {refusal:?}");
    }
    assert!(constrained(vec![], dns()).is_ok());
}

const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;

/// A critical constraint on URIs, of which rcgen writes none: one subtree, a URI (86) of the host `td`.
fn uri_constraint(kind: u8) -> CustomExtension {
    let content = [&[0x30, 8, kind, 6, 0x30, 4, 0x86, 2], b"td".as_slice()].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

#[test]
fn x12_a_constraint_of_an_authority_in_the_bundle_counts_too() {
    let authority = Authority::new("td");
    for (constraint, trusted) in [
        (None, true),
        (Some(uri_constraint(PERMITTED)), false),
        (Some(uri_constraint(EXCLUDED)), false),
    ] {
        let mut params = authority_params("between");
        params.custom_extensions.extend(constraint);
        // The intermediate itself is published; nothing above it is known.
        let chain = chain_through(&authority, vec![params], &good());
        let verifier = verifier_of("td", &json!([x509_element(&chain[1])]));
        let judged = present_chain(&verifier, &chain[..1]);
        assert_eq!(judged.is_ok(), trusted, "{judged:?}");
    }
}

#[test]
fn x9_a_constraint_on_other_names_is_honoured() {
    let permitted = |name: &str| {
        let mut params = authority_params("between");
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name.into())],
            excluded_subtrees: vec![],
        });
        let authority = Authority::new("td");
        let leaf = changed(|p| {
            p.subject_alt_names.push(SanType::DnsName("a.td.example".try_into().unwrap()));
        });
        present_chain(&verifier(&[&authority]), &chain_through(&authority, vec![params], &leaf))
    };
    assert!(permitted("td.example").is_ok());
    assert!(matches!(permitted("other.example"), Err(Refusal::Untrusted { .. })));
}
