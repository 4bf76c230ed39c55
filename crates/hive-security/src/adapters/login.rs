//! A user name with its password, and what is said when there is none.

#[cfg(any(
    feature = "deadpool-postgres",
    feature = "rdkafka",
    feature = "redis",
    feature = "sqlx"
))]
pub(super) use held::Login;

/// Nothing may be used: the credential was withdrawn, or has not been issued yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{server} may not be used: there is no credential for it that is valid, because it was not issued yet or was \
     withdrawn; see the state of its lease"
)]
pub struct Barred {
    /// The server, such as `PostgreSQL`.
    pub server: &'static str,
}

#[cfg(any(
    feature = "deadpool-postgres",
    feature = "rdkafka",
    feature = "redis",
    feature = "sqlx"
))]
mod held {
    use secrecy::SecretString;

    use crate::credentials::{Credential, HolderError};

    /// The pair that a database engine issues.
    pub(in crate::adapters) struct Login {
        pub(in crate::adapters) username: SecretString,
        pub(in crate::adapters) password: SecretString,
    }

    impl Login {
        pub(in crate::adapters) fn of(
            credential: &Credential,
            holder: &'static str,
        ) -> Result<Self, HolderError> {
            let field = |name: &str, what| {
                credential.field(name).ok_or_else(|| HolderError::Unusable {
                    holder,
                    credential: credential.name().to_owned(),
                    what,
                })
            };
            Ok(Self {
                username: field("username", "it has no field `username`")?,
                password: field("password", "it has no field `password`")?,
            })
        }
    }
}
