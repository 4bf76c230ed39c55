//! The authority as a child process: its supervisor tells it, one JSON line after another, who is who.
//!
//! ```text
//! → {"register":{"pid":4711,"path":"/ns/neural-hive-registry/sa/service-registry"}}
//! ← {"ok":{"entry":1,"spiffe_id":"spiffe://dev-0c9e12aa.hive.internal/ns/neural-hive-registry/sa/service-registry"}}
//! → {"operator":{"uid":0,"path":"/usr/local/bin/hive","spiffe_path":"/ns/neural-hive/sa/operator"}}
//! → {"operator_root":{"pid":4712}}
//! ← {"refused":"process 4712 cannot be registered: …"}
//! ```
//!
//! The end of the input is the end of the supervisor, and so of the authority.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use hive_runtime::ready::Ready;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::{Authority, AuthorityConfig, Entry, Error, Selector};

/// An order holds a few paths, each of at most 4096 bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Serves until `stop`, or until standard input ends. Standard input and output must be pipes.
///
/// The process that started this one becomes [`AuthorityConfig::supervisor`]. What `ready` announces is
/// `socket`, `trust_domain` and `keys`; orders are taken from standard input and answered on standard output.
pub async fn run(
    mut config: AuthorityConfig,
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let broken = |source| Error::Control { source };
    // Pipes of the runtime's own, because its `stdin` reads on a thread that nothing can interrupt.
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(broken)?;
    let input = pipe::Receiver::from_owned_fd(input).map_err(broken)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(broken)?;
    let output = pipe::Sender::from_owned_fd(output).map_err(broken)?;
    config.supervisor = Some(std::os::unix::process::parent_id());
    run_with(config, input, output, ready, stop).await
}

async fn run_with(
    config: AuthorityConfig,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    ready: Ready,
    stop: CancellationToken,
) -> Result<(), Error> {
    let authority = Authority::start(config).await?;
    ready.announce_facts([
        ("socket", authority.socket().display().to_string()),
        ("trust_domain", authority.trust_domain().to_owned()),
        ("keys", authority.keys_url()),
    ]);
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = authority.ended() => Err(Error::Ended),
        obeyed = obey(&authority, input, output) => obeyed.map_err(|source| Error::Control { source }),
    };
    authority.stop().await;
    ended
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Operator(Operator),
    OperatorRoot(OperatorRoot),
    Register(Register),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operator {
    uid: u32,
    path: PathBuf,
    spiffe_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorRoot {
    pid: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    pid: u32,
    path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(Done),
    Refused(String),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Done {
    Entry { entry: u64, spiffe_id: String },
    Root { pid: u32 },
}

/// Takes orders until there are no more.
async fn obey(
    authority: &Authority,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        if length as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            // Where the next order begins is unknown from here on.
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an order is longer than 64 KiB",
            ));
        }
        let mut answer = serde_json::to_vec(&answer(authority, &line))?;
        answer.push(b'\n');
        output.write_all(&answer).await?;
        output.flush().await?;
    }
}

fn answer(authority: &Authority, line: &[u8]) -> Answer {
    let order = match serde_json::from_slice(line) {
        Ok(order) => order,
        Err(error) => return Answer::Refused(format!("not an order: {error}")),
    };
    carry_out(authority, order).map_or_else(|error| Answer::Refused(error.to_string()), Answer::Ok)
}

