//! F3 and F4: how an endpoint proves who it is.

use rcgen::date_time_ymd;

use super::endpoint::Web;
use super::*;
use crate::testing::leaf;

async fn refused(relationship: &Relationship) -> String {
    match relationship.fetch(None).await {
        Err(Error::Impostor { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn f3_both_profiles_fetch_the_bundle() {
    let (authority, web) = (Authority::new("td"), Web::new());
    let endpoint = self_serving(&authority).await;
    let fetched = by_spiffe(&authority, &endpoint.url("/bundle")).fetch(None).await.unwrap();
    assert_eq!(fetched, document(&authority, 1));
    let endpoint = Endpoint::of_web(&web, &["localhost", "127.0.0.1"]).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 7)));
    for url in [endpoint.url("/bundle"), endpoint.url_by_name("/bundle")] {
        let relationship = by_web(&authority.trust_domain, &url, &web.pem);
        assert_eq!(relationship.fetch(None).await.unwrap(), document(&authority, 7));
    }
}

#[tokio::test]
async fn f4_a_web_endpoint_is_known_by_its_name_and_a_trusted_authority_only() {
    let (authority, web, stranger) = (Authority::new("td"), Web::new(), Web::new());
    let names = ["localhost", "127.0.0.1"];
    let expired = web.certificate(&names, |params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    });
    let for_clients = web.certificate(&names, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (certificate, reason) in [
        (web.certificate(&["other.example", "127.0.0.2"], |_| {}), "not valid for name"),
        (stranger.certificate(&names, |_| {}), "UnknownIssuer"),
        (expired, "expired"),
        (for_clients, "usage"),
    ] {
        let endpoint = Endpoint::start(certificate, rustls::ALL_VERSIONS, None).await;
        endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 1)));
        for url in [endpoint.url("/bundle"), endpoint.url_by_name("/bundle")] {
            let relationship = by_web(&authority.trust_domain, &url, &web.pem);
            let said = refused(&relationship).await;
            assert!(said.to_lowercase().contains(&reason.to_lowercase()), "{reason}: {said}");
        }
        assert!(endpoint.heads().is_empty(), "nothing was asked of it");
    }
}

#[tokio::test]
async fn f4_a_spiffe_endpoint_is_known_by_exactly_its_svid_and_the_bundle_of_its_trust_domain() {
    let (authority, stranger) = (Authority::new("td"), Authority::new("other"));
    let namesake = Authority::new("td");
    let mut expired = leaf(&authority.id(PATH).to_string());
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    for (svid, reason) in [
        (authority.svid("/bundle-endpoint/more"), "expected spiffe://td/bundle-endpoint, but"),
        (authority.svid("/bundle"), "expected spiffe://td/bundle-endpoint, but"),
        (authority.svid_of(&expired), "Expired"),
        (stranger.svid(PATH), "no bundle for trust domain other"),
        (namesake.svid(PATH), "does not chain"),
        (stranger.svid_of(&leaf("spiffe://td/bundle-endpoint")), "does not chain"),
    ] {
        let endpoint = Endpoint::of_svid(&svid).await;
        endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 1)));
        let said = refused(&by_spiffe(&authority, &endpoint.url("/bundle"))).await;
        assert!(said.contains(reason), "{reason}: {said}");
        assert!(endpoint.heads().is_empty(), "nothing was asked of it");
    }
}

#[tokio::test]
async fn f4_the_latest_bundle_vouches_and_not_the_first() {
    let (old, new) = (Authority::new("td"), Authority::new("td"));
    let endpoint = Endpoint::of_svid(&new.svid(PATH)).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&new], 3)));
    let relationship = by_spiffe(&old, &endpoint.url("/bundle"));
    refused(&relationship).await;
    assert_eq!(relationship.fetch(Some(&document(&new, 2))).await.unwrap(), document(&new, 3));
    endpoint.present(&old.svid(PATH));
    assert!(relationship.fetch(None).await.is_ok());
    let latest = document(&new, 2);
    let outdated = relationship.fetch(Some(&latest)).await;
    assert!(matches!(outdated, Err(Error::Impostor { .. })), "{outdated:?}");
}

