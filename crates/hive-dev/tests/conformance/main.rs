//! One suite for two kinds of trust domain: our development authority, and a real SPIRE.
//!
//! Each test is a function of a [`domain::Domain`], which says what an operator can do: entries, keys, federation, the
//! life of whatever serves the Workload API. It runs unchanged against both, and uses `hive-security` as any service
//! would. `cargo xtask real` builds SPIRE; without it the tests fail and say so. Every test has a SPIRE of its own,
//! which takes two or three seconds to start and 220 MB.
//!
//! ```text
//!  identities   what a workload is given, and whom it believes
//!  rotation     keys are replaced under load, and no request fails
//!  absence      the agent dies under load; an identity is taken back
//!  federation   ours and ours, ours and SPIRE, SPIRE and SPIRE
//!  spire_agent  SPIRE's own client with our Workload API
//!  vault        the development vault and a real OpenBao answer alike
//! ```
//!
//! # What differs, and what the suite makes of it
//!
//! | | our authority | SPIRE 1.15 |
//! |---|---|---|
//! | who learns of a change | everybody, at once | at the agent's next synchronisation (5 s by default, 1 s here) and the server's cache (likewise) |
//! | the first identity | the earliest entry's | not the order of creation: nothing is said about it here |
//! | `activate` | streams say new X.509-SVIDs at once | X.509-SVIDs follow at half of their life, or when the old key is tainted |
//! | a JWT-SVID | made for each question | the agent's, until half of its life has passed or its key is tainted |
//! | `taint` | streams say new X.509-SVIDs; the bundle stays | the stream of X.509-SVIDs repeats itself, and says new ones a moment later; the bundle stays |
//! | `revoke` before the agent has noticed `taint` | – | the agent goes on handing out tokens of the revoked key; its own X.509-SVID may be of the revoked authority, and then it is cut off. [`domain::Domain::taint`] therefore waits |
//! | JWT keys in the Workload API | with `use` | without `use` |
//! | tokens | with `iss` | without, unless `jwt_issuer` is set |
//! | a federated bundle | comes to every workload | to those whose entry names it, and only once it is known |
//! | the agent's death | connections break, and whatever is asked breaks them; its keys would not survive it | the process is killed, and attests again by what it has on disk |
//! | a bundle endpoint is polled | never: [`domain::Domain::refresh`] hands the document over | at its refresh hint, once a minute at most; `federation refresh` does it now |

mod absence;
mod domain;
mod federation;
mod identities;
mod kubernetes;
mod load;
mod member;
mod ours;
mod peer;
mod rotation;
mod spire;
mod spire_agent;
mod starters;
mod vault;
mod vault_client;
mod waiting;

/// Runs tests that are functions of a [`domain::Domain`] against both.
macro_rules! with_both {
    ($($test:ident),* $(,)?) => {
        mod with_ours {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test::<crate::ours::Ours>().await;
            })*
        }
        mod with_spire {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test::<crate::spire::Spire>().await;
            })*
        }
    };
}

use with_both;
