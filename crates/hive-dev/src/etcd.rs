//! A throw-away etcd on loopback, of one node or of several, whose clients prove themselves with certificates.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hive_security::Workload;
use secrecy::ExposeSecret;

pub use crate::server::Error;
use crate::server::{Server, free_ports, listens, make_directory, write_private};

/// A cluster elects a leader before it serves, which takes seconds where disks are slow.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The PEM files with which etcd proves itself, and knows its clients.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its certificate, with those between it and an authority.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
    /// The authorities of its clients.
    pub authorities: PathBuf,
}

/// A running cluster. Stop it with [`stop`](Self::stop); dropping it kills it.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    files: Files,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    directory: PathBuf,
    client: u16,
    peer: u16,
    server: Option<Server>,
}

impl Files {
    /// Writes what this workload is now into `directory`: its X.509-SVID, and the authorities of its trust domain.
    pub fn of(workload: &Workload, directory: &Path) -> Result<Self, Error> {
        let refused = |source| Error::Directory { path: directory.to_owned(), source };
        let absent = |error: hive_security::Error| refused(std::io::Error::other(error));
        let svid = workload.x509_svid().map_err(absent)?;
        let material = workload.x509().current();
        let material = (*material)
            .as_ref()
            .map_err(|error| refused(std::io::Error::other(error.to_string())))?;
        let bundle = material.bundle(&workload.trust_domain());
        let bundle = bundle.ok_or_else(|| refused(std::io::Error::other("no bundle")))?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            write_private(&path, &text).map(|()| path)
        };
        let chain = svid.certificate_chain().iter().map(|one| pem("CERTIFICATE", one)).collect();
        let authorities = bundle.authorities().iter().map(|one| pem("CERTIFICATE", one)).collect();
        Ok(Self {
            certificate: write("etcd.pem", chain)?,
            key: write("etcd.key", pem("PRIVATE KEY", svid.private_key().expose_secret()))?,
            authorities: write("authorities.pem", authorities)?,
        })
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

impl Etcd {
    /// Starts `N` nodes of `program` with their files in `directory`, which the caller removes.
    pub async fn start<const N: usize>(
        program: &Path,
        directory: &Path,
        files: Files,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Directory { path: directory.to_owned(), source };
        let clients: [u16; N] = free_ports().map_err(failed)?;
        let peers: [u16; N] = free_ports().map_err(failed)?;
        let node = |(index, (client, peer))| Node {
            directory: directory.join(format!("node-{index}")),
            client,
            peer,
            server: None,
        };
        let nodes = clients.into_iter().zip(peers).enumerate().map(node).collect();
        let mut etcd = Self { program: program.to_owned(), files, nodes };
        for index in 0..N {
            etcd.launch(index)?;
        }
        for index in 0..N {
            etcd.ready(index).await?;
        }
        Ok(etcd)
    }

    /// Where each node serves: `https://127.0.0.1:<port>`.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("https://127.0.0.1:{}", node.client)).collect()
    }

    /// Kills one node, as a crash would.
    pub async fn kill(&mut self, index: usize) {
        if let Some(server) = self.nodes[index].server.take() {
            server.kill().await;
        }
    }

    /// Starts a node that was killed, with the data that it had.
    pub async fn restart(&mut self, index: usize) -> Result<(), Error> {
        self.kill(index).await;
        self.launch(index)?;
        self.ready(index).await
    }

    /// Kills a node and starts it with no data at all. Only of a cluster of one, this is a new beginning.
    pub async fn restart_empty(&mut self, index: usize) -> Result<(), Error> {
        self.kill(index).await;
        let data = self.data(index);
        std::fs::remove_dir_all(&data).map_err(|source| Error::Directory { path: data, source })?;
        self.restart(index).await
    }

    /// Stops it.
    pub async fn stop(self) {
        for server in self.nodes.into_iter().filter_map(|node| node.server) {
            server.stop().await;
        }
    }

    fn launch(&mut self, index: usize) -> Result<(), Error> {
        let node = &self.nodes[index];
        make_directory(&node.directory)?;
        let arguments = self.arguments(index);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let log = node.directory.join("etcd.log");
        let server = Server::start(&self.program, &arguments, &[], &log)?;
        self.nodes[index].server = Some(server);
        Ok(())
    }

    async fn ready(&mut self, index: usize) -> Result<(), Error> {
        let node = &mut self.nodes[index];
        let port = node.client;
        match &mut node.server {
            // It listens to clients once it has a leader.
            Some(server) => server.ready(START_DEADLINE, || listens(port)).await,
            None => Ok(()),
        }
    }

    fn data(&self, index: usize) -> PathBuf {
        self.nodes[index].directory.join("data")
    }

    fn arguments(&self, index: usize) -> Vec<String> {
        let node = &self.nodes[index];
        let data = self.data(index);
        let member =
            |(index, node): (usize, &Node)| format!("node-{index}=http://127.0.0.1:{}", node.peer);
        let members: Vec<String> = self.nodes.iter().enumerate().map(member).collect();
        let (client, peer) = (node.client, node.peer);
        vec![
            format!("--name=node-{index}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=https://127.0.0.1:{client}"),
            format!("--advertise-client-urls=https://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster={}", members.join(",")),
            format!("--cert-file={}", self.files.certificate.display()),
            format!("--key-file={}", self.files.key.display()),
            format!("--trusted-ca-file={}", self.files.authorities.display()),
            "--client-cert-auth".to_owned(),
            "--enable-grpc-gateway=false".to_owned(),
        ]
    }
}
