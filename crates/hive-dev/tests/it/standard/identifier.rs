//! I1 to I9: the SPIFFE IDs that are issued, and those that are asked for.

use hive_dev::authority::{Authority, AuthorityConfig, Entry};

use super::*;

/// None of these can be the name of a trust domain.
async fn assert_no_domain(names: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in names {
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        config.trust_domain = Some((*name).to_owned());
        let refused = Authority::start(config).await.err().expect(name);
        assert!(matches!(refused, hive_dev::authority::Error::Name { .. }), "{name}: {refused}");
    }
}

/// None of these can be the path of an identity, and nobody can ask for an identity with them.
async fn assert_no_path(paths: &[&str]) {
    let place = named("td").await;
    for path in paths {
        let entry = Entry::of_process(*path, std::process::id());
        assert!(place.authority.add_entry(entry).is_err(), "{path:?}");
        let asked = jwt_svids(&place, &format!("spiffe://td{path}")).await;
        assert!(
            matches!(asked, Err(Code::InvalidArgument | Code::PermissionDenied)),
            "{path:?}: {asked:?}"
        );
    }
}

#[tokio::test]
async fn i1_the_case_of_the_path_counts_and_that_of_the_rest_does_not() {
    let place = named("td.Example").await;
    place.add("/Api", hive_dev::authority::Selector::Pid(std::process::id()));
    let svids = jwt_svids(&place, "SPIFFE://TD.example/Api").await.expect("it is ours");
    assert_eq!(svids.len(), 1);
    assert_eq!(open(&svids[0].svid).1["sub"], "spiffe://td.example/Api");
    assert_eq!(jwt_svids(&place, "spiffe://td.example/api").await, Err(Code::PermissionDenied));
    let other = jwt_svids(&place, "https://td.example/Api").await;
    assert_eq!(other, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn i2_nothing_has_a_query_or_a_fragment() {
    assert_no_path(&["/a?b=c", "/a?", "/a#b", "/a#"]).await;
    assert_no_domain(&["td?b", "td#b"]).await;
}

#[tokio::test]
async fn i3_a_trust_domain_has_a_host_and_neither_user_nor_port() {
    assert_no_domain(&["", "spiffe://", "root@td", "td:443", "td:"]).await;
}

#[tokio::test]
async fn i4_a_trust_domain_is_written_in_lower_case_with_the_characters_of_the_standard() {
    assert_no_domain(&["t%64", "td!", "tä", "t d", "[::1]", "td/a"]).await;
    let place = named("A-b_C.0").await;
    assert_eq!(place.authority.trust_domain(), "a-b_c.0");
    let svid = x509_svid(&place).await;
    assert_eq!(svid.spiffe_id, format!("spiffe://a-b_c.0{ME}"));
    assert_eq!(uris(&certificates(&svid.x509_svid)[0]), [svid.spiffe_id]);
}

#[tokio::test]
async fn i5_a_trust_domain_that_looks_like_an_address_issues_as_any_other() {
    for name in ["10.0.0.1", "1", "-", "xn--td-0ia", "localhost"] {
        let place = named(name).await;
        let id = format!("spiffe://{name}{ME}");
        let certificate = x509_svid(&place).await.x509_svid;
        assert_eq!(verify_x509(&place, &certificate).expect(name).to_string(), id);
        let verified = verify_jwt(&place, &token(&place).await).expect(name);
        assert_eq!(verified.spiffe_id().to_string(), id);
    }
}

#[tokio::test]
async fn i6_a_path_is_written_with_the_characters_of_the_standard() {
    assert_no_path(&[
        "", "/", "a", "/a%2fb", "/a//b", "//a", "/./a", "/a/..", "/a/", "/a b", "/ä", "/a:b",
        "/a\\b",
    ])
    .await;
    let place = named("td").await;
    let entry = Entry::of_process("/a-Z_0.9/...", std::process::id());
    place.authority.add_entry(entry).expect("a good path");
}

#[tokio::test]
async fn i7_ids_of_2048_bytes_are_issued_and_longer_ones_are_not() {
    let path = |id_length: usize| format!("/{}", "a".repeat(id_length - "spiffe://td/".len()));
    let place = named("td").await;
    let of = |length| Entry::of_process(path(length), std::process::id());
    place.authority.add_entry(of(2048)).expect("as long as the standard says");
    let longest = format!("spiffe://td{}", path(2048));
    let message = next(&mut place.x509_svids().await).await;
    let certificate = &message.svids[1].x509_svid;
    assert_eq!(verify_x509(&place, certificate).expect("good").to_string(), longest);
    let svids = jwt_svids(&place, &longest).await.expect("it is ours");
    assert_eq!(verify_jwt(&place, &svids[0].svid).expect("good").spiffe_id().to_string(), longest);
    assert!(place.authority.add_entry(of(2049)).is_err());
    assert_no_domain(&[&"a".repeat(256)]).await;
}

#[tokio::test]
async fn i8_the_trust_domain_is_rooted_in_an_authority_with_an_svid_of_its_own() {
    let place = named("td").await;
    place.authority.rotate_x509().await.expect("rotated");
    let svid = x509_svid(&place).await;
    let authorities = certificates(&svid.bundle);
    assert_eq!(authorities.len(), 2);
    for authority in &authorities {
        assert_eq!(uris(authority), ["spiffe://td"]);
        assert_eq!(authority.issuer(), authority.subject(), "it vouches for itself");
    }
}

#[tokio::test]
async fn i9_the_signature_covers_the_spiffe_id_and_the_key() {
    let place = named("td").await;
    let svid = x509_svid(&place).await;
    let der = svid.x509_svid;
    assert!(verify_x509(&place, &der).is_ok());
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("DER");
    let key = certificate.public_key().subject_public_key.data.to_vec();
    for covered in [svid.spiffe_id.as_bytes(), &key] {
        let at = der.windows(covered.len()).position(|part| part == covered).expect("it is there");
        let mut changed = der.clone();
        changed[at + covered.len() - 1] ^= 1;
        assert!(verify_x509(&place, &changed).is_err());
    }
    let token = token(&place).await;
    let (_, claims) = open(&token);
    let forged = with(claims, "sub", json!("spiffe://td/ns/test/sa/mf"));
    let parts: Vec<&str> = token.split('.').collect();
    let payload = URL_SAFE_NO_PAD.encode(forged.to_string());
    let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert!(verify_jwt(&place, &token).is_ok());
    assert_eq!(verify_jwt(&place, &forged), Err(Refusal::Signature));
}
