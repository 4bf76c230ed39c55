//! The conductor's task: one owner of all state, asked through a channel, woken by time.

use super::{Conductor, HandedOut};
use crate::error::{Error, Refused};
use crate::store::{Received, Submission};
use hive_api::orchestrator::PlanView;
use hive_plan::{Plan, PlanId, TicketId, TicketKind, UnixMillis};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests that wait for the conductor, at most: each takes well under a millisecond, so a full channel is a quarter
/// of a second of delay, and callers beyond it wait in their own connections.
const REQUESTS: usize = 256;
/// Claims that wait for work, at most: two for each worker of a large fleet.
const MAX_WAITING: usize = 1_024;

type Reply<T> = oneshot::Sender<T>;

#[derive(Debug)]
enum Request {
    Cancel {
        plan: String,
        by: String,
        reason: String,
        reply: Reply<Result<PlanView, Refused>>,
    },
    Claim {
        claimant: Claimant,
        wait: bool,
    },
    Extend {
        caller: String,
        ticket: TicketId,
        claim: u64,
        reply: Reply<Result<Option<String>, Refused>>,
    },
    Get {
        plan: String,
        reply: Reply<Result<PlanView, Refused>>,
    },
    List {
        limit: u32,
        reply: Reply<Vec<PlanView>>,
    },
    Report {
        received: Received,
        reply: Reply<Result<(), Refused>>,
    },
    Submit {
        plan: Box<Plan>,
        submission: Submission,
        reply: Reply<Result<PlanId, Refused>>,
    },
    Watch {
        plan: String,
        reply: Reply<Result<watch::Receiver<Arc<PlanView>>, Refused>>,
    },
}

/// A worker that asks for work.
#[derive(Debug)]
struct Claimant {
    worker: String,
    kinds: Vec<TicketKind>,
    reply: Reply<Result<Option<Box<HandedOut>>, Refused>>,
}

/// The way to the conductor. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    clock: Clock,
}

/// The time of the log: the wall clock when the process started, and since then a clock that never jumps, for a jump
/// would end every claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_ms: super::millis(since) }
    }

    pub(crate) fn now(self) -> UnixMillis {
        UnixMillis(self.started_ms.saturating_add(super::millis(self.started.elapsed())))
    }

    /// Never ends when there is nothing to wait for.
    async fn sleep_until(self, moment: Option<UnixMillis>) {
        let Some(moment) = moment else { return std::future::pending().await };
        let left = u64::try_from(moment.0.saturating_sub(self.now().0)).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}

impl Handle {
    /// Starts nothing yet: gives the way in, and the task to spawn. The task ends when `stop` is cancelled, or when
    /// the log cannot be written.
    pub(crate) fn new(
        conductor: Conductor,
        clock: Clock,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = Result<(), Error>> + Send) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let actor = Actor { conductor, clock, requests, waiting: Vec::new() };
        (Self { requests: sender, clock }, actor.run(stop))
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    pub(crate) async fn submit(
        &self,
        plan: Plan,
        submission: Submission,
    ) -> Result<PlanId, Refused> {
        let plan = Box::new(plan);
        self.ask(|reply| Request::Submit { plan, submission, reply }).await?
    }

    pub(crate) async fn get(&self, plan: String) -> Result<PlanView, Refused> {
        self.ask(|reply| Request::Get { plan, reply }).await?
    }

    pub(crate) async fn list(&self, limit: u32) -> Result<Vec<PlanView>, Refused> {
        self.ask(|reply| Request::List { limit, reply }).await
    }

    pub(crate) async fn watch(
        &self,
        plan: String,
    ) -> Result<watch::Receiver<Arc<PlanView>>, Refused> {
        self.ask(|reply| Request::Watch { plan, reply }).await?
    }

    pub(crate) async fn cancel(
        &self,
        plan: String,
        by: String,
        reason: String,
    ) -> Result<PlanView, Refused> {
        self.ask(|reply| Request::Cancel { plan, by, reason, reply }).await?
    }

    pub(crate) async fn extend(
        &self,
        caller: String,
        ticket: TicketId,
        claim: u64,
    ) -> Result<Option<String>, Refused> {
        self.ask(|reply| Request::Extend { caller, ticket, claim, reply }).await?
    }

    /// Returns once the outcome is durable.
    pub(crate) async fn report(&self, received: Received) -> Result<(), Refused> {
        self.ask(|reply| Request::Report { received, reply }).await?
    }

