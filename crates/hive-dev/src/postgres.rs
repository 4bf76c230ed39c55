//! A throw-away PostgreSQL cluster on loopback, from the programs found on this machine.
//!
//! It survives no crash of the machine (`fsync = off`) and needs to survive none: its directory is removed with it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::vault::random_text;

const START_DEADLINE: Duration = Duration::from_secs(90);
/// Long enough for a checkpoint of a small cluster.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// The superuser, and the database that is created.
const SUPERUSER: &str = "hive";
const DATABASE: &str = "hive";
/// Where Debian puts the programs that are not on the PATH.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Why there is no PostgreSQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the cluster could not be prepared.
    #[error("cannot prepare {path} for PostgreSQL: check that its directory is writable")]
    Directory {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended instead of starting, or never answered.
    #[error("PostgreSQL did not start ({why}): see {log}")]
    NotStarted {
        /// What was seen.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// A program could not be run, or failed.
    #[error("{program} failed ({why})")]
    Program {
        /// Which.
        program: PathBuf,
        /// Its last words.
        why: String,
    },
    /// The server runs, but could not be secured, and was stopped again.
    #[error("PostgreSQL could not be given a password ({why})")]
    Secure {
        /// What went wrong, without any statement.
        why: &'static str,
    },
    /// We are root, PostgreSQL refuses root, and there is nobody else.
    #[error(
        "PostgreSQL does not run as root, and this machine has no user `postgres` or `nobody` to run it as"
    )]
    User,
}

/// The programs of a PostgreSQL installation.
#[derive(Clone, Debug)]
pub struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Programs {
    /// Looks for `initdb` and `postgres` on the PATH, then in Debian's directories, newest first; None without both.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(debian_directories())
            .find_map(|directory| Self::in_directory(&directory))
    }

    fn in_directory(directory: &Path) -> Option<Self> {
        let (initdb, postgres) = (directory.join("initdb"), directory.join("postgres"));
        (directory.is_absolute() && is_program(&initdb) && is_program(&postgres))
            .then_some(Self { initdb, postgres })
    }
}

/// Where and how to start a cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The programs to use.
    pub programs: Programs,
    /// A directory of its own; made if it is not there, and removed by the caller after `stop`. Its parents must be
    /// passable for the user that PostgreSQL runs as; otherwise choose one in the system's temporary directory.
    pub directory: PathBuf,
    /// The beginning of the server's command line: a program that arranges for its process to die with its parent
    /// and then executes the rest of its arguments in its place.
    pub launcher: Option<Vec<OsString>>,
}

/// A running cluster. Stop it with [`stop`](Self::stop); dropping it kills the server without a farewell.
#[derive(Debug)]
pub struct Postgres {
    /// Loopback address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that was created.
    pub database: String,
    /// The superuser.
    pub username: String,
    /// The superuser's password, random.
    pub password: SecretString,
    server: Child,
    pid: u32,
}

