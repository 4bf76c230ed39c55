//! Whether Vault is there, knows this workload, and grants what it needs.

use super::{Finding, Options, Problem, Report};
use crate::cli::identity::show::rounded;
use crate::cli::{self, stack};
use hive_security::vault::{
    Health, Login, LoginError, LoginFault, LoginMethod, VaultClient, VaultError,
};
use secrecy::SecretString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Vault itself allows a minute in a token; half of it is reason enough to look.
const LEEWAY: Duration = Duration::from_secs(30);
/// Asked of a renewal, so that Vault answers with the longest that it allows.
const AS_LONG_AS_ALLOWED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Capabilities are told in whole words, and this one holds all the others.
const ALL: &str = "root";

/// What the workload needs: this capability at this path.
#[derive(Clone, Debug)]
pub(super) struct Need {
    path: String,
    capability: String,
}

impl std::str::FromStr for Need {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const KNOWN: [&str; 8] =
            ["create", "read", "update", "patch", "delete", "list", "scan", "sudo"];
        let (path, capability) = text.rsplit_once(':').ok_or("expected PATH:CAPABILITY")?;
        if path.is_empty() || !KNOWN.contains(&capability) {
            return Err("expected PATH:CAPABILITY, such as database/creds/orders:read");
        }
        Ok(Self { path: path.to_owned(), capability: capability.to_owned() })
    }
}

/// Goes through the checks as far as they lead. Without an identity nobody can log in.
pub(super) async fn examine(report: &mut Report, options: &Options) -> Option<()> {
    let identified = report.checks.iter().all(|check| check.ok);
    let vault = match client() {
        Ok(vault) => vault,
        Err(problem) => return report.add("Vault setting", Err(problem)),
    };
    let health = match vault.health().await {
        Ok(health) => health,
        Err(error) => return report.add("Vault", Err(absent(&error))),
    };
    report.add("Vault", state(&health))?;
    report.add("Vault clock", clock(&health))?;
    if !identified {
        return None;
    }
    let Some(role) = options.borrower.role() else {
        let found = "not tried: name the role with --vault-role or HIVE_VAULT_ROLE".to_owned();
        return report.add("Vault login", Ok(found));
    };
    let login = match log_in(&vault, &role, &health).await {
        Ok(login) => login,
        Err(problem) => return report.add("Vault login", Err(problem)),
    };
    report.add("Vault login", Ok(format!("role {role}, for {}", lifetime(login.ttl))));
    let found = with_token(report, &vault, &login, &role, options).await;
    // It takes along what was issued for the examination.
    if let Err(error) = vault.revoke_self(&login.token).await {
        report.add("Vault token", Err(not_revoked(&error)));
        return None;
    }
    found
}

async fn with_token(
    report: &mut Report,
    vault: &VaultClient,
    login: &Login,
    role: &str,
    options: &Options,
) -> Option<()> {
    if options.needs.is_empty() {
        let found = "not compared: name what is needed with --needs PATH:CAPABILITY".to_owned();
        return report.add("Vault policy", Ok(found));
    }
    report.add("Vault policy", policy(vault, &login.token, role, &options.needs).await)?;
    let leased = |need: &&Need| need.capability == "read" && need.path.contains("/creds/");
    for need in options.needs.iter().filter(leased) {
        report.add("Vault lease", lease(vault, login, role, &need.path).await)?;
    }
    Some(())
}

fn client() -> Result<VaultClient, Problem> {
    let remedy = "correct VAULT_ADDR, VAULT_CACERT (a file with the authority of Vault's certificate) and \
                  VAULT_NAMESPACE; they are the ones that Vault's own command line reads";
    cli::vault::client().map_err(|failure| Problem::new(failure.message, remedy))
}

fn absent(error: &VaultError) -> Problem {
    let remedy = match error {
        VaultError::Unreachable { .. } => {
            "start Vault, or correct VAULT_ADDR; with https see that VAULT_CACERT is the authority of its certificate"
        }
        _ => "another program, or a proxy, answers at VAULT_ADDR: correct it",
    };
    Problem::new(error.to_string(), remedy)
}

