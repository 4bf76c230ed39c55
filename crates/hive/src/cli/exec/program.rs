//! The program: started, signalled, waited for.

use crate::cli::stack::Failure;
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{MissedTickBehavior, interval};

/// So often it is looked whether what is held has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// As a shell says that there is no such program.
const NOT_FOUND: u8 = 127;
/// As a shell says that a program was ended by a signal: this and its number.
const SIGNALLED: u8 = 128;

/// The signals that are handed on.
pub(super) struct Signals([(Signal, unix::Signal); 6]);

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let all =
            [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];
        let listen = |number: Signal| unix::signal(SignalKind::from_raw(number.as_raw()));
        let failed = |error| Failure::error(format!("signals cannot be received: {error}"));
        let [a, b, c, d, e, f] = all.map(|number| listen(number).map(|seen| (number, seen)));
        let seen: io::Result<_> = (|| Ok([a?, b?, c?, d?, e?, f?]))();
        seen.map(Self).map_err(failed)
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for one that ends a program; the exit status that says so.
    pub(super) async fn stop(&mut self) -> u8 {
        loop {
            let number = self.next().await;
            if matches!(number, Signal::HUP | Signal::INT | Signal::QUIT | Signal::TERM) {
                return exit_status(number.as_raw());
            }
        }
    }
}

pub(super) struct Program {
    child: Child,
    pid: Pid,
}

impl Program {
    pub(super) fn start(command: &[OsString], credentials: &Path) -> Result<Self, Failure> {
        let [program, arguments @ ..] = command else {
            return Err(Failure::bad_input("no program is named"));
        };
        let mut command = Command::new(program);
        command.args(arguments).env("HIVE_CREDENTIALS", credentials);
        let failed = |error: &dyn std::fmt::Display| Failure {
            message: format!("{} cannot be run: {error}", program.display()),
            status: NOT_FOUND,
        };
        let child = command.spawn().map_err(|error| failed(&error))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(Self { child, pid: pid.ok_or_else(|| failed(&"it has no process ID"))? })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end, and hands signals on until then.
    pub(super) async fn run(
        &mut self,
        signals: &mut Signals,
        mut look: impl FnMut(),
    ) -> Result<ExitCode, Failure> {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    let status = ended.map_err(|error| Failure::error(format!("the program is lost: {error}")))?;
                    return Ok(ExitCode::from(of_program(status)));
                }
                number = signals.next() => self.hand_on(number),
                _ = ticks.tick() => look(),
            }
        }
    }

    fn hand_on(&self, number: Signal) {
        // What is typed at a terminal goes to every process of the group already.
        let typed = matches!(number, Signal::INT | Signal::QUIT)
            && tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp());
        if !typed {
            // It was not waited for, so the number is still its own.
            let _ = kill_process(self.pid, number);
        }
    }
}

fn of_program(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(number)) => exit_status(number),
        (None, None) => 1,
    }
}

fn exit_status(number: i32) -> u8 {
    u8::try_from(number).map_or(SIGNALLED, |number| SIGNALLED.saturating_add(number))
}
