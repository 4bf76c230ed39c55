//! SPIRE's own client, `spire-agent api`, with our Workload API.

use std::process::Stdio;

use hive_dev::authority::KeyKind;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::domain::{Domain, Entry};
use crate::ours::Ours;
use crate::spire::{find, run};
use crate::waiting::in_time;

/// An authority that knows `spire-agent` under two names.
struct World {
    domain: Ours,
    socket: String,
}

impl World {
    async fn start() -> Self {
        let domain = Ours::start("agent.test").await;
        for (path, hint) in [("/first", "internal"), ("/second", "")] {
            domain.add(&Entry::new(path).of(find("spire-agent")).hinted(hint)).await;
        }
        let socket = domain.endpoint().trim_start_matches("unix://").to_owned();
        Self { domain, socket }
    }

    async fn api(&self, arguments: &[&str]) -> Result<String, String> {
        run("spire-agent", &[&["api"], arguments, &["-socketPath", &self.socket]].concat()).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.api(&[arguments, &["-output", "json"]].concat()).await;
        serde_json::from_str(&answer.expect("it works")).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_our_x509_svids_and_writes_them() {
    let world = World::start().await;
    let answer = world.json(&["fetch", "x509"]).await;
    let svids = answer["svids"].as_array().expect("a list");
    let names: Vec<_> = svids.iter().map(|svid| (&svid["spiffe_id"], &svid["hint"])).collect();
    let name = |text: &str| Value::from(format!("spiffe://agent.test/{text}"));
    let (first, second) = (name("first"), name("second"));
    assert_eq!(names, [(&first, &Value::from("internal")), (&second, &Value::from(""))]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().to_str().expect("a plain name");
    world.api(&["fetch", "x509", "-write", path]).await.expect("written");
    for file in ["svid.0.pem", "svid.0.key", "bundle.0.pem", "svid.1.pem"] {
        let text = std::fs::read_to_string(directory.path().join(file)).expect("a file");
        assert!(text.starts_with("-----BEGIN "), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_and_validates_our_jwt_svids() {
    let world = World::start().await;
    let answer = world.json(&["fetch", "jwt", "-audience", "orders"]).await;
    // Two messages: the JWT-SVIDs, and the bundles beside them.
    let svids = answer[0]["svids"].as_array().expect("a list");
    assert_eq!(svids.len(), 2, "one of each identity");
    assert_eq!(svids[0]["spiffe_id"], "spiffe://agent.test/first");
    let token = svids[0]["svid"].as_str().expect("a token");
    let bundle = &answer[1]["bundles"]["spiffe://agent.test"];
    assert!(bundle.as_str().is_some_and(|jwks| !jwks.is_empty()), "{answer}");
    let validate = async |token: &str, audience: &str| {
        world.api(&["validate", "jwt", "-audience", audience, "-svid", token]).await
    };
    let said = validate(token, "orders").await.expect("valid");
    assert!(said.contains("SVID is valid") && said.contains("spiffe://agent.test/first"), "{said}");
    assert!(validate(token, "stock").await.is_err(), "another audience");
    let kind = KeyKind::Jwt;
    let old = world.domain.active(kind).await;
    let new = world.domain.prepare(kind).await;
    world.domain.activate(kind, &new).await;
    world.domain.taint(kind, &old).await;
    assert!(validate(token, "orders").await.is_ok(), "in the bundle as yet");
    world.domain.revoke(kind, &old).await;
    assert!(validate(token, "orders").await.is_err(), "its key is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_our_rotation() {
    let world = World::start().await;
    let mut watch = Watch::start(&world.socket);
    assert_eq!(watch.authorities().await, [1, 1]);
    let new = world.domain.prepare(KeyKind::X509).await;
    assert_eq!(watch.authorities().await, [2, 2]);
    world.domain.activate(KeyKind::X509, &new).await;
    assert_eq!(watch.authorities().await, [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_told_when_it_has_no_identity() {
    let domain = Ours::start("nobody.test").await;
    let world = World { socket: domain.endpoint().replace("unix://", ""), domain };
    let refused = world.api(&["fetch", "x509"]).await.expect_err("there is no entry");
    assert!(refused.contains("PermissionDenied"), "{refused}");
}

/// `spire-agent api watch`, which prints each update of the stream.
struct Watch {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Watch {
    fn start(socket: &str) -> Self {
        let mut child = Command::new(find("spire-agent"))
            .args(["api", "watch", "-socketPath", socket])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let output = child.stdout.take().expect("piped");
        Self { lines: BufReader::new(output).lines(), _child: child }
    }

    /// How many authorities each of the two X.509-SVIDs of the next update comes with.
    async fn authorities(&mut self) -> [usize; 2] {
        [self.authorities_of_next_svid().await, self.authorities_of_next_svid().await]
    }

    async fn authorities_of_next_svid(&mut self) -> usize {
        let mut seen = 0;
        loop {
            let line = in_time("an update", self.lines.next_line()).await;
            let line = line.expect("it can be read").expect("it goes on");
            seen += usize::from(line.contains("CA #") && line.contains("Valid Until"));
            // An empty line ends each.
            if line.is_empty() && seen > 0 {
                return seen;
            }
        }
    }
}
