//! The parts of one stack: which there are, how they find each other, and in which order they end.

use super::authority::{Authority, Registrar};
use super::launch::Launcher;
use super::layout::Layout;
use super::screen::{Overview, Part, Screen};
use super::secrets::{self, Place};
use super::service::{Event, Keeper, Service};
use super::{Failure, Options, Postgres, orphans, ports};
use crate::cli::stack as client;
use crate::cli::vault::config_at;
use hive_api::names;
use hive_api::orchestrator::ListPlansRequest;
use hive_dev::{postgres, witness};
use hive_runtime::errors::chain;
use hive_security::vault::{VaultClient, VaultError};
use secrecy::ExposeSecret;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Every part of the largest stack may speak at once; more than that waits.
const EVENTS_MAX: usize = 128;

/// The stack, running or not yet.
pub(super) struct Stack {
    layout: Layout,
    launcher: Launcher,
    registrar: Option<Registrar>,
    events: mpsc::Receiver<Event>,
    teller: mpsc::Sender<Event>,
    kept: Vec<Kept>,
    postgres: Option<postgres::Postgres>,
    parts: Vec<Part>,
}

/// What is stopped first stands first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Workers,
    Services,
    Vault,
    Authority,
}

struct Kept {
    rank: Rank,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Where identities come from.
struct Identity {
    endpoint: String,
    trust_domain: String,
    keys_url: Option<String>,
}

/// Where each server listens.
struct Addresses {
    keys: SocketAddr,
    orchestrator: SocketAddr,
    registry: SocketAddr,
    vault: SocketAddr,
}

impl Addresses {
    fn choose(base: Option<u16>) -> Result<Self, Failure> {
        let names = ["registry", "orchestrator", "vault", "authority's keys"];
        let chosen = ports::choose(base, &names)?;
        let [registry, orchestrator, vault, keys] = chosen[..] else {
            return Err(Failure::error("not every server has a port"));
        };
        Ok(Self { keys, orchestrator, registry, vault })
    }
}

impl Stack {
    pub(super) fn new(options: &Options) -> Result<Self, Failure> {
        let layout = Layout::open(options.data_dir.as_deref())?;
        let launcher =
            Launcher::new(layout.logs()).map_err(|error| Failure::error(error.to_string()))?;
        let (teller, events) = mpsc::channel(EVENTS_MAX);
        Ok(Self {
            layout,
            launcher,
            registrar: None,
            events,
            teller,
            kept: Vec::new(),
            postgres: None,
            parts: Vec::new(),
        })
    }

    pub(super) fn executable(&self) -> PathBuf {
        self.launcher.executable().to_owned()
    }

    pub(super) fn registrar(&self) -> Option<Registrar> {
        self.registrar.clone()
    }

    /// Starts every part, waits until all are ready, and makes the first authenticated call.
    pub(super) async fn start(
        &mut self,
        options: &Options,
        began: Instant,
    ) -> Result<Overview, Failure> {
        let addresses = Addresses::choose(options.port_base)?;
        let identity = self.identity(options, &addresses).await?;
        let vault_addr = self.vault_address(options, &addresses).await?;
        let environment = environment(&identity, &vault_addr, &addresses);
        self.services(&addresses, &environment)?;
        let database = self.vault(options, &identity, &addresses).await?;
        self.workers(options.workers, &environment, database.as_deref())?;
        self.all_ready().await?;
        let ready_after = began.elapsed();
        first_call(&identity.endpoint, &addresses).await?;
        Ok(Overview {
            trust_domain: identity.trust_domain,
            data_directory: self.layout.root().display().to_string(),
            temporary: self.layout.is_temporary(),
            parts: self.parts.clone(),
            program: self.launcher.name_at_command_line(),
            environment,
            ready_after,
            first_call_after: began.elapsed(),
        })
    }

