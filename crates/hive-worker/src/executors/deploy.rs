//! DEPLOY: an artifact becomes the current release of a directory. Undone, the previous one is current again.

use super::ledger::{self, Entry, Login};
use super::releases::{self, Deployment, Releases, Undone, Wanted};
use super::{Done, Executor, Failure, Pending, Tools, Verdict, Work, blocking, fact, parameters};
use crate::artifacts::Digest;
use aws_lc_rs::hmac;
use hive_plan::TicketKind;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::timeout;

/// How long one row may take, connection and all.
const LEDGER_PATIENCE: Duration = Duration::from_secs(10);

/// Deploys into a local release directory.
pub(super) struct Deploy(pub(super) Tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// What to release.
    artifact: String,
    /// The program's file name.
    file: String,
    /// The release directory.
    into: String,
    /// The release's name.
    release: String,
    /// The credential whose field `key` seals the manifest.
    seal: Option<String>,
    /// The credential whose `username` and `password` open the ledger.
    ledger: Option<String>,
}

impl Executor for Deploy {
    fn kind(&self) -> TicketKind {
        TicketKind::Deploy
    }

    fn execute<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(self.deploy(work))
    }

    fn undo<'a>(&'a self, work: &'a Work) -> Pending<'a> {
        Box::pin(async {
            let wanted: Parameters = parameters(work)?;
            let releases = releases(work, &wanted)?;
            let ticket_id = work.ticket_id.clone();
            let undone = blocking(move || releases.undo(&ticket_id).map_err(failure)).await?;
            Ok(Done { message: undo_sentence(&wanted, &undone), ..Done::default() })
        })
    }
}

impl Deploy {
    async fn deploy(&self, work: &Work) -> Verdict {
        let wanted: Parameters = parameters(work)?;
        let releases = releases(work, &wanted)?;
        // Everything that can be refused is refused before anything is touched.
        let seal_key = seal_key(work, wanted.seal.as_deref())?;
        let login = self.ledger_login(work, wanted.ledger.as_deref())?;
        let released = self.release(work, &wanted, &releases, seal_key, &login).await;
        if released.is_err() {
            abandon(work, &releases).await;
        }
        released.map(|deployment| done(&wanted, &releases, &deployment, &login))
    }

    async fn release(
        &self,
        work: &Work,
        wanted: &Parameters,
        releases: &Releases,
        seal_key: Option<SecretString>,
        ledger: &Ledger,
    ) -> Result<Deployment, Failure> {
        let deployment = self.prepare(work, wanted, releases, seal_key).await?;
        if let Ledger::Open(login) = ledger {
            self.record(work, wanted, login).await?;
        }
        let (place, prepared) = (releases.clone(), deployment.clone());
        blocking(move || place.commit(&prepared).map_err(failure)).await?;
        Ok(deployment)
    }

    async fn prepare(
        &self,
        work: &Work,
        wanted: &Parameters,
        releases: &Releases,
        seal_key: Option<SecretString>,
    ) -> Result<Deployment, Failure> {
        let digest: Digest = wanted.artifact.parse().map_err(Failure::refused)?;
        let wanted = Wanted {
            ticket_id: work.ticket_id.clone(),
            claim: work.claim,
            plan_id: work.plan_id.clone(),
            release: wanted.release.clone(),
            file: wanted.file.clone(),
            digest,
            sealed_by: wanted.seal.clone(),
        };
        let (releases, artifacts) = (releases.clone(), self.0.artifacts.clone());
        let seal = move |manifest: &[u8]| seal_key.map(|key| seal(&key, manifest));
        blocking(move || releases.prepare(&wanted, &artifacts, seal).map_err(failure)).await
    }

    fn ledger_login(&self, work: &Work, credential: Option<&str>) -> Result<Ledger, Failure> {
        let Some(credential) = credential else { return Ok(Ledger::NotAsked) };
        if let Some(why) = work.credentials.skipped(credential) {
            return Ok(Ledger::Absent(why.to_owned()));
        }
        if self.0.ledger.is_none() {
            return Err(Failure::refused(
                "there is a ledger's login but no ledger: set HIVE_POSTGRES_ADDR",
            ));
        }
        let field = |name| credential_field(work, credential, name);
        Ok(Ledger::Open(Login { username: field("username")?, password: field("password")? }))
    }

