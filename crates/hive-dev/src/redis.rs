//! A throw-away Redis on loopback, whose default user has a password and everything else is up to ACLs.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use crate::server::Error;
use crate::server::{Server, free_ports, make_directory, write_private};
use crate::vault::random_text;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// A running server. Stop it with [`stop`](Self::stop); dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    /// Loopback address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user that may do everything.
    pub username: String,
    /// That user's password, random.
    pub password: SecretString,
    program: PathBuf,
    directory: PathBuf,
    server: Server,
}

impl Redis {
    /// Starts `program`, such as `redis-server`, with its files in `directory`, which the caller removes.
    pub async fn start(program: &Path, directory: &Path) -> Result<Self, Error> {
        make_directory(directory)?;
        let [port] = free_ports()
            .map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
        let password = SecretString::from(random_text(32));
        let configuration = directory.join("redis.conf");
        write_private(&configuration, &settings(port, directory, &password))?;
        let server = launch(program, directory, port, &password).await?;
        Ok(Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            username: "default".to_owned(),
            password,
            program: program.to_owned(),
            directory: directory.to_owned(),
            server,
        })
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops it and starts it again, at the same port, with nothing in it.
    pub async fn restart(self) -> Result<Self, Error> {
        self.server.stop().await;
        let server = launch(&self.program, &self.directory, self.port, &self.password).await?;
        Ok(Self { server, ..self })
    }

    /// Stops it.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Nothing is kept; the password is in the file and not in the arguments, which everyone can read.
fn settings(port: u16, directory: &Path, password: &SecretString) -> String {
    format!(
        "bind 127.0.0.1\nport {port}\ndir {}\nsave \"\"\nappendonly no\nrequirepass {}\n",
        directory.display(),
        password.expose_secret()
    )
}

async fn launch(
    program: &Path,
    directory: &Path,
    port: u16,
    password: &SecretString,
) -> Result<Server, Error> {
    let configuration = directory.join("redis.conf");
    let log = directory.join("redis.log");
    let mut server = Server::start(program, &[configuration.as_os_str()], &[], &log)?;
    server.ready(START_DEADLINE, || answers(port, password)).await?;
    Ok(server)
}

/// Whether this is the server that was started: another would not know the password.
async fn answers(port: u16, password: &SecretString) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return false;
    };
    let line = format!("AUTH {}\r\n", password.expose_secret());
    let mut answer = [0; 3];
    stream.write_all(line.as_bytes()).await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && &answer == b"+OK"
}
