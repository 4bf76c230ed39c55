//! go-spiffe and py-spiffe against the Workload API here, and against the verifier and the TLS of `hive_security`.
//!
//! Each runs as a process of its own, takes orders on its standard input, and is attested by its process ID.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hive_dev::authority::Selector;
use hive_security::{Audience, IdPattern, SpiffeId, Workload, WorkloadConfig, tls};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::authority::Place;

/// An order has a deadline of 15 seconds where it is carried out.
const DEADLINE: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Library {
    Go,
    Python,
}

/// A process that is `/ns/test/sa/other` through another library.
pub(crate) struct Other {
    pub(crate) id: String,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

/// An authority, this process attached to it, and the other one.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) workload: Workload,
    pub(crate) other: Other,
    _stop: DropGuard,
}

impl World {
    pub(crate) async fn start(library: Library) -> Self {
        let place = Place::mine().await;
        let config = WorkloadConfig::new(place.authority.endpoint(), DEADLINE);
        let (workload, upkeep) = Workload::attach(config).await.expect("an identity");
        let stop = CancellationToken::new();
        tokio::spawn(upkeep.run(stop.clone()));
        let other = Other::start(library, &place).await;
        Self { place, workload, other, _stop: stop.drop_guard() }
    }

    pub(crate) fn me(&self) -> String {
        self.workload.spiffe_id().expect("an identity").to_string()
    }

    /// The whole circle of trust, at this moment.
    pub(crate) async fn agree(&mut self) {
        self.exchange_tokens().await;
        self.call_the_other().await;
        self.be_called_by_the_other().await;
    }

    /// Each fetches a token for the other; both ways of verifying find out whose it is.
    async fn exchange_tokens(&mut self) {
        let audience = Audience::parse("orders.test").expect("a good name");
        let theirs = self.other.token(&audience).await;
        let verified = self.workload.verify_jwt(&theirs, &audience).expect("their token is good");
        assert_eq!(verified.spiffe_id().to_string(), self.other.id);
        let ours = self.workload.jwt_svid(&audience).await.expect("a token");
        for verify in ["verify", "validate"] {
            let said = self.other.judge(verify, ours.token().expose_secret(), &audience).await;
            assert_eq!(said.expect("our token is good"), self.me(), "{verify}");
        }
    }

    /// Their server, our client.
    async fn call_the_other(&mut self) {
        let address = self.other.serve(&self.me()).await;
        let line = call(&self.workload, &address, &self.other.id).await.expect("a connection");
        assert_eq!(line, format!("{} hello", self.me()), "it knows who called");
    }

    /// Our server, their client.
    async fn be_called_by_the_other(&mut self) {
        let address = serve(&self.workload, &self.other.id).await;
        let said = self.other.obey(json!({ "do": "call", "address": address, "peer": self.me() }));
        let said = said.await.expect("a connection");
        assert_eq!(said["peer"], self.me());
        assert_eq!(said["line"], format!("{} hello", self.other.id), "we know who called");
    }
}

impl Other {
    async fn start(library: Library, place: &Place) -> Self {
        let mut child = library.command().kill_on_drop(true).spawn().expect("it starts");
        let path = "/ns/test/sa/other";
        place.add(path, Selector::Pid(child.id().expect("it runs")));
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut other = Self { id: place.id(path), orders, answers, _child: child };
        let attach = json!({ "do": "attach", "address": place.authority.endpoint() });
        let attached = other.obey(attach).await.expect("an identity");
        assert_eq!(attached["spiffe_id"], other.id);
        other
    }

