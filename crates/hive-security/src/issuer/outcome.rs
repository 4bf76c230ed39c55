//! What the failure of a call means for the epoch.

use hive_lease::{Failure, LeaseId, Target};
use secrecy::SecretString;

use crate::vault::{VaultClient, VaultError};

/// A call that creates something is repeated only if it certainly created nothing.
pub(super) fn of_creation(error: &VaultError) -> Failure {
    match error {
        VaultError::NotFound { .. } => Failure::Absent,
        error if !error.is_transient() => Failure::Denied,
        error if error.had_no_effect() => transient(error),
        _ => Failure::Uncertain,
    }
}

/// The same, and whether it is the token that is not known: of a login that was answered a moment ago, another node may
/// not have heard yet.
pub(super) async fn of_issue(
    vault: &VaultClient,
    token: &SecretString,
    error: &VaultError,
) -> Failure {
    match error {
        VaultError::Denied { .. } => of_denial(vault, token).await,
        error => of_creation(error),
    }
}

/// A renewal may be repeated; what matters is whether there is anything left to renew.
pub(super) async fn of_renewal(
    vault: &VaultClient,
    token: &SecretString,
    target: &Target,
    error: &VaultError,
) -> Failure {
    match (error, target) {
        (VaultError::LeaseGone { .. }, _) => Failure::Gone,
        (VaultError::Denied { .. }, _) => of_denial(vault, token).await,
        (VaultError::Rejected { .. }, Target::Lease { id, .. }) => {
            if is_gone(vault, token, id).await {
                Failure::Gone
            } else {
                Failure::Transient { wait: None }
            }
        }
        (error, _) if !error.is_transient() => Failure::Denied,
        (error, _) if error.had_no_effect() => transient(error),
        _ => Failure::Uncertain,
    }
}

/// Reading again may be repeated; what matters is whether the token is still good.
pub(super) async fn of_reading(
    vault: &VaultClient,
    token: &SecretString,
    error: &VaultError,
) -> Failure {
    match error {
        VaultError::NotFound { .. } => Failure::Absent,
        VaultError::Denied { .. } => of_denial(vault, token).await,
        error if error.is_transient() => transient(error),
        _ => Failure::Denied,
    }
}

/// A revocation may be repeated, and what is gone already needs none.
pub(super) async fn of_revocation(
    vault: &VaultClient,
    token: &SecretString,
    target: &Target,
    error: &VaultError,
) -> Failure {
    match (error, target) {
        (VaultError::LeaseGone { .. }, _) => Failure::Gone,
        (VaultError::Denied { .. }, _) => of_denial(vault, token).await,
        (error, _) if error.is_transient() => transient(error),
        // Vault answers 400 as well when the engine behind it fails to revoke.
        (VaultError::Rejected { .. }, Target::Lease { .. }) => Failure::Transient { wait: None },
        _ => Failure::Denied,
    }
}

/// Whether Vault says that it does not know a lease, or the token that it hangs on.
pub(super) async fn is_gone(vault: &VaultClient, token: &SecretString, lease: &LeaseId) -> bool {
    match vault.lookup_lease(token, lease.as_str()).await {
        Err(VaultError::LeaseGone { .. }) => true,
        Err(VaultError::Denied { .. }) => of_denial(vault, token).await == Failure::Gone,
        _ => false,
    }
}

/// 403 is said both to a token that is dead and to one that lacks a right; only looking at the token tells. One that may
/// not even look at itself is told so in the words for policies, and so is alive.
async fn of_denial(vault: &VaultClient, token: &SecretString) -> Failure {
    match vault.lookup_self(token).await {
        Err(VaultError::Denied { by_policy: false, .. }) => Failure::Gone,
        Err(error) if error.is_transient() => transient(&error),
        _ => Failure::Denied,
    }
}

fn transient(error: &VaultError) -> Failure {
    let wait = match error {
        VaultError::Limited { retry_after, .. } => *retry_after,
        _ => None,
    };
    Failure::Transient { wait }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::tests::script::{Script, json_answer, token};

    /// What is made of a refusal by the answer to the look at the token.
    async fn denied(status: u16, body: &str) -> Failure {
        let vault = Script::saying(json_answer(status, body)).await.client();
        let denied = VaultError::Denied { operation: operation(), by_policy: false };
        of_issue(&vault, &token(), &denied).await
    }

    #[tokio::test]
    async fn only_a_token_that_vault_does_not_know_is_taken_for_a_dead_one() {
        let alive = r#"{"data":{"ttl":60}}"#;
        assert_eq!(denied(200, alive).await, Failure::Denied, "it lacks a right");
        let unknown = r#"{"errors":["permission denied"]}"#;
        assert_eq!(denied(403, unknown).await, Failure::Gone);
        let by_policy = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
        assert_eq!(denied(403, by_policy).await, Failure::Denied, "it may not look at itself");
        let sealed = r#"{"errors":["Vault is sealed"]}"#;
        assert_eq!(denied(503, sealed).await, Failure::Transient { wait: None });
    }

    #[tokio::test]
    async fn a_lease_is_lost_only_if_vault_says_so_clearly() {
        let lease = LeaseId::new("database/creds/app/x");
        let lost = async |status, body: &str| {
            let vault = Script::saying(json_answer(status, body)).await.client();
            is_gone(&vault, &token(), &lease).await
        };
        assert!(lost(400, r#"{"errors":["invalid lease"]}"#).await);
        assert!(lost(403, r#"{"errors":["permission denied"]}"#).await, "its token is gone");
        for (status, text) in [(200, ""), (400, "odd"), (404, ""), (500, ""), (503, "sealed")] {
            let body = format!(r#"{{"errors":["{text}"],"data":{{"id":"x","ttl":60}}}}"#);
            assert!(!lost(status, &body).await, "{status} {text}");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_not_renewed_is_used_to_its_end_and_not_asked_for_again() {
        let vault = Script::saying(json_answer(500, "{}")).await.client();
        let error = VaultError::NotRenewed { operation: operation() };
        let failure = of_renewal(&vault, &token(), &Target::Token, &error).await;
        assert_eq!(failure, Failure::Denied);
    }

    fn operation() -> String {
        "GET database/creds/app".to_owned()
    }

    #[test]
    fn what_may_have_made_a_lease_is_never_repeated() {
        let lost = VaultError::Unreachable {
            operation: operation(),
            cause: "it took too long",
            never_sent: false,
        };
        let refused = VaultError::Unreachable {
            operation: operation(),
            cause: "it failed",
            never_sent: true,
        };
        let failed = VaultError::Server { operation: operation(), status: 500 };
        let sealed = VaultError::Sealed { operation: operation() };
        assert_eq!(of_creation(&lost), Failure::Uncertain);
        assert_eq!(of_creation(&failed), Failure::Uncertain);
        assert_eq!(of_creation(&refused), Failure::Transient { wait: None });
        assert_eq!(of_creation(&sealed), Failure::Transient { wait: None });
    }

    #[test]
    fn only_a_404_counts_as_absent() {
        assert_eq!(of_creation(&VaultError::NotFound { operation: operation() }), Failure::Absent);
        let denied = VaultError::Denied { operation: operation(), by_policy: true };
        assert_eq!(of_creation(&denied), Failure::Denied);
        assert_eq!(
            of_creation(&VaultError::Rejected { operation: operation(), status: 400 }),
            Failure::Denied
        );
    }
}