#[tokio::test]
async fn f4_an_endpoint_of_another_trust_domain_is_known_by_the_bundle_that_is_followed_for_it() {
    let (served, host) = (Authority::new("served"), Authority::new("host"));
    let endpoint = self_serving(&host).await;
    endpoint.answer("/served", Answer::json(&bundle(&[&served], 5)));
    let (publisher, followed) = Rotating::new(None);
    let bundle = EndpointBundle::Followed(followed);
    let profile = Profile::HttpsSpiffe { endpoint_id: host.id(PATH), bundle };
    let relationship = relationship(&served.trust_domain, &endpoint.url("/served"), profile);
    let error = relationship.fetch(None).await.unwrap_err();
    assert_eq!(error, Error::NoBundle { trust_domain: host.trust_domain.clone() });
    publisher.publish(Some(document(&host, 1)));
    let fetched = relationship.fetch(None).await.unwrap();
    assert_eq!(fetched, document(&served, 5));
    // What it serves says nothing about who it is.
    assert!(relationship.fetch(Some(&fetched)).await.is_ok());
    publisher.publish(Some(document(&Authority::new("host"), 2)));
    refused(&relationship).await;
}

#[tokio::test]
async fn f4_an_endpoint_that_speaks_tls_1_2_only_is_understood() {
    let authority = Authority::new("td");
    let svid = authority.svid(PATH);
    let versions = [&rustls::version::TLS12];
    let endpoint = Endpoint::start(Arc::clone(&svid.certified), &versions, None).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&authority], 1)));
    assert!(by_spiffe(&authority, &endpoint.url("/bundle")).fetch(None).await.is_ok());
    endpoint.present(&authority.svid("/other"));
    refused(&by_spiffe(&authority, &endpoint.url("/bundle"))).await;
}

#[tokio::test]
async fn f5_an_endpoint_that_demands_a_client_certificate_is_an_error_and_gets_none() {
    let authority = Authority::new("td");
    let svid = authority.svid(PATH);
    let asking = Endpoint::demanding(&svid, &authority, false).await;
    asking.answer("/bundle", Answer::json(&bundle(&[&authority], 1)));
    assert!(by_spiffe(&authority, &asking.url("/bundle")).fetch(None).await.is_ok());
    assert_eq!(asking.presented(), [false]);
    let head = asking.heads().remove(0).to_lowercase();
    assert!(!head.contains("authorization") && !head.contains("cookie"), "{head}");
    let demanding = Endpoint::demanding(&svid, &authority, true).await;
    demanding.answer("/bundle", Answer::json(&bundle(&[&authority], 1)));
    let error = by_spiffe(&authority, &demanding.url("/bundle")).fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

/// The environment of a process says where the system's roots are, so this one starts itself again.
#[tokio::test]
async fn f4_without_other_roots_those_of_the_system_count() {
    const URL: &str = "HIVE_TEST_FEDERATION_URL";
    let trust_domain = TrustDomain::parse("td").unwrap();
    let by_system =
        |url: &str| relationship(&trust_domain, url, Profile::HttpsWeb(WebRoots::system()));
    if let Ok(url) = std::env::var(URL) {
        by_system(&url).fetch(None).await.unwrap();
        return;
    }
    let web = Web::new();
    let endpoint = Endpoint::of_web(&web, &["localhost"]).await;
    endpoint.answer("/bundle", Answer::json(&json!({ "keys": [] })));
    let url = endpoint.url_by_name("/bundle");
    let unknown = by_system(&url).fetch(None).await.unwrap_err();
    assert!(matches!(unknown, Error::Impostor { .. } | Error::NoRoots { .. }), "{unknown}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &web.pem).unwrap();
    let name =
        "spiffe::federation::tests::profiles::f4_without_other_roots_those_of_the_system_count";
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name]).env(URL, &url).env("SSL_CERT_FILE", file.path());
    let output = in_time(child.kill_on_drop(true).output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(endpoint.heads().len(), 1);
}
