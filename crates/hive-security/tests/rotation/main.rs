//! Credentials that are replaced under load, on real servers.
//!
//! Every test runs once in the right order, adopt, drain, revoke, in which nothing may fail; and once with the order
//! reversed, in which something must: otherwise the load would prove nothing. Kafka is the exception: it leaves the sessions of a removed user open.

mod deadpool_postgres;
#[path = "../../benches/layered/echo.rs"]
mod echo;
mod grpc;
mod identity;
mod kafka;
mod load;
mod postgres;
mod redis;
mod redis_server;
mod rotation;
mod sqlx;
mod together;
mod work;
mod world;
