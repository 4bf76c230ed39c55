//! Makes the calls of a script on one server and writes down what it answered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::vault::clients::Clients;
use crate::vault::script::{Step, is_name};

const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// What goes on behind an answer, such as the end of a token's leases, takes a moment.
const UNTIL_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(30);
/// Shorter values would be found everywhere.
const NAMED_MIN: usize = 6;
/// What a client looks at, or what is in between.
pub(crate) const HEADERS: [&str; 5] =
    ["cache-control", "content-type", "location", "retry-after", "x-content-type-options"];

/// A server, and what is known of it.
pub(crate) struct Recorder {
    pub(crate) address: String,
    root_token: SecretString,
    known: BTreeMap<String, String>,
    http: reqwest::Client,
    /// Those that show a certificate, by its name.
    certain: BTreeMap<String, reqwest::Client>,
    /// The calls are commands of this program, and its files are in that directory.
    program: Option<(PathBuf, PathBuf)>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    /// Parsed if it is JSON, else text; null if there is none.
    pub(crate) body: Value,
    /// Where the values that were kept so far stand, longest first.
    pub(crate) names: Vec<(String, String)>,
}

impl Recorder {
    pub(crate) fn new(
        address: &str,
        root_token: &SecretString,
        known: BTreeMap<String, String>,
    ) -> Self {
        let http = crate::vault::plain_http();
        let mut known = known;
        known.insert("root".to_owned(), root_token.expose_secret().to_owned());
        Self {
            address: address.to_owned(),
            root_token: root_token.clone(),
            known,
            http,
            certain: BTreeMap::new(),
            program: None,
        }
    }

    /// One for a server that has a certificate of this authority, and clients that have some of their own.
    pub(crate) fn over_tls(self, ca_pem: &str, clients: &Clients) -> Self {
        let certain = clients.names().map(|name| (name.clone(), clients.http(ca_pem, Some(name))));
        Self { certain: certain.collect(), http: clients.http(ca_pem, None), ..self }
    }

    /// One whose calls are commands of the program `bao`.
    pub(crate) fn commands(self, program: &Path, home: &Path) -> Self {
        Self { program: Some((program.to_owned(), home.to_owned())), ..self }
    }

    pub(crate) async fn run(&mut self, steps: &[Step]) -> Vec<Answer> {
        let mut answers = Vec::new();
        for step in steps {
            answers.push(self.make(step).await);
        }
        answers
    }

