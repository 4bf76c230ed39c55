//! A throw-away OpenBao on loopback: the real server, for the tests that ours has to pass as well.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::calls;
pub use crate::server::Error;
use crate::server::{Server, free_ports, make_directory, write_private};
use crate::vault::random_text;

/// A node with storage elects itself before it serves, which takes seconds where disks are slow.
const START_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A running server, unsealed. Stop it with [`stop`](Self::stop); dropping it kills it.
#[derive(Debug)]
pub struct OpenBao {
    /// Where it serves: `http://127.0.0.1:<port>`, or `https` if it was started so.
    pub address: String,
    /// The authority of its certificate, PEM, if it serves over TLS.
    pub ca_pem: Option<String>,
    /// The token that may do everything.
    pub root_token: SecretString,
    program: PathBuf,
    directory: PathBuf,
    unseal_key: Option<SecretString>,
    server: Server,
}

impl OpenBao {
    /// Starts `program` in its development mode: in memory, unsealed, ready in a moment. It cannot be restarted.
    pub async fn dev(program: &Path, directory: &Path) -> Result<Self, Error> {
        Self::in_memory(program, directory, false).await
    }

    /// Like [`dev`](Self::dev), over TLS, with an authority of its own. It asks clients for certificates and demands
    /// none.
    pub async fn dev_over_tls(program: &Path, directory: &Path) -> Result<Self, Error> {
        Self::in_memory(program, directory, true).await
    }

    async fn in_memory(program: &Path, directory: &Path, is_tls: bool) -> Result<Self, Error> {
        make_directory(directory)?;
        let [port] = free_ports().map_err(in_directory(directory))?;
        let root_token = SecretString::from(random_text(24));
        let listen = format!("-dev-listen-address=127.0.0.1:{port}");
        let certificates = format!("-dev-tls-cert-dir={}", directory.display());
        // Not an argument, which everyone can read.
        let token = [("BAO_DEV_ROOT_TOKEN_ID", OsStr::new(root_token.expose_secret()))];
        let mut arguments = vec!["server", "-dev", "-dev-no-store-token", &listen];
        if is_tls {
            arguments.extend(["-dev-tls", &certificates]);
        }
        let arguments: Vec<_> = arguments.into_iter().map(OsStr::new).collect();
        let log = directory.join("openbao.log");
        let mut server = Server::start(program, &arguments, &token, &log)?;
        let address = format!("{}://127.0.0.1:{port}", if is_tls { "https" } else { "http" });
        let authority = directory.join("vault-ca.pem");
        let is_settled = || has_versions(&address, &authority, &root_token);
        server.ready(START_DEADLINE, is_settled).await?;
        let ca_pem = if is_tls { read(&authority).await } else { None };
        Ok(Self {
            address,
            ca_pem,
            root_token,
            program: program.to_owned(),
            directory: directory.to_owned(),
            unseal_key: None,
            server,
        })
    }

