//! Puts together what a setup describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use hive_security::clock::Clock;
use serde_json::{Map, Value, json};

use super::audit::Audit;
use super::core::Core;
use super::engine::{Engine, Mount};
use super::kv::KvTwo;
use super::setup::{Sensitive, Setup};
use super::{Error, database, jwt, policy_text, token};
use crate::witness::Witness;

pub(super) async fn core_of(setup: Setup, witness: Witness, clock: Clock) -> Result<Core, Error> {
    let audit = Audit::open(setup.audit_path.as_deref())?;
    let core = Core::new(clock, audit, witness);
    core.add_namespace("");
    for (name, rules) in setup.policies {
        let (text, now) = (policy_text::write(&rules), core.clock.wall());
        let rules = rules.into_iter().map(Into::into).collect();
        core.state().policies.set("", &name, text, rules, now);
    }
    for (mount, secrets) in setup.kv {
        let engine = Arc::new(filled(secrets, &core));
        add(&core, &format!("{mount}/"), "kv", json!({ "version": "2" }), engine);
    }
    if let Some(url) = setup.jwks_url {
        let engine = Arc::new(jwt::Jwt::of(url, setup.jwt_roles));
        add(&core, "auth/jwt/", "jwt", json!({}), engine);
    }
    if let Some(database) = setup.database {
        let engine = Arc::new(database::Databases::connect(database).await?);
        add(&core, "database/", "database", json!({}), engine);
    }
    if let Some(root) = setup.danger_root_token {
        let added = token::add_root(&core, root.expose()).await;
        added.map_err(|_| Error::Witness { mistakes: "it did not take the root token".into() })?;
    }
    Ok(core)
}

fn add(core: &Core, path: &str, kind: &str, options: Value, engine: Arc<dyn Engine>) {
    core.add_mount(Arc::new(Mount::new("", path, kind, options, engine)));
}

fn filled(secrets: BTreeMap<String, Sensitive<Map<String, Value>>>, core: &Core) -> KvTwo {
    let engine = KvTwo::default();
    for (path, fields) in secrets {
        // Without check-and-set nothing can be in the way.
        let _ = engine.kv().write(&path, fields.expose().clone(), None, core.clock.wall());
    }
    engine
}
