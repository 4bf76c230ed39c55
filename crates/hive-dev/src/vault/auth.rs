//! Logging in with a JWT-SVID, and a token that looks after itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::audit::Entry;
use super::clock;
use super::core::{Core, Span, Token, token_key};
use super::jwt::{Refusal, glob};
use super::reply::{Fault, Reply, random_text, random_uuid};
use super::routes::{Call, Caller, witness};

pub(super) async fn login(
    core: &Arc<Core>,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    let name = call.text("role").ok_or_else(|| Fault::new(400, "missing role"))?;
    entry.role = Some(name.to_owned());
    let jwt = call.text("jwt").ok_or_else(|| Fault::new(400, "missing token"))?;
    let role = core
        .roles
        .get(name)
        .ok_or_else(|| Fault::new(400, format!("role \"{name}\" could not be found")))?;
    let claims = core.verifier.verify(jwt).await.map_err(refused)?;
    entry.spiffe_id = Some(claims.sub.clone());
    if !claims.has_audience(&role.bound_audiences) {
        let text = "error validating claims: aud claim does not match any bound audience";
        return Err(Fault::new(400, text));
    }
    if !glob(&role.bound_claims_sub_glob, &claims.sub) {
        let text = "error validating claims: claim \"sub\" does not match any associated bound claim values";
        return Err(Fault::new(400, text));
    }
    let secret = format!("hvs.{}", random_text(95));
    witness(core, "vault-token", &secret).await?;
    let mut policies: Vec<_> =
        role.token_policies.iter().cloned().chain(["default".to_owned()]).collect();
    policies.sort_unstable();
    policies.dedup();
    let seconds = Duration::from_secs;
    let token = Token {
        accessor: random_text(24),
        spiffe_id: claims.sub,
        role: name.to_owned(),
        policies,
        entity_id: random_uuid(),
        span: Span::new(seconds(role.token_ttl_s), seconds(role.token_max_ttl_s)),
    };
    entry.accessor = Some(token.accessor.clone());
    let auth = auth_object(&token, &secret, token.span.ttl);
    core.put_token(token_key(&secret), token);
    Ok(Reply::Auth { auth, warnings: Vec::new() })
}

fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::NoKeys => {
            Fault::new(500, "error validating token: the keys of the authority cannot be fetched")
        }
        Refusal::Token(why) => Fault::new(400, format!("error validating token: {why}")),
    }
}

pub(super) fn lookup_self(caller: &Caller) -> Reply {
    let (token, span) = (&caller.token, &caller.token.span);
    let mut data = json!({
        "accessor": token.accessor,
        "creation_time": unix(span.issued),
        "creation_ttl": span.ttl.as_secs(),
        "display_name": format!("jwt-{}", token.spiffe_id),
        "entity_id": token.entity_id,
        "expire_time": clock::rfc3339(span.expires_at()),
        "explicit_max_ttl": 0,
        "id": caller.secret.expose_secret(),
        "issue_time": clock::rfc3339(span.issued),
        "meta": { "role": token.role },
        "num_uses": 0,
        "orphan": true,
        "path": "auth/jwt/login",
        "policies": token.policies,
        "renewable": true,
        "ttl": span.remaining().as_secs(),
        "type": "service",
    });
    if let (Some(renewal), Some(data)) = (span.last_renewal, data.as_object_mut()) {
        data.insert("last_renewal".to_owned(), json!(clock::rfc3339(renewal)));
        data.insert("last_renewal_time".to_owned(), json!(unix(renewal)));
    }
    Reply::data(data)
}

pub(super) fn renew_self(core: &Core, caller: &Caller, call: &Call) -> Result<Reply, Fault> {
    let asked = increment(&call.body).unwrap_or(caller.token.span.ttl);
    let (token, granted) = core.renew_token(&caller.key, asked).ok_or_else(Fault::no_token)?;
    let auth = auth_object(&token, caller.secret.expose_secret(), granted);
    Ok(Reply::Auth { auth, warnings: cap_warning(asked, granted).into_iter().collect() })
}

pub(super) async fn revoke_self(core: &Arc<Core>, caller: &Caller) -> Reply {
    // Of its own, for it goes on if the caller hangs up.
    let (own, key) = (Arc::clone(core), caller.key);
    let work = tokio::spawn(async move { own.revoke_token(&key, "token_revoked").await });
    if work.await.is_err() {
        tracing::error!("a token's revocation was cut short; its leases end when they expire");
    }
    Reply::Empty
}

/// What to extend by; zero and nothing mean as long as at first.
pub(super) fn increment(body: &Map<String, Value>) -> Option<Duration> {
    body.get("increment").and_then(clock::parse_duration).filter(|asked| !asked.is_zero())
}

/// Vault's remark when the longest life leaves less than was asked for.
pub(super) fn cap_warning(asked: Duration, granted: Duration) -> Option<String> {
    // Less than a second is the time it took to get here.
    (granted + Duration::from_secs(1) <= asked).then(|| {
        let (asked, granted) = (clock::duration_text(asked), clock::duration_text(granted));
        format!(
            "TTL of \"{asked}\" exceeded the effective max_ttl of \"{granted}\"; TTL value is capped accordingly"
        )
    })
}

fn auth_object(token: &Token, secret: &str, ttl: Duration) -> Value {
    json!({
        "client_token": secret,
        "accessor": token.accessor,
        "policies": token.policies,
        "token_policies": token.policies,
        "metadata": { "role": token.role },
        "lease_duration": ttl.as_secs_f64().round() as u64,
        "renewable": true,
        "entity_id": token.entity_id,
        "token_type": "service",
        "orphan": true,
        "mfa_requirement": null,
        "num_uses": 0,
    })
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