    async fn make(&mut self, step: &Step) -> Answer {
        let deadline = Instant::now() + UNTIL_DEADLINE;
        let mut answer = self.call(step).await;
        let is_early = |answer: &Answer| {
            step.until.is_some_and(|status| status != answer.status) || is_upgrading(answer)
        };
        while is_early(&answer) && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            answer = self.call(step).await;
        }
        for (name, pointer) in &step.keep {
            let value = answer.body.pointer(pointer).unwrap_or_else(|| {
                panic!("{} at {}: no {pointer} in {}", step.place, self.address, answer.body)
            });
            self.known.insert(name.clone(), plain(value));
        }
        answer.names = self.names();
        answer
    }

    async fn call(&self, step: &Step) -> Answer {
        match &self.program {
            Some((program, home)) => self.command(step, program, home).await,
            None => self.request(step).await,
        }
    }

    /// Its exit status is the status; what it printed is the body.
    async fn command(&self, step: &Step, program: &Path, home: &Path) -> Answer {
        let words = self.filled(&step.place, &step.path);
        let mut command = tokio::process::Command::new(program);
        command.arg(&step.method).args(words.split_whitespace()).kill_on_drop(true);
        command.env_clear().env("HOME", home).env("BAO_ADDR", &self.address);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match step.caller.as_deref() {
            None => drop(command.env("BAO_TOKEN", self.root_token.expose_secret())),
            Some("nobody") => {}
            Some(name) => drop(command.env("BAO_TOKEN", self.value(&step.place, name))),
        }
        let mut child = command.spawn().expect("`cargo xtask real` puts OpenBao there");
        let mut input = child.stdin.take().expect("it is a pipe");
        input.write_all(step.input.as_bytes()).await.expect("it reads");
        drop(input);
        let output = tokio::time::timeout(CALL_DEADLINE, child.wait_with_output()).await;
        let output = output.expect("it ends").expect("it ran");
        let status = output.status.code().expect("it ended by itself").unsigned_abs();
        let body = json!({ "output": parsed(&output.stdout), "error": parsed(&output.stderr) });
        let status = u16::try_from(status).expect("it is small");
        Answer { status, headers: BTreeMap::new(), body, names: Vec::new() }
    }

    async fn request(&self, step: &Step) -> Answer {
        let method = http::Method::from_bytes(step.method.as_bytes()).expect("a method");
        let url = format!("{}/v1/{}", self.address, self.filled(&step.place, &step.path));
        let http = step.present.as_ref().map_or(&self.http, |name| &self.certain[name]);
        let mut request = http.request(method, url).timeout(CALL_DEADLINE);
        match step.caller.as_deref() {
            None => request = request.header("X-Vault-Token", self.root_token.expose_secret()),
            Some("nobody") => {}
            Some(name) => request = request.header("X-Vault-Token", self.value(&step.place, name)),
        }
        for (name, value) in &step.headers {
            request = request.header(name, self.filled(&step.place, value));
        }
        if let Some(body) = &step.body {
            request = request.json(&self.filled_value(&step.place, body));
        }
        let failed = || format!("{} at {}", step.place, self.address);
        let response =
            request.send().await.unwrap_or_else(|error| panic!("{}: {error:?}", failed()));
        let status = response.status().as_u16();
        let headers = HEADERS.iter().filter_map(|name| {
            let value = response.headers().get(*name)?;
            Some(((*name).to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        let headers = headers.collect();
        let body = response.bytes().await.unwrap_or_else(|error| panic!("{}: {error:?}", failed()));
        Answer { status, headers, body: parsed(&body), names: Vec::new() }
    }

    /// What is found out elsewhere, for `$name`.
    pub(crate) fn know(&mut self, name: &str, value: &str) {
        self.known.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn root_token(&self) -> &str {
        self.root_token.expose_secret()
    }

    pub(crate) fn value(&self, place: &str, name: &str) -> &str {
        self.known.get(name).unwrap_or_else(|| panic!("{place}: ${name} was never kept"))
    }

    /// With each `$name` replaced.
    fn filled(&self, place: &str, text: &str) -> String {
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|letter| !is_name(letter)).unwrap_or(part.len());
            filled.push_str(self.value(place, &part[..end]));
            filled.push_str(&part[end..]);
        }
        filled
    }

    fn filled_value(&self, place: &str, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.filled(place, text)),
            Value::Array(items) => {
                items.iter().map(|item| self.filled_value(place, item)).collect()
            }
            Value::Object(members) => {
                let filled = |(name, value): (&String, &Value)| {
                    (name.clone(), self.filled_value(place, value))
                };
                Value::Object(members.iter().map(filled).collect())
            }
            other => other.clone(),
        }
    }

    fn names(&self) -> Vec<(String, String)> {
        let known = self.known.iter().filter(|(_, value)| value.len() >= NAMED_MIN);
        let mut names: Vec<_> = known
            .map(|(name, value)| (value.clone(), format!("${name}")))
            .chain([(self.address.clone(), "$address".to_owned())])
            .collect();
        names.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        names
    }
}

/// OpenBao gives an engine its versions behind the answer that mounted it, and refuses everything there until then.
fn is_upgrading(answer: &Answer) -> bool {
    answer.status != 200 && answer.body.to_string().contains("Upgrading from non-versioned")
}

fn parsed(body: &[u8]) -> Value {
    match (serde_json::from_slice(body), std::str::from_utf8(body)) {
        _ if body.is_empty() => Value::Null,
        (Ok(value), _) => value,
        (Err(_), Ok(text)) => Value::String(text.to_owned()),
        (Err(_), Err(_)) => Value::String(pem("DER", body)),
    }
}

pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(bytes);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
