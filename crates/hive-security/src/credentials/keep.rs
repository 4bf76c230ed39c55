//! The set of credentials, as its owner sees it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_lease::Rotation;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::board::{Board, Status};
use super::driver::{Command, Driver};
use super::slot::Slot;
use super::{Credential, Holder, HolderError, Request, Settings};
use crate::epoch::Error;
use crate::issuer::Issuer;
use crate::rotating::Rotating;
use crate::vault::{self, LoginMethod, VaultClient};

/// The owner asks a few times in its life; what waits here is answered within one turn of the loop.
const COMMANDS: usize = 16;

/// A set of credentials that is always there, as long as anything of it is left. Cheap to clone; it is given back when
/// it is [closed](Self::close), or in the background when the last clone is dropped.
#[derive(Clone)]
pub struct Credentials {
    names: Arc<HashMap<String, usize>>,
    values: Arc<[Rotating<Result<Credential, Error>>]>,
    board: Arc<Board>,
    calls: Arc<vault::Counts>,
    commands: mpsc::Sender<Command>,
    last_holder: Arc<AtomicU64>,
}

/// Dropping it ends a holder's part: it is told of no change any more, and nobody waits for it.
#[must_use = "a holder that is not held moves no more"]
#[derive(Debug)]
pub struct Hold {
    slot: usize,
    id: u64,
    commands: mpsc::Sender<Command>,
}

/// Why a holder could not be added.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The set was closed.
    #[error("these credentials are given back")]
    Closed,
    /// The holder did not take the current credential.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// There is no such credential.
    #[error("there is no credential {0}: it was not requested")]
    Unknown(String),
}

impl Credentials {
    /// Logs in, has everything issued, and keeps it alive in a task of its own. Resolves when the first generation may be
    /// used, or, with everything given back, with the reason why there is none.
    ///
    /// A future that is dropped leaves nothing behind: what was issued is given back in the background.
    pub async fn open(
        vault: VaultClient,
        login: LoginMethod,
        requests: Vec<Request>,
        settings: Settings,
    ) -> Result<Self, Error> {
        let mut seen = HashSet::new();
        if let Some(twice) = requests.iter().find(|request| !seen.insert(request.name())) {
            return Err(Error::Twice { name: twice.name().to_owned() });
        }
        let Settings { clock, policy, open_within } = settings;
        let now = clock.now();
        let wants: Vec<_> = requests.iter().map(Request::want).collect();
        let rotation = Rotation::new(policy, wants, rand::random(), now, now + open_within);
        let pairs = requests.iter().map(|one| (one.name().to_owned(), one.path().to_owned()));
        let board = Arc::new(Board::new(login.role(), pairs));
        let names = requests
            .iter()
            .enumerate()
            .map(|(place, one)| (one.name().to_owned(), place))
            .collect();
        let (slots, values): (Vec<_>, Vec<_>) = requests.into_iter().map(Slot::new).unzip();
        let (commands, obeyed) = mpsc::channel(COMMANDS);
        let (opened, is_open) = oneshot::channel();
        let calls = vault.counts();
        let driver = Driver {
            issuer: Issuer { vault, login, clock },
            rotation,
            slots,
            board: Arc::clone(&board),
            commands: obeyed,
            opened: Some(opened),
            epochs: HashMap::new(),
            causes: HashMap::new(),
            jobs: JoinSet::new(),
            closing: None,
            failure: None,
            is_abandoned: false,
            is_stopping: false,
        };
        tokio::spawn(driver.run());
        is_open.await.map_err(|_| Error::Closed)??;
        let last_holder = Arc::default();
        let (names, values) = (Arc::new(names), values.into());
        Ok(Self { names, values, board, calls, commands, last_holder })
    }

    /// The credential of this name, as it changes; None if it was not requested. While nothing may be used, its value is
    /// the reason.
    pub fn watch(&self, name: &str) -> Option<Rotating<Result<Credential, Error>>> {
        Some(self.values[*self.names.get(name)?].subscribe())
    }

    /// Has `holder` adopt the current credential of this name and each that follows. No generation is revoked before
    /// every holder has left it, or the overlap is over.
    pub async fn hold(&self, name: &str, holder: Arc<dyn Holder>) -> Result<Hold, HoldError> {
        let slot = *self.names.get(name).ok_or_else(|| HoldError::Unknown(name.to_owned()))?;
        let id = self.last_holder.fetch_add(1, Ordering::Relaxed);
        let (done, is_done) = oneshot::channel();
        let command = Command::Hold { slot, id, holder, done };
        self.commands.send(command).await.map_err(|_| HoldError::Closed)?;
        // Made before the answer comes: if this future is dropped, the holder is let go.
        let hold = Hold { slot, id, commands: self.commands.clone() };
        is_done.await.map_err(|_| HoldError::Closed)??;
        Ok(hold)
    }

    /// Asks for new credentials now, as an operator does. They come when they are proven; nobody waits for that here.
    pub async fn rotate(&self) {
        // Whoever has closed it needs no new ones.
        let _ = self.commands.send(Command::Rotate).await;
    }

    /// What there is at this moment, without any secret.
    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// Lets holders finish, then gives every lease back and the token last, within the time allowed. The error names
    /// what is left.
    pub async fn close(self, within: Duration) -> Result<(), Error> {
        let (done, is_done) = oneshot::channel();
        let sent = self.commands.send(Command::Close { within, done }).await;
        sent.map_err(|_| Error::Closed)?;
        is_done.await.map_err(|_| Error::Closed)?
    }

    /// What its client has asked of Vault.
    pub(crate) fn calls(&self) -> &Arc<vault::Counts> {
        &self.calls
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let release = Command::Release { slot: self.slot, id: self.id };
        // A full queue is emptied within moments; a closed one needs nothing any more.
        if let Err(mpsc::error::TrySendError::Full(release)) = self.commands.try_send(release) {
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(release).await });
            }
        }
    }
}