fn state(health: &Health) -> Finding {
    let problem = match (health.initialized, health.sealed) {
        (false, _) => ("Vault was never initialised", "initialise it: bao operator init, or vault"),
        (true, true) => (
            "Vault is sealed, and serves nothing until it is unsealed",
            "unseal it with bao operator unseal (or vault), or see why its automatic unsealing failed",
        ),
        (true, false) => {
            let role = if health.standby { "a standby" } else { "active" };
            return Ok(format!("{role}, version {}", health.version));
        }
    };
    Err(Problem::new(problem.0, problem.1))
}

fn clock(health: &Health) -> Finding {
    let Some(theirs) = health.server_time_s.and_then(|seconds| u64::try_from(seconds).ok()) else {
        return Ok("not compared: Vault does not tell its time".to_owned());
    };
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let theirs = Duration::from_secs(theirs);
    let apart = here.abs_diff(theirs);
    if apart <= LEEWAY {
        return Ok(format!("at most {} s from ours", apart.as_secs() + 1));
    }
    let how = if here > theirs { "behind" } else { "ahead of" };
    Err(Problem::new(
        format!("Vault's clock is {} {how} this machine's", rounded(apart)),
        "synchronise both with the same time servers (timedatectl, chronyc tracking); beyond a minute logins are \
         refused, and leases seem longer or shorter than they are",
    ))
}

async fn log_in(vault: &VaultClient, role: &str, health: &Health) -> Result<Login, Problem> {
    let workload = stack::attach().await.map_err(|failure| {
        Problem::new(failure.message, "the identity was there a moment ago: ask again")
    })?;
    let audience = format!("vault.{}", workload.trust_domain());
    let method = LoginMethod::JwtSvid { workload, role: role.to_owned() };
    method.login(vault).await.map_err(|error| refused(&error, role, &audience, health))
}

fn refused(error: &LoginError, role: &str, audience: &str, health: &Health) -> Problem {
    let LoginError::Vault(error) = error else {
        let remedy = "see that the SPIRE agent issues JWT-SVIDs to this workload";
        return Problem::new(error.to_string(), remedy);
    };
    let at = format!("auth/jwt/role/{role}");
    let (remedy, command) = match error {
        VaultError::Login { fault: LoginFault::Audience, .. } => (
            format!("the role has to accept the audience {audience}: add it to bound_audiences"),
            Some(format!("bao write {at} role_type=jwt bound_audiences={audience}")),
        ),
        VaultError::Login { fault: LoginFault::Claims, .. } => (
            "bound_subject has to be the SPIFFE ID under \"identity\" above, and bound_claims must fit it"
                .to_owned(),
            Some(format!("bao read {at}")),
        ),
        VaultError::Login { fault: LoginFault::Issuer, .. } => (
            "bound_issuer of the mount has to be the issuer of the trust domain's tokens, or empty".to_owned(),
            Some("bao read auth/jwt/config".to_owned()),
        ),
        VaultError::Login { fault: LoginFault::Key, .. } => (
            "jwks_url of the mount has to serve the keys of this trust domain's JWT-SVIDs; write the configuration \
             again after they were replaced, for Vault keeps old ones"
                .to_owned(),
            Some("bao read auth/jwt/config".to_owned()),
        ),
        VaultError::Login { fault: LoginFault::Role, .. } => (
            format!("write the role {role}, or correct HIVE_VAULT_ROLE"),
            Some(format!("bao list {}", at.trim_end_matches(role).trim_end_matches('/'))),
        ),
        VaultError::Login { fault: LoginFault::Time, .. } => {
            ("synchronise the clocks of Vault and of the authority".to_owned(), None)
        }
        VaultError::NotFound { .. } | VaultError::Denied { .. } => (
            "there is no JWT login at auth/jwt, or it lets nobody in: enable it, or correct VAULT_NAMESPACE"
                .to_owned(),
            Some("bao auth enable jwt".to_owned()),
        ),
        VaultError::NotServing { .. } if health.standby => (
            "this node is a standby and does not forward: set VAULT_ADDR to the active one or to a load balancer \
             that asks sys/health, or repair the standby's connection to the active node's cluster_addr"
                .to_owned(),
            None,
        ),
        VaultError::Server { .. } => {
            ("see Vault's log: it may not reach the jwks_url of the mount".to_owned(), None)
        }
        _ => ("see Vault's audit log".to_owned(), Some(format!("bao read {at}"))),
    };
    Problem { command, ..Problem::new(error.to_string(), remedy) }
}

