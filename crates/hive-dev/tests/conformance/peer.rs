//! A gRPC server in a process of its own, with an identity of its own. It ends with its input.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use hive_security::serve::{Authenticate, ConnectionAge, MethodPolicy, incoming, peer};
use hive_security::{IdPattern, SpiffeId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncBufReadExt;
use tokio::io::{AsyncReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::member::{Member, audience, pattern};
use crate::waiting::in_time;

pub(crate) const METHOD: &str = "/conformance.Echo/Ask";

/// Connections are replaced so often that every step of a rotation meets handshakes.
const CONNECTION_AGE_MS: u64 = 2_000;

/// How long an answer takes, so that those who wait for one are in flight.
const THINKING: Duration = Duration::from_millis(50);

/// The program before it runs: its path is what its entry names.
pub(crate) struct Program {
    directory: TempDir,
    connection_age_ms: u64,
}

/// The program as it runs.
pub(crate) struct Peer {
    pub(crate) address: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// This very program under another name.
    pub(crate) fn new() -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        // Beside it, for a link cannot lead to another file system.
        let beside = this.parent().expect("it is in a directory");
        let directory = tempfile::tempdir_in(beside).expect("a temporary directory");
        std::fs::hard_link(&this, directory.path().join("server")).expect("a link");
        Self { directory, connection_age_ms: CONNECTION_AGE_MS }
    }

    /// The same with connections that live no longer than this.
    pub(crate) fn with_connection_age_ms(self, connection_age_ms: u64) -> Self {
        Self { connection_age_ms, ..self }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("server")
    }

    /// Runs it as a workload of this Workload API that is addressed as `audience` and lets `clients` in.
    pub(crate) async fn run(&self, endpoint: &str, audience: &str, clients: &IdPattern) -> Peer {
        let mut child = Command::new(self.path())
            .args(["--exact", "peer::serves", "--nocapture", "--ignored"])
            .env("SPIFFE_ENDPOINT_SOCKET", endpoint)
            .env("CONFORMANCE_AUDIENCE", audience)
            .env("CONFORMANCE_CLIENTS", clients.to_string())
            .env("CONFORMANCE_AGE_MS", self.connection_age_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = next(&mut output).await;
        let address = ready["address"].as_str().expect("an address").to_owned();
        Peer { address, child, input, output }
    }
}

impl Peer {
    /// Ends it, and says what it counted.
    pub(crate) async fn end(mut self) -> Value {
        drop(self.input);
        let counts = next(&mut self.output).await;
        let status = in_time("the server ends", self.child.wait()).await.expect("it ran");
        assert!(status.success());
        counts
    }
}

/// The next line that is for us: the test harness writes to the same output.
async fn next(output: &mut Lines<BufReader<ChildStdout>>) -> Value {
    loop {
        let line = in_time("the server speaks", output.next_line()).await;
        let line = line.expect("it can be read").expect("the server ended early");
        let json = line.find('{').map(|start| serde_json::from_str(&line[start..]));
        if let Some(Ok(json)) = json {
            return json;
        }
    }
}

/// Not a test: the server, run as a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "other tests run it as a process of its own"]
async fn serves() {
    let setting = |name: &str| std::env::var(name).ok();
    let Some(clients) = setting("CONFORMANCE_CLIENTS") else { return };
    let endpoint = setting("SPIFFE_ENDPOINT_SOCKET").expect("it is set");
    let audience = audience(&setting("CONFORMANCE_AUDIENCE").expect("it is set"));
    let member = Member::attach(&endpoint).await;
    let policy = MethodPolicy::new().allow("/conformance.Echo/*", pattern(&clients));
    let layer = Authenticate::new(&member.workload, audience, policy);
    let counts = layer.counts();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", json!({ "address": listener.local_addr().expect("an address").to_string() }));
    let connections = incoming(listener, &member.workload).expect("a listener");
    let age_ms = setting("CONFORMANCE_AGE_MS").expect("it is set").parse().expect("a number");
    let age = ConnectionAge { max: Duration::from_millis(age_ms) };
    let server = tonic::transport::Server::builder().max_connection_age(age.drawn());
    let mut server = server.layer(layer);
    let served = server.add_service(Echo).serve_with_incoming_shutdown(connections, told_to_end());
    served.await.expect("it serves");
    let tally = counts.tally();
    let refused = json!({ "denied": tally.denied, "unauthenticated": tally.unauthenticated });
    println!("{}", json!({ "allowed": tally.allowed, "refused": refused }));
}

async fn told_to_end() {
    let mut rest = Vec::new();
    // An error is an end, too.
    let _ = tokio::io::stdin().read_to_end(&mut rest).await;
}

/// Answers with the name of its caller, after a while.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "conformance.Echo";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tonic::codegen::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
        Box::pin(async move { Ok(grpc.unary(Self, request).await) })
    }
}

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = Answer<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async move {
            let caller: &SpiffeId = &peer(&request)?.spiffe_id;
            tokio::time::sleep(THINKING).await;
            Ok(Response::new(caller.to_string()))
        })
    }
}
