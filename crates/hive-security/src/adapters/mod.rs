//! Holders for the clients that services use, each behind the feature that is named after its library.

#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
pub mod files;
pub mod http;
#[cfg(feature = "rdkafka")]
pub mod rdkafka;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlx")]
pub mod sqlx;
