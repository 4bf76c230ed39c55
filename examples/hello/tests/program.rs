//! The program as its users meet it.

use std::process::{Command, Output};

fn hello(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hello")).args(arguments).output().expect("hello starts")
}

#[test]
fn it_says_which_version_it_is() {
    let version = format!("hello {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&hello(&["--version"]).stdout), version);
}

#[test]
fn it_greets_the_world_when_nobody_is_named() {
    assert_eq!(String::from_utf8_lossy(&hello(&[]).stdout), "Hello, world!\n");
}

#[test]
fn it_fails_with_its_usage_on_an_unknown_option() {
    let output = hello(&["--loud"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: hello"));
}
