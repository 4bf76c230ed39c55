//! Credentials kept alive over successive epochs, from login to last revocation: decisions without I/O.
//!
//! A login token and every lease made with it live and die together, so they are managed together, as an *epoch*. No
//! lease lasts for ever, so an epoch is replaced by the next before it ends, and whoever uses it never notices. This crate
//! decides *when* to log in, issue, renew, probe, adopt, drain, cut and revoke; a driver does it, and tells the outcome.
//! The machines read no clock, draw no random number and never see a secret: times, dice and ids are handed in.
//!
//! # A rotation
//!
//! ```text
//!            Login, Issue                Probe: usable             Adopt: everybody uses it
//!  Opening ──────────────▶ Probing ───────────────────▶ Adopting ─────────────────────────▶ Active ◀──┐ Renew, Refresh
//!     │                       │ unusable                                                     │  └─────┘
//!     │ refused, missing,     │                    the next is adopted; or its hard expiry,    │
//!     │ lost, too late        │                    with nothing to replace it: Withdraw        │
//!     │                       │                                                                ▼
//!     │                       │           nobody uses it any more (Drain); or its overlap   Draining
//!     │                       │           is over, and what lingers is Cut                     │
//!     ▼                       ▼                                                                ▼
//!  Closing: Revoke every lease ─▶ Revoke the token, last ─▶ Ended
//! ```
//!
//! Each epoch goes through these once. One is in use, at most [`overlaps_max`](Policy::overlaps_max) older ones are being
//! left, and at most one newer is coming. The next is opened when
//!
//! - something of it cannot be renewed: where it would have been renewed, or as much earlier as the overlap needs;
//! - a renewal keeps failing: at 70 to 80 % of the life of what it is for;
//! - something of it was revoked by an operator, or an operator [asks](RotationInput::Rotate) for new credentials: at once.
//!
//! What is promised for less than 30 seconds is not renewed, only replaced. A good credential is never given up because
//! the server is away: it serves until its hard expiry, which is counted from when the request was sent, less two seconds
//! or one per cent. An answer that was lost may have brought something without a name; it is not asked for again in this
//! epoch, whose token is revoked and takes it along.
//!
//! A driver is four methods in a loop. Here is one whose server and holders answer at once:
//!
//! ```
//! use std::time::Duration;
//! use hive_lease::{
//!     Action, Grant, Input, LeaseId, Moment, Policy, Roll, Rotation, RotationAction, RotationInput, Want,
//! };
//!
//! fn answer(now: Moment, action: RotationAction) -> Option<RotationInput> {
//!     let (sent, hour) = (now, Grant { ttl: Duration::from_secs(3600), renewable: true });
//!     Some(match action {
//!         RotationAction::Epoch { generation, action } => {
//!             let input = match action {
//!                 Action::Login => Input::LoggedIn { sent, grant: hour },
//!                 Action::Issue { request } => {
//!                     let lease = Some((LeaseId::new("database/creds/app/1"), hour));
//!                     Input::Issued { request, sent, lease }
//!                 }
//!                 Action::Renew { target, .. } => {
//!                     Input::Renewed { subject: target.subject(), sent, grant: hour }
//!                 }
//!                 Action::Revoke { target } => Input::Revoked { subject: target.subject() },
//!                 Action::Refresh { request } => Input::Refreshed { request, sent },
//!                 Action::Serve | Action::Withdraw => return None,
//!             };
//!             RotationInput::Epoch { generation, input }
//!         }
//!         RotationAction::Probe { generation } => {
//!             RotationInput::Probed { generation, outcome: Ok(()), roll: Roll::new(0.5) }
//!         }
//!         RotationAction::Adopt { generation } => RotationInput::Adopted { generation },
//!         RotationAction::Drain { generation, .. } | RotationAction::Cut { generation } => {
//!             RotationInput::Drained { generation }
//!         }
//!         RotationAction::Ended { .. } | RotationAction::Withdraw { .. } => return None,
//!     })
//! }
//!
//! let mut now = Moment::after(Duration::ZERO);
//! let open_by = now + Duration::from_secs(10);
//! let mut rotation = Rotation::new(Policy::default(), [Want::default()], 7, now, open_by);
//! while now < Moment::after(Duration::from_secs(86_400)) {
//!     while let Some(action) = rotation.poll_action() {
//!         if let Some(input) = answer(now, action) {
//!             rotation.handle(now, input);
//!         }
//!     }
//!     now = rotation.poll_timeout().expect("there is always something to renew");
//!     rotation.handle_timeout(now);
//! }
//! assert_eq!(rotation.serving(now), Some(1));
//! ```
//!
//! # An epoch alone
//!
//! What is needed for a while and then given back is a [`Lifecycle`]: one epoch that nobody replaces.
//!
//! ```text
//!            Login                 Issue (each)             all settled
//!  Opening ─────────▶ logged in ─────────────────▶ issued ─────────────▶ Serving ◀──┐ Renew token and leases
//!     │                                                                     │   └───┘ at 50–65 % of their life
//!     │ refused, missing, too late                     Stop, or a hard expiry│
//!     └────────────────────────────────┬────────────────────────────────────┘
//!                                      ▼
//!                    Closing: Revoke every lease ─▶ Revoke the token, last ─▶ Done
//! ```
//!
//! # Many leases
//!
//! Whatever is due is found in an index by time, so that an input costs about the same with ten thousand leases as with
//! ten. At most [`calls_max`](Policy::calls_max) calls are under way, and repetitions of what failed begin five a second,
//! ten at once. Each lease is renewed at its own point between 50 and 65 % of its life, out of the seed: what was issued
//! together is not renewed together.

mod backoff;
mod closing;
mod core;
mod dice;
mod gate;
mod grant;
mod index;
mod item;
mod lifecycle;
mod message;
mod moment;
mod opening;
mod policy;
mod rotation;

pub use backoff::Roll;
pub use grant::{Grant, LeaseId, Refresh, Subject, Target, Want};
pub use lifecycle::Lifecycle;
pub use message::{Action, Failure, Input, Reason, Report};
pub use moment::Moment;
pub use policy::{Policy, PolicyMistake};
pub use rotation::{Generation, Rotation, RotationAction, RotationInput, RotationState};
