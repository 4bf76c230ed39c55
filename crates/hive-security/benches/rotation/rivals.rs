//! How it is done elsewhere, with the same work on the same PostgreSQL.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use hive_security::Audience;
use hive_security::adapters::sqlx::PgPoolHolder;
use hive_security::credentials::{Credential, Holder};
use hive_security::vault::{VaultClient, VaultConfig};
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::load::Load;
use crate::report;
use crate::work::{WORKERS, options, write};
use crate::world::{POSTGRES_CREATES, ROLE, World};

const EVERY: Duration = Duration::from_secs(1);

/// One login, and what ends it.
struct Issued {
    credential: Credential,
    lease: String,
}

pub(crate) async fn all(lasts: Duration) {
    let world = World::start(false).await;
    revoke_first(&world, lasts).await;
    swap_pools(&world, lasts).await;
    agent(&world, lasts).await;
    world.stop().await;
}

/// The new login is there, the old one is revoked, and then the pool moves.
async fn revoke_first(world: &World, lasts: Duration) {
    let holder = PgPoolHolder::new(options(), world.ledger.server());
    let mut current = issue(world, 1).await;
    holder.adopt(&current.credential).await.expect("it is usable");
    let pool = holder.pool().clone();
    let (load, began) =
        (Load::start(WORKERS, move |w, t| write(pool.clone(), w, t)), Instant::now());
    while began.elapsed() < lasts {
        sleep(EVERY).await;
        let fresh = issue(world, current.credential.generation() + 1).await;
        revoke(world, &current).await;
        holder.adopt(&fresh.credential).await.expect("it is usable");
        current = fresh;
    }
    report("revoke first, PostgreSQL", &load.stop().await, began.elapsed());
    holder.pool().close().await;
    revoke(world, &current).await;
}

/// A new pool takes the place of the old one, which is closed; when its last connection is gone, its login is revoked.
async fn swap_pools(world: &World, lasts: Duration) {
    let mut current = issue(world, 1).await;
    let connect = |issued: &Issued| options().connect_lazy_with(with(world, &issued.credential));
    let pool = Arc::new(RwLock::new(connect(&current)));
    let shared = Arc::clone(&pool);
    let work = move |worker, turn| {
        let pool: PgPool = shared.read().expect("nobody panicked").clone();
        write(pool, worker, turn)
    };
    let (load, began) = (Load::start(WORKERS, work), Instant::now());
    while began.elapsed() < lasts {
        sleep(EVERY).await;
        let fresh = issue(world, current.credential.generation() + 1).await;
        let old = std::mem::replace(&mut *pool.write().expect("nobody panicked"), connect(&fresh));
        old.close().await;
        revoke(world, &current).await;
        current = fresh;
    }
    report("pool swap, PostgreSQL", &load.stop().await, began.elapsed());
    let last = pool.read().expect("nobody panicked").clone();
    last.close().await;
    revoke(world, &current).await;
}

/// The agent keeps a file with a login that lives for a few seconds; the client reads it whenever it has changed.
async fn agent(world: &World, lasts: Duration) {
    let directory = tempfile::tempdir().expect("a directory");
    short_role(world, "brief", "3s").await;
    let file = directory.path().join("login");
    let _agent = start_agent(world, directory.path(), &file).await;
    let mut seen = await_file(&file).await;
    let pool = options().connect_lazy_with(of_file(world, &seen));
    let shared = pool.clone();
    let (load, began) =
        (Load::start(WORKERS, move |w, t| write(shared.clone(), w, t)), Instant::now());
    while began.elapsed() < lasts {
        sleep(Duration::from_millis(100)).await;
        let now = std::fs::read_to_string(&file).unwrap_or_default();
        if now != seen && now.contains(' ') {
            pool.set_connect_options(of_file(world, &now));
            seen = now;
        }
    }
    report("agent with file, PostgreSQL", &load.stop().await, began.elapsed());
    pool.close().await;
}

/// Logins of PostgreSQL that cannot be kept for longer than this.
async fn short_role(world: &World, name: &str, lives: &str) {
    let (path, creates) =
        (format!("database/roles/{name}"), format!("creation_statements={POSTGRES_CREATES}"));
    let (ttl, most) = (format!("default_ttl={lives}"), format!("max_ttl={lives}"));
    world.bao(&["write", &path, "db_name=ledger", &creates, &ttl, &most]).await;
}

async fn start_agent(world: &World, directory: &Path, file: &Path) -> Child {
    let audience = Audience::of_service("vault", &world.workload.trust_domain());
    let svid = world.workload.jwt_svid(&audience.expect("a name")).await.expect("a JWT-SVID");
    let jwt = directory.join("jwt");
    std::fs::write(&jwt, svid.token().expose_secret()).expect("it is written");
    let text = format!(
        "vault {{ address = \"{}\" }}\nauto_auth {{ method \"jwt\" {{ config = {{ path = \"{}\", role = \"{ROLE}\", \
         remove_jwt_after_reading = false }} }} }}\ntemplate {{ destination = \"{}\", contents = \"{{{{ with secret \
         \\\"database/creds/brief\\\" }}}}{{{{ .Data.username }}}} {{{{ .Data.password }}}}{{{{ end }}}}\" }}\n",
        world.bao.address,
        jwt.display(),
        file.display()
    );
    let config = directory.join("agent.hcl");
    std::fs::write(&config, text).expect("it is written");
    let mut command = Command::new(hive_dev::tools::program("bao").expect("bao is there"));
    command.arg("agent").arg(format!("-config={}", config.display())).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the agent starts")
}

async fn await_file(file: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.contains(' ') {
            return text;
        }
        assert!(Instant::now() < deadline, "the agent writes no file");
        sleep(Duration::from_millis(50)).await;
    }
}

fn of_file(world: &World, text: &str) -> PgConnectOptions {
    let (username, password) = text.split_once(' ').expect("a name and a password");
    world.ledger.server().username(username).password(password)
}

fn with(world: &World, credential: &Credential) -> PgConnectOptions {
    let field = |name| credential.field(name).expect("a login has it");
    let options = world.ledger.server().username(field("username").expose_secret());
    options.password(field("password").expose_secret())
}

async fn issue(world: &World, generation: u64) -> Issued {
    let vault = VaultClient::new(VaultConfig::at(&world.bao.address)).expect("a client");
    let token = world.login().login(&vault).await.expect("it may log in").token;
    let answer = vault.read(&token, "database/creds/ledger").await.expect("it is issued");
    let lease = answer.lease.expect("it has a lease").id;
    Issued {
        credential: Credential::new("ledger", generation, answer.data),
        lease: lease.to_string(),
    }
}

async fn revoke(world: &World, issued: &Issued) {
    world.bao(&["lease", "revoke", "-sync", &issued.lease]).await;
}
