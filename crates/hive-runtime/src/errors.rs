//! How an error is told to a person.

use std::error::Error;

/// An error with its causes, on one line. Errors of ours do not repeat their cause in their own words.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the door is shut")]
    struct Shut(#[source] std::fmt::Error);

    #[test]
    fn every_cause_is_told_once() {
        let told = chain(&Shut(std::fmt::Error));
        assert_eq!(told, format!("the door is shut: {}", std::fmt::Error));
    }
}