impl Postgres {
    /// Creates a cluster, starts it, gives its superuser a password, and requires one from everybody from then on.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let files = Files::prepare(&config.directory)?;
        initdb(&config.programs.initdb, &files).await?;
        files.configure()?;
        let (port, server) = start_server(&config, &files).await?;
        let pid = server.id().unwrap_or_default();
        let password = SecretString::from(random_text(32));
        let postgres = Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            database: DATABASE.to_owned(),
            username: SUPERUSER.to_owned(),
            password,
            server,
            pid,
        };
        match postgres.secure(&files).await {
            Ok(()) => Ok(postgres),
            Err(why) => {
                postgres.stop().await;
                Err(Error::Secure { why })
            }
        }
    }

    /// How it is reached, without a login. Statements are not logged: they may hold passwords.
    pub fn server(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().host(&self.host).port(self.port);
        let options = options.database(&self.database).ssl_mode(PgSslMode::Disable);
        options.disable_statement_logging()
    }

    /// How it is reached, as Vault's database engine is told: the login stands beside it, not in it.
    pub fn connection_url(&self) -> String {
        let Self { host, port, database, .. } = self;
        format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{database}?sslmode=disable"
        )
    }

    /// Process id of the server, which has children of its own.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops the cluster: at first by asking, sessions or not, and after five seconds by force.
    pub async fn stop(mut self) {
        self.signal(Signal::INT);
        if timeout(STOP_DEADLINE, self.server.wait()).await.is_ok() {
            return;
        }
        // Its children notice within moments that it is gone.
        self.signal(Signal::QUIT);
        if timeout(STOP_DEADLINE, self.server.wait()).await.is_err() {
            let _ = self.server.kill().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // `id` is None once it was waited for: the number may belong to another process then.
        let pid = self.server.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// While this runs the only way in is a socket in a directory that nobody else can enter.
    async fn secure(&self, files: &Files) -> Result<(), &'static str> {
        let socket = self.options().socket(&files.socket).database("postgres");
        let mut connection = connect(&socket).await?;
        let secret = self.password.expose_secret();
        // The password is letters and digits of our own making.
        execute(&mut connection, format!("ALTER ROLE {SUPERUSER} PASSWORD '{secret}'")).await?;
        execute(&mut connection, format!("CREATE DATABASE {DATABASE}")).await?;
        files.write("pg_hba.conf", HBA_PASSWORD).map_err(|_| "pg_hba.conf cannot be written")?;
        execute(&mut connection, "SELECT pg_reload_conf()".to_owned()).await?;
        let _ = connection.close().await;
        self.await_passwords(&socket).await
    }

    /// A reload is only asked for; it has happened when the socket no longer lets us in without a password.
    async fn await_passwords(&self, socket: &PgConnectOptions) -> Result<(), &'static str> {
        let deadline = Instant::now() + STOP_DEADLINE;
        while socket.connect().await.is_ok() {
            if Instant::now() > deadline {
                return Err("it still lets in whoever has no password");
            }
            sleep(POLL).await;
        }
        let tcp = self
            .options()
            .host(&self.host)
            .database(&self.database)
            .password(self.password.expose_secret());
        let connection = connect(&tcp).await?;
        connection.close().await.map_err(|_| "the connection broke")
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().port(self.port).username(SUPERUSER);
        // A statement of ours holds a password, so none is logged.
        options.ssl_mode(PgSslMode::Disable).disable_statement_logging()
    }
}

/// Only the socket, and only until there is a password.
const HBA_TRUST: &str = "local all all trust\n";
const HBA_PASSWORD: &str = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// No statement and no value reaches the log, for a statement may hold a password.
const SETTINGS: &str = "
autovacuum = on
fsync = off
full_page_writes = off
jit = off
listen_addresses = '127.0.0.1'
log_min_error_statement = panic
log_parameter_max_length_on_error = 0
log_statement = none
max_connections = 100
max_wal_size = '64MB'
min_wal_size = '32MB'
password_encryption = scram-sha-256
shared_buffers = '16MB'
ssl = off
synchronous_commit = off
unix_socket_permissions = 0700
wal_level = minimal
max_wal_senders = 0
";

/// The directories of a cluster, all of them private to the user it runs as.
struct Files {
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    user: Option<User>,
}

