//! Are the documents that are handed out good, here and now.

use super::{Finding, Problem};
use crate::cli::identity::show::{rounded, until};
use hive_security::{Clocks, Probed, WorkloadConfig, X509Svid};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far clocks may differ; verifiers of JWT-SVIDs allow as much.
const LEEWAY: Duration = Duration::from_secs(30);

pub(super) fn identity(probed: &Probed) -> Finding {
    let svids = probed.x509().svids();
    let names: Vec<_> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    match names.is_empty() {
        true => Err(Problem::new(
            "it sent no X.509-SVID",
            "update the server of the Workload API: an answer has at least one",
        )),
        false => Ok(names.join(", ")),
    }
}

pub(super) fn trust_domain(probed: &Probed, config: &WorkloadConfig) -> Finding {
    let issued = default(probed)?.spiffe_id().trust_domain();
    match &config.trust_domain {
        Some(expected) if *expected != issued => Err(Problem::new(
            format!("SPIFFE_TRUST_DOMAIN is {expected}, and the identity belongs to {issued}"),
            "correct SPIFFE_TRUST_DOMAIN; or the socket belongs to the SPIRE agent of another environment, then \
             correct SPIFFE_ENDPOINT_SOCKET",
        )),
        Some(_) => Ok(format!("{issued}, as expected")),
        None => Ok(format!("{issued}; SPIFFE_TRUST_DOMAIN would check it")),
    }
}

pub(super) fn clock(probed: &Probed) -> Finding {
    let Some(Clocks { here, authority }) = probed.clocks() else {
        return Ok("not compared: the authority issues no JWT-SVID".to_owned());
    };
    let (apart, how) = match here.duration_since(authority) {
        Ok(apart) => (apart, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    if apart <= LEEWAY {
        return Ok(format!("at most {} s from the authority's", apart.as_secs() + 1));
    }
    Err(Problem::new(
        format!("this machine's clock is {} {how} the authority's", rounded(apart)),
        "synchronise both with the same time servers (timedatectl, chronyc tracking); until then valid documents are \
         refused as expired or not yet valid",
    ))
}

pub(super) fn validity(probed: &Probed) -> Finding {
    let now = SystemTime::now();
    for svid in probed.x509().svids() {
        let id = svid.spiffe_id();
        if let Ok(in_time) = svid.valid_from().duration_since(now + LEEWAY) {
            let wait = rounded(in_time + LEEWAY);
            return Err(Problem::new(
                format!("the X.509-SVID of {id} is not valid for another {wait}"),
                "this machine's clock is behind the authority's: synchronise both",
            ));
        }
        if svid.expires_at() <= now {
            return Err(Problem::new(
                format!("the X.509-SVID of {id} {}", until(svid.expires_at(), now)),
                "the SPIRE agent did not renew it: see whether it reaches its server; or this machine's clock is \
                 ahead of the authority's",
            ));
        }
    }
    Ok(until(default(probed)?.expires_at(), now))
}

pub(super) fn x509_bundles(probed: &Probed) -> Finding {
    let (now, svid) = (SystemTime::now(), default(probed)?);
    let own = svid.spiffe_id().trust_domain();
    for bundle in probed.x509().bundles() {
        let domain = bundle.trust_domain();
        match bundle.expires_at() {
            Some(expiry) if expiry > now => {}
            Some(expiry) => {
                return Err(Problem::new(
                    format!("the last authority in the bundle of {domain} {}", until(expiry, now)),
                    if *domain == own { STALE_AUTHORITY } else { STALE_FEDERATION },
                ));
            }
            None => {
                return Err(Problem::new(
                    format!("the bundle of {domain} has no authority"),
                    if *domain == own { STALE_AUTHORITY } else { STALE_FEDERATION },
                ));
            }
        }
    }
    // Whether it has expired is another check's business.
    let when =
        if svid.expires_at() > now && svid.valid_from() <= now { now } else { svid.valid_from() };
    probed.verify(svid, when).map_err(|refusal| {
        Problem::new(
            refusal.to_string(),
            "the SPIRE agent holds a bundle that is older or newer than its SVIDs: restart it, so that it starts from \
             the server's",
        )
    })?;
    Ok(trust_domains(probed.x509().bundles().iter().map(|bundle| bundle.trust_domain().as_str())))
}

pub(super) fn jwt_bundles(probed: &Probed) -> Finding {
    let own = default(probed)?.spiffe_id().trust_domain();
    let bundles = probed.jwt_bundles();
    match bundles.bundle(&own).map(|bundle| bundle.key_ids().count()) {
        None | Some(0) => Err(Problem::new(
            format!("there is no JWT key of {own}, so that no JWT-SVID can be verified"),
            "see whether JWT-SVIDs are disabled at the SPIRE server (disable_jwt_svids)",
        )),
        Some(_) => {
            Ok(trust_domains(bundles.bundles().iter().map(|bundle| bundle.trust_domain().as_str())))
        }
    }
}

const STALE_AUTHORITY: &str = "the SPIRE server did not rotate its authority, or the agent does not reach it: see the \
                               server's log and spire-server localauthority x509 show; if it is expired for good, \
                               the agent must be bootstrapped again";

const STALE_FEDERATION: &str = "the SPIRE server does not reach the other's bundle endpoint: spire-server federation \
                                show, then federation refresh";

fn default(probed: &Probed) -> Result<&Arc<X509Svid>, Problem> {
    let none = || Problem::new("there is no X.509-SVID", "see the check of the identity");
    probed.x509().svids().first().ok_or_else(none)
}

fn trust_domains<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("of {}", names.collect::<Vec<_>>().join(", "))
}
