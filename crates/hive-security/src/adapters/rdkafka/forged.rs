//! Whether a broker looks at the tokens that it is shown.

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::ClientConfig;
use secrecy::{ExposeSecret, SecretString};

use super::oauth_token;
use super::scram::{Answer, Answers, ask, off_the_runtime};
use crate::{Audience, Error, JwtSvid, Workload};

/// For each of the three tokens.
const DEADLINE: Duration = Duration::from_secs(10);
/// Nobody's audience.
const NOBODY: &str = "hive-probe-of-a-broker";

/// What a broker let in that it must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// A token whose signature was broken: the broker believes whatever name anyone writes into a token.
    pub broken_signature: bool,
    /// A token that was issued for another server: whoever is shown one can use it on this broker.
    pub other_audience: bool,
}

/// Why nothing can be said about the broker.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// librdkafka does not take the configuration. Its words may quote a value and are not repeated.
    #[error("librdkafka does not take the configuration of the client")]
    Configuration,
    /// There is no token to begin with.
    #[error("there is no JWT-SVID to show to the broker")]
    Identity(#[from] Error),
    /// It refuses even the token that is good.
    #[error(
        "{broker} refuses this workload's JWT-SVID for {audience}: see its expected audience, its JWKS and its log"
    )]
    Refused {
        /// The address.
        broker: String,
        /// What the token was for.
        audience: String,
    },
    /// It does not answer.
    #[error(
        "{broker} does not answer within {} s: is it a listener for OAUTHBEARER, and is it one for TLS exactly if it was \
         asked with TLS?",
        DEADLINE.as_secs()
    )]
    Silent {
        /// The address.
        broker: String,
    },
    /// The TLS handshake with it fails.
    #[error(
        "the TLS handshake with {broker} fails: its certificate is of another authority, or not for this name"
    )]
    Untrusted {
        /// The address.
        broker: String,
    },
}

impl Accepted {
    /// Whether it refused all that it must refuse.
    pub fn nothing(self) -> bool {
        self == Self::default()
    }
}

/// Shows a broker this workload's JWT-SVID, then the same with one bit of its signature turned, then one for nobody,
/// and says which of the forged ones it let in.
///
/// `config` has the address and the protocol; the mechanism is set here. Takes at most half a minute. Cancel-safe.
pub async fn probe_forged_tokens(
    config: &ClientConfig,
    workload: &Workload,
    audience: &Audience,
) -> Result<Accepted, Unproven> {
    let good = workload.jwt_svid(audience).await?;
    let nobody = Audience::parse(NOBODY).expect("an audience");
    let other = workload.jwt_svid(&nobody).await?;
    if !is_let_in(config, &good, good.token().clone()).await? {
        let audience = audience.as_str().to_owned();
        return Err(Unproven::Refused { broker: address(config), audience });
    }
    let broken = with_a_broken_signature(good.token());
    Ok(Accepted {
        broken_signature: is_let_in(config, &good, broken).await?,
        other_audience: is_let_in(config, &other, other.token().clone()).await?,
    })
}

/// If it does not answer, nothing is known.
async fn is_let_in(
    config: &ClientConfig,
    svid: &JwtSvid,
    token: SecretString,
) -> Result<bool, Unproven> {
    match offer(config, svid, token).await? {
        Answer::Accepted => Ok(true),
        Answer::Refused => Ok(false),
        Answer::Silence => Err(Unproven::Silent { broker: address(config) }),
        Answer::Untrusted => Err(Unproven::Untrusted { broker: address(config) }),
    }
}

async fn offer(
    config: &ClientConfig,
    svid: &JwtSvid,
    token: SecretString,
) -> Result<Answer, Unproven> {
    let mut config = config.clone();
    config.set("sasl.mechanisms", "OAUTHBEARER");
    let shown = OAuthToken { token: token.expose_secret().to_owned(), ..oauth_token(svid) };
    let answers = Answers::to(Shown(Mutex::new(Some(shown))));
    let answer = off_the_runtime(move || ask(&config, answers, DEADLINE)).await;
    answer.map_err(|_| Unproven::Configuration)
}

/// Shows one token, once.
struct Shown(Mutex<Option<OAuthToken>>);

impl ClientContext for Shown {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let mut token = self.0.lock().map_err(|_| "poisoned")?;
        token.take().ok_or_else(|| "it was shown already".into())
    }
}

fn address(config: &ClientConfig) -> String {
    config.get("bootstrap.servers").unwrap_or("the broker").to_owned()
}

/// The bit is of the signature itself, not one that pads its last letter.
fn with_a_broken_signature(token: &SecretString) -> SecretString {
    let token = token.expose_secret();
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    if let Some(byte) = signature.first_mut() {
        *byte ^= 1;
    }
    SecretString::from(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_broken_signature_is_another_one_below_the_same_claims() {
        let signature = |token: &str| URL_SAFE_NO_PAD.decode(token.rsplit('.').next().unwrap());
        let good = format!("header.claims.{}", URL_SAFE_NO_PAD.encode([7; 64]));
        let broken = with_a_broken_signature(&SecretString::from(good.clone()));
        let broken = broken.expose_secret();
        assert!(broken.starts_with("header.claims.") && broken.len() == good.len());
        assert_ne!(signature(broken).unwrap(), signature(&good).unwrap());
    }
}
