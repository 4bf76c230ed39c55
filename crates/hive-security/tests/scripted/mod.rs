//! A Workload API that says what a test tells it to, good or bad. Documents are made here too, with any validity.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "it is for tests only")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct X509 {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    pub federated: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct X509Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtBundles {
    #[prost(map = "string, bytes", tag = "1")]
    pub bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtRequest {
    #[prost(string, repeated, tag = "1")]
    pub audience: Vec<String>,
    #[prost(string, tag = "2")]
    pub spiffe_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtSvids {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<JwtSvid>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtSvid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(string, tag = "2")]
    pub token: String,
}

pub type Answer<T> = Result<T, Status>;

/// The path of a request, and the values of its security header.
pub type Asked = (String, Vec<String>);

/// What is answered, and may be changed while it serves: open streams are told.
#[derive(Clone)]
pub struct Script {
    pub x509: watch::Sender<Answer<X509>>,
    pub jwt: watch::Sender<Answer<JwtBundles>>,
    /// The identity and the clock by which JWT-SVIDs are made.
    pub clock: watch::Sender<Option<(String, SystemTime)>>,
    /// What is answered to a request for JWT-SVIDs instead of a token made by that clock.
    pub tokens: watch::Sender<Option<Answer<JwtSvids>>>,
    /// The method of each request, and what it says in the security header.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    /// What JWT-SVIDs were asked for.
    pub wanted: Arc<Mutex<Vec<JwtRequest>>>,
    /// X.509 streams that were opened.
    pub opened: Arc<AtomicUsize>,
    /// Answers that were sent.
    pub sent: Arc<AtomicUsize>,
}

impl Script {
    /// Serves these documents at `socket`, on the current runtime.
    pub fn serve(socket: &Path, x509: X509, trust_domain: &str) -> Self {
        let bundles = HashMap::from([(format!("spiffe://{trust_domain}"), JWKS.into())]);
        let id = x509.svids.first().map(|svid| svid.spiffe_id.clone()).unwrap_or_default();
        let script = Self {
            x509: watch::Sender::new(Ok(x509)),
            jwt: watch::Sender::new(Ok(JwtBundles { bundles })),
            clock: watch::Sender::new(Some((id, SystemTime::now()))),
            tokens: watch::Sender::new(None),
            asked: Arc::default(),
            wanted: Arc::default(),
            opened: Arc::default(),
            sent: Arc::default(),
        };
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = tonic::transport::Server::builder().add_service(script.clone());
        tokio::spawn(server.serve_with_incoming(listener));
        script
    }

    /// From now on this is the answer about X.509, also on open streams.
    pub fn say(&self, answer: Answer<X509>) {
        drop(self.x509.send_replace(answer));
    }

    /// From now on these are the JWT bundles: the same keys for each of these trust domains.
    pub fn say_jwt_bundles(&self, trust_domains: &[&str]) {
        let bundle = |name: &&str| (format!("spiffe://{name}"), JWKS.into());
        let bundles = trust_domains.iter().map(bundle).collect();
        self.say_jwt(Ok(JwtBundles { bundles }));
    }

    /// From now on this is the answer about JWT bundles, also on open streams.
    pub fn say_jwt(&self, answer: Answer<JwtBundles>) {
        drop(self.jwt.send_replace(answer));
    }

    /// How often this method was called.
    pub fn calls(&self, method: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(path, _)| path.ends_with(method)).count()
    }

    fn note(&self, request: &http::Request<Body>) {
        let values = request.headers().get_all("workload.spiffe.io").iter();
        let values = values.map(|value| value.to_str().unwrap().to_owned()).collect();
        self.asked.lock().unwrap().push((request.uri().path().to_owned(), values));
    }

    /// From now on these are the X.509-SVIDs.
    pub fn issue(&self, svids: Vec<X509Svid>) {
        self.say(Ok(X509 { svids, ..X509::default() }));
    }
}

const JWKS: &str = r#"{"keys":[{"kty":"EC","kid":"k","use":"jwt-svid","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