    /// Starts `program` with storage in `directory`, initialises and unseals it. It survives a restart.
    pub async fn durable(program: &Path, directory: &Path) -> Result<Self, Error> {
        make_directory(&directory.join("data"))?;
        let [port, cluster] = free_ports().map_err(in_directory(directory))?;
        let address = format!("http://127.0.0.1:{port}");
        write_private(&directory.join("openbao.hcl"), &settings(port, cluster, directory))?;
        let mut server = launch(program, directory, &address).await?;
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = call("PUT", &address, "sys/init", &shares).await;
        let text = |value: &Value| value.as_str().map(SecretString::from);
        let secrets =
            made.and_then(|made| Some((text(&made["root_token"])?, text(&made["keys"][0])?)));
        let Some((root_token, key)) = secrets else {
            return Err(server.not_started("it cannot be initialised".to_owned()));
        };
        unseal(&mut server, &address, &key).await?;
        Ok(Self {
            address,
            ca_pem: None,
            root_token,
            program: program.to_owned(),
            directory: directory.to_owned(),
            unseal_key: Some(key),
            server,
        })
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Kills it, as a crash would, and brings it back. Only for one that is [`durable`](Self::durable).
    pub async fn restart(self) -> Result<Self, Error> {
        let (program, directory, address) = (self.program, self.directory, self.address);
        self.server.kill().await;
        let mut server = launch(&program, &directory, &address).await?;
        match &self.unseal_key {
            Some(key) => unseal(&mut server, &address, key).await?,
            None => return Err(server.not_started("it was in memory and is gone".to_owned())),
        }
        Ok(Self { address, program, directory, server, ..self })
    }

    /// Unseals it, after somebody sealed it. Only for one that is [`durable`](Self::durable).
    pub async fn unseal(&mut self) -> Result<(), Error> {
        let Some(key) = self.unseal_key.clone() else {
            return Err(self.server.not_started("its key is not known".to_owned()));
        };
        unseal(&mut self.server, &self.address, &key).await
    }

    /// Stops it.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn in_directory(directory: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |source| Error::Directory { path: directory.to_owned(), source }
}

fn settings(port: u16, cluster: u16, directory: &Path) -> String {
    format!(
        "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"one\"\n}}\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_disable = true\n}}\n\
         api_addr = \"http://127.0.0.1:{port}\"\ncluster_addr = \"http://127.0.0.1:{cluster}\"\n",
        directory.join("data").display()
    )
}

async fn launch(program: &Path, directory: &Path, address: &str) -> Result<Server, Error> {
    let configuration = format!("-config={}", directory.join("openbao.hcl").display());
    let arguments = ["server", &configuration].map(OsStr::new);
    let mut server = Server::start(program, &arguments, &[], &directory.join("openbao.log"))?;
    server.ready(START_DEADLINE, || answers(address)).await?;
    Ok(server)
}

async fn unseal(server: &mut Server, address: &str, key: &SecretString) -> Result<(), Error> {
    let body = json!({ "key": key.expose_secret() });
    if call("PUT", address, "sys/unseal", &body).await.is_none() {
        return Err(server.not_started("it cannot be unsealed".to_owned()));
    }
    server.ready(START_DEADLINE, || serves(address)).await
}

/// It answers at all, even if it is sealed or was never initialised.
async fn answers(address: &str) -> bool {
    call("GET", address, "sys/seal-status", &Value::Null).await.is_some()
}

/// It is active: `sys/health` is a success for nothing else.
async fn serves(address: &str) -> bool {
    call("GET", address, "sys/health", &Value::Null).await.is_some()
}

/// It is active, and the engine that the development mode mounts has its versions, which it gets behind the first answers. A server whose
/// engine is unmounted meanwhile divides by zero and hangs up (2.7.2 does).
async fn has_versions(address: &str, authority: &Path, token: &SecretString) -> bool {
    let Some(roots) = roots(address, authority).await else { return false };
    ask(roots, Some(token), "GET", address, "secret/config", &Value::Null).await.is_some()
}

/// Over TLS, the authority that it made: it is in this file.
async fn roots(address: &str, authority: &Path) -> Option<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    if address.starts_with("https") {
        let pem = read(authority).await?;
        roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok),
        );
    }
    Some(roots)
}

async fn read(path: &Path) -> Option<String> {
    tokio::fs::read_to_string(path).await.ok().filter(|text| !text.is_empty())
}

/// The body of a successful answer.
async fn call(method: &str, address: &str, path: &str, body: &Value) -> Option<Value> {
    ask(rustls::RootCertStore::empty(), None, method, address, path, body).await
}

async fn ask(
    roots: rustls::RootCertStore,
    token: Option<&SecretString>,
    method: &str,
    address: &str,
    path: &str,
    body: &Value,
) -> Option<Value> {
    let method = http::Method::from_bytes(method.as_bytes()).ok()?;
    let client = calls::client(roots)?.build().ok()?;
    let request = client.request(method, format!("{address}/v1/{path}"));
    let request = if body.is_null() { request } else { request.json(body) };
    let request = match token {
        Some(token) => request.header("X-Vault-Token", token.expose_secret()),
        None => request,
    };
    let response = request.timeout(CALL_DEADLINE).send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    response.json().await.ok()
}
