//! The registry of before: a real Redis with its records, and beside it the one that takes them over.

use crate::harness::{Client, HIVE, Place, caller, client};
use hive_api::names::{OPERATOR, REGISTRY, WORKERS};
use hive_api::registry::{AgentInfo, ListAgentsRequest};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use hive_dev::redis::Redis;
use hive_dev::vault::{Capability, JwtRole, PathRule, Sensitive, Setup, Vault};
use hive_dev::witness::Witness;
use hive_registry::{Config, StoreConfig};
use hive_runtime::ready::Ready;
use hive_security::WorkloadConfig;
use redis::aio::MultiplexedConnection;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);
/// What `json.dumps` of a whole record said, and of which agent.
const RECORD: &str = include_str!("record.json");
const RECORDED: &str = "3b1c9d1e-6f0a-4c55-9f55-0a4f1a2b3c4d";
/// Nobody falls silent here.
const SILENCE: Duration = Duration::from_secs(3_600);

/// Both of them, and one of the workers.
pub(super) struct Old {
    pub(super) worker: Client,
    place: Place,
    authority: Authority,
    vault: Vault,
    server: Redis,
    connection: MultiplexedConnection,
    /// Where `hive` finds Redis.
    front: SocketAddr,
    /// What ends when it has been seen, and before it is read.
    ending: Arc<std::sync::Mutex<Option<String>>>,
    address: String,
    stop: CancellationToken,
    served: Option<JoinHandle<Result<(), hive_registry::Error>>>,
}

pub(super) fn id(number: usize) -> String {
    format!("3b1c9d1e-6f0a-4c55-9f55-{number:012x}")
}

pub(super) fn key(kind: &str, number: usize) -> String {
    format!("neural-hive:agents:{kind}:{}", id(number))
}

/// The same of this agent.
pub(super) fn record(kind: &str, number: usize) -> String {
    RECORD.replace(RECORDED, &id(number)).replace("WORKER", kind)
}

impl Old {
    pub(super) async fn start() -> Self {
        let place = Place::new();
        let program = hive_dev::tools::program("redis-server")
            .expect("Redis is missing: `cargo xtask real` puts it into the target directory");
        let server = Redis::start(&program, &place.path().join("redis")).await.expect("it starts");
        let password = server.password.expose_secret();
        let url = format!("redis://:{password}@{}:{}", server.host, server.port);
        let opened = redis::Client::open(url).expect("an address");
        let connection = opened.get_multiplexed_async_connection().await.expect("it lets us in");
        std::fs::write(place.path().join("password"), format!("{password}\n")).expect("written");

        let config = AuthorityConfig::new(place.path().join("api.sock"));
        let authority = Authority::start(config).await.expect("it starts");
        let hive = PathBuf::from(HIVE).canonicalize().expect("it was built");
        let operator = Entry::new(OPERATOR.path, [Selector::Path(hive)]);
        authority.add_entry(operator).expect("an entry");
        let vault = Vault::start(setup(&authority, password), Witness::none()).await;
        let vault = vault.expect("it starts");
        let worker = caller(&authority, WORKERS.path.trim_end_matches("/**")).await;
        let (stop, ending) = (CancellationToken::new(), Arc::default());
        let (address, served) = serve(&place, &authority, &stop).await;
        let mut old = Self {
            worker: client(&worker, &address),
            place,
            authority,
            vault,
            front: SocketAddr::from(([127, 0, 0, 1], 0)),
            server,
            connection,
            ending,
            address,
            stop,
            served: Some(served),
        };
        old.front = old.listen(None).await;
        old
    }

    pub(super) fn trust_domain(&self) -> &str {
        self.authority.trust_domain()
    }

    /// The identity that all workers shared.
    pub(super) fn owner(&self) -> String {
        WORKERS.id_pattern(self.trust_domain()).trim_end_matches("/**").to_owned()
    }

    pub(super) fn password(&self) -> &str {
        self.server.password.expose_secret()
    }

