//! The auth method `cert`: who shows a certificate that a role trusts, over TLS, may log in.
//!
//! ```text
//!  tls       asks for a certificate, and makes sure that whoever shows one holds its key
//!  facts     what a certificate says
//!  role      which certificates a role trusts, and what has to be in them
//!  chain     from a certificate to one that a role trusts
//!  revoked   the lists of certificates that were taken back
//! ```
//!
//! Not here: OCSP, lists that are fetched, metadata of aliases, and certificates of authorities that somebody logs in
//! with though no role holds them.

mod chain;
mod facts;
mod revoked;
mod role;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, ready};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use self::chain::{Link, link};
use self::facts::Certificate;
use self::revoked::Lists;
use self::role::Role;
use super::engine::{Ask, Engine, Login, Renewal};
use super::fields;
use super::reply::{Fault, Reply};
use super::roles::{Roles, is_name};
use super::routes::Verb;
use super::tokens::Token;

const NO_CERTIFICATE: &str = "no client certificate found";
const STRANGER: &str = "invalid certificate or no client certificate supplied";
const UNFIT: &str = "no chain matching all constraints could be found for this login certificate";
const CACHE_SIZES: std::ops::RangeInclusive<i64> = 2..=100_000;

/// One mount of the method.
#[derive(Default)]
pub(super) struct Cert(Mutex<State>);

#[derive(Default)]
struct State {
    config: Config,
    roles: Roles<Role>,
    lists: Lists,
}

#[derive(Clone, Copy, Default)]
struct Config {
    /// A token may be renewed by who shows no certificate, or another one.
    disable_binding: bool,
    cache_size: i64,
}

/// Why somebody is not let in.
enum Refusal {
    /// That is not the real server's fault.
    Caller(&'static str),
    /// The real server thinks that this is.
    Server(String),
}

/// A role that trusts the certificate that was shown.
struct Match {
    name: String,
    role: Role,
    shown: Certificate,
}

impl Engine for Cert {
    fn is_open(&self, path: &str) -> bool {
        path == "login"
    }

    fn handle<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Reply, Fault>> {
        ready(self.answer(&ask)).boxed()
    }

    fn renew_login(&self, ask: &Ask<'_>, token: &Token) -> Result<Renewal, Fault> {
        let failed = |why: &str| Fault::listed(500, &format!("failed to renew entry: {why}"));
        let name = token.meta.get("cert_name").cloned().unwrap_or_default();
        let (config, role) = {
            let state = self.state();
            (state.config, state.roles.find(&name))
        };
        let Some(role) = role else { return Ok(Renewal::Nothing) };
        if !are_equal(&role.terms.policies, &token.policies) {
            return Err(failed("policies have changed, not renewing"));
        }
        if !config.disable_binding {
            let found = self.verify(ask, &name).map_err(|refusal| match refusal {
                Refusal::Caller(why) => Fault::new(400, why),
                Refusal::Server(why) => failed(&why),
            })?;
            let first = token.certificate.as_deref().unwrap_or_default();
            if first != &*found.shown.der {
                return Err(failed(&changed(first, &found.role)));
            }
        }
        Ok(Renewal::On(role.terms))
    }
}

impl Cert {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        match (ask.verb(), ask.path.trim_end_matches('/')) {
            (Verb::Write, "login") => self.login(ask),
            (_, "login") => Err(Fault::new(405, "unsupported operation")),
            (Verb::Read, "config") => Ok(self.state().config.shown()),
            (Verb::Write, "config") => self.state().config.write(ask),
            (Verb::List, "certs") => self.state().roles.list(ask),
            (Verb::List, "crls") => self.state().lists.list(ask),
            (_, "certs" | "config" | "crls") => Err(Fault::unsupported()),
            _ => {
                let below = |route| ask.below(route).filter(|name| is_name(name));
                if let Some(name) = below("certs/") {
                    self.state().roles.answer(ask, &name.to_lowercase())
                } else if let Some(name) = below("crls/") {
                    self.state().lists.answer(ask, &name.to_lowercase())
                } else {
                    Err(Fault::unsupported_path())
                }
            }
        }
    }

