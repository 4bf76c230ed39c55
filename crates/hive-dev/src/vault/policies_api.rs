//! `sys/policies/acl/…` and the older `sys/policy/…`, and what a token may do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::clock;
use super::core::{Core, Token, token_key};
use super::engine::Ask;
use super::policy_limits::Limits;
use super::policy_text;
use super::reply::{Fault, Reply};
use super::routes::Verb;
use super::setup::Capability;
use super::tokens::object;

impl Core {
    /// What a token may do on a path of the vault, besides everything.
    pub(super) fn granted(&self, token: &Token, full_path: &str) -> Vec<Capability> {
        self.state().policies.capabilities(&token.namespace, &token.policies, full_path)
    }

    /// What a call there has to be like.
    pub(super) fn limits(&self, token: &Token, full_path: &str) -> Limits {
        self.state().policies.limits(&token.namespace, &token.policies, full_path)
    }

    /// Whether a token may do anything at a mount.
    pub(super) fn may_touch(&self, token: &Token, mount: &str) -> bool {
        let touches =
            || self.state().policies.touch_mount(&token.namespace, &token.policies, mount);
        token.is_root() || touches()
    }
}

/// `old`: the text is called `rules`, and the answers are repeated beside the envelope.
pub(super) fn handle(ask: &Ask<'_>, name: &str, old: bool) -> Result<Reply, Fault> {
    let name = name.trim_matches('/').to_lowercase();
    match (ask.verb(), name.as_str()) {
        (Verb::List, "") => Ok(names(ask, old)),
        (Verb::Read, "") if old => Ok(names(ask, old)),
        (_, "") => Err(Fault::unsupported()),
        (Verb::Read, name) => describe(ask, name, old),
        (Verb::Write, name) => write(ask, name, old),
        (Verb::Delete, "default") => Err(Fault::new(400, "cannot delete default policy")),
        (Verb::Delete, "root") => Err(Fault::new(400, "cannot delete \"root\" policy")),
        (Verb::Delete, name) => {
            ask.core.state().policies.remove(&ask.call.namespace, name);
            Ok(Reply::Empty)
        }
        _ => Err(Fault::unsupported()),
    }
}

fn names(ask: &Ask<'_>, old: bool) -> Reply {
    let mut names = ask.core.state().policies.names(&ask.call.namespace);
    if ask.call.namespace.is_empty() {
        names.push("root".to_owned());
        names.sort_unstable();
    }
    if old {
        Reply::data_at_top(json!({ "keys": names, "policies": names }))
    } else {
        Reply::data(json!({ "keys": names }))
    }
}

fn describe(ask: &Ask<'_>, name: &str, old: bool) -> Result<Reply, Fault> {
    let member = if old { "rules" } else { "policy" };
    let mut facts = object(json!({
        "allow_slashes_in_identity_templates": false,
        "allow_wildcards_in_identity_templates": false,
        "cas_required": false,
        "name": name,
    }));
    let state = ask.core.state();
    match state.policies.get(&ask.call.namespace, name) {
        Some(policy) => {
            facts.insert("modified".to_owned(), json!(clock::rfc3339(policy.modified)));
            facts.insert("version".to_owned(), json!(policy.version));
            facts.insert(member.to_owned(), json!(policy.text));
        }
        None if name == "root" && ask.call.namespace.is_empty() => {
            facts.insert("version".to_owned(), json!(0));
            facts.insert(member.to_owned(), json!(""));
        }
        None => return Err(Fault::no_value()),
    }
    drop(state);
    let facts = Value::Object(facts);
    Ok(if old { Reply::data_at_top(facts) } else { Reply::data(facts) })
}

fn write(ask: &Ask<'_>, name: &str, old: bool) -> Result<Reply, Fault> {
    if name == "root" {
        return Err(Fault::new(400, "cannot update \"root\" policy"));
    }
    let given = |member| ask.text(member).filter(|text| !text.is_empty());
    let (policy, rules) = (given("policy"), given("rules").filter(|_| old));
    let text = policy.or(rules);
    let text = text.ok_or_else(|| Fault::new(400, "'policy' parameter not supplied or empty"))?;
    let text = decoded(text);
    let parsed = policy_text::parse(&text)
        .map_err(|mistake| Fault::new(400, format!("failed to parse policy: {mistake}")))?;
    let modified = ask.wall();
    ask.core.state().policies.set(&ask.call.namespace, name, text, parsed, modified);
    if policy.is_none() {
        return Ok(Reply::warning(200, "'rules' is deprecated, please use 'policy' instead"));
    }
    Ok(Reply::Empty)
}

/// Some write their policies in Base64.
fn decoded(text: &str) -> String {
    let plain = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    plain.unwrap_or_else(|| text.to_owned())
}

/// `sys/capabilities`, `-self` and `-accessor`.
pub(super) fn capabilities(ask: &Ask<'_>, route: &str) -> Result<Reply, Fault> {
    let token = match route {
        "sys/capabilities-self" => ask.caller()?.token.clone(),
        "sys/capabilities-accessor" => {
            let accessor = ask.text("accessor").unwrap_or_default();
            let found = ask.core.by_accessor(accessor).map(|(_, token)| token);
            found.ok_or_else(|| Fault::listed(400, "invalid accessor"))?
        }
        _ => {
            let secret = ask.text("token").filter(|token| !token.is_empty());
            let secret = secret.ok_or_else(|| Fault::listed(500, "no token found"))?;
            let found = ask.core.token(&token_key(secret));
            found.ok_or_else(|| Fault::listed(400, "invalid token"))?
        }
    };
    let paths = ask.strings("paths").or_else(|| ask.strings("path")).unwrap_or_default();
    if paths.is_empty() {
        return Err(Fault::new(400, "paths must be supplied"));
    }
    let facts = paths.iter().map(|path| (path.clone(), shown(ask, &token, path)));
    let mut facts: Map<_, _> = facts.collect();
    if let [path] = paths.as_slice() {
        facts.insert("capabilities".to_owned(), shown(ask, &token, path));
    }
    Ok(Reply::data_at_top(Value::Object(facts)))
}

fn shown(ask: &Ask<'_>, token: &Token, path: &str) -> Value {
    if token.is_root() {
        return json!(["root"]);
    }
    let full = format!("{}{}", ask.call.namespace, path.trim_start_matches('/'));
    match ask.core.granted(token, &full).as_slice() {
        [] => json!(["deny"]),
        granted => json!(granted),
    }
}
