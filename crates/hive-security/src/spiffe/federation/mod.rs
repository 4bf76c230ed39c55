//! Federation: the bundles of other trust domains, fetched from their bundle endpoints and kept current
//! (SPIFFE_Federation.md).
//!
//! A [`Relationship`] says whose bundle it is, where it is served, and how the endpoint is known; none of the three
//! is ever guessed from another (§7.2). [`follow`] keeps one bundle current, [`follow_all`] a [`Verifier`](crate::Verifier) for
//! several trust domains, and [`Relationship::fetch`] asks once.
//!
//! ```no_run
//! use hive_security::federation::{EndpointBundle, Profile, Relationship, WebRoots, follow_all};
//! use hive_security::{Audience, BundleDocument, SpiffeId, TrustDomain};
//! use tokio_util::sync::CancellationToken;
//!
//! # fn example(bootstrap: &[u8], token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! // Known by a public certificate authority, like a web page.
//! let partner = TrustDomain::parse("partner.example")?;
//! let profile = Profile::HttpsWeb(WebRoots::system());
//! let partner = Relationship::new(partner, "https://bundles.partner.example/prod", profile)?;
//!
//! // Known by its X.509-SVID. The first bundle comes with the settings, the later ones verify themselves.
//! let plant = TrustDomain::parse("plant.example")?;
//! let bundle = EndpointBundle::Given(BundleDocument::parse(&plant, bootstrap)?);
//! let endpoint_id = SpiffeId::parse("spiffe://plant.example/bundle-endpoint")?;
//! let profile = Profile::HttpsSpiffe { endpoint_id, bundle };
//! let plant = Relationship::new(plant, "https://10.1.2.3:8443/bundle", profile)?;
//!
//! let stop = CancellationToken::new();
//! let (verifier, followers) = follow_all([partner, plant])?;
//! tokio::spawn(followers.run(stop.clone()));
//!
//! let audience = Audience::parse("orders.example")?;
//! let caller = verifier.current().verify_jwt(token, &audience, std::time::SystemTime::now())?;
//! # let _ = caller;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!  relationship ──▶ fetch ──TLS, by its profile──▶ endpoint
//!                     │ at most 30 s, 4 MiB, 5 redirects
//!                     ▼
//!  schedule ──when──▶ follow ──what is newer──▶ Rotating<Option<BundleDocument>> ──▶ Rotating<Verifier>
//! ```
//!
//! What cannot be fetched, authenticated or read replaces nothing, and is tried again at the next regular poll
//! (§6.2). A bundle without keys does replace: from then on nothing of its trust domain is trusted. What is known is
//! kept in memory; a process that starts again begins with its settings.

mod error;
mod fetch;
mod follower;
mod proof;
mod relationship;
mod schedule;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use follower::{Follower, Followers, follow, follow_all};
pub use relationship::{EndpointBundle, Profile, Relationship, WebRoots};
pub use schedule::{Poll, Polling, Schedule};
