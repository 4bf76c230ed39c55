//! Database logins and their leases.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::audit::Entry;
use super::auth::{cap_warning, increment};
use super::clock;
use super::core::{Core, Lease, Span};
use super::database::{Engine, NewLogin};
use super::reply::{Fault, LeaseFacts, Reply, random_text};
use super::routes::{Call, Caller, witness};

/// `GET database/creds/<role>`: a new login and the lease it lives by.
pub(super) async fn issue(
    core: &Arc<Core>,
    caller: &Caller,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    let name = call.path.trim_start_matches("database/creds/").to_owned();
    let unknown = || Fault::new(400, format!("unknown role: {name}"));
    let role = core.database.as_ref().and_then(|engine| engine.role(&name)).ok_or_else(unknown)?;
    let login = Engine::new_login(&name);
    witness(core, "db-password", &login.password).await?;
    let id = format!("{}/{}", call.path, random_text(24));
    let span =
        Span::new(Duration::from_secs(role.default_ttl_s), Duration::from_secs(role.max_ttl_s));
    let facts = LeaseFacts { id: id.clone(), ttl_s: span.ttl.as_secs(), renewable: true };
    let lease = Lease {
        path: call.path.clone(),
        role: name,
        username: login.username.clone(),
        token: caller.key,
        accessor: caller.token.accessor.clone(),
        span,
        ending: None,
    };
    entry.lease_id = Some(id.clone());
    // Before the role exists, so that nothing can make a role that no lease ends.
    if !core.put_lease(&id, lease.clone()) {
        return Err(Fault::no_token());
    }
    // Of its own, for it goes on if the caller hangs up: the role is then made, and ended with its lease.
    let work = tokio::spawn(create(Arc::clone(core), id, lease, login));
    let data = work.await.unwrap_or_else(|_| Err(Fault::new(500, "internal error")))?;
    Ok(Reply::Data { data, lease: Some(facts), warnings: Vec::new() })
}

async fn create(
    core: Arc<Core>,
    id: String,
    lease: Lease,
    login: NewLogin,
) -> Result<Value, Fault> {
    let Some(engine) = &core.database else { return Err(Fault::no_route(&lease.path)) };
    if let Err(failure) = engine.create(&lease.role, &login, lease.span.expires_at()).await {
        let _ = core.revoke_lease(&id, "lease_revoked").await;
        return Err(Fault::new(
            500,
            format!("1 error occurred:\n\t* failed to create the role: {failure}\n\n"),
        ));
    }
    // The token may have ended while the role was made, and the lease with it before there was anything to drop.
    if core.lease(&id).is_none() {
        core.put_back(&id, &lease);
        let _ = core.revoke_lease(&id, "lease_revoked").await;
        return Err(Fault::no_token());
    }
    Ok(json!({ "username": login.username, "password": login.password.as_str() }))
}

pub(super) fn lookup(core: &Core, call: &Call, entry: &mut Entry) -> Result<Reply, Fault> {
    let id = lease_id(call, "sys/leases/lookup")
        .ok_or_else(|| Fault::new(400, "lease_id must be specified"))?;
    entry.lease_id = Some(id.clone());
    let lease = core.lease(&id).ok_or_else(|| Fault::new(400, "invalid lease"))?;
    Ok(Reply::data(json!({
        "id": id,
        "path": lease.path,
        "issue_time": clock::rfc3339(lease.span.issued),
        "expire_time": clock::rfc3339(lease.span.expires_at()),
        "last_renewal": lease.span.last_renewal.map(clock::rfc3339),
        "renewable": true,
        "ttl": lease.span.remaining().as_secs(),
    })))
}

pub(super) async fn renew(core: &Core, call: &Call, entry: &mut Entry) -> Result<Reply, Fault> {
    let id = lease_id(call, "sys/leases/renew")
        .ok_or_else(|| Fault::new(400, "lease ID not specified"))?;
    entry.lease_id = Some(id.clone());
    let gone = || Fault::new(400, "lease not found");
    let lease = core.lease(&id).ok_or_else(gone)?;
    let asked = increment(&call.body).unwrap_or(lease.span.ttl);
    let (span, granted) = lease.span.renewed(asked);
    if let Some(engine) = &core.database {
        let renewed = engine.renew(&lease.username, span.expires_at()).await;
        renewed.map_err(|failure| Fault::new(400, format!("failed to renew entry: {failure}")))?;
    }
    if !core.set_span(&id, span) {
        return Err(gone());
    }
    let facts = LeaseFacts { id, ttl_s: granted.as_secs_f64().round() as u64, renewable: true };
    let warnings = cap_warning(asked, granted).into_iter().collect();
    Ok(Reply::Data { data: Value::Null, lease: Some(facts), warnings })
}

/// Idempotent. With `sync` it waits; without, the answer comes at once. Either way a failure is tried again.
pub(super) async fn revoke(
    core: &Arc<Core>,
    call: &Call,
    entry: &mut Entry,
) -> Result<Reply, Fault> {
    let id = lease_id(call, "sys/leases/revoke")
        .ok_or_else(|| Fault::new(400, "lease_id must be specified"))?;
    entry.lease_id = Some(id.clone());
    let own = Arc::clone(core);
    let work = tokio::spawn(async move { own.revoke_lease(&id, "lease_revoked").await });
    let in_body = call.body.contains_key("lease_id");
    let sync = call.body.get("sync").and_then(Value::as_bool).unwrap_or(false);
    if !sync {
        return Ok(if in_body {
            Reply::Empty
        } else {
            Reply::Bare { status: 202, body: json!({}) }
        });
    }
    match work.await {
        Ok(Ok(())) => Ok(Reply::Empty),
        Ok(Err(why)) => Err(Fault::new(400, format!("failed to revoke entry: {why}"))),
        Err(_) => Err(Fault::new(500, "internal error")),
    }
}

/// In the body, or as the rest of the path.
fn lease_id(call: &Call, route: &str) -> Option<String> {
    let in_path = call.path.strip_prefix(route).map(|rest| rest.trim_start_matches('/'));
    let id = call.text("lease_id").or(in_path)?;
    (!id.is_empty()).then(|| id.to_owned())
}
