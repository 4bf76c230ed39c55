//! Reads a file of calls: one request a line, and below it, indented, what is to be made of the answer.
//!
//! ```text
//! == A title
//! PUT secret/data/app {"data": {"a": 1}}     by the root token
//! reader> GET secret/data/app?version=1      by the token that was kept as `reader`; `nobody` has none
//!    keep id /data/id                        $id stands for it from here on, in what is sent and what is compared
//!    header X-Vault-Wrap-TTL: 60s            and, for a namespace, X-Vault-Namespace
//!    present good                            over TLS, with the certificate that is called so (see `clients`)
//!    input text                              what a command reads; the line is `kv put app a=b` then
//!    until 404                               asked again until that is the status
//!    differs /data/version because …         accepted; `status`, `body` and `header NAME` are places too
//! ```
//!
//! A body may go on over several lines, until it is whole. `#` begins a remark.

use serde_json::Value;

/// One request.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Where it is written, for messages: `kv.calls:12 PUT secret/data/app`.
    pub(crate) place: String,
    /// The kept variable whose token calls; the root token without.
    pub(crate) caller: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    pub(crate) headers: Vec<(String, String)>,
    /// Name of a variable, and the pointer to its value.
    pub(crate) keep: Vec<(String, String)>,
    /// What a command reads on its standard input.
    pub(crate) input: String,
    pub(crate) until: Option<u16>,
    /// The name of the certificate that is shown.
    pub(crate) present: Option<String>,
    pub(crate) differs: Vec<Accepted>,
}

/// A difference that is known, and why it is one.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) at: String,
    pub(crate) because: String,
}

/// The requests of a file.
pub(crate) fn read(name: &str, text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') || bare.starts_with("==") {
            continue;
        }
        let place = format!("{name}.calls:{}", number + 1);
        if line.starts_with(' ') {
            let step = steps.last_mut().unwrap_or_else(|| panic!("{place}: no request above"));
            step.remark(&place, bare);
        } else {
            let mut whole = bare.to_owned();
            while !is_whole(&whole) {
                let (_, more) =
                    lines.next().unwrap_or_else(|| panic!("{place}: a body without end"));
                whole.push_str(more.trim());
            }
            steps.push(Step::parse(&place, &whole));
        }
    }
    steps
}

fn is_whole(request: &str) -> bool {
    request.find(" {").is_none_or(|at| serde_json::from_str::<Value>(&request[at..]).is_ok())
}

impl Step {
    fn parse(place: &str, line: &str) -> Self {
        let (caller, request) = match line.split_once("> ") {
            Some((caller, request)) if caller.chars().all(is_name) => (Some(caller), request),
            _ => (None, line),
        };
        let (request, body) = match request.find(" {") {
            Some(at) => (&request[..at], Some(&request[at..])),
            None => (request, None),
        };
        let (method, path) = request.split_once(' ').unwrap_or((request, ""));
        Self {
            place: format!("{place} {line}").chars().take(160).collect(),
            caller: caller.map(str::to_owned),
            method: method.to_owned(),
            path: path.trim().to_owned(),
            body: body.map(|body| serde_json::from_str(body).expect("it was whole")),
            ..Self::default()
        }
    }

    fn remark(&mut self, place: &str, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "keep" => self.keep.push(pair(place, rest, " ")),
            "header" => self.headers.push(pair(place, rest, ": ")),
            "input" => self.input = rest.to_owned(),
            "present" => self.present = Some(rest.to_owned()),
            "until" => self.until = Some(rest.parse().expect("a status")),
            "differs" => {
                let (at, because) = pair(place, rest, " because ");
                self.differs.push(Accepted { at, because });
            }
            _ => panic!("{place}: nobody knows `{word}`"),
        }
    }
}

pub(crate) fn is_name(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}

fn pair(place: &str, text: &str, between: &str) -> (String, String) {
    let (first, second) =
        text.split_once(between).unwrap_or_else(|| panic!("{place}: `{between}` is missing"));
    (first.trim().to_owned(), second.trim().to_owned())
}
