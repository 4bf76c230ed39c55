//! What is configured, and what is refused before anyone is asked.

use super::*;

fn web(url: &str) -> Result<Relationship, Error> {
    let trust_domain = TrustDomain::parse("td").unwrap();
    Relationship::new(trust_domain, url, Profile::HttpsWeb(WebRoots::system()))
}

fn spiffe(trust_domain: &str, endpoint_id: &str, bundle: EndpointBundle) -> Result<(), Error> {
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    let endpoint_id = SpiffeId::parse(endpoint_id).unwrap();
    let profile = Profile::HttpsSpiffe { endpoint_id, bundle };
    Relationship::new(trust_domain, "https://127.0.0.1/bundle", profile).map(drop)
}

#[test]
fn f4_only_https_without_user_information_is_an_endpoint() {
    for good in [
        "https://bundles.example",
        "https://bundles.example:8443/prod/bundle.json",
        "https://[::1]:8443/bundle",
        "HTTPS://bundles.example/a@b?c=d@e",
    ] {
        assert!(web(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "bundles.example/bundle",
        "/bundle",
        "http://bundles.example/bundle",
        "spiffe://td/bundle",
        "file:///bundle",
        "https://",
        "https://user@bundles.example/bundle",
        "https://user:word@bundles.example/bundle",
        "https://:word@bundles.example/bundle",
        "https://@bundles.example/bundle",
        "https:user@bundles.example",
        "https://bundles.example\\@other.example/",
        " https://bundles.example/bundle",
        "https://bundles.example/bun\ndle",
    ] {
        let error = web(bad).err();
        assert!(matches!(error, Some(Error::Setting { what: "URL", .. })), "{bad}: {error:?}");
    }
}

#[test]
fn f4_an_endpoint_is_known_by_the_bundle_of_its_own_trust_domain() {
    let (td, other) = (Authority::new("td"), Authority::new("other"));
    let given = |authority: &Authority| EndpointBundle::Given(document(authority, 1));
    let followed = || EndpointBundle::Followed(Rotating::new(None).1);
    assert!(spiffe("td", "spiffe://td/endpoint", given(&td)).is_ok());
    assert!(spiffe("td", "spiffe://other/endpoint", given(&other)).is_ok());
    assert!(spiffe("td", "spiffe://other/endpoint", followed()).is_ok());
    for (id, bundle) in [
        ("spiffe://td/endpoint", given(&other)),
        ("spiffe://other/endpoint", given(&td)),
        ("spiffe://td/endpoint", followed()),
        ("spiffe://td", given(&td)),
    ] {
        let error = spiffe("td", id, bundle).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }) && !error.is_transient(), "{id}: {error}");
    }
}

#[tokio::test]
async fn f2_nothing_is_inferred_from_the_address_or_the_endpoint() {
    let (served, host) = (Authority::new("served.example"), Authority::new("host.example"));
    let endpoint = self_serving(&host).await;
    endpoint.answer("/bundle", Answer::json(&bundle(&[&served], 1)));
    let given = EndpointBundle::Given(document(&host, 1));
    let profile = Profile::HttpsSpiffe { endpoint_id: host.id(PATH), bundle: given };
    // Neither the host, nor the endpoint's trust domain, nor anything in the answer says whose it is.
    let relationship =
        relationship(&served.trust_domain, &endpoint.url_by_name("/bundle"), profile);
    let fetched = relationship.fetch(None).await.unwrap();
    assert_eq!(*fetched.trust_domain(), served.trust_domain);
    assert_eq!(fetched, document(&served, 1));
}

#[tokio::test]
async fn f2_a_profile_is_never_tried_in_place_of_the_other() {
    let (authority, web) = (Authority::new("td"), endpoint::Web::new());
    let body = Answer::json(&bundle(&[&authority], 1));
    let of_web = Endpoint::of_web(&web, &["localhost", "127.0.0.1"]).await;
    let of_svid = Endpoint::of_svid(&authority.svid(PATH)).await;
    of_web.answer("/bundle", body.clone());
    of_svid.answer("/bundle", body);
    let error = by_spiffe(&authority, &of_web.url("/bundle")).fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
    let relationship = by_web(&authority.trust_domain, &of_svid.url("/bundle"), &web.pem);
    let error = relationship.fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
}

#[tokio::test]
async fn an_address_may_hold_a_secret_and_is_not_shown() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle?signature=hunter2"));
    let error = relationship.fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 404, .. }), "{error}");
    assert!(!format!("{relationship:?} {error:?} {error}").contains("hunter2"));
}

#[test]
fn roots_that_are_none_are_refused() {
    let web = endpoint::Web::new();
    assert!(WebRoots::from_pem(&web.pem).is_ok());
    let torn = web.pem.replace("-----END", "----");
    for bad in [
        "",
        "no PEM",
        torn.as_str(),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(WebRoots::from_pem(bad).is_err(), "{bad}");
    }
}

#[test]
fn two_relationships_with_one_trust_domain_are_refused() {
    let twice = [web("https://a.example").unwrap(), web("https://b.example").unwrap()];
    assert!(matches!(follow_all(twice), Err(Error::Setting { what: "trust domain", .. })));
}
