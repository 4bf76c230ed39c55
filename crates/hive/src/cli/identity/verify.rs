//! Is this token good, and if not, why. The token is never repeated.

use super::show::until;
use crate::cli::stack::{self, Failure};
use hive_runtime::errors::chain;
use hive_security::Audience;
use secrecy::{ExposeSecret, SecretString};
use std::io::Read;
use std::time::SystemTime;

/// More than any token has, so that the verifier can say that it is too long.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

pub(super) async fn verify(token: &str, audience: &str) -> Result<(), Failure> {
    if token != "-" {
        return Err(Failure::bad_input(
            "a token on the command line can be read by every user of this machine; pass - and the token on \
             standard input",
        ));
    }
    let audience = Audience::parse(audience).map_err(|error| Failure::bad_input(chain(&error)))?;
    let token = read()?;
    let workload = stack::attach().await?;
    match workload.verify_jwt(token.expose_secret().trim(), &audience) {
        Ok(verified) => {
            println!("SPIFFE ID     {}", verified.spiffe_id());
            println!("audience      {audience}");
            println!("JWT-SVID      {}", until(verified.expires_at(), SystemTime::now()));
            Ok(())
        }
        Err(refusal) => Err(Failure::error(format!("not valid: {refusal}"))),
    }
}

fn read() -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    // What cannot be read is not shown either.
    read.map_err(|error| Failure::bad_input(format!("standard input: {}", error.kind())))?;
    Ok(SecretString::from(text))
}
