//! Time, handed in: the machine's, or one that a test turns by hand.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hive_lease::Moment;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Where time comes from. Cheap to clone; clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

/// Turns a clock that was made by [`Clock::by_hand`].
#[derive(Clone, Debug)]
pub struct Hands(Arc<watch::Sender<Face>>);

#[derive(Clone)]
enum Kind {
    Hand(watch::Receiver<Face>),
    System { origin: Instant },
}

/// What a clock that is turned by hand shows.
#[derive(Clone, Copy, Debug)]
struct Face {
    since_origin: Duration,
    wall: SystemTime,
}

/// A wait longer than this is looked at again; the timers of the runtime do not reach for ever.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

impl Clock {
    /// The machine's monotonic clock, counted from now.
    pub fn system() -> Self {
        Self(Kind::System { origin: Instant::now() })
    }

    /// A clock that stands still until its hands are turned. It begins at the wall time of the machine.
    pub fn by_hand() -> (Self, Hands) {
        let face = Face { since_origin: Duration::ZERO, wall: SystemTime::now() };
        let (sender, receiver) = watch::channel(face);
        (Self(Kind::Hand(receiver)), Hands(Arc::new(sender)))
    }

    /// The time that has passed, which no step of the wall clock changes.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Kind::Hand(face) => Moment::after(face.borrow().since_origin),
            Kind::System { origin } => Moment::after(origin.elapsed()),
        }
    }

    /// The time of day, which an administrator or NTP may change at any moment.
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Kind::Hand(face) => face.borrow().wall,
            Kind::System { .. } => SystemTime::now(),
        }
    }

    /// Waits until then; for ever if the hands of the clock are gone before. Cancel-safe.
    pub async fn sleep_until(&self, moment: Moment) {
        match &self.0 {
            Kind::Hand(face) => {
                let mut face = face.clone();
                let is_then = |face: &Face| Moment::after(face.since_origin) >= moment;
                if face.wait_for(is_then).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Kind::System { origin } => {
                while self.now() < moment {
                    let due = moment.since_origin().min(origin.elapsed() + WAIT_MAX);
                    sleep_until(*origin + due).await;
                }
            }
        }
    }
}

impl Hands {
    /// Lets time pass, on the monotonic and on the wall clock.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|face| {
            face.since_origin += by;
            face.wall += by;
        });
    }

    /// Steps the wall clock alone, as NTP does: forward, or backward where `back` says so.
    pub fn step_wall(&self, by: Duration, back: bool) {
        self.0.send_modify(|face| face.wall = if back { face.wall - by } else { face.wall + by });
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hand(_) => "by hand",
            Self::System { .. } => "system",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_by_hand_wakes_those_whose_time_has_come() {
        let (clock, hands) = Clock::by_hand();
        let minute = Moment::after(Duration::from_secs(60));
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(minute).await }
        });
        hands.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hands.advance(Duration::from_secs(1));
        waiting.await.expect("it wakes");
        assert_eq!(clock.now(), minute);
    }

    #[tokio::test]
    async fn a_step_of_the_wall_clock_wakes_nobody_and_passes_no_time() {
        let (clock, hands) = Clock::by_hand();
        let (before, wall) = (clock.now(), clock.wall());
        hands.step_wall(Duration::from_secs(90), true);
        assert_eq!((clock.now(), clock.wall()), (before, wall - Duration::from_secs(90)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_the_machine_waits_as_long_as_it_is_told() {
        let clock = Clock::system();
        let then = Moment::after(3 * WAIT_MAX);
        clock.sleep_until(then).await;
        assert!(clock.now() >= then);
    }
}
