//! Redis connections.