    fn login(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let wanted = ask.call.body.get("name").filter(|name| !name.is_null());
        let wanted = wanted.map(fields::shown).unwrap_or_default().to_lowercase();
        if !wanted.is_empty() {
            ask.note(|entry| entry.role = Some(wanted.clone()));
        }
        let found = self.verify(ask, &wanted).map_err(|refusal| match refusal {
            Refusal::Caller(why) => Fault::new(400, why),
            Refusal::Server(why) => Fault::new(500, why),
        })?;
        let spiffe_id = found.shown.spiffe_id().map(str::to_owned);
        ask.note(|entry| entry.spiffe_id.clone_from(&spiffe_id));
        if !found.role.terms.admits_caller() {
            return Err(Fault::no_token());
        }
        let Match { name, role, shown } = found;
        let mut metadata = BTreeMap::from(
            [
                ("cert_name", name.clone()),
                ("common_name", shown.common_name.clone()),
                ("serial_number", shown.serial.clone()),
                ("subject_key_id", shown.subject_key_id.clone()),
                ("authority_key_id", shown.authority_key_id.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        metadata.extend(role.metadata(&shown));
        Ok(Reply::login(Login {
            display_name: role.display_name,
            alias: shown.common_name,
            metadata,
            terms: role.terms,
            spiffe_id,
            role: name,
            certificate: Some(shown.der),
        }))
    }

    /// The first role, by its name, that trusts what the connection has shown; only this one if it is named.
    fn verify(&self, ask: &Ask<'_>, wanted: &str) -> Result<Match, Refusal> {
        let (first, between) =
            ask.call.peer.0.split_first().ok_or(Refusal::Caller(NO_CERTIFICATE))?;
        let shown = Certificate::read(first).ok_or(Refusal::Caller(STRANGER))?;
        if let Some(why) = shown.fault(ask.wall()) {
            return Err(Refusal::Server(unverified(&why)));
        }
        let state = self.state();
        let roles = || state.roles.iter().filter(|(name, _)| wanted.is_empty() || *name == wanted);
        let links: Vec<_> = roles()
            .map(|(name, role)| (name, role, state.links(role, &shown, between, ask)))
            .collect();
        let chains = || {
            links
                .iter()
                .flat_map(|(name, role, links)| links.iter().map(move |link| (name, role, link)))
        };
        let is_known = chains().any(|(_, _, link)| matches!(link, Link::Good | Link::Revoked));
        if !is_known && let Some(why) = chains().find_map(|(_, _, link)| link.broken()) {
            return Err(Refusal::Server(unverified(why)));
        }
        let fit = |role: &Role| role.admits(&shown);
        let is_held = |role: &Role| role.holds(&shown) && !state.lists.hold(&shown.serial);
        let held = roles().find(|(_, role)| is_held(role) && fit(role));
        let mut linked = chains().filter(|(_, _, link)| matches!(link, Link::Good));
        let linked = || linked.find(|(_, role, _)| fit(role)).map(|(name, role, _)| (*name, *role));
        match held.or_else(linked) {
            Some((name, role)) => {
                let (name, role) = (name.clone(), role.clone());
                Ok(Match { name, role, shown })
            }
            None => Err(Refusal::Caller(if is_known { UNFIT } else { STRANGER })),
        }
    }
}

impl State {
    /// What leads from the certificate to each one that a role of an authority trusts.
    fn links(
        &self,
        role: &Role,
        shown: &Certificate,
        between: &[CertificateDer<'static>],
        ask: &Ask<'_>,
    ) -> Vec<Link> {
        let is_revoked = |serial: &str| self.lists.hold(serial);
        let authorities = role.authorities().iter();
        authorities.map(|own| link(shown, between, own, ask.wall(), &is_revoked)).collect()
    }
}

impl Config {
    fn shown(self) -> Reply {
        Reply::data(json!({
            "disable_binding": self.disable_binding,
            "enable_identity_alias_metadata": false,
            "ocsp_cache_size": self.cache_size,
        }))
    }

    fn write(&mut self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let flag = |member: &str| fields::whole_flag(&ask.call.body, member);
        let disable_binding = flag("disable_binding")?;
        if flag("enable_identity_alias_metadata")? == Some(true) {
            let text = "'enable_identity_alias_metadata' is not served by the development vault";
            return Err(Fault::new(400, text));
        }
        let size = ask.number("ocsp_cache_size").map_err(Fault::of_field)?;
        if size.is_some_and(|size| !CACHE_SIZES.contains(&size)) {
            let most = CACHE_SIZES.end();
            let text = format!("invalid cache size, must be >= 2 and <= {most}");
            return Err(Fault::new(400, text));
        }
        self.disable_binding = disable_binding.unwrap_or(self.disable_binding);
        self.cache_size = size.unwrap_or(self.cache_size);
        Ok(Reply::Empty)
    }
}

/// The same ones, but for that which every token has.
fn are_equal(of_role: &[String], of_token: &[String]) -> bool {
    let set = |policies: &[String]| {
        let own = policies.iter().filter(|policy| *policy != "default");
        own.cloned().collect::<std::collections::BTreeSet<_>>()
    };
    set(of_role) == set(of_token)
}

fn unverified(why: &str) -> String {
    format!("failed to verify client's certificate: {why}")
}

/// The real server shows what it has stored, byte by byte, and calls what the role trusts the one that was shown.
fn changed(first: &[u8], role: &Role) -> String {
    let list = |der: &[u8]| der.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let (first, trusted) = (list(first), list(role.first().unwrap_or_default()));
    format!(
        "client identity during renewal not matching client identity used during login:\n\toriginal: [{first}]\n\trenewal: [{trusted}]"
    )
}
