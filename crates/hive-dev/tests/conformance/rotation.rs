//! Keys are replaced while 64 requests are in flight, and none of them may fail.
//!
//! The order is an operator's: each step waits until the one before has reached everybody. What the Workload API
//! says of a key is whether it is in the bundle; so the end of the rotation is waited for at the workloads.

use hive_dev::authority::KeyKind;
use hive_security::{Audience, IdPattern, Refusal, tls};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::domain::{Domain, Entry};
use crate::load::{Load, ask_over};
use crate::member::{Member, audience, exactly, greet};
use crate::ours::Ours;
use crate::peer::{Peer, Program};
use crate::waiting::until;

crate::with_both!(
    no_request_fails_while_the_jwt_key_is_replaced,
    no_request_fails_while_the_x509_authority_is_replaced,
    a_token_of_a_key_that_is_revoked_in_haste_is_replaced,
);

/// So many requests are answered between two steps, at least.
const STEP: u64 = 300;

/// How long a token lives that shall be replaced soon.
const BRIEF_S: u32 = 20;

/// A client in this process, and a server in another, of one trust domain.
pub(crate) struct Pair<D: Domain> {
    pub(crate) client: Member,
    pub(crate) client_entry: D::EntryId,
    pub(crate) peer: Peer,
    pub(crate) server: IdPattern,
    pub(crate) audience: Audience,
    _program: Program,
}

impl<D: Domain> Pair<D> {
    /// Certificates live for a minute, and tokens for so many seconds.
    pub(crate) async fn start(domain: &D, jwt_ttl_s: u32) -> Self {
        Self::serve(domain, Program::new(), jwt_ttl_s).await
    }

    async fn serve(domain: &D, program: Program, jwt_ttl_s: u32) -> Self {
        let name = domain.trust_domain();
        let brief = |entry: Entry| Entry { x509_ttl_s: 60, jwt_ttl_s, ..entry };
        let client_entry = domain.add(&brief(Entry::new("/client"))).await;
        domain.add(&brief(Entry::new("/server").of(program.path()))).await;
        let client = Member::of(domain).await;
        let audience = Audience::of_service("server", &name).expect("a good audience");
        let clients = exactly(&name, "/client");
        let peer = program.run(&domain.endpoint(), audience.as_str(), &clients).await;
        let server = exactly(&name, "/server");
        Self { client, client_entry, peer, server, audience, _program: program }
    }

    pub(crate) async fn load(&self) -> Load {
        let workload = &self.client.workload;
        Load::start(workload, &self.peer.address, &self.server, &self.audience).await
    }

    /// Ends both: the server has allowed what the load counted and so many other calls, and has refused so many.
    async fn end(self, what: &str, load: Load, allowed: u64, refused: u64) {
        let requests = load.end().await;
        let counts = self.peer.end().await;
        eprintln!("{what}: {requests} requests, none failed");
        assert_eq!(counts["allowed"], requests + allowed);
        assert_eq!(counts["refused"]["denied"], 0);
        assert_eq!(counts["refused"]["unauthenticated"], refused);
    }

