//! Is there a socket, may this process use it, and does anybody listen.

use super::{Finding, Problem};
use hive_security::Endpoint;
use rustix::fs::Access;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// Something on this machine accepts a connection at once or not at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the file system says.
pub(super) fn check(endpoint: &str) -> Finding {
    let endpoint = parse(endpoint)?;
    let Some(path) = endpoint.path() else {
        return Ok("an address and not a file".to_owned());
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(closed(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(path)),
        Err(error) => return Err(unreadable(path, &error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Problem::new(
            format!("{} is {} and not a socket", path.display(), kind(&metadata)),
            "correct SPIFFE_ENDPOINT_SOCKET; it is the socket itself, not its directory",
        ));
    }
    if rustix::fs::access(path, Access::WRITE_OK).is_err() {
        return Err(forbidden(path, &metadata));
    }
    Ok(format!(
        "mode {:04o}, owner {}:{}",
        metadata.mode() & 0o7777,
        metadata.uid(),
        metadata.gid()
    ))
}

/// Whether anybody accepts a connection.
pub(super) async fn listener(endpoint: &str) -> Finding {
    let endpoint = parse(endpoint)?;
    let connect = async {
        match &endpoint {
            Endpoint::Tcp(address) => tokio::net::TcpStream::connect(address).await.map(drop),
            Endpoint::Unix(path) => tokio::net::UnixStream::connect(path).await.map(drop),
            _ => Ok(()),
        }
    };
    match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(())) => Ok("somebody accepts connections".to_owned()),
        Ok(Err(error)) => Err(refused(&endpoint, &error)),
        Err(_) => Err(Problem::new(
            format!("nobody accepted the connection within {PATIENCE:?}"),
            "restart the SPIRE agent: it holds the socket and does not look at it",
        )),
    }
}

fn parse(endpoint: &str) -> Result<Endpoint, Problem> {
    Endpoint::parse(endpoint)
        .map_err(|error| Problem::new(error.to_string(), "correct SPIFFE_ENDPOINT_SOCKET"))
}

fn missing(path: &Path) -> Problem {
    // The deepest directory that is there says which part of the path is wrong.
    let there = path.ancestors().skip(1).find(|parent| parent.exists());
    let there = there.map(|parent| format!("; {} exists", parent.display())).unwrap_or_default();
    Problem::new(
        format!("there is nothing at {}{there}", path.display()),
        "start the SPIRE agent; in a container, mount the directory of its socket (with the SPIFFE CSI driver, say); \
         or correct SPIFFE_ENDPOINT_SOCKET",
    )
}

/// A directory on the way may not be passed.
fn closed(path: &Path) -> Problem {
    let mut parents: Vec<_> = path.ancestors().skip(1).collect();
    parents.reverse();
    let closed =
        parents.into_iter().find(|parent| rustix::fs::access(*parent, Access::EXEC_OK).is_err());
    let closed = closed.unwrap_or(path);
    let uid = rustix::process::geteuid().as_raw();
    let mode = fs::metadata(closed).map(|metadata| describe(&metadata)).unwrap_or_default();
    Problem::new(
        format!("user {uid} may not enter {}{mode}", closed.display()),
        format!("let this user in: chmod o+x {0}, or a group that both are in", closed.display()),
    )
}

fn forbidden(path: &Path, metadata: &fs::Metadata) -> Problem {
    let uid = rustix::process::geteuid().as_raw();
    Problem::new(
        format!("user {uid} may not connect to {}{}", path.display(), describe(metadata)),
        "connecting needs the right to write: the SPIRE agent makes its socket with mode 0777 and restricts nothing, \
         so somebody else changed it; restart the agent, or chmod it",
    )
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::new(format!("{}: {error}", path.display()), "correct SPIFFE_ENDPOINT_SOCKET")
}

fn refused(endpoint: &Endpoint, error: &io::Error) -> Problem {
    match (error.kind(), endpoint.path()) {
        (ErrorKind::ConnectionRefused, Some(path)) => Problem::new(
            format!("nobody listens at {}: a process that ended left it behind", path.display()),
            "start the SPIRE agent; it replaces the socket",
        ),
        (ErrorKind::ConnectionRefused, None) => Problem::new(
            format!("nobody listens at {endpoint}"),
            "start the SPIRE agent, or the proxy in front of its socket",
        ),
        (ErrorKind::PermissionDenied, _) => Problem::new(
            format!("connecting to {endpoint} is not permitted"),
            "see what a security module (SELinux, AppArmor, seccomp) says in the kernel's log",
        ),
        _ => Problem::new(
            format!("connecting to {endpoint}: {error}"),
            "correct SPIFFE_ENDPOINT_SOCKET; it must be a stream socket that a SPIRE agent listens on",
        ),
    }
}

fn describe(metadata: &fs::Metadata) -> String {
    let mode = metadata.mode() & 0o7777;
    format!(" (mode {mode:04o}, owner {}:{})", metadata.uid(), metadata.gid())
}

fn kind(metadata: &fs::Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_file() {
        "a file"
    } else {
        "something else"
    }
}
