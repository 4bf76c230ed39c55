//! Tells a test which secrets were issued, so that it can look for them afterwards. Nothing touches a disk.
//!
//! Every secret that a development server hands out is first sent, as one JSON datagram
//! `{"kind":"…","value":"…"}`, to the Unix datagram socket named by `HIVE_DEV_WITNESS`. A secret that could not
//! be sent is not issued: a test that searches for secrets must know all of them, or it would pass for the wrong reason.
//!
//! | kind | value |
//! |---|---|
//! | `x509-key` | base64 of the PKCS#8 DER |
//! | `jwt-svid`, `vault-token`, `db-password` | as issued |
//! | `kv` | each value read |

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hive_runtime::config::{self, ProcessEnvironment, Reader};
use rustix::event::{PollFd, PollFlags, Timespec};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The environment variable that names the Unix datagram socket of the listening test.
pub const VARIABLE: &str = "HIVE_DEV_WITNESS";

/// How long a full queue is waited for. A test that listens empties it within microseconds.
const SEND_DEADLINE: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// Linux refuses larger datagrams by default (`net.core.wmem_default`).
const DATAGRAM_BYTES_MAX: usize = 212_992;

/// Why an issued secret could not be reported, or a listener not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket.
    #[error("no witness listens at {path}: start the listener first, or unset {VARIABLE}")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The listening socket could not be created.
    #[error(
        "cannot listen for issued secrets at {path}: choose a new path in a directory of your own"
    )]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The witness does not read what it is told.
    #[error("the witness at {path} took nothing for {} s: nothing is issued unseen", SEND_DEADLINE.as_secs())]
    Stalled {
        /// The socket.
        path: PathBuf,
    },
}

/// Where issued secrets are reported, if anywhere.
#[derive(Clone, Default)]
pub struct Witness {
    to: Option<Arc<To>>,
}

struct To {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Witness {
    /// Reports to nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reports to the listener at `path`.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let absent = |source| Error::Absent { path: path.to_owned(), source };
        let socket = UnixDatagram::unbound().map_err(absent)?;
        socket.connect(path).map_err(absent)?;
        socket.set_nonblocking(true).map_err(absent)?;
        Ok(Self { to: Some(Arc::new(To { socket, path: path.to_owned() })) })
    }

    /// Reports to the socket named by `HIVE_DEV_WITNESS`, or to nobody if it is not set.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        reader.optional(VARIABLE, |path| Self::connect(Path::new(path))).unwrap_or_default()
    }

    /// The same, from this process's environment alone.
    pub fn from_env() -> Result<Self, config::Mistakes> {
        config::read(&ProcessEnvironment, |reader| Some(Self::read(reader)))
    }

    /// Reports `value`, before it is issued. On an error it must not be issued.
    pub async fn note(&self, kind: &str, value: &str) -> Result<(), Error> {
        let Some(to) = &self.to else { return Ok(()) };
        let datagram = Zeroizing::new(encode(kind, value));
        match tokio::time::timeout(SEND_DEADLINE, to.send(&datagram)).await {
            Ok(sent) => sent,
            Err(_) => Err(Error::Stalled { path: to.path.clone() }),
        }
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.to.as_ref().map(|to| &to.path);
        f.debug_struct("Witness").field("path", &path).finish()
    }
}

impl To {
    async fn send(&self, datagram: &[u8]) -> Result<(), Error> {
        loop {
            match self.socket.send(datagram) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Absent { path: self.path.clone(), source }),
            }
        }
    }
}

#[derive(Serialize)]
struct Said<'a> {
    kind: &'a str,
    value: &'a str,
}

#[derive(Deserialize)]
struct Heard {
    kind: String,
    value: SecretText,
}

/// A string that goes from the decoder into a secret without a copy that stays behind.
struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

fn encode(kind: &str, value: &str) -> Vec<u8> {
    serde_json::to_vec(&Said { kind, value }).expect("two strings always encode as JSON")
}

/// One secret that was issued.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it is.
    pub kind: String,
    /// The secret itself.
    pub value: SecretString,
}

