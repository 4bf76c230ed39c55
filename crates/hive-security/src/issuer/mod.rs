//! Performs what the machines of `hive-lease` decide: the calls to Vault, and what their failures mean.

mod outcome;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hive_lease::{Failure, Grant, Input, LeaseId, Moment, Roll, Subject, Target};
use secrecy::SecretString;
use serde_json::Value;

use crate::clock::Clock;
use crate::vault::{Answer, LoginError, LoginMethod, VaultClient, VaultError};
use crate::{Cause, SecretJson};

/// What every call needs: whom to ask, as whom, and what time it is.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) vault: VaultClient,
    pub(crate) login: LoginMethod,
    pub(crate) clock: Clock,
}

/// How a credential is asked for.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) path: String,
    /// What is written, where it is not read.
    pub(crate) body: Option<Arc<SecretJson>>,
}

/// What a call brought, beside the input for the machine: the secrets, which the machine must not see.
pub(crate) struct Done {
    pub(crate) input: Input,
    pub(crate) token: Option<SecretString>,
    pub(crate) data: Option<SecretJson>,
    pub(crate) cause: Option<Cause>,
}

impl Issuer {
    pub(crate) async fn login(self) -> Done {
        let sent = self.clock.now();
        match self.login.login(&self.vault).await {
            Ok(login) => {
                let grant = Grant { ttl: login.ttl, renewable: login.renewable };
                let input = Input::LoggedIn { sent, grant };
                Done { input, token: Some(login.token), data: None, cause: None }
            }
            Err(error) => failed(Subject::Token, of_login(&error), error),
        }
    }

    pub(crate) async fn issue(self, request: usize, ask: Ask, token: Arc<SecretString>) -> Done {
        let sent = self.clock.now();
        match self.ask(&ask, &token).await {
            Ok(answer) => issued(request, sent, answer),
            Err(error) => {
                let failure = outcome::of_issue(&self.vault, &token, &error).await;
                failed(Subject::Lease(request), failure, error)
            }
        }
    }

    /// Issues again what has no lease.
    pub(crate) async fn refresh(self, request: usize, ask: Ask, token: Arc<SecretString>) -> Done {
        let sent = self.clock.now();
        match self.ask(&ask, &token).await {
            Ok(answer) => {
                let data = Some(fields_of_kv(answer.data));
                let input = Input::Refreshed { request, sent };
                Done { input, token: None, data, cause: None }
            }
            Err(error) => {
                let failure = outcome::of_reading(&self.vault, &token, &error).await;
                failed(Subject::Lease(request), failure, error)
            }
        }
    }

    async fn ask(&self, ask: &Ask, token: &SecretString) -> Result<Answer, VaultError> {
        match &ask.body {
            None => self.vault.read(token, &ask.path).await,
            Some(body) => self.vault.write(token, &ask.path, body).await,
        }
    }

    pub(crate) async fn renew(
        self,
        target: Target,
        ask: Duration,
        token: Arc<SecretString>,
    ) -> Done {
        let sent = self.clock.now();
        let renewal = match &target {
            Target::Lease { id, .. } => self.vault.renew_lease(&token, id.as_str(), ask).await,
            Target::Token => self.vault.renew_self(&token, ask).await,
        };
        let subject = target.subject();
        match renewal {
            Ok(renewal) => {
                let grant = Grant { ttl: renewal.ttl, renewable: renewal.renewable };
                told(Input::Renewed { subject, sent, grant })
            }
            Err(error) => {
                let failure = outcome::of_renewal(&self.vault, &token, &target, &error).await;
                failed(subject, failure, error)
            }
        }
    }

    pub(crate) async fn revoke(self, target: Target, token: Arc<SecretString>) -> Done {
        let subject = target.subject();
        match self.try_revoke(&target, &token).await {
            Ok(()) => told(Input::Revoked { subject }),
            Err(error) => {
                let failure = outcome::of_revocation(&self.vault, &token, &target, &error).await;
                failed(subject, failure, error)
            }
        }
    }

    /// Whether a lease has ended at Vault, or its token has. Only a clear answer counts.
    pub(crate) async fn has_lost(&self, token: &SecretString, lease: &LeaseId) -> bool {
        outcome::is_gone(&self.vault, token, lease).await
    }

    async fn try_revoke(&self, target: &Target, token: &SecretString) -> Result<(), VaultError> {
        match target {
            Target::Lease { id, .. } => self.vault.revoke_lease(token, id.as_str()).await,
            Target::Token => self.vault.revoke_self(token).await,
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("vault", &self.vault).finish_non_exhaustive()
    }
}

/// An identity that is refused stays refused until somebody changes an entry, and a stolen `secret_id` stays stolen; what
/// is late may come.
fn of_login(error: &LoginError) -> Failure {
    match error {
        LoginError::Vault(error) => outcome::of_creation(error),
        error if error.is_transient() => Failure::Transient { wait: None },
        _ => Failure::Denied,
    }
}

fn told(input: Input) -> Done {
    Done { input, token: None, data: None, cause: None }
}

/// A number for the machine, which draws none itself.
pub(crate) fn roll() -> Roll {
    Roll::new(rand::random())
}

pub(crate) fn failed(
    subject: Subject,
    failure: Failure,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Done {
    let input = Input::Failed { subject, failure, roll: roll() };
    Done { input, token: None, data: None, cause: Some(Arc::new(cause)) }
}

fn issued(request: usize, sent: Moment, answer: Answer) -> Done {
    let lease = answer.lease.map(|lease| {
        let grant = Grant { ttl: lease.ttl, renewable: lease.renewable };
        (LeaseId::new(lease.id), grant)
    });
    let data = if lease.is_none() { fields_of_kv(answer.data) } else { answer.data };
    Done {
        input: Input::Issued { request, sent, lease },
        token: None,
        data: Some(data),
        cause: None,
    }
}

/// KV v2 wraps the fields in `data` beside `metadata` with a version; a holder wants the fields.
fn fields_of_kv(data: SecretJson) -> SecretJson {
    let Ok(Value::Object(mut members)) = data.expose::<Value>() else { return data };
    let versioned = members
        .get("metadata")
        .and_then(|metadata| metadata.get("version"))
        .is_some_and(Value::is_number);
    match members.remove("data") {
        Some(fields @ Value::Object(_)) if versioned && members.len() == 1 => {
            SecretJson::new(fields)
        }
        Some(other) => {
            drop(SecretJson::new(other));
            data
        }
        None => data,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_login_that_nothing_but_a_person_can_mend_is_not_repeated() {
        let theft = LoginError::PossibleTheft { role: "job".to_owned(), why: "a test" };
        assert_eq!(of_login(&theft), Failure::Denied);
        let file = |cause| LoginError::TokenFile { path: "token".into(), why: "a test", cause };
        assert_eq!(of_login(&file(None)), Failure::Denied);
        let missing = Arc::new(std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(of_login(&file(Some(missing))), Failure::Transient { wait: None });
        assert_eq!(of_login(&LoginError::IdentityTimeout), Failure::Transient { wait: None });
    }

    #[test]
    fn the_fields_of_a_kv_secret_come_without_their_metadata() {
        let answer = json!({ "data": { "key": "v" }, "metadata": { "version": 3 } });
        assert_eq!(fields_of_kv(SecretJson::new(answer)).field_names(), ["key"]);
        for plain in [
            json!({ "data": { "x": 1 } }),
            json!({ "username": "u", "password": "p" }),
            json!(null),
        ] {
            let names = SecretJson::new(plain.clone()).field_names();
            assert_eq!(fields_of_kv(SecretJson::new(plain)).field_names(), names);
        }
    }
}