    /// Waits up to `wait` for work. Whoever stops waiting loses nothing: work is handed to those who listen.
    pub(crate) async fn claim(
        &self,
        worker: String,
        kinds: Vec<TicketKind>,
        wait: Duration,
    ) -> Result<Option<HandedOut>, Refused> {
        let (reply, mut answer) = oneshot::channel();
        let claimant = Claimant { worker, kinds, reply };
        self.send(Request::Claim { claimant, wait: !wait.is_zero() }).await?;
        let handed_out = if wait.is_zero() {
            answer.await
        } else if let Ok(answered) = tokio::time::timeout(wait, &mut answer).await {
            answered
        } else {
            // Work that was handed over in this very moment is in the channel.
            answer.close();
            let Ok(handed_out) = answer.try_recv() else { return Ok(None) };
            Ok(handed_out)
        };
        let handed_out = handed_out.map_err(|_| Refused::Stopping)??;
        Ok(handed_out.map(|boxed| *boxed))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        answer.await.map_err(|_| Refused::Stopping)
    }

    async fn send(&self, request: Request) -> Result<(), Refused> {
        self.requests.send(request).await.map_err(|_| Refused::Stopping)
    }
}

struct Actor {
    conductor: Conductor,
    clock: Clock,
    requests: mpsc::Receiver<Request>,
    waiting: Vec<Claimant>,
}

impl Actor {
    async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            self.hand_out().await?;
            let timer = self.conductor.next_timer(self.clock.now());
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request).await?,
                    None => break,
                },
                () = self.clock.sleep_until(timer) => self.conductor.tick(self.clock.now()).await?,
                () = stop.cancelled() => break,
            }
        }
        self.conductor.close().await
    }

    /// Answers one request. Whoever stopped listening has no use for the answer, and that is not our trouble.
    async fn answer(&mut self, request: Request) -> Result<(), Error> {
        let now = self.clock.now();
        let conductor = &mut self.conductor;
        match request {
            Request::Cancel { plan, by, reason, reply } => {
                drop(reply.send(conductor.cancel(now, &plan, &by, &reason).await?));
            }
            Request::Claim { claimant, wait } => self.take_in(claimant, wait).await?,
            Request::Extend { caller, ticket, claim, reply } => {
                drop(reply.send(conductor.extend(now, &caller, &ticket, claim)));
            }
            Request::Get { plan, reply } => drop(reply.send(conductor.get(&plan).await?)),
            Request::List { limit, reply } => drop(reply.send(conductor.list(limit).await?)),
            Request::Report { received, reply } => {
                drop(reply.send(conductor.report(now, received).await?));
            }
            Request::Submit { plan, submission, reply } => {
                drop(reply.send(conductor.submit(*plan, submission).await?));
            }
            Request::Watch { plan, reply } => drop(reply.send(conductor.watch(&plan).await?)),
        }
        Ok(())
    }

    /// Serves a claimant at once, or lets it wait behind the others.
    async fn take_in(&mut self, claimant: Claimant, wait: bool) -> Result<(), Error> {
        let Some(claimant) = self.serve(claimant).await? else { return Ok(()) };
        self.waiting.retain(|claimant| !claimant.reply.is_closed());
        let answer = match (wait, self.waiting.len()) {
            (false, _) => Ok(None),
            (true, MAX_WAITING..) => Err(Refused::Full {
                what: format!("{MAX_WAITING} claims are waiting for work"),
                remedy: "claim again later",
            }),
            (true, _) => {
                self.waiting.push(claimant);
                return Ok(());
            }
        };
        drop(claimant.reply.send(answer));
        Ok(())
    }

    /// Gives what may begin to those who wait, first come, first served.
    async fn hand_out(&mut self) -> Result<(), Error> {
        for claimant in std::mem::take(&mut self.waiting) {
            if let Some(unserved) = self.serve(claimant).await? {
                self.waiting.push(unserved);
            }
        }
        Ok(())
    }

    /// Gives the claimant back when there is nothing for it.
    async fn serve(&mut self, claimant: Claimant) -> Result<Option<Claimant>, Error> {
        if claimant.reply.is_closed() {
            return Ok(None);
        }
        let now = self.clock.now();
        let handed_out = self.conductor.claim(now, &claimant.worker, &claimant.kinds).await?;
        let Some(handed_out) = handed_out else { return Ok(Some(claimant)) };
        let claim = handed_out.claim.number;
        if claimant.reply.send(Ok(Some(Box::new(handed_out)))).is_err() {
            // The claimant left while its claim was written. Nobody knows of it, so it need not run out first.
            self.conductor.lose(now, claim).await?;
        }
        Ok(None)
    }
}
