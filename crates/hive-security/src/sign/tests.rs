#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rcgen::KeyUsagePurpose;

use super::*;
use crate::testing::{Authority, leaf, uri};

const TYPE: &str = "application/vnd.neural-hive.ticket+proto";

fn pattern(text: &str) -> IdPattern {
    IdPattern::parse(text).unwrap()
}

#[test]
fn the_encoding_is_the_one_of_the_dsse_specification() {
    let table: [(&str, &[u8], &[u8]); 3] = [
        (
            "http://example.com/HelloWorld",
            b"hello world",
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world",
        ),
        ("", b"", b"DSSEv1 0  0 "),
        ("t\u{e9}", b"\x00\xff", b"DSSEv1 3 t\xc3\xa9 2 \x00\xff"),
    ];
    for (payload_type, payload, expected) in table {
        assert_eq!(pre_authentication_encoding(payload_type, payload), expected);
    }
}

#[test]
fn an_envelope_says_who_signed_it() {
    let authority = Authority::new("td");
    let (orchestrator, worker) =
        (authority.workload("/orchestrator"), authority.workload("/worker"));
    let envelope = orchestrator.workload.sign(TYPE, b"ticket").unwrap();
    let signer =
        worker.workload.open(&envelope, TYPE, &pattern("spiffe://td/orchestrator")).unwrap();
    assert_eq!(signer, authority.id("/orchestrator"));
}

#[test]
fn each_change_to_an_envelope_is_refused() {
    let authority = Authority::new("td");
    let stand = authority.workload("/orchestrator");
    let from = pattern("spiffe://td/orchestrator");
    let good = stand.workload.sign(TYPE, b"ticket").unwrap();
    let open = |envelope: &Envelope| stand.workload.open(envelope, TYPE, &from).unwrap_err();

    let mut changed = good.clone();
    changed.payload = b"Ticket".to_vec();
    assert_eq!(open(&changed), Refusal::Signature);

    let mut changed = good.clone();
    changed.payload_type = "application/other".to_owned();
    assert!(matches!(open(&changed), Refusal::PayloadType { .. }));

    let mut changed = good.clone();
    changed.certificate_chain.clear();
    assert!(matches!(open(&changed), Refusal::Certificate { .. }));

    // Someone else's genuine certificate over our signature.
    let mut changed = good.clone();
    changed.certificate_chain =
        authority.workload("/other").workload.sign(TYPE, b"").unwrap().certificate_chain;
    assert_eq!(open(&changed), Refusal::Signature);

    let mut changed = good.clone();
    changed.certificate_chain = vec![changed.certificate_chain[0].clone(); 40];
    assert!(matches!(open(&changed), Refusal::Certificate { .. }));

    let other = authority.workload("/other").workload.sign(TYPE, b"ticket").unwrap();
    assert!(matches!(open(&other), Refusal::UnexpectedIdentity { .. }));

    let impostor =
        Authority::new("td").workload("/orchestrator").workload.sign(TYPE, b"ticket").unwrap();
    assert!(matches!(open(&impostor), Refusal::Untrusted { .. }));

    let stranger = Authority::new("elsewhere")
        .workload("/orchestrator")
        .workload
        .sign(TYPE, b"ticket")
        .unwrap();
    assert!(matches!(open(&stranger), Refusal::UnknownTrustDomain(_)));
}

#[test]
fn a_certificate_without_the_profile_of_an_x509_svid_is_refused() {
    let authority = Authority::new("td");
    let stand = authority.workload("/verifier");
    let good = || leaf("spiffe://td/a");
    let mut cases = vec![("more than one URI", good())];
    cases[0].1.subject_alt_names.push(uri("spiffe://td/b"));
    let mut case = |words, change: fn(&mut rcgen::CertificateParams)| {
        let mut params = good();
        change(&mut params);
        cases.push((words, params));
    };
    case("no subject alternative name", |p| p.subject_alt_names.clear());
    case("not a SPIFFE ID", |p| p.subject_alt_names = vec![uri("https://td/a")]);
    case("has no path", |p| p.subject_alt_names = vec![uri("spiffe://td")]);
    case("no key usage", |p| p.key_usages.clear());
    case("may sign certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign));
    case("may not make signatures", |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    case("of an authority", |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    for (words, params) in cases {
        let (chain, _) = authority.issue(&params);
        let outcome =
            stand.workload.verify_certificate(&chain[0], &[], Usage::Server, UnixTime::now());
        let refusal = outcome.unwrap_err();
        assert!(refusal.to_string().contains(words), "{words}: {refusal}");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = Authority::new("td");
    let envelope = authority.workload("/a").workload.sign(TYPE, b"").unwrap();
    let leaf = CertificateDer::from(envelope.certificate_chain[0].as_slice());
    let far = UnixTime::since_unix_epoch(std::time::Duration::from_secs(100_000_000_000));
    let refusal = authority.trust().verify(&leaf, &[], Usage::Client, far).unwrap_err();
    assert!(matches!(refusal, Refusal::Untrusted { .. }), "{refusal}");
}

#[test]
fn after_withdrawal_nothing_is_signed_and_nothing_is_opened() {
    let authority = Authority::new("td");
    let stand = authority.workload("/a");
    let envelope = stand.workload.sign(TYPE, b"").unwrap();
    stand.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
    assert!(matches!(stand.workload.sign(TYPE, b""), Err(Error::Withdrawn { .. })));
    let refusal = stand.workload.open(&envelope, TYPE, &pattern("spiffe://td/a")).unwrap_err();
    assert!(matches!(refusal, Refusal::NoTrust { .. }));
    stand.x509.publish(authority.material("/a"));
    assert!(stand.workload.sign(TYPE, b"").is_ok(), "it was given back");
}
