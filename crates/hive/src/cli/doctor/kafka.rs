//! Whether a Kafka broker looks at the tokens that it is shown. Kafka 4.1.0 does not.

use super::{Finding, Options, Problem, Report};
use crate::cli::stack;
use hive_runtime::errors::chain;
use hive_security::adapters::rdkafka::{Accepted, Unproven, probe_forged_tokens};
use hive_security::{Audience, Workload};
use rdkafka::config::ClientConfig;
use std::path::Path;

/// What the broker expects a token to be for.
const AUDIENCE: &str = "kafka";

/// Examines each of them.
pub(super) async fn examine(report: &mut Report, options: &Options) -> Option<()> {
    if options.kafka.is_empty() {
        return Some(());
    }
    let workload = match stack::attach().await {
        Ok(workload) => workload,
        Err(failure) => {
            let remedy = "the identity was there a moment ago: ask again";
            return report.add("Kafka", Err(Problem::new(failure.message, remedy)));
        }
    };
    let mut found = Some(());
    for broker in &options.kafka {
        let finding = check(broker, options.kafka_ca.as_deref(), &workload).await;
        found = report.add("Kafka", finding).and(found);
    }
    found
}

/// Shows it a good token and two forged ones.
async fn check(broker: &str, ca: Option<&Path>, workload: &Workload) -> Finding {
    let audience = Audience::parse(AUDIENCE).map_err(|error| Problem::new(chain(&error), ""))?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("security.protocol", protocol(broker, ca));
    if let Some(ca) = ca {
        config.set("ssl.ca.location", ca.display().to_string());
    }
    match probe_forged_tokens(&config, workload, &audience).await {
        Ok(accepted) if accepted.nothing() => {
            Ok(format!("{broker} refuses forged tokens and those for others"))
        }
        Ok(accepted) => Err(believes(broker, accepted)),
        Err(error) => Err(unproven(&error)),
    }
}

/// On loopback no TLS is expected, unless an authority is named; elsewhere always.
fn protocol(broker: &str, ca: Option<&Path>) -> &'static str {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here =
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if is_here && ca.is_none() { "SASL_PLAINTEXT" } else { "SASL_SSL" }
}

fn believes(broker: &str, accepted: Accepted) -> Problem {
    let cause = if accepted.broken_signature {
        "lets in a token whose signature was broken: anybody can be anyone there"
    } else {
        "lets in a token that is for another audience: whoever is shown one of ours can use it there"
    };
    Problem::new(
        format!("{broker} {cause}"),
        "do not use this broker before it is Kafka 4.3.0 or later, with \
         OAuthBearerValidatorCallbackHandler, BrokerJwtValidator and \
         sasl.oauthbearer.expected.audience=kafka",
    )
}

fn unproven(error: &Unproven) -> Problem {
    let remedy = match error {
        Unproven::Untrusted { .. } => {
            "name the authority of the broker's certificate with --kafka-ca, and the broker as its certificate does"
        }
        Unproven::Configuration => "see that the file that --kafka-ca names is there, and is PEM",
        Unproven::Silent { .. } => {
            "see that the broker runs, and name its listener for OAUTHBEARER; with --kafka-ca, or when it is not on this \
             machine, it is asked with TLS"
        }
        _ => {
            "name a listener for OAUTHBEARER that believes this trust domain's JWT keys for the audience kafka"
        }
    };
    Problem::new(chain(error), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_this_machine_is_asked_and_only_if_no_authority_is_named() {
        for here in ["127.0.0.1:9092", "localhost:9092", "[::1]:9092"] {
            assert_eq!(protocol(here, None), "SASL_PLAINTEXT", "{here}");
            assert_eq!(protocol(here, Some(Path::new("ca.pem"))), "SASL_SSL", "{here}");
        }
        for elsewhere in ["kafka.shop:9092", "10.0.0.1:9092", "localhost.shop:1"] {
            assert_eq!(protocol(elsewhere, None), "SASL_SSL", "{elsewhere}");
        }
    }
}
