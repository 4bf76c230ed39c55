//! Logs: structured events on standard error. Only binaries call this; libraries emit `tracing` events.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is logged when nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn,h2=warn,hyper=warn,spiffe=warn";

/// Sends events that pass `filter` (the syntax of `tracing_subscriber::EnvFilter`) to standard error.
///
/// A second call does nothing: the first subscriber of a process stays.
pub fn init(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        assert!(init("hive=loud").is_err());
        assert!(EnvFilter::builder().parse(DEFAULT_FILTER).is_ok());
    }
}
