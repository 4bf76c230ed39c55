//! The Redis that holds the records. It may be large and in use: it is read in small steps, and never asked for
//! everything at once.

use crate::cli::stack::Failure;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisError, RedisResult, TlsCertificates,
};
use secrecy::{ExposeSecret, SecretString};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Each command looks at a few hundred keys at most.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// Keys that Redis looks at in one step, and those that are read at once.
const STEP: usize = 256;
/// Bytes of a record at most. The registry takes a tenth of that, and refuses more by itself.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a key that are shown.
const SHOWN_BYTES_MAX: usize = 128;

/// Where Redis is, without any secret.
pub(super) struct Address(ConnectionInfo);

/// An open connection.
pub(super) struct Source {
    connection: MultiplexedConnection,
}

/// Where a walk over keys, or over the members of a set, stands; done when there is no cursor.
pub(super) struct Walk {
    command: &'static str,
    /// The set; `None` for the keys.
    set: Option<Vec<u8>>,
    pattern: Vec<u8>,
    cursor: Option<u64>,
}

/// What was found at a key.
pub(super) enum Found {
    Bytes(Vec<u8>),
    TooLong,
    /// It ended since its key was seen.
    Vanished,
    Wrong(String),
}

impl Address {
    /// Reads `redis://[user@]host:port[/db]`. The text is never repeated: it may hold what should not be in it.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let form = "--redis must have the form redis://[user@]host:port[/db], or rediss:// for TLS";
        let info = url.into_connection_info().map_err(|_| Failure::bad_input(form))?;
        if info.redis_settings().password().is_some() {
            return Err(Failure::bad_input(
                "--redis must not hold a password, for everybody here can read a command line: change that password, \
                 and say --redis-password-file or --redis-password-kv",
            ));
        }
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(Failure::bad_input(
                "--redis must not end with #insecure; name the authority with --redis-ca",
            )),
            ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => Ok(Self(info)),
            _ => Err(Failure::bad_input(form)),
        }
    }

    /// Connects, within a deadline.
    pub(super) async fn open(
        self,
        password: Option<SecretString>,
        authorities: Option<&Path>,
    ) -> Result<Source, Failure> {
        let client = self.client(password, authorities)?;
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(COMMAND_DEADLINE));
        let connection = client.get_multiplexed_async_connection_with_config(&settings).await;
        Ok(Source { connection: connection.map_err(|error| failed(&error))? })
    }

    fn client(
        self,
        password: Option<SecretString>,
        authorities: Option<&Path>,
    ) -> Result<Client, Failure> {
        let Self(mut info) = self;
        if let Some(password) = password {
            let settings = info.redis_settings().clone().set_password(password.expose_secret());
            info = info.set_redis_settings(settings);
        }
        let client = match (authorities, info.addr()) {
            (None, _) => Client::open(info),
            (Some(file), ConnectionAddr::TcpTls { .. }) => {
                let wrong = |error| Failure::bad_input(format!("{}: {error}", file.display()));
                let root_cert = Some(std::fs::read(file).map_err(wrong)?);
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            (Some(_), _) => {
                return Err(Failure::bad_input(
                    "--redis-ca says whom to trust in TLS: use rediss://",
                ));
            }
        };
        client.map_err(|error| Failure::bad_input(format!("Redis cannot be used: {error}")))
    }
}

impl Walk {
    /// Over the keys that begin with these bytes.
    pub(super) fn keys(prefix: &str) -> Self {
        let pattern = [&literally(prefix.as_bytes())[..], b"*"].concat();
        Self { command: "SCAN", set: None, pattern, cursor: Some(0) }
    }

    /// Over the members of a set.
    pub(super) fn members(set: Vec<u8>) -> Self {
        Self { command: "SSCAN", set: Some(set), pattern: b"*".to_vec(), cursor: Some(0) }
    }
}

