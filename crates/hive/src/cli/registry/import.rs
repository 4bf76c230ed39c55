//! `hive registry import`: from the records in Redis to the registry, a few at a time.

use super::owners::{Owners, Rule, TypeRule};
use super::record::{self, Place};
use super::source::{Address, Found, RECORD_BYTES_MAX, Source, Walk, shown};
use super::tally::Tally;
use crate::cli::agents::failure;
use crate::cli::render::write_out;
use crate::cli::stack::{self, Agents, Failure};
use crate::cli::vault;
use crate::exit;
use clap::Args;
use hive_api::registry::{AgentInfo, AgentType, ImportAgentsRequest, ImportResult};
use hive_security::vault::KvRead;
use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Status};

/// Agents in one call, as many as the registry takes, and bytes of one: half of what it takes.
const BATCH_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// The registry gives each change five seconds, and makes them side by side.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// What begins the keys of scores that agents once gave each other.
const PHEROMONES: &str = "pheromone:";
const TYPES: [AgentType; 4] =
    [AgentType::Analyst, AgentType::Guard, AgentType::Scout, AgentType::Worker];

#[derive(Args)]
pub(super) struct Options {
    /// The Redis that holds them: redis://host:port, with user@ before and /db behind where need be; rediss:// for TLS.
    /// Of a cluster, name each primary in turn.
    #[arg(long, value_name = "URL")]
    redis: String,
    #[command(flatten)]
    access: Access,
    /// What their keys begin with.
    #[arg(long, value_name = "TEXT", default_value = "neural-hive:agents")]
    prefix: String,
    /// Who owns them from now on, the only one that may say that they are alive: a SPIFFE ID that may register agents.
    /// It may name {agent_id}, {cluster}, {namespace} and {type}.
    #[arg(long, value_name = "SPIFFE_ID", required_unless_present = "owner_of")]
    owner: Option<Rule>,
    /// Who owns those of one type, such as scout=spiffe://…; can be repeated.
    #[arg(long, value_name = "TYPE=SPIFFE_ID")]
    owner_of: Vec<TypeRule>,
    /// Says what would come of it, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long all of it may take. What is imported by then stays.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline: u64,
}

#[derive(Args)]
struct Access {
    /// The file that holds the password.
    #[arg(long, value_name = "FILE", conflicts_with = "redis_password_kv")]
    redis_password_file: Option<PathBuf>,
    /// The secret in Vault that holds it as `password`, such as service-registry/redis.
    #[arg(long, value_name = "PATH")]
    redis_password_kv: Option<String>,
    /// Where Vault's KV engine, of version 2, is mounted.
    #[arg(long, default_value = "secret")]
    mount: String,
    #[command(flatten)]
    vault: vault::Borrower,
    /// The authorities of rediss://, PEM; those of this machine if it is not given.
    #[arg(long, value_name = "FILE")]
    redis_ca: Option<PathBuf>,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, Failure> {
    let deadline = options.deadline;
    let late = |_| {
        Failure::unavailable(format!(
            "it is not done within {deadline} s; what is imported stays, and it can be run again"
        ))
    };
    timeout(Duration::from_secs(deadline), import(options)).await.map_err(late)?
}

async fn import(options: Options) -> Result<ExitCode, Failure> {
    let address = Address::parse(&options.redis)?;
    let password = options.access.password().await?;
    let registry = stack::agents(&stack::attach().await?)?;
    let source = address.open(password, options.access.redis_ca.as_deref()).await?;
    let mut import = Import {
        source,
        registry,
        prefix: format!("{}:", options.prefix),
        owners: Owners { of_types: options.owner_of, of_others: options.owner },
        dry_run: options.dry_run,
        batch: Vec::new(),
        batch_bytes: 0,
        tally: Tally::default(),
    };
    let done = import.all().await;
    // Also of what went wrong half-way, it is known what was done.
    write_out(&import.tally.told(import.dry_run));
    done?;
    Ok(if import.tally.refused == 0 { exit::DONE } else { exit::ERROR })
}

impl Access {
    async fn password(&self) -> Result<Option<SecretString>, Failure> {
        if let Some(file) = &self.redis_password_file {
            let wrong = |error| Failure::bad_input(format!("{}: {error}", file.display()));
            let text = SecretString::from(std::fs::read_to_string(file).map_err(wrong)?);
            return Ok(Some(first_line(&text)));
        }
        let Some(path) = &self.redis_password_kv else { return Ok(None) };
        let session = self.vault.session().await?;
        let read = session.vault.kv(&self.mount).read(&session.login.token, path, None).await;
        let read = session.end(read.map_err(|error| vault::failed(&error))).await?;
        let password = match read {
            KvRead::Found(secret) => secret.data.text("password"),
            _ => None,
        };
        let missing = format!("the secret {path} in Vault holds no text as `password`");
        password.map(Some).ok_or_else(|| Failure::bad_input(missing))
    }
}

fn first_line(text: &SecretString) -> SecretString {
    SecretString::from(text.expose_secret().lines().next().unwrap_or_default())
}

/// One import, as far as it has come.
struct Import {
    source: Source,
    registry: Agents,
    /// With the colon.
    prefix: String,
    owners: Owners,
    dry_run: bool,
    /// What is to be sent, each with its key.
    batch: Vec<(Vec<u8>, AgentInfo)>,
    batch_bytes: usize,
    tally: Tally,
}

impl Import {
    async fn all(&mut self) -> Result<(), Failure> {
        let mut walk = Walk::keys(&self.prefix);
        while let Some(keys) = self.source.step(&mut walk).await? {
            let (agents, others): (Vec<_>, Vec<_>) =
                keys.into_iter().partition(|key| self.place(key).is_some());
            let ignored: Vec<_> = others.iter().filter(|key| !self.is_index(key)).collect();
            ignored.into_iter().for_each(|key| self.tally.ignore(key));
            self.take(agents).await?;
        }
        self.send().await?;
        self.count_what_is_left().await
    }

