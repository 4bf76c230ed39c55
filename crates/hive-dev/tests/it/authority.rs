//! The development authority, seen by an independent client and by real processes.

use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::witness::{Listener, Witness};
use serde_json::Value;
use spiffe::{JwtSource, TrustDomain, WorkloadApiClient, X509Source};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// The server's own wire, for what an orderly client never says.
#[allow(dead_code)]
#[path = "../../src/authority/wire.rs"]
pub(crate) mod wire;

/// A client of the Workload API as the protocol has it.
pub(crate) type Raw = wire::spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel>;

const DEADLINE: Duration = Duration::from_secs(20);

/// An authority with its own directory; the test process is `/ns/test/sa/me` in it.
pub(crate) struct Place {
    directory: TempDir,
    pub(crate) authority: Authority,
}

impl Place {
    pub(crate) async fn empty(change: impl FnOnce(&mut AuthorityConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = AuthorityConfig::new(directory.path().join("api.sock"));
        config.publish_ahead = Duration::from_millis(10);
        change(&mut config);
        let authority = Authority::start(config).await.expect("it starts");
        Self { directory, authority }
    }

    pub(crate) async fn mine() -> Self {
        let place = Self::empty(|_| {}).await;
        place.add("/ns/test/sa/me", Selector::Pid(std::process::id()));
        place
    }

    pub(crate) fn add(&self, path: &str, selector: Selector) -> hive_dev::authority::EntryId {
        let entry = Entry::new(path, [selector]);
        self.authority.add_entry(entry).expect("a good entry")
    }

    pub(crate) fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.authority.trust_domain())
    }

    pub(crate) async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(self.authority.endpoint()).await.expect("it listens")
    }

    pub(crate) async fn x509_source(&self) -> X509Source {
        let source = X509Source::builder()
            .endpoint(self.authority.endpoint())
            .initial_sync_timeout(DEADLINE)
            .build();
        source.await.expect("an identity")
    }

    /// A client that says exactly what a test wants it to say.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::new(self.channel().await)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::try_from(self.authority.endpoint()).expect("an address");
        endpoint.connect().await.expect("it listens")
    }

    /// The stream of this process's X.509-SVIDs.
    pub(crate) async fn x509_svids(&self) -> Streaming<wire::X509svidResponse> {
        let asked = with_header(wire::X509svidRequest {});
        self.raw().await.fetch_x509svid(asked).await.expect("a stream").into_inner()
    }
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("ASCII"));
    request
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    in_time(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

// What is issued.

#[tokio::test]
async fn an_independent_client_gets_an_x509_svid_that_chains_to_the_bundle() {
    let place = Place::mine().await;
    let source = place.x509_source().await;
    let svid = source.svid().expect("an SVID");
    assert_eq!(svid.spiffe_id().to_string(), place.id("/ns/test/sa/me"));
    let domain = TrustDomain::new(place.authority.trust_domain()).expect("a good name");
    let bundle = source.bundle_set().expect("bundles").get(&domain).expect("our own");
    let (_, leaf) = x509_parser::parse_x509_certificate(svid.leaf().as_bytes()).expect("DER");
    let (_, root) =
        x509_parser::parse_x509_certificate(bundle.authorities()[0].as_bytes()).expect("DER");
    assert_eq!(leaf.issuer(), root.subject());
    assert!(leaf.validity().is_valid() && root.validity().is_valid());
}

#[tokio::test]
async fn an_independent_client_verifies_our_tokens_with_our_bundle() {
    let place = Place::mine().await;
    let client = place.client().await;
    let id = place.id("/ns/test/sa/me");
    let svid = client.fetch_jwt_svid(["vault.here", "other"], None).await.expect("a token");
    assert_eq!(svid.spiffe_id().to_string(), id);
    assert_eq!(svid.audience(), ["vault.here", "other"]);
    let again = client.validate_jwt_token("other", svid.token()).await.expect("valid");
    assert_eq!(again.spiffe_id().to_string(), id);
    assert!(client.validate_jwt_token("someone", svid.token()).await.is_err());
    let bundles = client.fetch_jwt_bundles().await.expect("bundles");
    let domain = TrustDomain::new(place.authority.trust_domain()).expect("a good name");
    assert_eq!(bundles.get(&domain).expect("our own").jwt_authorities().count(), 1);
}

#[tokio::test]
async fn validation_returns_the_claims_and_refuses_a_changed_token() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    let wanted = wire::JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: String::new() };
    let answer = raw.fetch_jwtsvid(with_header(wanted)).await.expect("a token").into_inner();
    let token = answer.svids[0].svid.clone();
    let ask =
        |svid: String| with_header(wire::ValidateJwtsvidRequest { audience: "a".to_owned(), svid });
    let valid = raw.validate_jwtsvid(ask(token.clone())).await.expect("valid").into_inner();
    let claims = valid.claims.expect("claims").fields;
    assert!(["sub", "aud", "exp", "iat", "iss"].iter().all(|claim| claims.contains_key(*claim)));
    let changed = token.replacen("eyJ", "eyK", 2);
    let refused = raw.validate_jwtsvid(ask(changed)).await.expect_err("it is changed");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_an_identity_of_the_caller_can_be_asked_for() {
    let place = Place::mine().await;
    place.add("/ns/test/sa/second", Selector::Pid(std::process::id()));
    let mut raw = place.raw().await;
    let table = [
        (String::new(), Ok(2)),
        (place.id("/ns/test/sa/second"), Ok(1)),
        (place.id("/ns/test/sa/other"), Err(Code::PermissionDenied)),
        ("spiffe://elsewhere/a".to_owned(), Err(Code::PermissionDenied)),
        ("no ID".to_owned(), Err(Code::InvalidArgument)),
    ];
    for (spiffe_id, expected) in table {
        let wanted =
            wire::JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: spiffe_id.clone() };
        let found = raw.fetch_jwtsvid(with_header(wanted)).await;
        let found =
            found.map(|answer| answer.into_inner().svids.len()).map_err(|status| status.code());
        assert_eq!(found, expected, "{spiffe_id}");
    }
    for audience in [vec![], vec![String::new()], vec!["a".to_owned(); 33]] {
        let wanted = wire::JwtsvidRequest { audience, spiffe_id: String::new() };
        let refused = raw.fetch_jwtsvid(with_header(wanted)).await.expect_err("no audience");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_keys_over_http_verify_tokens_and_hold_nothing_else() {
    let place = Place::mine().await;
    let keys = get(&place.authority.keys_url()).await;
    let keys = keys["keys"].as_array().expect("a JWKS");
    assert_eq!(keys.len(), 1);
    assert_eq!(
        (&keys[0]["use"], &keys[0]["alg"], &keys[0]["kty"]),
        (&"sig".into(), &"ES256".into(), &"EC".into())
    );
    let base = place.authority.keys_url().trim_end_matches("/keys").to_owned();
    let discovery = get(&format!("{base}/.well-known/openid-configuration")).await;
    assert_eq!(
        (&discovery["issuer"], &discovery["jwks_uri"]),
        (&base.into(), &place.authority.keys_url().into())
    );
    place.authority.rotate_jwt().await.expect("rotated");
    let keys = get(&place.authority.keys_url()).await;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
}

/// As plain as HTTP gets: the server is on this machine, and the answer is one JSON document.
async fn get(url: &str) -> Value {
    let rest = url.strip_prefix("http://").expect("plain HTTP");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("it listens");
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/json"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

// The endpoint's manners.

#[tokio::test]
async fn a_request_without_exactly_the_security_header_is_refused_by_every_method() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    for value in [None, Some("True"), Some("false"), Some("")] {
        for refused in every_method(&mut raw, value).await {
            assert_eq!(
                refused.map_err(|status| status.code()),
                Err(Code::InvalidArgument),
                "{value:?}"
            );
        }
    }
}

pub(crate) async fn every_method(raw: &mut Raw, header: Option<&str>) -> [Result<(), Status>; 5] {
    let audience = "a".to_owned();
    let token = wire::JwtsvidRequest { audience: vec![audience.clone()], spiffe_id: String::new() };
    let check = wire::ValidateJwtsvidRequest { audience, svid: "a.b.c".to_owned() };
    [
        raw.fetch_x509svid(headed(wire::X509svidRequest {}, header)).await.map(drop),
        raw.fetch_x509_bundles(headed(wire::X509BundlesRequest {}, header)).await.map(drop),
        raw.fetch_jwt_bundles(headed(wire::JwtBundlesRequest {}, header)).await.map(drop),
        raw.fetch_jwtsvid(headed(token, header)).await.map(drop),
        raw.validate_jwtsvid(headed(check, header)).await.map(drop),
    ]
}

fn headed<T>(message: T, header: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = header {
        request.metadata_mut().insert("workload.spiffe.io", value.parse().expect("ASCII"));
    }
    request
}

#[tokio::test]
async fn a_process_without_an_entry_is_denied_by_every_method_at_once() {
    let place = Place::empty(|_| {}).await;
    let mut raw = place.raw().await;
    for denied in every_method(&mut raw, Some("true")).await {
        let status = denied.expect_err("it has no entry");
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "no identity issued")
        );
    }
}