fn carry_out(authority: &Authority, order: Order) -> Result<Done, Error> {
    match order {
        Order::Operator(Operator { uid, path, spiffe_path }) => {
            let selectors = [Selector::Uid(uid), Selector::Path(path)];
            let spiffe_id = authority.spiffe_id(&spiffe_path)?;
            let entry = authority.add_operator_entry(Entry::new(spiffe_path, selectors))?;
            Ok(Done::Entry { entry: entry.0, spiffe_id })
        }
        Order::OperatorRoot(OperatorRoot { pid }) => {
            authority.add_operator_root(pid).map(|()| Done::Root { pid })
        }
        Order::Register(Register { pid, path }) => {
            let spiffe_id = authority.spiffe_id(&path)?;
            let entry = authority.add_entry(Entry::of_process(path, pid))?;
            Ok(Done::Entry { entry: entry.0, spiffe_id })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;
    use tokio::io::{DuplexStream, Lines, duplex};

    struct Child {
        orders: DuplexStream,
        answers: Lines<BufReader<DuplexStream>>,
        ended: tokio::task::JoinHandle<Result<(), Error>>,
        announced: hive_runtime::ready::Announcement,
        _place: tempfile::TempDir,
    }

    impl Child {
        async fn start() -> Self {
            let place = tempfile::tempdir().expect("a temporary directory");
            let config = AuthorityConfig::new(place.path().join("api.sock"));
            let (orders, input) = duplex(1 << 20);
            let (output, answers) = duplex(1 << 20);
            let (ready, announced) = Ready::channel();
            let ended =
                tokio::spawn(run_with(config, input, output, ready, CancellationToken::new()));
            let announced = announced.await.expect("it starts");
            let answers = BufReader::new(answers).lines();
            Self { orders, answers, ended, announced, _place: place }
        }

        async fn tell(&mut self, order: &str) -> Value {
            self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
            let answer = self.answers.next_line().await.expect("it answers").expect("a line");
            serde_json::from_str(&answer).expect("JSON")
        }

        async fn end(self) -> Result<(), Error> {
            drop(self.orders);
            let ended = tokio::time::timeout(Duration::from_secs(10), self.ended).await;
            ended.expect("in time").expect("no panic")
        }
    }

    #[tokio::test]
    async fn orders_are_answered_and_the_end_of_input_is_the_end() {
        let mut child = Child::start().await;
        let domain = child.announced["trust_domain"].clone();
        let socket = PathBuf::from(&child.announced["socket"]);
        assert!(child.announced["keys"].starts_with("http://127.0.0.1:"));
        let pid = std::process::id();
        let answer =
            child.tell(&json!({ "register": { "pid": pid, "path": "/a" } }).to_string()).await;
        assert_eq!(
            answer,
            json!({ "ok": { "entry": 1, "spiffe_id": format!("spiffe://{domain}/a") } })
        );
        let answer = child.tell(&json!({ "operator_root": { "pid": pid } }).to_string()).await;
        assert_eq!(answer, json!({ "ok": { "pid": pid } }));
        let hive =
            json!({ "operator": { "uid": 0, "path": "/proc/self/exe", "spiffe_path": "/o" } });
        let answer = child.tell(&hive.to_string()).await;
        assert_eq!(
            answer,
            json!({ "ok": { "entry": 2, "spiffe_id": format!("spiffe://{domain}/o") } })
        );
        assert!(socket.exists());
        child.end().await.expect("a good end");
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn a_wrong_order_is_refused_with_a_sentence_and_the_next_one_is_obeyed() {
        let mut child = Child::start().await;
        for order in [
            "register",
            r#"{"forget":{"pid":1}}"#,
            r#"{"register":{"pid":0,"path":"/a"}}"#,
            r#"{"register":{"pid":1,"path":"/a","uid":0}}"#,
            r#"{"operator":{"uid":0,"path":"/nonexistent/hive","spiffe_path":"/o"}}"#,
            r#"{"operator_root":{"pid":0}}"#,
        ] {
            let answer = child.tell(order).await;
            assert!(answer["refused"].is_string(), "{order}: {answer}");
        }
        let pid = std::process::id();
        for path in ["a", "/", "/a/../b", "/a b"] {
            let answer =
                child.tell(&json!({ "register": { "pid": pid, "path": path } }).to_string()).await;
            assert!(answer["refused"].is_string(), "{path}: {answer}");
        }
        let answer =
            child.tell(&json!({ "register": { "pid": pid, "path": "/a" } }).to_string()).await;
        assert!(answer["ok"].is_object(), "{answer}");
        child.end().await.expect("a good end");
    }

    #[tokio::test]
    async fn an_endless_order_ends_the_authority() {
        let mut child = Child::start().await;
        let endless = vec![b' '; usize::try_from(LINE_BYTES_MAX).expect("it fits")];
        child.orders.write_all(&endless).await.expect("it listens");
        assert!(matches!(child.end().await, Err(Error::Control { .. })));
    }
}
