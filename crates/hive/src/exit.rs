//! What the exit status of `hive` means. Scripts rely on these numbers.

use std::process::ExitCode;

/// It was done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;

/// It went wrong in a way that none of the other numbers names.
pub(crate) const ERROR: ExitCode = ExitCode::FAILURE;

/// A plan failed or was cancelled, and everything that can be undone was.
pub(crate) const UNDONE: u8 = 2;

/// A plan failed and an undo failed too: something was left behind.
pub(crate) const STUCK: u8 = 3;

/// The input cannot be used: a plan with mistakes, a wrong flag, a bad setting (`EX_USAGE`).
pub(crate) const BAD_INPUT: u8 = 64;

/// A server that is needed does not answer (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;
