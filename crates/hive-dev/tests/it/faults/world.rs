//! A service with a database login that Vault issues, and everything that it depends on, in a time that the test turns.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_dev::postgres::Postgres;
use hive_dev::proxy::Proxy;
use hive_dev::vault::{Database, Sensitive, Setup, Vault};
use hive_dev::witness::{Listener, Witness};
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::clock::{Clock, Hands};
use hive_security::credentials::{Credentials, Error, Hold, Policy, Request, Settings};
use hive_security::vault::LoginMethod;
use hive_security::{Workload, WorkloadConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::busy::{Busy, Counted};
use super::load::Load;
use crate::fixture;

/// The service's Vault role.
pub(crate) const ROLE: &str = "ticket-deploy";
pub(crate) const CREDENTIAL: &str = "ledger";
const ROOT_TOKEN: &str = "root-of-a-test";
/// Real time, for what must happen although the clock stands still.
const PATIENCE: Duration = Duration::from_secs(30);
/// Real time after which time passes although somebody still waits for users to leave.
const BUSY_AT_MOST: Duration = Duration::from_secs(2);
/// The same, where a test makes them wait. Times the overlap it has to be more than any other user needs.
const BRIEFLY: Duration = Duration::from_millis(100);
/// Each step of the clock. Whatever has a time to the second is seen in the right second.
const STEP: Duration = Duration::from_secs(1);
pub(crate) const WORKERS: u64 = 4;

/// How long things last, in seconds: without renewal, and at most.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) lease_s: (u64, u64),
    pub(crate) token_s: (u64, u64),
}

impl Terms {
    /// Everything lasts a minute, and can be renewed for an hour.
    pub(crate) const MINUTE: Self = Self { lease_s: (60, 3600), token_s: (60, 3600) };
}

/// A real database, for one world after the other.
pub(crate) struct Cluster {
    pub(crate) postgres: Postgres,
    _directory: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let postgres = fixture::postgres("faults", &directory.path().join("pg")).await;
        let postgres = postgres.expect("PostgreSQL is installed (initdb and postgres)");
        let cluster = Self { postgres, _directory: directory };
        let root = cluster.administrator().await;
        for statement in [
            "CREATE TABLE ledger (entry text)",
            "CREATE ROLE ledger_writer NOLOGIN",
            "GRANT SELECT, INSERT ON ledger TO ledger_writer",
            "GRANT CREATE ON SCHEMA public TO ledger_writer",
        ] {
            sqlx::raw_sql(statement).execute(&root).await.expect("the administrator may");
        }
        root.close().await;
        cluster
    }

    pub(crate) async fn administrator(&self) -> PgPool {
        let admin = self.postgres.server().username(&self.postgres.username);
        let admin = admin.password(self.postgres.password.expose_secret());
        let root = PgPoolOptions::new().max_connections(2).connect_with(admin).await;
        root.expect("it lets us in")
    }

    pub(crate) async fn stop(self) {
        self.postgres.stop().await;
    }
}

/// What the service depends on.
pub(crate) struct World {
    pub(crate) vault: Vault,
    pub(crate) proxy: Proxy,
    pub(crate) workload: Workload,
    /// None once a test has taken it away.
    pub(crate) authority: Option<Authority>,
    pub(crate) clock: Clock,
    hands: Hands,
    pub(crate) root: PgPool,
    pub(crate) busy: Busy,
    /// What was issued.
    pub(crate) witness: Listener,
    skew: Cell<(Duration, bool)>,
    busy_at_most: Cell<Duration>,
    server: PgConnectOptions,
    _directory: TempDir,
    stop: CancellationToken,
}

/// The service.
pub(crate) struct Service {
    pub(crate) credentials: Credentials,
    pub(crate) pool: PgPoolHolder,
    pub(crate) load: Load,
    pub(crate) _hold: Hold,
}

impl World {
    pub(crate) async fn start(cluster: &Cluster, terms: Terms) -> Self {
        Self::start_with(cluster, terms, |_| {}).await
    }

    pub(crate) async fn start_with(
        cluster: &Cluster,
        terms: Terms,
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let witness = Listener::bind(directory.path().join("witness")).expect("it listens");
        let told = Witness::connect(witness.path()).expect("it is there");
        let (authority, workload, stop) = identity(directory.path(), told.clone()).await;
        let postgres = &cluster.postgres;
        let mut setup = fixture::setup(&authority.keys_url(), directory.path());
        setup.danger_root_token = Some(Sensitive::new(ROOT_TOKEN.to_owned()));
        let (lease_ttl, lease_max) = terms.lease_s;
        let database = fixture::database(postgres, lease_ttl, lease_max);
        setup.database = Some(Database { setup_statements: Vec::new(), ..database });
        let role = setup.jwt_roles.get_mut(ROLE).expect("the role");
        (role.token_ttl_s, role.token_max_ttl_s) = terms.token_s;
        change(&mut setup);
        let (clock, hands) = Clock::by_hand();
        let vault = Vault::start_with_clock(setup, told, clock.clone()).await;
        let vault = vault.expect("it starts");
        let proxy = Proxy::before(&vault.address, clock.clone()).await.expect("it listens");
        let root = cluster.administrator().await;
        let busy = Busy::default();
        Self {
            vault,
            proxy,
            workload,
            authority: Some(authority),
            clock,
            hands,
            root,
            busy,
            witness,
            skew: Cell::default(),
            busy_at_most: Cell::new(BUSY_AT_MOST),
            server: postgres.server(),
            _directory: directory,
            stop,
        }
    }