#[tokio::test]
async fn the_socket_goes_with_the_authority() {
    let place = Place::mine().await;
    let socket = place.authority.socket().to_owned();
    assert!(socket.exists());
    let mut raw = place.raw().await;
    let mut stream = raw
        .fetch_x509svid(with_header(wire::X509svidRequest {}))
        .await
        .expect("a stream")
        .into_inner();
    in_time(stream.message()).await.expect("the state").expect("a message");
    in_time(place.authority.stop()).await;
    assert!(!socket.exists());
    let status = in_time(stream.message()).await.expect_err("it ended");
    assert_eq!(status.code(), Code::Unavailable);
}

// Change.

#[tokio::test]
async fn a_new_svid_is_pushed_at_half_of_the_old_ones_life() {
    let ttl = Duration::from_secs(2);
    let place = Place::empty(|config| config.x509_ttl = ttl).await;
    place.add("/ns/test/sa/me", Selector::Pid(std::process::id()));
    let mut raw = place.raw().await;
    let stream = raw.fetch_x509svid(with_header(wire::X509svidRequest {})).await;
    let mut stream = stream.expect("a stream").into_inner();
    let first = in_time(stream.message()).await.expect("the state").expect("a message");
    let issued = std::time::Instant::now();
    let second = in_time(stream.message()).await.expect("pushed").expect("a message");
    let waited = issued.elapsed();
    assert!(waited > ttl / 4 && waited < ttl, "{waited:?}");
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
}