    /// A call with a token that was kept.
    async fn call_with(&self, token: &str) -> Result<String, Code> {
        let (workload, expected) = (self.client.workload.clone(), self.server.clone());
        let address = self.peer.address.clone();
        let connect = tower::service_fn(move |_: http::Uri| {
            let (workload, expected) = (workload.clone(), expected.clone());
            let address = address.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                let (stream, _) = tls::connect(&workload, expected, tcp).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", self.peer.address));
        let channel = endpoint.expect("an address").connect_with_connector_lazy(connect);
        let mut request = Request::new(String::new());
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        ask_over(channel, request).await.map_err(|status| status.code())
    }
}

async fn no_request_fails_while_the_jwt_key_is_replaced<D: Domain>() {
    let (domain, kind) = (D::start("jwt-rotation.test").await, KeyKind::Jwt);
    let (pair, name) = (Pair::start(&domain, BRIEF_S).await, domain.trust_domain());
    let Pair { client, audience, .. } = &pair;
    let load = pair.load().await;
    let (old, kept) = (domain.active(kind).await, client.token(audience).await);
    assert_eq!(client.signer(kind, audience).await, old);

    let new = domain.prepare(kind).await;
    client.knows(kind, &name, &new, true).await;
    load.goes_on(STEP).await;
    assert_eq!(client.signer(kind, audience).await, old, "published, not used");

    domain.activate(kind, &new).await;
    load.goes_on(STEP).await;
    domain.taint(kind, &old).await;
    until("the token is of the new key", async || client.signer(kind, audience).await == new).await;
    load.goes_on(STEP).await;
    let fresh = client.token(audience).await;
    assert!(pair.call_with(&fresh).await.is_ok());

    domain.revoke(kind, &old).await;
    client.knows(kind, &name, &old, false).await;
    let refused = client.workload.verify_jwt(&kept, audience);
    assert_eq!(refused, Err(Refusal::UnknownKey(name.clone())));
    let mut accepted = 0;
    until("the server refuses it", async || {
        let answer = pair.call_with(&kept).await;
        accepted += u64::from(answer.is_ok());
        answer == Err(Code::Unauthenticated)
    })
    .await;
    load.goes_on(STEP).await;
    // The fresh one, and the kept one while the server did not know yet.
    pair.end("the JWT key was replaced", load, 1 + accepted, 1).await;
}

async fn no_request_fails_while_the_x509_authority_is_replaced<D: Domain>() {
    let (domain, kind) = (D::start("x509-rotation.test").await, KeyKind::X509);
    let (pair, name) = (Pair::start(&domain, BRIEF_S).await, domain.trust_domain());
    let Pair { client, audience, server, .. } = &pair;
    let load = pair.load().await;
    let kept = client.workload.x509_svid().expect("an X.509-SVID");
    let greet_with =
        async |svid: &_| greet(&client.workload, svid, server.clone(), &pair.peer.address).await;
    let old = domain.active(kind).await;
    assert_eq!(greet_with(&kept).await.expect("welcome"), old, "it signed the server's");

    let new = domain.prepare(kind).await;
    client.knows(kind, &name, &new, true).await;
    load.goes_on(STEP).await;
    assert_eq!(client.signer(kind, audience).await, old, "published, not used");

    domain.activate(kind, &new).await;
    load.goes_on(STEP).await;
    domain.taint(kind, &old).await;
    until("the client is vouched for by the new authority", async || {
        client.signer(kind, audience).await == new
    })
    .await;
    let current = client.workload.x509_svid().expect("an X.509-SVID");
    until("so is the server", async || greet_with(&current).await.is_ok_and(|by| by == new)).await;
    assert!(greet_with(&kept).await.is_ok(), "the old authority is still in the bundle");
    load.goes_on(STEP).await;

    domain.revoke(kind, &old).await;
    client.knows(kind, &name, &old, false).await;
    until("the server refuses the old one", async || greet_with(&kept).await.is_err()).await;
    assert_eq!(greet_with(&current).await.expect("welcome"), new);
    load.goes_on(STEP).await;
    pair.end("the X.509 authority was replaced", load, 0, 0).await;
}

async fn a_token_of_a_key_that_is_revoked_in_haste_is_replaced<D: Domain>() {
    let (domain, kind) = (D::start("haste.test").await, KeyKind::Jwt);
    domain.add(&Entry::new("/me")).await;
    let (member, name) = (Member::of(&domain).await, domain.trust_domain());
    let audience = audience("anyone");
    let old = domain.active(kind).await;
    assert_eq!(member.signer(kind, &audience).await, old);
    let new = domain.prepare(kind).await;
    member.knows(kind, &name, &new, true).await;
    domain.activate(kind, &new).await;
    domain.taint(kind, &old).await;
    assert_eq!(member.signer(kind, &audience).await, old, "it is not due for minutes");
    domain.revoke(kind, &old).await;
    until("the token is of the new key", async || member.signer(kind, &audience).await == new)
        .await;
    let token = member.token(&audience).await;
    assert!(member.workload.verify_jwt(&token, &audience).is_ok());
}

/// Without any rotation: hundreds of connections end under the requests.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_connections_are_replaced_all_the_time() {
    let domain = Ours::start("connections.test").await;
    let program = Program::new().with_connection_age_ms(150);
    let pair = Pair::serve(&domain, program, BRIEF_S).await;
    let load = pair.load().await;
    load.goes_on(5_000).await;
    pair.end("connections were replaced", load, 0, 0).await;
}
