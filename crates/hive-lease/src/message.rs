//! What goes into the machine and what comes out.

use std::fmt;
use std::time::Duration;

use crate::backoff::Roll;
use crate::grant::{Grant, LeaseId, Subject, Target};
use crate::moment::Moment;

/// What the driver has to do. Each, but for the last three, is answered by one input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Have this credential issued.
    Issue {
        /// Its place in the list of wants.
        request: usize,
    },
    /// Log in.
    Login,
    /// Read a credential without a lease again, and publish it within the same epoch if it has changed.
    Refresh {
        /// Its place in the list of wants.
        request: usize,
    },
    /// Extend a promise.
    Renew {
        /// What.
        target: Target,
        /// By how much.
        ask: Duration,
    },
    /// Give back.
    Revoke {
        /// What.
        target: Target,
    },
    /// Everything is issued: it may be used now.
    Serve,
    /// It may not be used any more; `Lifecycle::reason` says why.
    Withdraw,
}

/// What the driver has to tell. `sent` is when the request left, not when the answer came.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// An action did not succeed.
    Failed {
        /// What it was about.
        subject: Subject,
        /// How it failed.
        failure: Failure,
        /// A random number, for the delay until the next attempt.
        roll: Roll,
    },
    /// A credential was issued.
    Issued {
        /// Its place in the list of wants.
        request: usize,
        /// When it was asked for.
        sent: Moment,
        /// Its lease, if it has one.
        lease: Option<(LeaseId, Grant)>,
    },
    /// The login succeeded.
    LoggedIn {
        /// When it was asked for.
        sent: Moment,
        /// How long the token lasts.
        grant: Grant,
    },
    /// A credential without a lease was read again; whether it has changed is the driver's business.
    Refreshed {
        /// Its place in the list of wants.
        request: usize,
        /// When it was asked for.
        sent: Moment,
    },
    /// A renewal succeeded.
    Renewed {
        /// What was renewed.
        subject: Subject,
        /// When it was asked for.
        sent: Moment,
        /// How long it lasts now.
        grant: Grant,
    },
    /// It is given back.
    Revoked {
        /// What.
        subject: Subject,
    },
    /// The holder is done: give everything back.
    Stop {
        /// When to give up giving back.
        by: Moment,
    },
}

/// How an action failed, by what to do about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The issuer has no such thing.
    Absent,
    /// The issuer refuses, and will again.
    Denied,
    /// What was to be renewed or revoked does not exist any more. Where something was to be issued: the token is not
    /// known, which for a moment after the login may mean that the node that was asked has not heard of it yet.
    Gone,
    /// It had no effect, or may be repeated without harm, and may succeed later.
    Transient {
        /// How long the issuer wishes us to wait.
        wait: Option<Duration>,
    },
    /// The answer was lost. What was asked for may exist, so asking again could make a second one.
    Uncertain,
}

/// Why an epoch ended although nobody stopped it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Its renewal was refused, and then it expired.
    Denied(Subject),
    /// It could not be renewed in time.
    Expired(Subject),
    /// The issuer does not know it any more.
    Gone(Subject),
    /// It reached the longest life that the issuer allows.
    MaxTtl(Subject),
    /// The issuer has no such thing, and it is required.
    Missing(Subject),
    /// The issuer refuses to give it.
    Refused(Subject),
    /// Not everything was issued in time.
    TooLate,
    /// The answer that would have brought it was lost.
    Uncertain(Subject),
    /// Those it is for cannot use it.
    Unusable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(subject) => {
                write!(f, "the renewal of {subject} was refused until it expired")
            }
            Self::Expired(subject) => write!(f, "{subject} could not be renewed before it expired"),
            Self::Gone(subject) => write!(f, "{subject} was revoked at its issuer"),
            Self::MaxTtl(subject) => {
                write!(f, "{subject} reached the longest life that its role allows")
            }
            Self::Missing(subject) => write!(f, "{subject} does not exist at the issuer"),
            Self::Refused(subject) => write!(f, "{subject} was refused"),
            Self::TooLate => f.write_str("not everything was issued before the deadline"),
            Self::Uncertain(subject) => write!(f, "the answer with {subject} was lost"),
            Self::Unusable => f.write_str("what was issued cannot be used by those it is for"),
        }
    }
}

/// What an epoch leaves behind.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Could not be revoked by us, but their token is gone, so their issuer ends them.
    pub entrusted: Vec<Subject>,
    /// Still there until it expires.
    pub left: Vec<Subject>,
}
