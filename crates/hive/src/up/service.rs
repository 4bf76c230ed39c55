//! One supervised service: started, registered, waited for, restarted with back-off, stopped.

use super::authority::Registrar;
use super::launch::{self, Launcher};
use hive_runtime::ready::Announcement;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A service that is not ready by then is hanging.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// What is to be run, and as whom.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) arguments: &'static [&'static str],
    pub(super) environment: Vec<(&'static str, String)>,
    /// The SPIFFE ID path that the authority gives to this process.
    pub(super) identity: Option<String>,
    /// One line for its standard input, which then stays open.
    pub(super) input: Option<SecretString>,
}

/// What the supervisor hears of its services.
#[derive(Debug)]
pub(super) enum Event {
    /// It serves.
    Ready { name: String, pid: u32, facts: Announcement },
    /// It ended without being asked, and will be started again.
    Ended { name: String, how: String, last_lines: Vec<String>, again_in: Duration },
    /// It ended, and the stack cannot go on.
    GaveUp { name: String, how: String, last_lines: Vec<String> },
}

/// Keeps services alive.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) launcher: Launcher,
    /// `None` when identities come from elsewhere.
    pub(super) registrar: Option<Registrar>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Keeper {
    /// Runs a service until `stop`, however often it dies.
    pub(super) async fn keep(self, service: Service, stop: CancellationToken) {
        let mut restarts = Restarts::default();
        while let Some(end) = self.one_life(&service, &stop).await {
            let name = service.name.clone();
            let last_lines = self.launcher.last_lines(&name);
            let Some(again_in) = restarts.after(end.was_ready, end.lasted) else {
                self.tell(Event::GaveUp { name, how: end.how, last_lines }).await;
                return;
            };
            self.tell(Event::Ended { name, how: end.how, last_lines, again_in }).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(again_in) => {}
            }
        }
    }

    /// From start to end. `None`: it was asked to stop, and has.
    async fn one_life(&self, service: &Service, stop: &CancellationToken) -> Option<End> {
        let started = Instant::now();
        let spawned = self.launcher.spawn(&service.name, service.arguments, &service.environment);
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Some(End::at_start(format!("cannot be started: {error}"))),
        };
        let mut was_ready = false;
        let how = tokio::select! {
            biased;
            () = stop.cancelled() => {
                launch::terminate(&mut child).await;
                return None;
            }
            how = self.attend(service, &mut child, &mut was_ready) => how,
        };
        // It may still run, when it never became ready.
        let _ = child.kill().await;
        Some(End { how, was_ready, lasted: started.elapsed() })
    }

    /// Everything between spawn and end. Returns how the service ended.
    async fn attend(&self, service: &Service, child: &mut Child, was_ready: &mut bool) -> String {
        let Some(pid) = child.id() else { return launch::describe(child.wait().await) };
        if let (Some(registrar), Some(path)) = (&self.registrar, &service.identity)
            && let Err(failure) = registrar.register(pid, path).await
        {
            return format!("has no identity: {}", failure.message);
        }
        // Held to the end: a service whose standard input closes knows that its supervisor is gone.
        let _input = match instruct(child, service.input.as_ref()).await {
            Ok(input) => input,
            Err(error) => return format!("took no instructions: {error}"),
        };
        let mut output = launch::output(child);
        match tokio::time::timeout(READY_DEADLINE, launch::announcement(&mut output)).await {
            Ok(Some(facts)) => {
                *was_ready = true;
                self.tell(Event::Ready { name: service.name.clone(), pid, facts }).await;
            }
            Ok(None) => return launch::describe(child.wait().await),
            Err(_) => return format!("was not ready within {READY_DEADLINE:?}"),
        }
        // A pipe that nobody reads would stop the service one day.
        let drain = async { while let Ok(Some(_)) = output.next_line().await {} };
        let (status, ()) = tokio::join!(child.wait(), drain);
        launch::describe(status)
    }

    async fn tell(&self, event: Event) {
        // Nobody listens any more when the stack is already ending.
        let _ = self.events.send(event).await;
    }
}

async fn instruct(
    child: &mut Child,
    line: Option<&SecretString>,
) -> std::io::Result<Option<ChildStdin>> {
    let mut input = child.stdin.take();
    if let (Some(input), Some(line)) = (&mut input, line) {
        input.write_all(line.expose_secret().as_bytes()).await?;
        input.write_all(b"\n").await?;
        input.flush().await?;
    }
    Ok(input)
}

struct End {
    how: String,
    was_ready: bool,
    lasted: Duration,
}

impl End {
    fn at_start(how: String) -> Self {
        Self { how, was_ready: false, lasted: Duration::ZERO }
    }
}

/// When a service that died is started again, and when it is not.
#[derive(Default)]
struct Restarts {
    ever_ready: bool,
    in_a_row: u32,
}

impl Restarts {
    const FIRST_DELAY: Duration = Duration::from_millis(200);
    const DELAY_MAX: Duration = Duration::from_secs(5);
    /// A life this long is a good one: the deaths before it no longer count.
    const GOOD_LIFE: Duration = Duration::from_secs(30);
    const IN_A_ROW_MAX: u32 = 12;

    /// The delay before the next start. `None`: it never served, or dies again and again.
    fn after(&mut self, was_ready: bool, lasted: Duration) -> Option<Duration> {
        self.ever_ready |= was_ready;
        self.in_a_row = if lasted >= Self::GOOD_LIFE { 1 } else { self.in_a_row + 1 };
        if !self.ever_ready || self.in_a_row > Self::IN_A_ROW_MAX {
            return None;
        }
        let doubled = Self::FIRST_DELAY.saturating_mul(1 << (self.in_a_row - 1).min(16));
        Some(doubled.min(Self::DELAY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_never_served_is_not_started_again() {
        assert_eq!(Restarts::default().after(false, Duration::ZERO), None);
    }

    #[test]
    fn deaths_in_a_row_wait_longer_and_longer_and_end_at_last() {
        let mut restarts = Restarts::default();
        let delays: Vec<_> =
            std::iter::from_fn(|| restarts.after(true, Duration::from_secs(1))).collect();
        assert_eq!(delays[0], Duration::from_millis(200));
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(delays.len(), Restarts::IN_A_ROW_MAX as usize);
    }

    #[test]
    fn a_good_life_forgives_the_deaths_before_it() {
        let mut restarts = Restarts::default();
        restarts.after(true, Duration::ZERO);
        restarts.after(true, Duration::ZERO);
        assert_eq!(restarts.after(true, Duration::from_secs(60)), Some(Restarts::FIRST_DELAY));
    }
}
