//! The sockets of the Workload API: taking one, giving it back, and who is at the other end of a connection.
//!
//! The socket can be connected to by every user (mode 0666): who gets an identity is decided by attestation, as in
//! SPIRE. Its directory limits who can reach it; one that does not exist is created with mode 0711.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::host::Host;
use super::process::Process;
use super::{AuthorityConfig, Error};

/// `sun_path` has 108 bytes, the last one is zero.
const PATH_BYTES_MAX: usize = 107;
/// A workload needs one or two connections; each costs us two descriptors of the usual 1024.
const CONNECTIONS_MAX: usize = 128;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The socket in the file system. Dropping it removes it, unless it has been replaced by another one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Takes the socket: replaces one that nobody listens at, refuses one where somebody does.
pub(super) fn bind(config: &AuthorityConfig) -> Result<(UnixListener, SocketFile), Error> {
    let path = config.socket.as_path();
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(Error::SocketPathTooLong { path: path.to_owned(), length });
    }
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    create_directory(config.directory()).map_err(failed)?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    let identity = identity(path).map_err(failed)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How many connections are open at most, on all sockets together.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS_MAX))
}

/// A socket of any kind, and a way to know who connects to it.
pub(super) trait Door: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Looks at once at the process that connected: the sooner, the less its number can have been used again.
    fn caller(&self, stream: &Self::Stream) -> impl Future<Output = Option<Caller>> + Send;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }

    async fn caller(&self, stream: &UnixStream) -> Option<Caller> {
        let credentials = stream.peer_cred().ok()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let process = pid.and_then(|pid| Process::open(pid).ok());
        Some(Caller::new(process, credentials.uid(), credentials.gid()))
    }
}

/// Connections, for as long as they are wanted. An error of one accept is not the end of the server.
pub(super) fn connections<D: Door + Sync>(
    door: D,
    room: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Connection<D::Stream>>> {
    unfold((door, room), |(door, room)| async {
        // Waiting here leaves the rest in the kernel's backlog, which refuses what it cannot hold.
        let permit = Arc::clone(&room).acquire_owned().await.ok()?;
        let stream = accept(&door).await;
        let caller = door.caller(&stream).await;
        Some((Ok(Connection::new(stream, caller, permit)), (door, room)))
    })
}

async fn accept<D: Door>(door: &D) -> D::Stream {
    loop {
        match door.accept().await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a workload could not connect");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Who is at the other end: as the kernel said when the connection was made.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// None if it has ended, or cannot be seen from here.
    pub(super) process: Option<Process>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Breaks the connection.
    pub(super) hang_up: CancellationToken,
}

impl Caller {
    pub(super) fn new(process: Option<Process>, uid: u32, gid: u32) -> Self {
        Self { process, uid, gid, hang_up: CancellationToken::new() }
    }
}

/// One workload's connection.
pub(super) struct Connection<S> {
    stream: S,
    caller: Option<Caller>,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    host: Host,
    _room: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, caller: Option<Caller>, room: OwnedSemaphorePermit) -> Self {
        let hang_up = caller.as_ref().map(|caller| caller.hang_up.clone()).unwrap_or_default();
        let hung_up = Box::pin(hang_up.cancelled_owned());
        Self { stream, caller, hung_up, host: Host::default(), _room: room }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Option<Caller>;

    fn connect_info(&self) -> Option<Caller> {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A server always waits to read, so this is where it learns of it.
        if self.hung_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.host.pass(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn create_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(source) => Err(failed(source)),
        Ok(_) => Err(Error::SocketInUse { path: path.to_owned() }),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> AuthorityConfig {
        AuthorityConfig::new(path)
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("deeper").join("api.sock");
        let (listener, file) = bind(&config(&path)).expect("the first");
        let refused = bind(&config(&path)).expect_err("it is live");
        assert!(refused.to_string().contains("another process serves"), "{refused}");
        std::mem::forget(file);
        drop(listener);
        let (_listener, file) = bind(&config(&path)).expect("it is stale");
        assert_eq!(file.path(), path);
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("precious");
        fs::write(&path, "data").expect("written");
        assert!(matches!(bind(&config(&path)), Err(Error::NotASocket { .. })));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_would_cut_is_refused_with_its_length() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("a".repeat(PATH_BYTES_MAX));
        let refused = bind(&config(&path)).expect_err("it is too long");
        assert!(refused.to_string().contains(&path.as_os_str().len().to_string()), "{refused}");
    }

    #[tokio::test]
    async fn a_socket_that_took_our_place_is_not_removed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("api.sock");
        let (_listener, file) = bind(&config(&path)).expect("the first");
        fs::remove_file(&path).expect("removed by someone");
        let _other = UnixListener::bind(&path).expect("the second");
        drop(file);
        assert!(path.exists());
    }
}