    /// Has something done: what came of it, or why it could not be done.
    pub(crate) async fn obey(&mut self, order: Value) -> Result<Value, String> {
        let answered = tokio::time::timeout(DEADLINE, async {
            self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
            self.answers.next_line().await.expect("text").expect("it is still there")
        });
        let line = answered.await.expect("an answer in time");
        let answer: Value = serde_json::from_str(&line).expect("an answer is JSON");
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    pub(crate) async fn token(&mut self, audience: &Audience) -> String {
        let order = json!({ "do": "fetch", "audience": audience.as_str() });
        let fetched = self.obey(order).await.expect("a token");
        assert_eq!(fetched["spiffe_id"], self.id);
        text(&fetched["token"])
    }

    /// Whose token it is by their verifier (`verify`), or by the Workload API as they ask it (`validate`).
    pub(crate) async fn judge(
        &mut self,
        how: &str,
        token: &str,
        audience: &Audience,
    ) -> Result<String, String> {
        let order = json!({ "do": how, "token": token, "audience": audience.as_str() });
        Ok(text(&self.obey(order).await?["spiffe_id"]))
    }

    async fn serve(&mut self, client: &str) -> String {
        let served = self.obey(json!({ "do": "serve", "peer": client })).await.expect("it serves");
        text(&served["address"])
    }

    /// The authorities of their bundle, and the serial number of their SVID, which they verified with it.
    pub(crate) async fn x509(&mut self) -> (Vec<String>, String) {
        let held = self.obey(json!({ "do": "x509" })).await.expect("a good SVID");
        (texts(&held["authorities"]), text(&held["serial"]))
    }

    pub(crate) async fn keys(&mut self) -> Vec<String> {
        texts(&self.obey(json!({ "do": "keys" })).await.expect("a bundle")["keys"])
    }
}

impl Library {
    fn command(self) -> Command {
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/python/workload.py");
        let (program, arguments) = match self {
            Self::Go => ("bin/interop-go", None),
            Self::Python => ("python/bin/python", Some(python)),
        };
        let mut command = Command::new(installed(program));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

/// A program that `cargo xtask interop` makes.
fn installed(program: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let program = target.join("tools").join(program);
    assert!(program.exists(), "{} is missing: run `cargo xtask interop`", program.display());
    program
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(text).collect()
}

pub(crate) fn pattern(id: &str) -> IdPattern {
    IdPattern::exactly(&SpiffeId::parse(id).expect("a SPIFFE ID"))
}

/// Accepts one connection, and sends its line back behind the client's SPIFFE ID.
async fn serve(workload: &Workload, client: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (workload, client) = (workload.clone(), pattern(client));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok((stream, client)) = tls::accept(&workload, &client, stream).await else { return };
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next_line().await.expect("text").expect("a line");
        let answer = format!("{client} {line}\n");
        let mut stream = lines.into_inner();
        stream.write_all(answer.as_bytes()).await.expect("it is still there");
        stream.flush().await.expect("it is still there");
    });
    address
}

/// Sends one line to a server, and returns what comes back.
async fn call(workload: &Workload, address: &str, server: &str) -> std::io::Result<String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut stream, _) = tls::connect(workload, pattern(server), stream).await?;
        stream.write_all(b"hello\n").await?;
        stream.flush().await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if stream.read_buf(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    };
    tokio::time::timeout(DEADLINE, exchange).await.expect("in time")
}

async fn they_know_each_other(library: Library) {
    World::start(library).await.agree().await;
}

#[tokio::test]
async fn go_spiffe_is_known_here_and_knows_us() {
    they_know_each_other(Library::Go).await;
}

#[tokio::test]
async fn py_spiffe_is_known_here_and_knows_us() {
    they_know_each_other(Library::Python).await;
}

async fn they_refuse_the_same(library: Library) {
    let mut world = World::start(library).await;
    let [here, elsewhere] =
        ["orders.test", "stock.test"].map(|name| Audience::parse(name).expect("a good name"));
    let token = world.other.token(&here).await;
    assert!(world.workload.verify_jwt(&token, &elsewhere).is_err(), "another audience");
    let ours = world.workload.jwt_svid(&here).await.expect("a token");
    let ours = ours.token().expose_secret();
    let cut = ours.rfind('.').expect("three parts");
    let unsigned = format!("{}.{}", &ours[..cut], &token[token.rfind('.').expect("parts") + 1..]);
    assert!(world.workload.verify_jwt(&unsigned, &here).is_err(), "another token's signature");
    for verify in ["verify", "validate"] {
        assert!(world.other.judge(verify, ours, &elsewhere).await.is_err(), "{verify}: audience");
        assert!(world.other.judge(verify, &unsigned, &here).await.is_err(), "{verify}: signature");
    }
    // Both sides ask for somebody else than who is there.
    let (me, stranger) = (world.me(), world.place.id("/ns/test/sa/stranger"));
    let address = world.other.serve(&stranger).await;
    call(&world.workload, &address, &world.other.id).await.expect_err("its server refuses us");
    let address = world.other.serve(&me).await;
    call(&world.workload, &address, &stranger).await.expect_err("our client refuses it");
    let address = serve(&world.workload, &stranger).await;
    let order = json!({ "do": "call", "address": address, "peer": me });
    world.other.obey(order).await.expect_err("our server refuses it");
    let address = serve(&world.workload, &world.other.id).await;
    let order = json!({ "do": "call", "address": address, "peer": stranger });
    world.other.obey(order).await.expect_err("its client refuses us");
    world.agree().await;
}

#[tokio::test]
async fn go_spiffe_and_we_refuse_the_same() {
    they_refuse_the_same(Library::Go).await;
}

#[tokio::test]
async fn py_spiffe_and_we_refuse_the_same() {
    they_refuse_the_same(Library::Python).await;
}