async fn policy(vault: &VaultClient, token: &SecretString, role: &str, needs: &[Need]) -> Finding {
    let paths: Vec<_> = needs.iter().map(|need| need.path.as_str()).collect();
    let granted = vault.capabilities_self(token, &paths).await.map_err(|error| {
        Problem::new(
            error.to_string(),
            "the policy `default` lets a token ask for its capabilities: give it to the role, or grant update on \
             sys/capabilities-self",
        )
    })?;
    let has = |need: &&Need| {
        let granted = granted.get(&need.path);
        granted.is_some_and(|granted| granted.contains(&need.capability) || granted.contains(ALL))
    };
    let missing: Vec<_> = needs.iter().filter(|need| !has(need)).collect();
    if missing.is_empty() {
        return Ok(format!("grants all {} that was asked for", needs.len()));
    }
    let lack = |need: &&Need| format!("{} at {}", need.capability, need.path);
    let lacks: Vec<_> = missing.iter().map(lack).collect();
    let rules = missing.iter().map(|need| {
        format!("path \"{}\" {{ capabilities = [\"{}\"] }}", need.path, need.capability)
    });
    Err(Problem {
        command: Some(rules.collect::<Vec<_>>().join(" ")),
        ..Problem::new(
            format!("the policies of role {role} do not grant {}", lacks.join(", ")),
            "add the line to a policy of the role; a rule with \"deny\" that fits the path outweighs it",
        )
    })
}

/// Issues what the path gives, to compare its promise with the life of the token that it hangs on.
async fn lease(vault: &VaultClient, login: &Login, role: &str, path: &str) -> Finding {
    let failed = |error: VaultError| {
        let remedy = match &error {
            VaultError::NotFound { .. } => "write the engine's role, or correct the path",
            _ => "see Vault's log: it may not reach the database, or its login there is not valid",
        };
        Problem::new(error.to_string(), remedy)
    };
    let issued = vault.read(&login.token, path).await.map_err(failed)?;
    let Some(lease) = issued.lease else {
        return Ok(format!("{path} gives no lease"));
    };
    let token_ttl = longest(vault, login).await;
    if token_ttl.is_zero() || token_ttl >= lease.ttl {
        let (lease, token) = (lifetime(lease.ttl), lifetime(token_ttl));
        return Ok(format!("{path} for {lease}, its token for up to {token}"));
    }
    let (lease, token) = (lifetime(lease.ttl), lifetime(token_ttl));
    Err(Problem {
        command: Some(format!("bao write auth/jwt/role/{role} role_type=jwt token_max_ttl=…")),
        ..Problem::new(
            format!(
                "Vault promises {path} for {lease}, and revokes it with its token after {token} at the latest"
            ),
            "let the token outlive the lease: raise token_max_ttl (and token_ttl) of the login role, or shorten \
             default_ttl of the engine's role",
        )
    })
}

/// How long the token can live with all renewals; zero: for ever.
async fn longest(vault: &VaultClient, login: &Login) -> Duration {
    if !login.renewable || login.ttl.is_zero() {
        return login.ttl;
    }
    let renewal = vault.renew_self(&login.token, AS_LONG_AS_ALLOWED).await;
    renewal.map_or(login.ttl, |renewal| renewal.ttl)
}

fn lifetime(ttl: Duration) -> String {
    if ttl.is_zero() { "as long as it likes".to_owned() } else { rounded(ttl) }
}

fn not_revoked(error: &VaultError) -> Problem {
    Problem::new(
        format!("the token of this examination could not be given back: {error}"),
        "the policy `default` lets a token revoke itself: give it to the role; until then each token lives to its end",
    )
}