    /// Reports what happens until the stack cannot go on, and why.
    pub(super) async fn watch(&mut self, screen: &Screen) -> Failure {
        loop {
            match self.events.recv().await {
                Some(Event::GaveUp { name, how, last_lines }) => {
                    return gave_up(&name, &how, &last_lines);
                }
                Some(event) => screen.event(&event),
                None => return Failure::error("nothing is left to watch"),
            }
        }
    }

    /// Stops everything in order: who uses something ends before what it uses.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        // Events that nobody reads must not hold up whoever sends them.
        self.events.close();
        self.kept.sort_by_key(|kept| kept.rank);
        while let Some(rank) = self.kept.first().map(|kept| kept.rank) {
            let rest = self.kept.split_off(self.kept.partition_point(|kept| kept.rank == rank));
            let ending = std::mem::replace(&mut self.kept, rest);
            ending.iter().for_each(|kept| kept.stop.cancel());
            for kept in ending {
                // A task that panicked has dropped, and so killed, its child.
                let _ = kept.task.await;
            }
        }
        // Nothing issues roles any more, and nothing but roles needs the database.
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        orphans::end_all().await;
        self.layout.close()
    }

    async fn identity(
        &mut self,
        options: &Options,
        addresses: &Addresses,
    ) -> Result<Identity, Failure> {
        if let Some(endpoint) = &options.spiffe_socket {
            let once = CancellationToken::new();
            let _guard = once.clone().drop_guard();
            let workload = client::attach_to(endpoint.clone(), once).await?;
            let trust_domain = workload.trust_domain().to_string();
            return Ok(Identity { endpoint: endpoint.clone(), trust_domain, keys_url: None });
        }
        let mut environment = vec![
            ("HIVE_DEV_SOCKET", self.layout.socket().display().to_string()),
            ("HIVE_DEV_KEYS_LISTEN", addresses.keys.to_string()),
        ];
        environment.extend(witness_variable());
        let authority = Authority::start(&self.launcher, &environment).await?;
        let registrar = authority.registrar.clone();
        let fact = |name: &str| authority.facts.get(name).cloned().unwrap_or_default();
        let identity = Identity {
            endpoint: format!("unix://{}", fact("socket")),
            trust_domain: fact("trust_domain"),
            keys_url: Some(fact("keys")),
        };
        self.part("authority", &identity.endpoint, "SPIFFE Workload API");
        self.is_ready("authority", authority.pid());
        let (launcher, events) = (self.launcher.clone(), self.teller.clone());
        self.keep(Rank::Authority, |stop| authority.keep(launcher, events, stop));
        self.introduce(&registrar).await?;
        self.registrar = Some(registrar);
        Ok(identity)
    }

    /// This process, and this user at the command line, are the operator.
    async fn introduce(&self, registrar: &Registrar) -> Result<(), Failure> {
        let executable = self.launcher.executable().display().to_string();
        let uid = rustix::process::geteuid().as_raw();
        registrar.register(std::process::id(), names::OPERATOR.path).await?;
        registrar.operator(uid, &executable, names::OPERATOR.path).await
    }

    /// A vault that was named must be there before anything else is started.
    async fn vault_address(
        &self,
        options: &Options,
        addresses: &Addresses,
    ) -> Result<String, Failure> {
        let Some(address) = &options.vault_addr else {
            return Ok(format!("http://{}", addresses.vault));
        };
        let cannot = |error: VaultError| {
            Failure::unavailable(format!(
                "the vault at {address} cannot be used: {}; start it, correct --vault-addr, or leave \
                 --vault-addr out to get a development vault",
                chain(&error)
            ))
        };
        let client = VaultClient::new(config_at(address)?).map_err(cannot)?;
        client.health().await.map_err(cannot)?;
        Ok(address.clone())
    }