impl NamedService for Script {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for Script {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let script = self.clone();
        script.note(&request);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/SpiffeWorkloadAPI/FetchX509SVID" => {
                    script.opened.fetch_add(1, Ordering::SeqCst);
                    let mut grpc = Grpc::new(ProstCodec::<X509, Nothing>::default());
                    grpc.server_streaming(Follow(script.x509.subscribe(), script.sent), request)
                        .await
                }
                "/SpiffeWorkloadAPI/FetchJWTBundles" => {
                    let mut grpc = Grpc::new(ProstCodec::<JwtBundles, Nothing>::default());
                    grpc.server_streaming(Follow(script.jwt.subscribe(), Arc::default()), request)
                        .await
                }
                "/SpiffeWorkloadAPI/FetchJWTSVID" => {
                    let mut grpc = Grpc::new(ProstCodec::<JwtSvids, JwtRequest>::default());
                    grpc.unary(Mint(script), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Streams what the script says, until it says an error.
struct Follow<T>(watch::Receiver<Answer<T>>, Arc<AtomicUsize>);

impl<T: Clone + Send + Sync + 'static> ServerStreamingService<Nothing> for Follow<T> {
    type Response = T;
    type ResponseStream = Pin<Box<dyn Stream<Item = Answer<T>> + Send>>;
    type Future = Answering<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Nothing>) -> Self::Future {
        let (mut answers, sent) = (self.0.clone(), Arc::clone(&self.1));
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let answer = answers.borrow_and_update().clone();
                let last = answer.is_err();
                if sender.send(answer).await.is_err() {
                    return;
                }
                sent.fetch_add(1, Ordering::SeqCst);
                if last || answers.changed().await.is_err() {
                    return;
                }
            }
        });
        let stream: Self::ResponseStream = Box::pin(ReceiverStream::new(receiver));
        Box::pin(async move { Ok(Response::new(stream)) })
    }
}

/// Answers as it is told, or makes a token that nobody can verify, at the time that the script names.
struct Mint(Script);

impl UnaryService<JwtRequest> for Mint {
    type Response = JwtSvids;
    type Future = Answering<Result<Response<JwtSvids>, Status>>;

    fn call(&mut self, request: Request<JwtRequest>) -> Self::Future {
        let (script, request) = (&self.0, request.into_inner());
        let minted = || {
            let (spiffe_id, now) = script.clock.borrow().clone()?;
            let token = token(&spiffe_id, &request.audience, now);
            Some(Ok(JwtSvids { svids: vec![JwtSvid { spiffe_id, token }] }))
        };
        let told = script.tokens.borrow().clone().or_else(minted);
        let none = || Err(Status::new(Code::Unimplemented, "no JWT-SVIDs here"));
        let answer = told.unwrap_or_else(none).map(Response::new);
        script.wanted.lock().unwrap().push(request);
        Box::pin(async move { answer })
    }
}

pub fn token(spiffe_id: &str, audience: &[String], now: SystemTime) -> String {
    let iat = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "sub": spiffe_id, "aud": audience, "iat": iat, "exp": iat + 300,
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        encode(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#),
        encode(&claims.to_string()),
        encode("signature")
    )
}

/// An X.509 authority whose documents may be as old or as young as a test likes.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
    /// The certificates between the root and what it issues.
    between: Vec<u8>,
}

impl Authority {
    pub fn new(trust_domain: &str, from: SystemTime, until: SystemTime) -> Self {
        let mut params = params(&format!("spiffe://{trust_domain}"), from, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, trust_domain);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { trust_domain: trust_domain.to_owned(), issuer, root, between: Vec::new() }
    }

    /// An intermediate authority, which this one vouches for.
    pub fn intermediate(&self) -> Self {
        let now = SystemTime::now();
        let (from, until) = (now - Duration::from_secs(60), now + Duration::from_secs(3600));
        let mut params = params(&format!("spiffe://{}", self.trust_domain), from, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        let key = KeyPair::generate().unwrap();
        let between = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let (issuer, root) = (Issuer::new(params, key), self.root.clone());
        Self { trust_domain: self.trust_domain.clone(), issuer, root, between }
    }

    /// Its certificate, which is its bundle as well.
    pub fn bundle(&self) -> Vec<u8> {
        self.root.clone()
    }

    pub fn svid(&self, path: &str, hint: &str, from: SystemTime, until: SystemTime) -> X509Svid {
        let spiffe_id = format!("spiffe://{}{path}", self.trust_domain);
        let mut params = params(&spiffe_id, from, until);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let chain = [leaf, self.between.clone()].concat();
        let (key, bundle) = (key.serialize_der(), self.bundle());
        X509Svid { spiffe_id, chain, key, bundle, hint: hint.to_owned() }
    }
}

fn params(uri: &str, from: SystemTime, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.not_before, params.not_after) = (from.into(), until.into());
    params
}