#[tokio::test]
async fn a_rotated_authority_is_published_before_it_signs() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    let mut stream = raw
        .fetch_x509svid(with_header(wire::X509svidRequest {}))
        .await
        .expect("a stream")
        .into_inner();
    let mut roots_and_issuers = Vec::new();
    let rotation = place.authority.rotate_x509();
    let listening = async {
        while roots_and_issuers.len() < 2 || !has_changed(&roots_and_issuers) {
            let message = stream.message().await.expect("no error").expect("a message");
            roots_and_issuers.push(bundle_and_issuer(&message.svids[0]));
        }
    };
    let (rotated, ()) = in_time(async { tokio::join!(rotation, listening) }).await;
    rotated.expect("rotated");
    for (roots, issuer) in &roots_and_issuers {
        assert!(roots.contains(issuer), "every SVID chains to the bundle beside it");
    }
    let (last_roots, last_issuer) = roots_and_issuers.last().expect("some");
    assert_eq!(last_roots.len(), 2, "the old authority is still published");
    let ahead = roots_and_issuers
        .iter()
        .any(|(roots, issuer)| roots.contains(last_issuer) && issuer != last_issuer);
    assert!(ahead, "the new authority was published before it signed");
}

fn has_changed(seen: &[(Vec<String>, String)]) -> bool {
    seen.iter().any(|(_, issuer)| *issuer != seen[0].1)
}

/// The next message of a stream that has one.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> T {
    in_time(stream.message()).await.expect("no error").expect("a message")
}

/// Why a stream ended.
pub(crate) async fn end<T: std::fmt::Debug>(stream: &mut Streaming<T>) -> Code {
    in_time(stream.message()).await.expect_err("an end with a reason").code()
}

/// The subjects in the bundle, and the issuer of the SVID.
fn bundle_and_issuer(svid: &wire::X509svid) -> (Vec<String>, String) {
    let mut roots = Vec::new();
    let mut rest = svid.bundle.as_slice();
    while !rest.is_empty() {
        let (after, root) = x509_parser::parse_x509_certificate(rest).expect("DER");
        roots.push(root.subject().to_string());
        rest = after;
    }
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.x509_svid).expect("DER");
    (roots, leaf.issuer().to_string())
}