/// Whom to run as; only root has to become somebody else.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Files {
    fn prepare(directory: &Path) -> Result<Self, Error> {
        let user = rustix::process::geteuid()
            .is_root()
            .then(|| find_user().ok_or(Error::User))
            .transpose()?;
        let files = Self {
            data: directory.join("data"),
            socket: directory.join("socket"),
            log: directory.join("postgres.log"),
            user,
        };
        for path in [directory, &files.data, &files.socket] {
            files
                .make_directory(path)
                .map_err(|source| Error::Directory { path: path.to_owned(), source })?;
        }
        Ok(files)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        self.give(path)
    }

    fn configure(&self) -> Result<(), Error> {
        self.write("pg_hba.conf", HBA_TRUST)?;
        let socket = self.socket.display();
        self.write("postgresql.conf", &format!("{SETTINGS}unix_socket_directories = '{socket}'\n"))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.data.join(name);
        let written = fs::write(&path, text).and_then(|()| self.give(&path));
        written.map_err(|source| Error::Directory { path, source })
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        self.user.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
    }

    fn open_log(&self) -> Result<File, Error> {
        let failed = |source| Error::Directory { path: self.log.clone(), source };
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        fs::set_permissions(&self.log, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(log)
    }

    /// A program with an environment of its own, as the right user, in a directory that it may enter.
    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(&self.data)
            .stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.kill_on_drop(true);
        command
    }
}

async fn initdb(program: &Path, files: &Files) -> Result<(), Error> {
    let failed = |why: String| Error::Program { program: program.to_owned(), why };
    let mut command = files.command(program.as_os_str());
    command.args([
        "--no-sync",
        "--no-instructions",
        "--locale=C",
        "--encoding=UTF8",
        "--auth=trust",
        "--username",
    ]);
    command
        .arg(SUPERUSER)
        .arg("--pgdata")
        .arg(&files.data)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = timeout(START_DEADLINE, command.output()).await;
    let output = output
        .map_err(|_| failed("it took too long".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word").to_owned()))
}

/// A free port may be taken between our look and the server's: then another is tried.
async fn start_server(config: &Config, files: &Files) -> Result<(u16, Child), Error> {
    let mut last = None;
    for _ in 0..3 {
        let port = free_port()
            .map_err(|source| Error::Directory { path: files.socket.clone(), source })?;
        let mut server = spawn(config, files, port)?;
        match await_socket(&mut server, files, port).await {
            Ok(()) => return Ok((port, server)),
            Err(why) => {
                let _ = server.kill().await;
                last = Some(why);
            }
        }
    }
    Err(Error::NotStarted { why: last.unwrap_or_default(), log: files.log.clone() })
}

fn spawn(config: &Config, files: &Files, port: u16) -> Result<Child, Error> {
    let program = &config.programs.postgres;
    let failed =
        |error: io::Error| Error::Program { program: program.clone(), why: error.to_string() };
    let mut words = config
        .launcher
        .clone()
        .unwrap_or_default()
        .into_iter()
        .chain([program.clone().into_os_string()]);
    let first = words.next().unwrap_or_default();
    let log = files.open_log()?;
    let mut command = files.command(&first);
    command.args(words).arg("-D").arg(&files.data).arg("-p").arg(port.to_string());
    command.stdout(log.try_clone().map_err(failed)?).stderr(log);
    command.spawn().map_err(failed)
}

async fn await_socket(server: &mut Child, files: &Files, port: u16) -> Result<(), String> {
    let socket = files.socket.join(format!(".s.PGSQL.{port}"));
    let options =
        PgConnectOptions::new_without_pgpass().socket(&files.socket).port(port).username(SUPERUSER);
    let options =
        options.database("postgres").ssl_mode(PgSslMode::Disable).disable_statement_logging();
    let deadline = Instant::now() + START_DEADLINE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("it ended with {status}"));
        }
        if socket.exists() && options.connect().await.is_ok() {
            return Ok(());
        }
        sleep(POLL).await;
    }
    Err("it did not answer in time".to_owned())
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, &'static str> {
    timeout(STOP_DEADLINE, options.connect())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or("it does not let us in")
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), &'static str> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await;
    done.map(drop).map_err(|_| "it refuses a statement")
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn find_user() -> Option<User> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| passwd.lines().find_map(|line| user_of(line, name)))
}

fn user_of(line: &str, name: &str) -> Option<User> {
    let fields: Vec<_> = line.split(':').collect();
    let [found, _, uid, gid, ..] = fields[..] else { return None };
    (found == name).then_some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

fn debian_directories() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(DEBIAN) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