    pub(super) fn password_file(&self) -> String {
        self.place.path().join("password").to_str().expect("UTF-8").to_owned()
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.front)
    }

    pub(super) async fn redis(&mut self, command: &[&str]) {
        let (name, arguments) = command.split_first().expect("a name");
        let mut command = redis::cmd(name);
        arguments.iter().for_each(|argument| _ = command.arg(argument));
        command.query_async::<redis::Value>(&mut self.connection).await.expect("it is done");
    }

    /// Writes a record and its entry in the index, as the registry of before did.
    pub(super) async fn write(&mut self, kind: &str, number: usize, record: &str) {
        self.redis(&["SETEX", &key(kind, number), "300", record]).await;
        self.redis(&["SADD", &format!("neural-hive:agents:index:{kind}"), &id(number)]).await;
    }

    pub(super) fn ends_before_it_is_read(&self, key: &str) {
        *self.ending.lock().expect("no panic") = Some(key.to_owned());
    }

    /// What the registry has now, in the order of identifiers.
    pub(super) async fn agents(&self) -> Vec<AgentInfo> {
        let listed = self.worker.clone().list_agents(ListAgentsRequest::default()).await;
        listed.expect("it may").into_inner().agents
    }

    pub(super) async fn import(&self, arguments: &[&str]) -> Output {
        let (url, file) = (self.url(), self.password_file());
        let import = ["registry", "import", "--redis", &url, "--redis-password-file", &file];
        self.hive(&[&import[..], arguments].concat()).await
    }

    pub(super) async fn hive(&self, arguments: &[&str]) -> Output {
        let mut command = self.place.hive(arguments);
        command
            .env("SPIFFE_ENDPOINT_SOCKET", self.authority.endpoint())
            .env("HIVE_REGISTRY_ADDR", &self.address)
            .env("VAULT_ADDR", &self.vault.address);
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        tokio::time::timeout(DEADLINE, output).await.expect("it ends").expect("it can be run")
    }

    /// An address that never answers.
    pub(super) fn deaf(&self) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            // It takes what comes, for as long as the test lasts.
            let taken: Vec<_> = listener.incoming().collect();
            drop(taken);
        });
        address
    }

    /// The same Redis behind TLS, and the file of its authority.
    pub(super) async fn behind_tls(&self) -> (String, String) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let certificate = made.cert.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("they are known")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .expect("they fit");
        let file = self.place.path().join("redis-ca.pem");
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(&file, pem).expect("written");
        let address = self.listen(Some(TlsAcceptor::from(Arc::new(config)))).await;
        (format!("rediss://{address}"), file.to_str().expect("UTF-8").to_owned())
    }

    pub(super) async fn stop_registry(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            served.await.expect("no panic").expect("it drains");
        }
    }

    pub(super) async fn stop(mut self) {
        self.stop_registry().await;
        self.vault.stop().await.expect("nothing is left");
        self.server.stop().await;
        self.authority.stop().await;
        self.place.assert_nothing_is_left();
    }

    /// Carries connections to Redis, and ends a key when it is told to.
    async fn listen(&self, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (port, ending, connection) =
            (self.server.port, Arc::clone(&self.ending), self.connection.clone());
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, ending, connection) =
                    (tls.clone(), Arc::clone(&ending), connection.clone());
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
                    match tls {
                        None => carry(stream, to, &ending, connection).await,
                        Some(tls) => {
                            // A client may hang up because it does not know us.
                            let Ok(mut from) = tls.accept(stream).await else { return };
                            _ = copy_bidirectional(&mut from, &mut to).await;
                        }
                    }
                });
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! { () = accept => {}, () = stop.cancelled() => {} }
        });
        address
    }
}

/// Carries bytes both ways. Before those that read are passed on, a key may end.
async fn carry(
    from: impl AsyncRead + AsyncWrite + Send + 'static,
    to: TcpStream,
    ending: &std::sync::Mutex<Option<String>>,
    mut connection: MultiplexedConnection,
) {
    let (mut from, mut back) = tokio::io::split(from);
    let (mut answers, mut to) = to.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if crate::harness::contains(&buffer[..count], b"GETRANGE") {
            let key = ending.lock().expect("no panic").take();
            if let Some(key) = key {
                let deleted = redis::cmd("DEL").arg(key).query_async::<i64>(&mut connection).await;
                assert_eq!(deleted.expect("it is done"), 1);
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    back.abort();
}

/// A vault in which operators may read the password of Redis.
fn setup(authority: &Authority, password: &str) -> Setup {
    let domain = authority.trust_domain();
    let path = "secret/data/service-registry/redis".to_owned();
    let rule = PathRule { path, capabilities: vec![Capability::Read] };
    let role = JwtRole {
        bound_audiences: vec![format!("vault.{domain}")],
        bound_claims_sub_glob: OPERATOR.id_pattern(domain),
        token_policies: vec!["importer".to_owned()],
        token_ttl_s: 60,
        token_max_ttl_s: 60,
    };
    let fields = Map::from_iter([("password".to_owned(), Value::String(password.to_owned()))]);
    let secrets = [("service-registry/redis".to_owned(), Sensitive::new(fields))].into();
    Setup {
        jwks_url: Some(authority.keys_url()),
        policies: [("importer".to_owned(), vec![rule])].into(),
        jwt_roles: [("importer".to_owned(), role)].into(),
        kv: [("secret".to_owned(), secrets)].into(),
        ..Setup::default()
    }
}

/// The registry, in this process, which is nobody else from here on.
async fn serve(
    place: &Place,
    authority: &Authority,
    stop: &CancellationToken,
) -> (String, JoinHandle<Result<(), hive_registry::Error>>) {
    let registry = Entry::of_process(REGISTRY.path, std::process::id());
    authority.add_entry(registry).expect("an entry");
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        store: StoreConfig::Sqlite { data_dir: place.path().join("data") },
        workload: WorkloadConfig::new(authority.endpoint(), DEADLINE),
        heartbeat_timeout: SILENCE,
        freeze_max: SILENCE,
        metrics_listen: None,
    };
    let (ready, announced) = Ready::channel();
    let served = tokio::spawn(hive_registry::run(config, ready, stop.clone()));
    let address = announced.await.expect("it serves")["address"].clone();
    (format!("https://{address}"), served)
}