#[tokio::test]
async fn an_independent_client_follows_a_rotation_of_both_authorities() {
    let place = Place::mine().await;
    let x509 = place.x509_source().await;
    let jwt = JwtSource::builder()
        .endpoint(place.authority.endpoint())
        .initial_sync_timeout(DEADLINE)
        .build();
    let jwt = in_time(jwt).await.expect("a bundle");
    let before = x509.svid().expect("an SVID");
    place.authority.rotate_x509().await.expect("rotated");
    place.authority.rotate_jwt().await.expect("rotated");
    let domain = TrustDomain::new(place.authority.trust_domain()).expect("a good name");
    until(async || {
        let svid = x509.svid().expect("never without");
        let roots = x509
            .bundle_set()
            .ok()
            .and_then(|set| set.get(&domain).map(|own| own.authorities().len()));
        let keys = jwt
            .bundle_set()
            .ok()
            .and_then(|set| set.get(&domain).map(|own| own.jwt_authorities().count()));
        svid.leaf().as_bytes() != before.leaf().as_bytes() && (roots, keys) == (Some(2), Some(2))
    })
    .await;
}

#[tokio::test]
async fn removing_the_entry_withdraws_the_identity_from_open_streams() {
    let place = Place::empty(|_| {}).await;
    let entry = place.add("/ns/test/sa/me", Selector::Pid(std::process::id()));
    let mut raw = place.raw().await;
    let mut svids = raw
        .fetch_x509svid(with_header(wire::X509svidRequest {}))
        .await
        .expect("a stream")
        .into_inner();
    let mut bundles = raw
        .fetch_jwt_bundles(with_header(wire::JwtBundlesRequest {}))
        .await
        .expect("a stream")
        .into_inner();
    in_time(svids.message()).await.expect("the state").expect("a message");
    in_time(bundles.message()).await.expect("the state").expect("a message");
    let source = place.x509_source().await;
    assert!(place.authority.remove_entry(entry));
    assert_eq!(
        in_time(svids.message()).await.expect_err("withdrawn").code(),
        Code::PermissionDenied
    );
    assert_eq!(
        in_time(bundles.message()).await.expect_err("withdrawn").code(),
        Code::PermissionDenied
    );
    until(async || source.svid().is_err()).await;
}

#[tokio::test]
async fn a_second_entry_is_pushed_and_an_unrelated_one_is_not() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    let mut stream = raw
        .fetch_x509svid(with_header(wire::X509svidRequest {}))
        .await
        .expect("a stream")
        .into_inner();
    let first = in_time(stream.message()).await.expect("the state").expect("a message");
    assert_eq!(first.svids.len(), 1);
    place.add("/ns/test/sa/elsewhere", Selector::Uid(u32::MAX));
    place.add("/ns/test/sa/second", Selector::Pid(std::process::id()));
    let second = in_time(stream.message()).await.expect("the state").expect("a message");
    let ids: Vec<&str> = second.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [place.id("/ns/test/sa/me"), place.id("/ns/test/sa/second")]);
}

// The witness.

#[tokio::test]
async fn the_witness_hears_of_every_secret_before_the_workload_does() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listener = Listener::bind(directory.path().join("witness")).expect("a listener");
    let witness = Witness::connect(listener.path()).expect("it listens");
    let place = Place::empty(|config| config.witness = witness).await;
    place.add("/ns/test/sa/me", Selector::Pid(std::process::id()));
    let client = place.client().await;
    let svid = client.fetch_x509_svid().await.expect("an SVID");
    let token = client.fetch_jwt_svid(["a"], None).await.expect("a token");
    let key = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(svid.private_key().as_bytes())
    };
    assert!(listener.saw("x509-key", &key));
    assert!(listener.saw("jwt-svid", token.token()));
}

#[tokio::test]
async fn nothing_is_issued_once_the_witness_is_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listener = Listener::bind(directory.path().join("witness")).expect("a listener");
    let witness = Witness::connect(listener.path()).expect("it listens");
    let place = Place::empty(|config| config.witness = witness).await;
    place.add("/ns/test/sa/me", Selector::Pid(std::process::id()));
    drop(listener);
    let client = place.client().await;
    until(async || client.fetch_jwt_svid(["a"], None).await.is_err()).await;
    assert!(client.fetch_x509_svid().await.is_err());
    assert!(place.directory.path().exists());
}