    fn place(&self, key: &[u8]) -> Option<Place> {
        Place::of(key.strip_prefix(self.prefix.as_bytes())?)
    }

    fn index(&self, agent_type: AgentType) -> Vec<u8> {
        format!("{}index:{}", self.prefix, record::type_name(agent_type)).into_bytes()
    }

    fn is_index(&self, key: &[u8]) -> bool {
        TYPES.into_iter().any(|agent_type| self.index(agent_type) == key)
    }

    async fn take(&mut self, keys: Vec<Vec<u8>>) -> Result<(), Failure> {
        let found = self.source.read(&keys).await?;
        for (key, found) in keys.into_iter().zip(found) {
            match self.read(&key, found) {
                // One that comes twice at once would be in its own way.
                Ok(Some(agent)) if self.batch.iter().all(|(other, _)| *other != key) => {
                    self.add(key, agent).await?;
                }
                Ok(_) => {}
                Err(wrong) => self.tally.refuse(&key, &wrong),
            }
        }
        Ok(())
    }

    /// The agent at a key, with its owner; `None` if it is gone.
    fn read(&mut self, key: &[u8], found: Found) -> Result<Option<AgentInfo>, String> {
        let document = match found {
            Found::Bytes(document) => document,
            Found::TooLong => return Err(format!("it has more than {RECORD_BYTES_MAX} bytes")),
            Found::Vanished => {
                self.tally.vanished += 1;
                return Ok(None);
            }
            Found::Wrong(why) => return Err(why),
        };
        let place = self.place(key).ok_or("it is no agent's")?;
        let agent = record::read(&place, &document)?;
        let spiffe_id = self.owners.of(&agent)?;
        Ok(Some(AgentInfo { spiffe_id, ..agent }))
    }

    async fn add(&mut self, key: Vec<u8>, agent: AgentInfo) -> Result<(), Failure> {
        let bytes = agent.encoded_len();
        if self.batch.len() == BATCH_MAX || self.batch_bytes + bytes > BATCH_BYTES_MAX {
            self.send().await?;
        }
        self.batch_bytes += bytes;
        self.batch.push((key, agent));
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let (keys, agents): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let request = ImportAgentsRequest { agents, dry_run: self.dry_run };
        let answer = timeout(CALL_DEADLINE, self.registry.import_agents(request)).await;
        let late = |_| Err(Status::deadline_exceeded("no answer in time"));
        let answer = answer.unwrap_or_else(late).map_err(|status| failure(&status))?;
        let results = answer.into_inner().results;
        if results.len() != keys.len() {
            return Err(Failure::error("the registry did not answer for each agent"));
        }
        keys.iter().zip(&results).try_for_each(|(key, result)| self.note(key, result))
    }

    fn note(&mut self, key: &[u8], result: &ImportResult) -> Result<(), Failure> {
        match Code::from(result.code) {
            Code::Ok if result.known => self.tally.known += 1,
            Code::Ok => self.tally.imported += 1,
            Code::Unavailable => {
                let message = format!("{}: {}; it can be run again", shown(key), result.error);
                return Err(Failure::unavailable(message));
            }
            _ => self.tally.refuse(key, &result.error),
        }
        Ok(())
    }

    /// What there is beside the agents, and means nothing to the registry.
    async fn count_what_is_left(&mut self) -> Result<(), Failure> {
        for agent_type in TYPES {
            let below = format!("{}{}:", self.prefix, record::type_name(agent_type)).into_bytes();
            let mut walk = Walk::members(self.index(agent_type));
            while let Some(members) = self.source.step(&mut walk).await? {
                let keys: Vec<_> = members.iter().map(|id| [&below, &id[..]].concat()).collect();
                self.tally.stale += self.source.missing(&keys).await?;
            }
        }
        let mut walk = Walk::keys(PHEROMONES);
        while let Some(keys) = self.source.step(&mut walk).await? {
            self.tally.pheromones += keys.len();
        }
        Ok(())
    }
}
