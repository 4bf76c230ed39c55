//! `hive identity`: what am I, and until when.

use super::stack::{self, Failure};
use crate::exit;
use clap::Args;
use hive_api::names;
use hive_runtime::errors::chain;
use hive_security::{Audience, Workload};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

#[derive(Args)]
pub(super) struct Options {
    /// Fetches a JWT-SVID for this audience too [default: the orchestrator's].
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
}

pub(super) fn run(options: &Options) -> ExitCode {
    stack::block_on(async {
        let workload = stack::attach().await?;
        print!("{}", describe(&workload, options).await?);
        Ok(exit::DONE)
    })
}

async fn describe(workload: &Workload, options: &Options) -> Result<String, Failure> {
    let failed = |error: hive_security::Error| Failure::unavailable(chain(&error));
    let domain = workload.trust_domain();
    let audience = match &options.audience {
        Some(audience) => Audience::parse(audience),
        None => Audience::of_service(names::ORCHESTRATOR.name, &domain),
    };
    let audience = audience.map_err(|error| Failure::bad_input(chain(&error)))?;
    let x509 = workload.x509_svid().map_err(failed)?;
    let jwt = workload.jwt_svid(&audience).await.map_err(failed)?;
    let mut text = String::new();
    let _ = writeln!(text, "SPIFFE ID     {}", workload.spiffe_id().map_err(failed)?);
    let _ = writeln!(text, "trust domain  {domain}");
    let _ = writeln!(text, "X.509-SVID    {}", until(x509.expires_at()));
    let _ = writeln!(text, "JWT-SVID      {}, for {audience}", until(jwt.expires_at()));
    Ok(text)
}

/// An instant as the time that is left, which is what matters of it.
fn until(expiry: SystemTime) -> String {
    match expiry.duration_since(SystemTime::now()) {
        Ok(left) => format!("valid for {}", rounded(left)),
        Err(_) => "expired".to_owned(),
    }
}

fn rounded(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_given_in_the_unit_that_says_most() {
        let left = [59, 3_540, 90_000].map(|seconds| rounded(Duration::from_secs(seconds)));
        assert_eq!(left, ["59 s", "59 min", "25 h"]);
        assert_eq!(until(SystemTime::UNIX_EPOCH), "expired");
    }
}
