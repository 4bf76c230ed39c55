//! Credential files for programs that are not ours.
