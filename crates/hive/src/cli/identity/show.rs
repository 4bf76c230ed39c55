//! What this process holds, now and at every change.

use crate::cli::stack::{self, Failure};
use hive_runtime::errors::chain;
use hive_security::{Error, JwtBundles, TrustDomain, X509Material};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) async fn show() -> Result<(), Failure> {
    let workload = stack::attach().await?;
    let (x509, jwt) = (workload.x509().current(), workload.jwt_bundles().current());
    let unusable = |error: &Error| Failure::unavailable(chain(error));
    let x509 = x509.as_ref().as_ref().map_err(unusable)?;
    let jwt = jwt.as_ref().as_ref().map_err(unusable)?;
    print!("{}", describe(x509, jwt, &workload.trust_domain(), SystemTime::now()));
    Ok(())
}

pub(super) async fn watch() -> Result<(), Failure> {
    let workload = stack::attach().await?;
    let (mut x509, mut jwt) = (workload.x509(), workload.jwt_bundles());
    let mut said = say(&x509_line(&x509.current()));
    said = said.and_then(|()| say(&jwt_line(&jwt.current())));
    while said.is_ok() {
        said = tokio::select! {
            Some(change) = x509.changed() => say(&x509_line(&change)),
            Some(change) = jwt.changed() => say(&jwt_line(&change)),
            else => return Ok(()),
        };
    }
    // Nobody reads on.
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}  {line}", clock(SystemTime::now()))?;
    out.flush()
}

fn x509_line(state: &Result<X509Material, Error>) -> String {
    let material = match state {
        Ok(material) => material,
        Err(error) => return format!("X.509  {}", chain(error)),
    };
    let now = SystemTime::now();
    let svids = material.svids().iter().map(|svid| {
        format!("{}{}, {}", svid.spiffe_id(), hint(svid.hint()), until(svid.expires_at(), now))
    });
    let bundles = material.bundles().iter().map(|bundle| {
        format!("{}: {}", bundle.trust_domain(), count(bundle.authorities().len(), "authority"))
    });
    format!("X.509  {}  ({})", joined(svids), joined(bundles))
}

fn jwt_line(state: &Result<JwtBundles, Error>) -> String {
    match state {
        Ok(bundles) => {
            let bundles = bundles.bundles().iter().map(|bundle| {
                let keys: Vec<_> = bundle.key_ids().collect();
                format!("{}: {}", bundle.trust_domain(), keys.join(" "))
            });
            format!("JWT    keys {}", joined(bundles))
        }
        Err(error) => format!("JWT    {}", chain(error)),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

fn describe(x509: &X509Material, jwt: &JwtBundles, own: &TrustDomain, now: SystemTime) -> String {
    let mut text = String::new();
    for (index, svid) in x509.svids().iter().enumerate() {
        let default = if index == 0 && x509.svids().len() > 1 { "  (default)" } else { "" };
        let _ = writeln!(text, "SPIFFE ID     {}{default}", svid.spiffe_id());
        if let Some(hint) = svid.hint() {
            let _ = writeln!(text, "hint          {hint:?}");
        }
        let _ = writeln!(text, "X.509-SVID    {}", until(svid.expires_at(), now));
    }
    for domain in trust_domains(x509, jwt) {
        let authorities = x509.bundle(domain).map_or(0, |bundle| bundle.authorities().len());
        let keys = jwt.bundle(domain).map_or(0, |bundle| bundle.key_ids().count());
        let whose = if domain == own { "" } else { "  (federated)" };
        let (authorities, keys) = (count(authorities, "X.509 authority"), count(keys, "JWT key"));
        let _ = writeln!(text, "trust domain  {domain}: {authorities}, {keys}{whose}");
    }
    text
}

/// Every trust domain that one of the bundles is for.
fn trust_domains<'a>(x509: &'a X509Material, jwt: &'a JwtBundles) -> Vec<&'a TrustDomain> {
    let x509 = x509.bundles().iter().map(|bundle| bundle.trust_domain());
    let mut domains: Vec<_> =
        x509.chain(jwt.bundles().iter().map(|bundle| bundle.trust_domain())).collect();
    domains.sort();
    domains.dedup();
    domains
}

fn hint(hint: Option<&str>) -> String {
    hint.map(|hint| format!(" {hint:?}")).unwrap_or_default()
}

fn count(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if !what.ends_with("key") => format!("{number} {stem}ies"),
        _ => format!("{number} {what}s"),
    }
}

/// An instant as the time that is left, which is what matters of it.
pub(crate) fn until(expiry: SystemTime, now: SystemTime) -> String {
    match expiry.duration_since(now) {
        Ok(left) => format!("valid for {}", rounded(left)),
        Err(error) => format!("expired {} ago", rounded(error.duration())),
    }
}

/// A span in the unit that says most.
pub(crate) fn rounded(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// The time of day, in UTC as logs have it.
fn clock(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_given_in_the_unit_that_says_most() {
        let left = [59, 3_540, 90_000].map(|seconds| rounded(Duration::from_secs(seconds)));
        assert_eq!(left, ["59 s", "59 min", "25 h"]);
        let later = UNIX_EPOCH + Duration::from_secs(300);
        assert_eq!(until(UNIX_EPOCH, later), "expired 5 min ago");
        assert_eq!(until(later, UNIX_EPOCH), "valid for 5 min");
    }

    #[test]
    fn numbers_and_times_are_written_as_people_write_them() {
        let counted = [(1, "X.509 authority"), (2, "X.509 authority"), (0, "JWT key")]
            .map(|(number, what)| count(number, what));
        assert_eq!(counted, ["1 X.509 authority", "2 X.509 authorities", "0 JWT keys"]);
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(86_400 + 3_661)), "01:01:01Z");
    }
}