/// The listening side, for tests. Stops listening and removes its socket when dropped.
pub struct Listener {
    ear: Arc<Ear>,
    path: PathBuf,
}

struct Ear {
    socket: UnixDatagram,
    seen: Mutex<Vec<Seen>>,
}

impl Listener {
    /// Listens at `path`, which must not exist yet.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let failed = |source| Error::Bind { path: path.clone(), source };
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let ear = Arc::new(Ear { socket, seen: Mutex::default() });
        let weak = Arc::downgrade(&ear);
        std::thread::spawn(move || {
            // A thread of its own: the kernel queues ten datagrams, and a test's runtime may be busy for longer.
            while let Some(ear) = weak.upgrade() {
                ear.wait();
                ear.drain();
            }
        });
        Ok(Self { ear, path })
    }

    /// Where it listens: the value for `HIVE_DEV_WITNESS`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every secret issued so far. What was issued before this call is never missing.
    pub fn seen(&self) -> Vec<Seen> {
        self.ear.drain();
        self.ear.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The secrets of one kind.
    pub fn seen_of(&self, kind: &str) -> Vec<SecretString> {
        self.seen().into_iter().filter(|seen| seen.kind == kind).map(|seen| seen.value).collect()
    }

    /// Whether `value` was issued as `kind`.
    pub fn saw(&self, kind: &str, value: &str) -> bool {
        self.seen_of(kind).iter().any(|seen| seen.expose_secret() == value)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already means that the test removed its directory first.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Ear {
    /// Waits until there is something to hear, or for a moment, so that a dropped listener is noticed.
    fn wait(&self) {
        let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = rustix::event::poll(&mut polled, Some(&moment));
    }

    fn drain(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut datagram = Zeroizing::new(vec![0; DATAGRAM_BYTES_MAX]);
        while let Ok(length) = self.socket.recv(&mut datagram) {
            if let Ok(heard) = serde_json::from_slice::<Heard>(&datagram[..length]) {
                seen.push(Seen { kind: heard.kind, value: heard.value.0 });
            }
            datagram[..length].zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[tokio::test]
    async fn what_is_noted_is_seen_even_when_it_is_more_than_the_kernel_queues() {
        let place = place();
        let listener = Listener::bind(place.path().join("witness")).expect("a listener");
        let witness = Witness::connect(listener.path()).expect("it listens");
        for index in 0..100 {
            witness.note("kv", &format!("value {index}")).await.expect("it is heard");
        }
        assert_eq!(listener.seen_of("kv").len(), 100);
        assert!(listener.saw("kv", "value 99"));
    }

    #[tokio::test]
    async fn a_witness_that_has_gone_away_is_an_error() {
        let place = place();
        let listener = Listener::bind(place.path().join("witness")).expect("a listener");
        let witness = Witness::connect(listener.path()).expect("it listens");
        drop(listener);
        // The listening thread lets go of the socket within its polling interval.
        let gone = async {
            while witness.note("kv", "value").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the error comes");
    }

    #[tokio::test]
    async fn a_witness_that_does_not_listen_stalls_the_issuer_only_for_so_long() {
        let place = place();
        let path = place.path().join("witness");
        let _deaf = UnixDatagram::bind(&path).expect("a socket");
        let witness = Witness::connect(&path).expect("it exists");
        let mut last = Ok(());
        for _ in 0..1_000 {
            last = witness.note("kv", "value").await;
            if last.is_err() {
                break;
            }
        }
        assert!(matches!(last, Err(Error::Stalled { .. })));
    }

    #[test]
    fn a_variable_that_names_nobody_is_a_mistake() {
        let strings = [(VARIABLE, "/nonexistent/witness")];
        let mistakes = config::read(&strings.as_slice(), |reader| Some(Witness::read(reader)));
        assert!(
            mistakes.is_err_and(|mistakes| mistakes.to_string().contains("no witness listens"))
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let seen = Seen { kind: "kv".to_owned(), value: SecretString::from("hunter2") };
        assert!(!format!("{seen:?}").contains("hunter2"));
    }
}
