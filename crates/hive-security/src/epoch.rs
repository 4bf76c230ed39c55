//! One login to Vault and everything borrowed through it, kept alive together and given back together.
//!
//! ```text
//!   Epoch ◀── credentials, failed() ── driver task ── Actions ──▶ VaultClient ──▶ Vault
//!     └───────── close(deadline) ─────────▶ │ ◀── Inputs ───────────┘
//!                                   hive_lease::Lifecycle
//! ```
//!
//! All decisions are those of [`hive_lease::Lifecycle`]; the task in here performs them, and it alone knows the token.

mod driver;

use std::future::Future;
use std::time::Duration;

use hive_lease::{Reason, Subject};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::vault::VaultClient;
use crate::{Cause, SecretJson, Workload};

use driver::{Driver, Ending};

/// How long an epoch that was dropped rather than closed may take to give everything back.
const ABANDONED: Duration = Duration::from_secs(5);

/// A credential that is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// What the holder calls it.
    pub name: String,
    /// Where it is read, such as `database/creds/release` or `secret/data/release`.
    pub path: String,
    /// Whether the holder can do without it where nothing is mounted at this path or no such role exists.
    pub optional: bool,
}

/// A credential that was issued.
#[derive(Debug)]
pub struct Issued {
    /// What the holder calls it.
    pub name: String,
    /// Its fields; of a KV v2 secret those of the current version, without the metadata around them.
    pub data: SecretJson,
}

/// Why an epoch could not be opened, or ended, or was not given back completely.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The epoch is closed, or its task was stopped with the runtime.
    #[error("this epoch is closed")]
    Closed,
    /// It ran out, because Vault could not be reached, or refused to extend it, or its longest life was over.
    #[error("{what} of the Vault role {role} has expired: {reason}")]
    Expired {
        /// The credential's name, or the login.
        what: String,
        /// The Vault role.
        role: String,
        /// Why it was not extended.
        reason: Reason,
        /// The last failure.
        #[source]
        cause: Option<Cause>,
    },
    /// Not everything was given back; what is named lives on until it expires.
    #[error("not revoked within {within:?}, and valid until it expires: {what}", what = names.join(", "))]
    Left {
        /// Names of credentials, and the login.
        names: Vec<String>,
        /// The time that was allowed.
        within: Duration,
    },
    /// Vault has no such credential.
    #[error(
        "Vault has no {what} at {path} for the role {role}: check that the engine is mounted and the name is right"
    )]
    Missing {
        /// The credential's name.
        what: String,
        /// Where it was looked for.
        path: String,
        /// The Vault role.
        role: String,
    },
    /// Vault refuses the login, or a credential.
    #[error("Vault refuses {what} to the role {role}: check the role's bounds and policies")]
    Refused {
        /// The credential's name, or the login.
        what: String,
        /// The Vault role.
        role: String,
        /// What Vault said.
        #[source]
        cause: Option<Cause>,
    },
    /// Somebody revoked it at Vault.
    #[error("{what} of the Vault role {role} was revoked at Vault")]
    Revoked {
        /// The credential's name, or the login.
        what: String,
        /// The Vault role.
        role: String,
    },
    /// Two requests have one name.
    #[error("two credentials are called {name}: give each a name of its own")]
    Twice {
        /// The name.
        name: String,
    },
    /// Not everything was issued in time, or an answer was lost on its way.
    #[error("{what} of the Vault role {role} could not be had: {reason}")]
    Unavailable {
        /// The credential's name, or the login.
        what: String,
        /// The Vault role.
        role: String,
        /// What was not had, and why.
        reason: Reason,
        /// The last failure.
        #[source]
        cause: Option<Cause>,
    },
    /// What Vault issued cannot be used by those it is for.
    #[error(
        "what Vault issued to the role {role} is refused where it is to be used: see the cause, and the role's statements"
    )]
    Unusable {
        /// The Vault role.
        role: String,
        /// What a holder said.
        #[source]
        cause: Option<Cause>,
    },
}

/// What a reason is about, if it is about one thing.
pub(crate) fn about(reason: Reason) -> Option<Subject> {
    match reason {
        Reason::Denied(subject)
        | Reason::Expired(subject)
        | Reason::Gone(subject)
        | Reason::MaxTtl(subject)
        | Reason::Missing(subject)
        | Reason::Refused(subject)
        | Reason::Uncertain(subject) => Some(subject),
        _ => None,
    }
}

impl Error {
    pub(crate) fn of(
        reason: Reason,
        what: String,
        path: String,
        role: String,
        cause: Option<Cause>,
    ) -> Self {
        match reason {
            Reason::Gone(_) => Self::Revoked { what, role },
            Reason::Missing(_) => Self::Missing { what, path, role },
            Reason::Refused(_) => Self::Refused { what, role, cause },
            Reason::TooLate | Reason::Uncertain(_) => {
                Self::Unavailable { what, role, reason, cause }
            }
            Reason::Unusable => Self::Unusable { role, cause },
            _ => Self::Expired { what, role, reason, cause },
        }
    }

    /// Whether another epoch, opened later, may do better without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::Revoked { .. } | Self::Unavailable { .. })
    }
}

/// An open epoch.
///
/// A task inside it renews the login token and the leases; the task ends with the epoch. An epoch that is dropped is
/// given back in the background as far as the runtime still runs: [`close`](Self::close) is the way to know.
#[derive(Debug)]
pub struct Epoch {
    credentials: Vec<Issued>,
    skipped: Vec<String>,
    failure: watch::Receiver<Option<Error>>,
    stop: oneshot::Sender<Duration>,
    task: JoinHandle<Ending>,
}

impl Epoch {
    /// Logs in with a JWT-SVID for Vault and has every credential issued, within the deadline. If any required one is
    /// not to be had, what was issued is given back before the error is returned.
    pub async fn open(
        vault: VaultClient,
        workload: Workload,
        role: String,
        requests: Vec<Request>,
        open_deadline: Duration,
    ) -> Result<Self, Error> {
        let (driver, mut line) = Driver::new(vault, workload, role, requests, open_deadline);
        let task = tokio::spawn(driver.run());
        if let Ok(opened) = (&mut line.opened).await {
            let (failure, stop) = (line.failure, line.stop);
            return Ok(Self {
                credentials: opened.credentials,
                skipped: opened.skipped,
                failure,
                stop,
                task,
            });
        }
        let ending = task.await.map_err(|_| Error::Closed)?;
        Err(ending.failure.unwrap_or(Error::Closed))
    }

    /// What was issued, in the order of the requests.
    pub fn credentials(&self) -> &[Issued] {
        &self.credentials
    }

    /// The names of the optional credentials that there are not: Vault answered 404. A refusal is never skipped.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Resolves when the credentials may no longer be used, with the reason. Pending as long as all is well.
    pub fn failed(&self) -> impl Future<Output = Error> + Send + use<> {
        let mut failure = self.failure.clone();
        async move {
            let seen = failure.wait_for(Option::is_some).await.map(|seen| seen.clone());
            seen.ok().flatten().unwrap_or(Error::Closed)
        }
    }

    /// Gives every lease back and the token last, within the time allowed. The error names what is left.
    pub async fn close(self, deadline: Duration) -> Result<(), Error> {
        // The task may have ended by itself already; then there is nobody to tell.
        let _ = self.stop.send(deadline);
        let ending = self.task.await.map_err(|_| Error::Closed)?;
        if ending.left.is_empty() {
            return Ok(());
        }
        Err(Error::Left { names: ending.left, within: deadline })
    }
}
