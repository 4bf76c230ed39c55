//! Promise one, while everything rotates under work: nothing that was issued, old or new, is found in anything that was
//! written or shown.

use crate::dev_lender::{DevLender, ROLE};
use crate::harness::{Place, signal};
use crate::logs::Logs;
use crate::search::Secrets;
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::credentials::{Credentials, Hold, Request, Settings};
use hive_security::metrics::Metrics;
use hive_security::vault::{LoginMethod, VaultClient, VaultConfig};
use hive_security::{Workload, WorkloadConfig};
use sqlx::postgres::PgPoolOptions;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
/// How often everything is replaced, beside what ends by itself.
const ROUNDS: u64 = 3;
const WORKERS: usize = 4;

/// Notes the name of each login that it is told of, and never what goes with it.
const PROGRAM: &str = r#"
note() { cat "$HIVE_CREDENTIALS/db/username" >> "$0"; echo >> "$0"; }
trap note HUP
trap 'exit 0' TERM
note
while :; do sleep 0.05; done
"#;

/// A service in this process: a pool whose credentials rotate, and users who never pause for it.
struct Service {
    credentials: Credentials,
    pool: PgPoolHolder,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: JoinSet<Result<(), sqlx::Error>>,
    _hold: Hold,
}

impl Service {
    async fn start(lender: &DevLender, workload: Workload) -> Self {
        let vault = VaultClient::new(VaultConfig::at(&lender.address)).expect("loopback");
        let login = LoginMethod::JwtSvid { workload, role: ROLE.to_owned() };
        let db = Request::read("db", "database/creds/ledger");
        let requests = vec![db, Request::read("seal", "secret/data/release")];
        let opened = Credentials::open(vault, login, requests, Settings::default()).await;
        let credentials = opened.expect("it opens");
        let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(PATIENCE);
        let pool = PgPoolHolder::new(pool, lender.postgres.server());
        let hold = credentials.hold("db", Arc::new(pool.clone())).await.expect("it adopts");
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(pool.clone(), Arc::clone(&stop), Arc::clone(&done)));
        }
        Self { credentials, pool, stop, done, workers, _hold: hold }
    }

    fn generation(&self) -> u64 {
        self.credentials.status().credentials[0].generation
    }

    /// Another login is in use, the old one is given back, and work has gone on.
    async fn rotate(&self) {
        let (old, done) = (self.generation(), self.done.load(Ordering::Relaxed));
        self.credentials.rotate().await;
        let is_over = || {
            let status = self.credentials.status();
            self.generation() > old && status.draining == 0 && status.held == 2
        };
        let has_worked = || self.done.load(Ordering::Relaxed) > done + 20;
        until("another login is in use", || is_over() && has_worked()).await;
    }

    /// Ends it, and says what it would show: metrics, and the `Debug` of what it holds.
    async fn stop(mut self) -> String {
        let metrics = Metrics::default().and_credentials(&self.credentials);
        let shown = format!("{metrics}{:?}{:?}", self.credentials, self.credentials.status());
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("nobody panics").expect("no operation fails");
        }
        self.credentials.close(Duration::from_secs(10)).await.expect("all is given back");
        self.pool.pool().close().await;
        shown
    }
}

