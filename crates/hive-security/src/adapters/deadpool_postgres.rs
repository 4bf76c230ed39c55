//! PostgreSQL connections in a deadpool.