impl Source {
    /// The next of them; `None` after the last. One may come twice.
    pub(super) async fn step(&mut self, walk: &mut Walk) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let Some(cursor) = walk.cursor else { return Ok(None) };
        let mut command = redis::cmd(walk.command);
        if let Some(set) = &walk.set {
            command.arg(set);
        }
        command.arg(cursor).arg("MATCH").arg(&walk.pattern).arg("COUNT").arg(STEP);
        let answer: RedisResult<(u64, Vec<Vec<u8>>)> =
            command.query_async(&mut self.connection).await;
        let (next, found) = answer.map_err(|error| failed(&error))?;
        walk.cursor = Some(next).filter(|next| *next != 0);
        Ok(Some(found))
    }

    /// What is at each of these keys.
    pub(super) async fn read(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Found>, Failure> {
        // One byte more than may be there tells what is too long, and the rest of it stays where it is.
        let read = |pipe: &mut redis::Pipeline, key: &[u8]| {
            pipe.cmd("GETRANGE").arg(key).arg(0).arg(RECORD_BYTES_MAX);
        };
        let found: Vec<RedisResult<Vec<u8>>> = self.each(keys, read).await?;
        let judged = found.into_iter().map(|found| match found {
            Ok(bytes) if bytes.is_empty() => Ok(Found::Vanished),
            Ok(bytes) if bytes.len() > RECORD_BYTES_MAX => Ok(Found::TooLong),
            Ok(bytes) => Ok(Found::Bytes(bytes)),
            Err(error) if is_lost(&error) => Err(failed(&error)),
            Err(error) => Ok(Found::Wrong(shown(error.to_string().as_bytes()))),
        });
        judged.collect()
    }

    /// How many of these keys are not there.
    pub(super) async fn missing(&mut self, keys: &[Vec<u8>]) -> Result<usize, Failure> {
        let exists = |pipe: &mut redis::Pipeline, key: &[u8]| {
            pipe.cmd("EXISTS").arg(key);
        };
        let found: Vec<RedisResult<bool>> = self.each(keys, exists).await?;
        Ok(found.iter().filter(|found| matches!(found, Ok(false))).count())
    }

    /// One command for each key, all in one round trip.
    async fn each<T: FromRedisValue>(
        &mut self,
        keys: &[Vec<u8>],
        add: impl Fn(&mut redis::Pipeline, &[u8]),
    ) -> Result<Vec<RedisResult<T>>, Failure> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        keys.iter().for_each(|key| add(&mut pipe, key));
        let answers = pipe.ignore_errors().query_async(&mut self.connection).await;
        answers.map_err(|error| failed(&error))
    }
}

fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

fn failed(error: &RedisError) -> Failure {
    let message = format!("Redis: {}", shown(error.to_string().as_bytes()));
    if is_lost(error) { Failure::unavailable(message) } else { Failure::error(message) }
}

/// The pattern that means just these bytes.
fn literally(bytes: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if br"*?[]^\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

/// A stranger's bytes, for a terminal: their beginning, with an escape for whatever is not plain text.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string();
    if bytes.len() > SHOWN_BYTES_MAX {
        // Writing to a string cannot fail.
        _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_refused_and_not_repeated() {
        for url in [
            "redis://:hunter2@cache:6379",
            "rediss://reader:hunter2@cache",
            "unix:///s?pass=hunter2",
        ] {
            let refused = Address::parse(url).err().expect("it holds a password");
            assert_eq!(refused.status, 64);
            assert!(!refused.message.contains("hunter2"), "{}", refused.message);
        }
    }

    #[test]
    fn an_address_is_of_redis_over_tcp_and_secure_if_it_says_so() {
        for url in ["redis://cache", "redis://reader@cache:6380/2", "rediss://cache:6379"] {
            assert!(Address::parse(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "cache:6379",
            "http://cache",
            "redis://",
            "rediss://cache#insecure",
            "unix:///socket",
        ] {
            assert_eq!(Address::parse(url).err().map(|refused| refused.status), Some(64), "{url}");
        }
        let plain = Address::parse("redis://cache").expect("an address");
        assert!(
            plain.client(None, Some(Path::new("/dev/null"))).is_err(),
            "nothing to trust there"
        );
    }

    #[test]
    fn a_prefix_is_meant_literally() {
        assert_eq!(Walk::keys(r"a*[b]?\").pattern, br"a\*\[b\]\?\\*");
    }

    #[test]
    fn what_is_shown_is_short_and_cannot_drive_a_terminal() {
        assert_eq!(shown(b"worker:\x1b[2J\xff"), r"worker:\x1b[2J\xff");
        assert!(shown(&[0; 100_000]).len() < 600);
    }
}