    /// Starts the vault, unless one was named. Returns where the database is in which roles are issued.
    async fn vault(
        &mut self,
        options: &Options,
        identity: &Identity,
        addresses: &Addresses,
    ) -> Result<Option<String>, Failure> {
        let (None, Some(keys_url)) = (&options.vault_addr, &identity.keys_url) else {
            return Ok(options.postgres.address());
        };
        let remark = self.start_postgres(&options.postgres).await?;
        let place = Place {
            listen: addresses.vault,
            keys_url: keys_url.clone(),
            trust_domain: identity.trust_domain.clone(),
            audit_path: self.layout.root().join("vault-audit.log"),
        };
        let input = Some(secrets::setup(place, self.postgres.as_ref())?);
        self.part("vault", &format!("http://{}", addresses.vault), remark);
        self.supervise(
            Rank::Vault,
            Service {
                name: "vault".to_owned(),
                arguments: &["dev", "vault"],
                environment: witness_variable().into_iter().collect(),
                identity: None,
                input,
            },
        );
        Ok(self.postgres.as_ref().map(address_of))
    }

    /// Starts PostgreSQL if it is wanted and there, and says what that means for the vault.
    async fn start_postgres(&mut self, wanted: &Postgres) -> Result<&'static str, Failure> {
        let programs = match wanted {
            Postgres::At(_) => return Err(Failure::bad_input(NO_FOREIGN_DATABASE)),
            Postgres::Auto => postgres::Programs::find(),
            Postgres::Off => return Ok("KV v2 at secret/; no database engine: --postgres off"),
        };
        let Some(programs) = programs else {
            return Ok(
                "KV v2 at secret/; no database engine: no `postgres` and `initdb` on the PATH",
            );
        };
        let config = postgres::Config {
            programs,
            directory: self.layout.root().join("postgres"),
            launcher: Some(self.launcher.prefix()),
        };
        let started = postgres::Postgres::start(config).await;
        let postgres = started.map_err(|error| Failure::error(chain(&error)))?;
        witness_password(&postgres).await?;
        self.part("postgres", &address_of(&postgres), "started here, for roles with a lease");
        self.is_ready("postgres", postgres.pid());
        self.postgres = Some(postgres);
        Ok("KV v2 at secret/, PostgreSQL roles at database/")
    }

    fn services(
        &mut self,
        addresses: &Addresses,
        common: &[(&'static str, String)],
    ) -> Result<(), Failure> {
        let servers = [
            ("registry", &["registry"] as &[&str], addresses.registry, names::REGISTRY.path),
            ("orchestrator", &["orchestrator"], addresses.orchestrator, names::ORCHESTRATOR.path),
        ];
        for (name, arguments, listen, path) in servers {
            let mut environment = common.to_vec();
            environment.push(("HIVE_LISTEN", listen.to_string()));
            environment.push(("HIVE_DATA_DIR", self.data_directory(name)?));
            self.part(name, &format!("https://{listen}"), "gRPC, mTLS and JWT-SVID");
            let identity = Some(path.to_owned());
            let name = name.to_owned();
            self.supervise(
                Rank::Services,
                Service { name, arguments, environment, identity, input: None },
            );
        }
        Ok(())
    }

    fn workers(
        &mut self,
        count: u16,
        common: &[(&'static str, String)],
        database: Option<&str>,
    ) -> Result<(), Failure> {
        let artifacts = self.data_directory("artifacts")?;
        for index in 1..=count {
            let name = format!("worker-{index}");
            let mut environment = common.to_vec();
            environment.push(("HIVE_WORKER_NAME", name.clone()));
            environment.push(("HIVE_DATA_DIR", self.data_directory(&name)?));
            environment.push(("HIVE_ARTIFACTS_DIR", artifacts.clone()));
            environment.extend(database.map(|address| ("HIVE_POSTGRES_ADDR", address.to_owned())));
            let identity = names::worker_path(&name);
            self.part(&name, &identity, "");
            let identity = Some(identity);
            let arguments = &["worker"];
            self.supervise(
                Rank::Workers,
                Service { name, arguments, environment, identity, input: None },
            );
        }
        Ok(())
    }

    fn data_directory(&self, name: &str) -> Result<String, Failure> {
        Ok(self.layout.directory(name)?.display().to_string())
    }

    fn part(&mut self, name: &str, place: &str, remark: &str) {
        let (name, place, remark) = (name.to_owned(), place.to_owned(), remark.to_owned());
        self.parts.push(Part { name, pid: None, place, remark });
    }

    fn is_ready(&mut self, name: &str, pid: u32) {
        self.parts
            .iter_mut()
            .filter(|part| part.name == name)
            .for_each(|part| part.pid = Some(pid));
    }

    fn supervise(&mut self, rank: Rank, service: Service) {
        let keeper = Keeper {
            launcher: self.launcher.clone(),
            registrar: self.registrar.clone(),
            events: self.teller.clone(),
        };
        self.keep(rank, |stop| keeper.keep(service, stop));
    }

    fn keep<F>(&mut self, rank: Rank, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::task::spawn_local(task(stop.clone()));
        self.kept.push(Kept { rank, stop, task });
    }

    /// Waits for the first readiness of every part that says so itself.
    async fn all_ready(&mut self) -> Result<(), Failure> {
        while let Some(part) = self.parts.iter().find(|part| part.pid.is_none()) {
            let waiting_for = part.name.clone();
            match self.events.recv().await {
                Some(Event::Ready { name, pid, .. }) => self.is_ready(&name, pid),
                Some(Event::Ended { .. }) => {}
                Some(Event::GaveUp { name, how, last_lines }) => {
                    return Err(gave_up(&name, &how, &last_lines));
                }
                None => return Err(Failure::error(format!("{waiting_for} was never ready"))),
            }
        }
        Ok(())
    }
}

const NO_FOREIGN_DATABASE: &str = "the development vault issues roles only in the PostgreSQL that it \
    starts itself; with --postgres host:port/database, name your vault with --vault-addr";

fn address_of(postgres: &postgres::Postgres) -> String {
    format!("{}:{}/{}", postgres.host, postgres.port, postgres.database)
}

/// The superuser's password is a secret that was issued, so a listening test hears of it too.
async fn witness_password(postgres: &postgres::Postgres) -> Result<(), Failure> {
    let witness = witness::Witness::from_env().map_err(|error| Failure::error(chain(&error)))?;
    let noted = witness.note("db-admin", postgres.password.expose_secret()).await;
    noted.map_err(|error| Failure::error(chain(&error)))
}

fn gave_up(name: &str, how: &str, last_lines: &[String]) -> Failure {
    let quoted: String = last_lines.iter().map(|line| format!("\n  | {line}")).collect();
    Failure::error(format!("{name} {how}, and the stack cannot go on without it{quoted}"))
}

fn environment(
    identity: &Identity,
    vault_addr: &str,
    addresses: &Addresses,
) -> Vec<(&'static str, String)> {
    vec![
        ("SPIFFE_ENDPOINT_SOCKET", identity.endpoint.clone()),
        ("VAULT_ADDR", vault_addr.to_owned()),
        ("HIVE_ORCHESTRATOR_ADDR", format!("https://{}", addresses.orchestrator)),
        ("HIVE_REGISTRY_ADDR", format!("https://{}", addresses.registry)),
    ]
}

/// A test that wants to know what was issued says so in our environment; only the development servers hear of it.
fn witness_variable() -> Option<(&'static str, String)> {
    std::env::var(witness::VARIABLE).ok().map(|path| (witness::VARIABLE, path))
}

/// Proves that the stack answers: mTLS and JWT-SVID, as everybody's calls.
async fn first_call(endpoint: &str, addresses: &Addresses) -> Result<(), Failure> {
    const DEADLINE: Duration = Duration::from_secs(10);
    let once = CancellationToken::new();
    let _guard = once.clone().drop_guard();
    let call = async {
        let workload = client::attach_to(endpoint.to_owned(), once).await?;
        let address = format!("https://{}", addresses.orchestrator);
        let mut plans = client::plans_at(&workload, &address)?;
        plans.list(ListPlansRequest { limit: 1 }).await?;
        Ok(())
    };
    tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(|_| {
        Err(Failure::unavailable(format!("the orchestrator did not answer within {DEADLINE:?}")))
    })
}
