//! What an endpoint may answer, and what replaces nothing.

use super::endpoint::head;
use super::*;

#[tokio::test]
async fn f5_a_redirect_is_followed_and_not_remembered() {
    let authority = Authority::new("td");
    let (first, second) = (self_serving(&authority).await, self_serving(&authority).await);
    second.answer("/moved", Answer::json(&bundle(&[&authority], 9)));
    let relationship = by_spiffe(&authority, &first.url("/bundle"));
    for status in [301, 302, 303, 307, 308] {
        first.answer("/bundle", Answer::redirect(status, &second.url("/moved")));
        let fetched = relationship.fetch(None).await.unwrap();
        assert_eq!(fetched.sequence(), Some(9), "{status}");
    }
    // The configured address was asked every time.
    assert_eq!((first.heads().len(), second.heads().len()), (5, 5));
    first.answer("/bundle", Answer::redirect(302, "here?a=b"));
    first.answer("/here?a=b", Answer::json(&bundle(&[&authority], 2)));
    assert_eq!(relationship.fetch(None).await.unwrap().sequence(), Some(2), "a relative one");
}

#[tokio::test]
async fn f5_a_redirect_to_what_is_no_endpoint_is_not_followed() {
    let authority = Authority::new("td");
    let (endpoint, target) = (self_serving(&authority).await, self_serving(&authority).await);
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let plain = target.url("/bundle").replace("https", "http");
    let user = target.url("/bundle").replace("https://", "https://user@");
    let word = target.url("/bundle").replace("https://", "https://:word@");
    for location in [&plain, &user, &word, "//user@127.0.0.1/", "file:///etc/passwd", "https://"] {
        endpoint.answer("/bundle", Answer::redirect(307, location));
        let error = relationship.fetch(None).await.unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{location}: {error}");
    }
    endpoint.answer("/bundle", Answer::status(302));
    let error = relationship.fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert!(target.heads().is_empty());
}

#[tokio::test]
async fn f5_a_redirect_goes_to_the_same_endpoint_id() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let other = Endpoint::of_svid(&authority.svid("/other")).await;
    other.answer("/bundle", Answer::json(&bundle(&[&authority], 9)));
    endpoint.answer("/bundle", Answer::redirect(307, &other.url("/bundle")));
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let error = relationship.fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
    other.present(&authority.svid(PATH));
    assert!(relationship.fetch(None).await.is_ok());
}

#[tokio::test]
async fn f5_a_web_redirect_is_held_against_the_name_it_leads_to() {
    let (authority, web) = (Authority::new("td"), endpoint::Web::new());
    let (first, second) = (
        Endpoint::of_web(&web, &["127.0.0.1"]).await,
        Endpoint::of_web(&web, &["localhost"]).await,
    );
    second.answer("/bundle", Answer::json(&bundle(&[&authority], 4)));
    let relationship = by_web(&authority.trust_domain, &first.url("/bundle"), &web.pem);
    first.answer("/bundle", Answer::redirect(302, &second.url_by_name("/bundle")));
    assert_eq!(relationship.fetch(None).await.unwrap().sequence(), Some(4));
    first.answer("/bundle", Answer::redirect(302, &second.url("/bundle")));
    let error = relationship.fetch(None).await.unwrap_err();
    assert!(matches!(error, Error::Impostor { .. }), "{error}");
}

