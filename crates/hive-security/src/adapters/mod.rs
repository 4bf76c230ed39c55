//! Holders for the clients that services use, each behind the feature that is named after its library.

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
pub mod files;
pub mod http;
mod login;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
mod postgres;
#[cfg(feature = "rdkafka")]
pub mod rdkafka;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlx")]
pub mod sqlx;

pub use login::Barred;
#[cfg(any(feature = "deadpool-postgres", feature = "sqlx"))]
pub use postgres::Doubt;
