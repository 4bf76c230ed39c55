//! What goes into a rotation and what comes out.

use crate::backoff::Roll;
use crate::message::{Action, Failure, Input, Reason, Report};
use crate::moment::Moment;

/// Which of the successive sets of credentials. Counts from 1.
pub type Generation = u64;

/// What the driver of a rotation has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum RotationAction {
    /// Have every holder use this generation from now on; answered by [`RotationInput::Adopted`] when all do. It may be
    /// used from the moment this is said, and ends a [`Withdraw`](Self::Withdraw).
    Adopt {
        /// Which.
        generation: Generation,
    },
    /// End whatever still uses this generation; answered by [`RotationInput::Drained`] when nothing does. If no answer
    /// comes within five seconds, it counts as done.
    Cut {
        /// Which.
        generation: Generation,
    },
    /// Let the holders leave this generation; answered by [`RotationInput::Drained`] when they have. Nothing that begins
    /// now may use it.
    Drain {
        /// Which.
        generation: Generation,
        /// When a [`Cut`](Self::Cut) comes, if they have not left it before. It comes earlier if this generation can be
        /// kept no longer, or if the newer one has to be replaced in its turn.
        by: Moment,
    },
    /// Everything of this generation is given back or given up: its token can be forgotten. Not answered.
    Ended {
        /// Which.
        generation: Generation,
        /// What it leaves behind.
        report: Report,
    },
    /// An action of one epoch: `Login`, `Issue`, `Refresh`, `Renew` or `Revoke`, answered by [`RotationInput::Epoch`].
    Epoch {
        /// Which.
        generation: Generation,
        /// What to do.
        action: Action,
    },
    /// Prove that every holder can use this generation, and change nothing; answered by [`RotationInput::Probed`].
    Probe {
        /// Which.
        generation: Generation,
    },
    /// Fail closed: nothing may be used. Not answered; it is said again only if the reason changes. The machine goes on
    /// trying, and the next [`Adopt`](Self::Adopt) ends it.
    Withdraw {
        /// Why.
        reason: Reason,
    },
}

/// What the driver of a rotation has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum RotationInput {
    /// Every holder uses this generation.
    Adopted {
        /// Which.
        generation: Generation,
    },
    /// No holder uses this generation any more.
    Drained {
        /// Which.
        generation: Generation,
    },
    /// The answer to an action of one epoch.
    Epoch {
        /// Which.
        generation: Generation,
        /// The answer. A `Stop` in here is ignored: the rotation decides when an epoch ends.
        input: Input,
    },
    /// The holders have tried this generation.
    Probed {
        /// Which.
        generation: Generation,
        /// `Transient` and `Uncertain`: it may be tried again. Anything else: they cannot use it, and it is given back.
        outcome: Result<(), Failure>,
        /// A random number, for the delay until the next attempt.
        roll: Roll,
    },
    /// An operator asks for new credentials now. Asked for while new ones are being opened, it asks for those.
    Rotate,
    /// The holder is done: drain, then give everything back.
    Stop {
        /// When to give up giving back. Half of the time until then is left to those who still use something.
        by: Moment,
    },
}

/// Where a rotation stands, for people and metrics.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RotationState {
    /// One generation is used, and all is well.
    Active,
    /// It was told to stop, and is giving everything back.
    Closing,
    /// One generation is used, but it could not be renewed or replaced yet.
    Degraded,
    /// Everything is given back or given up.
    Done,
    /// The first generation is being opened.
    Opening,
    /// One generation is used, and holders are still leaving an older one.
    Overlap,
    /// One generation is used, and the next is being opened, probed or adopted.
    Rotating,
    /// Nothing may be used; it is trying to change that.
    Withdrawn,
}