    async fn record(&self, work: &Work, wanted: &Parameters, login: &Login) -> Result<(), Failure> {
        let address =
            self.0.ledger.as_ref().ok_or_else(|| Failure::refused("there is no ledger"))?;
        let entry = Entry {
            ticket_id: work.ticket_id.clone(),
            plan_id: work.plan_id.clone(),
            release: wanted.release.clone(),
            digest: wanted.artifact.clone(),
        };
        tokio::select! {
            recorded = timeout(LEDGER_PATIENCE, ledger::record(address, login, &entry)) => match recorded {
                Ok(recorded) => recorded.map_err(|error| Failure::because(&error)),
                Err(_) => Err(Failure::retryable(format!(
                    "the ledger at {}:{} did not answer within {} s",
                    address.host, address.port, LEDGER_PATIENCE.as_secs()
                ))),
            },
            () = work.stop.cancelled() => Err(Failure::Stopped),
        }
    }
}

/// A deploy that failed is nobody's to undo later: it takes itself back.
async fn abandon(work: &Work, releases: &Releases) {
    let (releases, ticket_id, claim) = (releases.clone(), work.ticket_id.clone(), work.claim);
    let abandoned = blocking(move || releases.abandon(&ticket_id, claim).map_err(failure)).await;
    if let Err(failure) = abandoned {
        tracing::error!(?failure, "a release that never became current is left behind");
    }
}

/// What the ticket has of a ledger.
enum Ledger {
    Absent(String),
    NotAsked,
    Open(Login),
}

fn releases(work: &Work, wanted: &Parameters) -> Result<Releases, Failure> {
    work.workspace.resolve(&wanted.into).map(Releases::at).map_err(Failure::refused)
}

fn failure(error: releases::Error) -> Failure {
    if error.is_transient() { Failure::because(&error) } else { Failure::refused(error) }
}

fn seal_key(work: &Work, credential: Option<&str>) -> Result<Option<SecretString>, Failure> {
    credential.map(|credential| credential_field(work, credential, "key")).transpose()
}

fn credential_field(work: &Work, credential: &str, field: &str) -> Result<SecretString, Failure> {
    work.credentials.field(credential, field).ok_or_else(|| {
        let why = work
            .credentials
            .skipped(credential)
            .unwrap_or("the ticket does not ask for it, or it is not text");
        Failure::refused(format!("the credential {credential} has no field {field}: {why}"))
    })
}

/// HMAC-SHA256 of the manifest: whoever has the key can tell that this is the manifest that was released.
fn seal(key: &SecretString, manifest: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
    format!("hmac-sha256:{}\n", crate::hex::encode(hmac::sign(&key, manifest).as_ref()))
}

fn done(
    wanted: &Parameters,
    releases: &Releases,
    deployment: &Deployment,
    ledger: &Ledger,
) -> Done {
    let directory = releases.directory(&wanted.release);
    let outputs = [
        fact("release", directory.display()),
        fact("program", directory.join(&wanted.file).display()),
        fact("previous", &deployment.previous),
    ];
    let message = match ledger {
        Ledger::Absent(why) => format!("no ledger: {why}"),
        Ledger::NotAsked => String::new(),
        Ledger::Open(_) => "recorded in the ledger".to_owned(),
    };
    Done { outputs: outputs.into(), message }
}

fn undo_sentence(wanted: &Parameters, undone: &Undone) -> String {
    let what = match undone {
        Undone::Restored(previous) if previous.is_empty() => {
            "nothing is released, as before".to_owned()
        }
        Undone::Restored(previous) if *previous == wanted.release => {
            format!("{previous} stays, for it was current before")
        }
        Undone::Restored(previous) => format!("{previous} is current again"),
        Undone::Overtaken => format!("{} is no longer this deploy's to take back", wanted.release),
        Undone::Nothing => "nothing of it was left".to_owned(),
    };
    match wanted.ledger {
        Some(_) => format!("{what}; the ledger keeps what was recorded"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_the_hmac_of_the_manifest() {
        // RFC 4231, test case 2.
        let seal = seal(&SecretString::from("Jefe"), b"what do ya want for nothing?");
        assert_eq!(
            seal,
            "hmac-sha256:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843\n"
        );
    }
}
