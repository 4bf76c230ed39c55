//! PostgreSQL connections in a pool of sqlx.