async fn work(
    pool: PgPoolHolder,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<(), sqlx::Error> {
    while !stop.load(Ordering::Relaxed) {
        let mut transaction = pool.begin().await?;
        let insert = "INSERT INTO ledger VALUES ('an entry')";
        sqlx::query(insert).execute(&mut *transaction).await?;
        transaction.commit().await?;
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// A program of somebody else's behind `hive exec`, which logs all it can.
struct Program {
    hive: Child,
    seen: PathBuf,
}

impl Program {
    fn start(lender: &DevLender, name: &str, options: &[&str]) -> Self {
        let file = |end: &str| lender.place.path().join(format!("{name}.{end}"));
        let mut command = lender.hive(&["exec", "--fields"]);
        command.args(["--credential", "db=database/creds/brief"]).args(options);
        command.args(["--", "sh", "-c", PROGRAM]).arg(file("seen")).env("HIVE_LOG", "trace");
        command.stdout(File::create(file("out")).expect("a file"));
        command.stderr(File::create(file("log")).expect("a file"));
        let hive = Command::from(command).kill_on_drop(true).spawn().expect("hive runs");
        Self { hive, seen: file("seen") }
    }

    fn logins(&self) -> usize {
        let text = fs::read_to_string(&self.seen).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("v-")).collect::<BTreeSet<_>>().len()
    }

    async fn stop(mut self) {
        signal("TERM", self.hive.id().expect("it runs"));
        assert_eq!(self.hive.wait().await.expect("it ends").code(), Some(0));
    }
}

async fn attached(lender: &DevLender) -> (Workload, CancellationToken) {
    let config = WorkloadConfig::new(lender.authority.endpoint(), PATIENCE);
    let (workload, upkeep) = Workload::attach(config).await.expect("an identity");
    let stop = CancellationToken::new();
    tokio::spawn(upkeep.run(stop.clone()));
    (workload, stop)
}

/// On one thread, all of whose events are kept: the service's, the authority's, the tests' own.
#[tokio::test]
async fn however_often_everything_rotates_nothing_that_was_issued_is_found_anywhere() {
    let logs = Logs::keep();
    let lender = DevLender::start(Place::new()).await;
    let (workload, upkeep) = attached(&lender).await;
    let service = Service::start(&lender, workload).await;
    let template = lender.place.path().join("pgpass.in");
    fs::write(&template, "*:*:*:{{ db.username }}:{{ db.password | json }}\n").expect("written");
    let template = format!("{}:pgpass", template.display());
    let signalled =
        Program::start(&lender, "signalled", &["--template", &template, "--signal", "HUP"]);
    let told = Program::start(&lender, "told", &["--on-change", "touch told.changed"]);
    until("both programs run", || signalled.logins() > 0 && told.logins() > 0).await;

    let mut hits = Vec::new();
    for _ in 0..ROUNDS {
        service.rotate().await;
        lender.authority.rotate_x509().await.expect("another authority");
        lender.authority.rotate_jwt().await.expect("another key");
        hits.extend(Secrets::of(&lender.witness).found_in_processes());
    }
    until("the program had three logins", || signalled.logins() > 2).await;
    let changed = lender.place.path().join("told.changed");
    until("the command has run", || changed.exists()).await;
    let list: Output =
        Command::from(lender.hive(&["lease", "list"])).output().await.expect("hive runs");
    assert!(list.status.success() && list.stdout.len() > 100, "{list:?}");

    let secrets = Secrets::of(&lender.witness);
    hits.extend(secrets.found_in_processes());
    signalled.stop().await;
    told.stop().await;
    let shown = service.stop().await;
    assert!(shown.contains("hive_rotations_total"), "{shown}");
    upkeep.cancel();
    let (place, secrets) = lender.stop().await;
    assert!(logs.text().len() > 10_000, "nothing was logged, so nothing was looked at");

    hits.extend(secrets.found("metrics and Debug", shown.as_bytes()));
    hits.extend(secrets.found("the log of the service", logs.text().as_bytes()));
    hits.extend(secrets.found("`hive lease list`", &[list.stdout, list.stderr].concat()));
    let (in_files, files, bytes) = secrets.found_below(place.path());
    hits.extend(in_files);
    assert_eq!(hits, [""; 0]);
    assert!(files > 500 && bytes > 1 << 20, "{files} files of {bytes} bytes: the wrong place");
    for log in ["signalled.log", "told.log", "vault.log", "vault-audit.log"] {
        let length = fs::metadata(place.path().join(log)).expect("it is there").len();
        assert!(length > 1_000, "{log} has {length} bytes: nothing was looked at");
    }
    let count = secrets.count();
    println!("secrets issued: {count:?}; searched: {files} files of {bytes} bytes");
    for (kind, least) in
        [("x509-key", 8), ("jwt-svid", 3), ("vault-token", 7), ("db-password", 7), ("kv", 1)]
    {
        assert!(count.get(kind).is_some_and(|many| *many >= least), "{kind}: {count:?}");
    }
    secrets.assert_each_is_found_where_it_is_planted();
}