    /// A service under load. What it needs of Vault it asks through the proxy.
    pub(crate) async fn serve(&self, policy: Policy) -> Service {
        let credentials = self.open(policy).await.expect("it opens");
        let pool = PgPoolOptions::new().max_connections(8);
        let pool = pool.acquire_timeout(2 * PATIENCE);
        let pool = PgPoolHolder::new(pool, self.server.clone());
        let counted = Arc::new(Counted::new(pool.clone(), self.busy.clone()));
        let hold = credentials.hold(CREDENTIAL, counted).await.expect("it adopts");
        let load = Load::start(WORKERS, pool.clone());
        load.progress(20).await;
        Service { credentials, pool, load, _hold: hold }
    }

    pub(crate) async fn open(&self, policy: Policy) -> Result<Credentials, Error> {
        let login = LoginMethod::JwtSvid { workload: self.workload.clone(), role: ROLE.to_owned() };
        let requests = vec![Request::read(CREDENTIAL, "database/creds/ledger")];
        let settings = Settings { clock: self.clock.clone(), policy, ..Settings::default() };
        let vault = fixture::client(&self.proxy.address);
        let opening = Credentials::open(vault, login, requests, settings);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                () = self.step(STEP) => {}
            }
        }
    }

    /// Lets time pass, step by step. Before each step everything is done that can be done without time.
    pub(crate) async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            self.step(step).await;
            left -= step;
        }
    }

    /// Lets time pass until it is so, and says how much it was.
    pub(crate) async fn pass_until(
        &self,
        what: &str,
        at_most: Duration,
        mut so: impl AsyncFnMut() -> bool,
    ) -> Duration {
        let begun = self.clock.now().since_origin();
        let passed = || self.clock.now().since_origin() - begun;
        self.settle().await;
        while !so().await {
            assert!(passed() < at_most, "not within {at_most:?}: {what}");
            self.step(STEP).await;
            self.settle().await;
        }
        passed()
    }

    async fn step(&self, by: Duration) {
        self.settle().await;
        self.hands.advance(by);
        self.set_wall();
    }

    /// The wall clock shows real time, in which documents of identity and the database live, or as much more or less as
    /// a test wants.
    fn set_wall(&self) {
        let (by, back) = self.skew.get();
        let now = SystemTime::now();
        let (shown, right) = (self.clock.wall(), if back { now - by } else { now + by });
        match right.duration_since(shown) {
            Ok(behind) => self.hands.step_wall(behind, false),
            Err(ahead) => self.hands.step_wall(ahead.duration(), true),
        }
    }

    /// The wall clock of Vault and of the service jumps.
    pub(crate) fn step_wall(&self, by: Duration, back: bool) {
        self.skew.set((by, back));
        self.set_wall();
    }

    /// From now on somebody uses old credentials for long, on purpose.
    pub(crate) fn has_long_transactions(&self) {
        self.busy_at_most.set(BRIEFLY);
    }

    /// Nobody answers and nobody moves: what is left waits for time, or for ever.
    pub(crate) async fn settle(&self) {
        let begun = Instant::now();
        let mut quiet = 0;
        while quiet < 2 && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let waits = self.busy.is_waiting() && begun.elapsed() < self.busy_at_most.get();
            let is_quiet = self.proxy.in_flight() == 0 && !self.busy.is_working() && !waits;
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
    }

    /// Something that an operator does.
    pub(crate) async fn operate(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let token = SecretString::from(ROOT_TOKEN);
        fixture::call(&self.vault.address, method, path, Some(&token), body).await
    }

    /// The database logins that Vault made and that are there now.
    pub(crate) async fn logins(&self) -> Vec<String> {
        let asked = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1";
        sqlx::query_scalar(asked).fetch_all(&self.root).await.expect("the roles")
    }

    /// Ends the service as it is meant to, and looks for what it left behind: nothing.
    pub(crate) async fn close(&self, service: Service) -> super::load::Outcome {
        let outcome = service.load.stop().await;
        self.close_credentials(service.credentials).await.expect("all is given back");
        service.pool.pool().close().await;
        self.nothing_is_left().await;
        outcome
    }

    pub(crate) async fn close_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        let closing = credentials.close(Duration::from_secs(5));
        tokio::pin!(closing);
        loop {
            tokio::select! {
                closed = &mut closing => return closed,
                () = self.step(STEP) => {}
            }
        }
    }

    pub(crate) async fn nothing_is_left(&self) {
        fixture::until("no login is left", || async { self.logins().await.is_empty() }).await;
        // What Vault could not end at once it tries again a little later.
        let is_gone = async || self.vault.leases().is_empty();
        self.pass_until("no lease is left", Duration::from_secs(60), is_gone).await;
        // The operator's own.
        assert_eq!(self.vault.tokens(), 1, "a token is left");
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.vault.stop().await.expect("nothing is left");
        self.root.close().await;
    }
}

pub(crate) async fn identity(
    directory: &Path,
    witness: Witness,
) -> (Authority, Workload, CancellationToken) {
    let mut config = AuthorityConfig::new(directory.join("api.sock"));
    config.trust_domain = Some("hive.test".to_owned());
    config.witness = witness;
    let authority = Authority::start(config).await.expect("it starts");
    let worker = "/ns/neural-hive-execution/sa/worker-agents/one";
    authority.add_entry(Entry::of_process(worker, std::process::id())).expect("an entry");
    let attach = WorkloadConfig::new(authority.endpoint(), PATIENCE);
    let (workload, upkeep) = Workload::attach(attach).await.expect("an identity");
    let stop = CancellationToken::new();
    tokio::spawn(upkeep.run(stop.clone()));
    (authority, workload, stop)
}
