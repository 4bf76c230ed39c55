//! Bearer tokens for HTTP clients.
