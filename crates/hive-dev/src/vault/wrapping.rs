//! Response wrapping: an answer put away under a token that gives it back once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::clock;
use super::core::{Core, Token, TokenKey, token_key};
use super::engine::Ask;
use super::policy::RESPONSE_WRAPPING;
use super::reply::{Envelope, Fault, Reply, random_uuid};
use super::routes::Call;
use super::terms::Span;

/// An answer that was put away.
pub(super) struct Wrapped {
    /// As it would have been sent.
    pub(super) body: Value,
    path: String,
    created: SystemTime,
    ttl: Duration,
    accessor: Option<String>,
}

impl Core {
    /// Puts an answer away, if that was asked for and there is one.
    pub(super) async fn wrap(&self, call: &Call, reply: Reply) -> Result<Reply, Fault> {
        let (Some(ttl), Reply::Body(envelope)) = (call.wrap_ttl, &reply) else { return Ok(reply) };
        // What was unwrapped is not wrapped again, and a wrapping is not either.
        if call.path.starts_with("sys/wrapping/") && call.path != "sys/wrapping/wrap"
            || !envelope.wrap_info.is_null()
        {
            return Ok(reply);
        }
        let of_secret_id = || envelope.data.get("secret_id_accessor");
        let inside = envelope.auth.get("accessor").or_else(of_secret_id);
        let accessor = inside.and_then(Value::as_str).map(str::to_owned);
        let slash = if call.verb.lists() && !call.path.ends_with('/') { "/" } else { "" };
        let wrapped = Wrapped {
            body: envelope.json(&random_uuid()),
            path: format!("{}{slash}", call.path),
            created: self.clock.wall(),
            ttl,
            accessor,
        };
        self.put_away(&call.namespace, wrapped).await
    }

    async fn put_away(&self, namespace: &str, wrapped: Wrapped) -> Result<Reply, Fault> {
        let span = Span::new(&self.clock, wrapped.ttl, Some(wrapped.ttl));
        let policies = vec![RESPONSE_WRAPPING.to_owned()];
        let mut info = json!({
            "ttl": wrapped.ttl.as_secs(),
            "creation_time": clock::rfc3339(wrapped.created),
            "creation_path": wrapped.path,
        });
        if let (Some(accessor), Some(info)) = (&wrapped.accessor, info.as_object_mut()) {
            info.insert("wrapped_accessor".to_owned(), json!(accessor));
        }
        let mut token = Token::plain(namespace, &wrapped.path, policies, span);
        token.num_uses = 1;
        token.wrapped = Some(Arc::new(wrapped));
        let (secret, token) = self.put_token(token).await?;
        info["token"] = json!(secret);
        info["accessor"] = json!(token.accessor);
        Ok(Reply::Body(Box::new(Envelope { wrap_info: info, ..Envelope::new() })))
    }

    /// Takes an answer that was put away; it is gone then.
    fn take(self: &Arc<Self>, secret: &str) -> Result<Arc<Wrapped>, Fault> {
        let (key, wrapped) = self.find(secret)?;
        self.state().tokens.remove(&key).ok_or_else(invalid)?;
        drop(self.revoke_token(key, "token_revoked"));
        Ok(wrapped)
    }

    fn find(&self, secret: &str) -> Result<(TokenKey, Arc<Wrapped>), Fault> {
        let key = token_key(secret);
        let wrapped = self.token(&key).and_then(|token| token.wrapped).ok_or_else(invalid)?;
        Ok((key, wrapped))
    }
}

fn invalid() -> Fault {
    Fault::new(400, "wrapping token is not valid or does not exist")
}

/// In the body, or the token of the call itself.
fn secret<'a>(ask: &'a Ask<'_>) -> Result<&'a str, Fault> {
    let own = ask.call.token.as_ref().map(ExposeSecret::expose_secret);
    let given = ask.text("token").filter(|token| !token.is_empty()).or(own);
    given.ok_or_else(|| Fault::new(403, "error validating wrapping token: token is empty"))
}

/// `sys/wrapping/…` but for `wrap`; none of them needs a token beside the wrapping one.
pub(super) async fn handle(ask: &Ask<'_>, route: &str) -> Result<Reply, Fault> {
    match route {
        "lookup" => {
            let (_, wrapped) = ask.core.find(secret(ask)?)?;
            Ok(Reply::data(json!({
                "creation_path": wrapped.path,
                "creation_time": clock::rfc3339(wrapped.created),
                "creation_ttl": wrapped.ttl.as_secs(),
            })))
        }
        "unwrap" => {
            let secret = secret(ask)?;
            // Who has no token of its own sends the wrapping one as such, not in the body.
            if ask.call.token.is_none() && ask.core.find(secret).is_ok() {
                return Err(Fault::no_token());
            }
            let wrapped = ask.core.take(secret)?;
            Ok(sent_again(&wrapped.body))
        }
        "rewrap" => {
            let old = ask.core.take(secret(ask)?)?;
            let wrapped = Wrapped {
                body: old.body.clone(),
                path: old.path.clone(),
                created: ask.wall(),
                ttl: old.ttl,
                accessor: old.accessor.clone(),
            };
            ask.core.put_away(&ask.call.namespace, wrapped).await
        }
        _ => Err(Fault::unsupported_path()),
    }
}

/// What was put away, with an id of its own.
fn sent_again(body: &Value) -> Reply {
    let mut body = body.clone();
    body["request_id"] = json!(random_uuid());
    Reply::bare(body)
}

/// `sys/wrapping/wrap`: what is sent is put away.
pub(super) fn wrap(ask: &Ask<'_>) -> Result<Reply, Fault> {
    if ask.call.wrap_ttl.is_none() {
        return Err(Fault::new(400, "endpoint requires response wrapping to be used"));
    }
    let body: Map<String, Value> = ask.call.body.clone();
    Ok(Reply::data(Value::Object(body)))
}