#[tokio::test]
async fn redirects_end_after_five() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    for hop in 0..6 {
        endpoint.answer(&format!("/{hop}"), Answer::redirect(302, &format!("/{}", hop + 1)));
    }
    endpoint.answer("/6", Answer::json(&bundle(&[&authority], 1)));
    assert!(by_spiffe(&authority, &endpoint.url("/1")).fetch(None).await.is_ok());
    endpoint.answer("/loop", Answer::redirect(308, "/loop"));
    for path in ["/0", "/loop"] {
        let error = by_spiffe(&authority, &endpoint.url(path)).fetch(None).await.unwrap_err();
        assert!(matches!(error, Error::Redirect { .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn f5_what_is_no_bundle_document_is_refused() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let good = bundle(&[&authority], 1).to_string();
    let latin = [b"{\"keys\":[],\"a\":\"".as_slice(), b"\xe9", b"\"}"].concat();
    let mut nested = "[".repeat(100_000);
    nested.push_str(&"]".repeat(100_000));
    for body in [
        b"".as_slice(),
        b"<html></html>",
        b"null",
        b"[]",
        b"{}",
        br#"{"keys":null}"#,
        br#"{"keys":{}}"#,
        br#"{"keys":"[]"}"#,
        br#"{"keys":[],"keys":[]}"#,
        br#"{"keys":[]} {}"#,
        br#"{"keys":[],"spiffe_sequence":"7"}"#,
        br#"{"keys":[],"spiffe_sequence":-1}"#,
        br#"{"keys":[],"spiffe_sequence":1.5}"#,
        br#"{"keys":[],"spiffe_sequence":18446744073709551616}"#,
        &good.as_bytes()[..good.len() - 1],
        &latin,
        nested.as_bytes(),
    ] {
        endpoint.answer("/bundle", Answer::body("application/json", body));
        let error = relationship.fetch(None).await.unwrap_err();
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert!(matches!(error, Error::Document(Refusal::Bundle { .. })), "{shown}: {error}");
    }
    // The type is a courtesy: it is what the body is that counts.
    endpoint.answer("/bundle", Answer::body("text/html", good.as_bytes()));
    assert!(relationship.fetch(None).await.is_ok());
}

#[tokio::test]
async fn only_the_status_200_is_an_answer() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let good = bundle(&[&authority], 1).to_string();
    for status in [201, 203, 206, 300, 401, 404, 500, 503] {
        endpoint.answer("/bundle", Answer::http(status, &[], good.as_bytes()));
        let error = relationship.fetch(None).await.unwrap_err();
        let said = matches!(error, Error::Status { status: said, .. } if said == status);
        assert!(said && error.is_transient(), "{status}: {error}");
    }
}

#[tokio::test]
async fn an_answer_is_bounded_whether_it_says_its_length_or_not() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let begin = br#"{"keys":["#.as_slice();
    let announced = head(200, &[], Some(fetch::DOCUMENT_MAX_BYTES + 1));
    let endless = head(200, &[], None);
    for answer in [
        Answer::Stall([announced.as_bytes(), begin].concat()),
        Answer::Flood([endless.as_bytes(), begin].concat()),
    ] {
        endpoint.answer("/bundle", answer);
        let error = relationship.fetch(None).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    // The largest that is allowed.
    let mut largest = bundle(&[&authority], 1).to_string().into_bytes();
    largest.resize(fetch::DOCUMENT_MAX_BYTES, b' ');
    endpoint.answer("/bundle", Answer::body("application/json", &largest));
    assert!(relationship.fetch(None).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_ends_too_soon_is_none() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle"));
    let body = br#"{"keys":[]}"#;
    for answer in [
        Answer::Bytes([head(200, &[], Some(body.len() + 1)).as_bytes(), body].concat()),
        Answer::Bytes(b"HTTP/1.1 200".to_vec()),
        Answer::Bytes(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
        Answer::Bytes(Vec::new()),
    ] {
        endpoint.answer("/bundle", answer);
        let error = relationship.fetch(None).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_slow_is_given_up() {
    let authority = Authority::new("td");
    let endpoint = self_serving(&authority).await;
    let limit = Duration::from_millis(300);
    let relationship = by_spiffe(&authority, &endpoint.url("/bundle")).answered_within(limit);
    let begun = head(200, &[], Some(100)).into_bytes();
    for answer in [Answer::Stall(Vec::new()), Answer::Stall(begun), Answer::Trickle] {
        endpoint.answer("/bundle", answer);
        let error = in_time(relationship.fetch(None)).await.unwrap_err();
        assert!(matches!(error, Error::Slow { .. }), "{error}");
    }
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/bundle", silent.local_addr().unwrap());
    let relationship = by_spiffe(&authority, &url).answered_within(limit);
    let error = in_time(relationship.fetch(None)).await.unwrap_err();
    assert!(matches!(error, Error::Slow { .. }), "{error}");
    drop(silent);
    let error = in_time(relationship.fetch(None)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
