//! One credential epoch, from login to last revocation: decisions without I/O.
//!
//! A login token and every lease made with it live and die together, so they are managed together. This crate decides
//! *when* to log in, issue, renew, stop serving and revoke; a driver does it, and tells the outcome. The machine reads
//! no clock, draws no random number and never sees a secret: times, dice and ids are handed in.
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
//! A driver is four methods in a loop:
//!
//! ```
//! use std::time::Duration;
//! use hive_lease::{Action, Grant, Input, Lifecycle, Moment, Policy, Subject, Want};
//!
//! let now = Moment::after(Duration::ZERO);
//! let open_by = now + Duration::from_secs(10);
//! let mut epoch = Lifecycle::new(Policy::default(), [Want::default()], now, open_by);
//!
//! assert_eq!(epoch.poll_action(), Some(Action::Login));
//! let hour = Grant { ttl: Duration::from_secs(3600), renewable: true };
//! epoch.handle(now, Input::LoggedIn { sent: now, grant: hour });
//! assert_eq!(epoch.poll_action(), Some(Action::Issue { request: 0 }));
//! epoch.handle(now, Input::Issued { request: 0, sent: now, lease: None });
//! assert_eq!(epoch.poll_action(), Some(Action::Serve));
//! assert!(epoch.is_serving(now));
//!
//! let renew_at = epoch.poll_timeout().expect("a served epoch waits for its next renewal");
//! epoch.handle_timeout(renew_at);
//! assert!(matches!(epoch.poll_action(), Some(Action::Renew { .. })));
//! ```

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
