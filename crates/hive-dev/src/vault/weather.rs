//! Bad weather on demand: what a client of a vault must live through, when a test says so and in the order that it says.
//!
//! The unit is the answer to one call. Each answer takes the next trouble that is announced for its path, or one of
//! those that befall a share of all answers; without one the weather is fair. It is made from inside the process:
//! nothing that comes over the wire can change it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hive_lease::Moment;
use hive_security::clock::Clock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::core::TokenKey;
use super::reply::Fault;
use super::terms::since;

/// What befalls an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Trouble {
    /// The connection breaks before anything has happened.
    Drop,
    /// It happens, and then the connection breaks: the answer is lost.
    Lose,
    /// The body makes no sense.
    Malformed(Malformed),
    /// Somebody else is to be asked.
    Redirect {
        /// Status 307, and this as its `Location`, with the path at the end.
        to: String,
    },
    /// Nothing happens, and this is the answer.
    Refuse {
        /// The status code.
        status: u16,
        /// The one text in `errors`.
        message: String,
    },
    /// It happens, and the body comes byte by byte, over this long of the machine's time.
    Slow {
        /// How long the whole body takes.
        over: Duration,
    },
    /// It comes late: when [`Weather::release`] is called, and at the latest after this long of the machine's time.
    /// What was asked for happens then.
    Stall {
        /// The deadline.
        at_most: Duration,
    },
}

/// What is wrong with the body of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Nothing is in it.
    Empty,
    /// It is not JSON.
    Garbage,
    /// It is two mebibytes long.
    Huge,
    /// It ends in the middle.
    Torn,
}

/// A node that is not the active one, and what it does with a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standby {
    /// It knows of no active node.
    Alone,
    /// It answers itself: only its health tells.
    Forwarding,
    /// It sends the caller to another address, by a redirect.
    Redirecting {
        /// `http://127.0.0.1:8200`
        to: String,
    },
}

/// The weather of one vault. Fair until someone says otherwise.
pub struct Weather {
    state: Mutex<State>,
    released: watch::Sender<u64>,
    stalled: watch::Sender<usize>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    /// By the path that an answer's path begins with.
    troubles: BTreeMap<String, VecDeque<Spell>>,
    share: Option<Share>,
    standby: Option<Standby>,
    lag: Option<Lag>,
    fresh: HashMap<TokenKey, Moment>,
}

/// One trouble, and how many answers it is still for; None is for all.
struct Spell {
    trouble: Trouble,
    left: Option<u32>,
}

struct Share {
    path: String,
    of_a_thousand: u32,
    trouble: Trouble,
    random: StdRng,
}

#[derive(Clone, Copy)]
struct Lag {
    lasts: Duration,
    status: u16,
}

impl Weather {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            state: Mutex::default(),
            released: watch::Sender::new(0),
            stalled: watch::Sender::new(0),
            clock,
        }
    }

    /// The next `answers` to calls whose path begins with `path` meet this trouble, after those that were announced
    /// for the same `path` before. `path` is below `/v1/`; empty, it is every path.
    pub fn next(&self, path: &str, answers: u32, trouble: Trouble) {
        if answers > 0 {
            self.push(path, Spell { trouble, left: Some(answers) });
        }
    }

    /// Every answer to a call whose path begins with `path` meets this trouble from now on.
    pub fn always(&self, path: &str, trouble: Trouble) {
        self.push(path, Spell { trouble, left: None });
    }

    /// So many of a thousand answers meet this trouble, as chance has it: the same seed, the same chances.
    pub fn sometimes(&self, path: &str, of_a_thousand: u32, seed: u64, trouble: Trouble) {
        let random = StdRng::seed_from_u64(seed);
        let share = Share { path: path.to_owned(), of_a_thousand, trouble, random };
        self.state().share = Some(share);
    }

    /// The node is a standby from now on, or, with None, the active one.
    pub fn set_standby(&self, standby: Option<Standby>) {
        self.state().standby = standby;
    }

    /// A token that a login made is unknown for so long, as where another node has to hear of it first. The status is
    /// 403 or 412.
    pub fn lag_after_login(&self, lasts: Duration, status: u16) {
        self.state().lag = Some(Lag { lasts, status });
    }

    /// Fair weather, at once: nothing is announced any more, and what stalls goes on.
    pub fn clear(&self) {
        *self.state() = State::default();
        self.release();
    }

    /// Lets all answers go on that stall now.
    pub fn release(&self) {
        self.released.send_modify(|times| *times += 1);
    }

    /// Waits until at least so many answers stall.
    pub async fn stalled(&self, answers: usize) {
        // The sender lives as long as `self`, so there is no error.
        let _ = self.stalled.subscribe().wait_for(|stalled| *stalled >= answers).await;
    }

    pub(super) fn is_standby(&self) -> bool {
        self.state().standby.is_some()
    }

    /// What becomes of a call that reaches a standby.
    pub(super) fn standby(&self, path: &str) -> Option<Trouble> {
        if ["sys/health", "sys/seal-status", "sys/leader", "sys/init"].contains(&path) {
            return None;
        }
        match self.state().standby.clone()? {
            Standby::Alone => {
                let message = "local node not active but active cluster node not found".to_owned();
                Some(Trouble::Refuse { status: 500, message })
            }
            Standby::Forwarding => None,
            Standby::Redirecting { to } => Some(Trouble::Redirect { to }),
        }
    }

    pub(super) fn logged_in(&self, key: &TokenKey) {
        let mut state = self.state();
        if let Some(lag) = state.lag {
            let until = self.clock.now() + lag.lasts;
            state.fresh.insert(*key, until);
        }
    }

    /// Refuses a token of which this node has not heard yet.
    pub(super) fn check(&self, key: &TokenKey) -> Result<(), Fault> {
        let mut state = self.state();
        let Some(until) = state.fresh.get(key) else { return Ok(()) };
        if since(self.clock.now(), *until).is_zero() {
            state.fresh.remove(key);
            return Ok(());
        }
        match state.lag.map(|lag| lag.status) {
            Some(412) => Err(Fault::new(412, "required index state not present")),
            Some(_) => Err(Fault::no_token()),
            None => Ok(()),
        }
    }

    /// The next trouble for a path: the longest that was announced, else as chance has it.
    pub(super) fn take(&self, path: &str) -> Option<Trouble> {
        let mut state = self.state();
        let fitting = state.troubles.iter_mut().rev();
        let mut fitting =
            fitting.filter(|(own, spells)| path.starts_with(*own) && !spells.is_empty());
        if let Some((_, spells)) = fitting.next() {
            return taken(spells);
        }
        let share = state.share.as_mut().filter(|share| path.starts_with(&share.path))?;
        let strikes = share.random.random_range(0..1000) < share.of_a_thousand;
        strikes.then(|| share.trouble.clone())
    }

    pub(super) async fn stall(&self, at_most: Duration, stop: &CancellationToken) {
        let mut released = self.released.subscribe();
        let _counted = Counted::new(&self.stalled);
        tokio::select! {
            () = tokio::time::sleep(at_most) => {}
            _ = released.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    fn push(&self, path: &str, spell: Spell) {
        self.state().troubles.entry(path.to_owned()).or_default().push_back(spell);
    }

    /// Every change is one call, so a panicking holder leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taken(spells: &mut VecDeque<Spell>) -> Option<Trouble> {
    let spell = spells.front_mut()?;
    let trouble = spell.trouble.clone();
    if let Some(left) = &mut spell.left {
        *left -= 1;
        if *left == 0 {
            spells.pop_front();
        }
    }
    Some(trouble)
}

/// One of those that stall, also if its caller goes away meanwhile.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|stalled| *stalled += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|stalled| *stalled -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(message: &str) -> Trouble {
        Trouble::Refuse { status: 500, message: message.to_owned() }
    }

    #[test]
    fn troubles_come_in_order_and_to_the_paths_they_are_for() {
        let weather = Weather::new(Clock::system());
        weather.next("auth/", 1, refusal("first"));
        weather.next("auth/", 0, refusal("never"));
        weather.next("auth/", 1, Trouble::Lose);
        weather.next("", 1, Trouble::Drop);
        assert_eq!(weather.take("secret/data/a"), Some(Trouble::Drop));
        assert_eq!(weather.take("secret/data/a"), None);
        let taken = [(); 3].map(|()| weather.take("auth/jwt/login"));
        assert_eq!(taken, [Some(refusal("first")), Some(Trouble::Lose), None]);
    }

    #[test]
    fn what_is_announced_for_always_lasts_until_it_clears() {
        let weather = Weather::new(Clock::system());
        weather.always("", Trouble::Drop);
        assert!((0..10).all(|_| weather.take("a") == Some(Trouble::Drop)));
        weather.clear();
        assert_eq!(weather.take("a"), None);
    }

    #[test]
    fn chance_strikes_about_as_often_as_it_should_and_the_same_each_time() {
        let strikes = |seed| {
            let weather = Weather::new(Clock::system());
            weather.sometimes("database/", 10, seed, Trouble::Lose);
            let strike = |_: &u32| weather.take("database/creds/a").is_some();
            (0..10_000).filter(strike).collect::<Vec<u32>>()
        };
        let first = strikes(7);
        assert!((50..200).contains(&first.len()), "{}", first.len());
        assert_eq!(first, strikes(7));
        assert_ne!(first, strikes(8));
    }

    #[test]
    fn a_fresh_token_is_unknown_until_its_lag_is_over() {
        let (clock, hands) = Clock::by_hand();
        let weather = Weather::new(clock);
        weather.lag_after_login(Duration::from_secs(2), 412);
        let key = [1; 32];
        weather.logged_in(&key);
        assert_eq!(weather.check(&key).err().map(|fault| fault.status), Some(412));
        hands.advance(Duration::from_secs(2));
        assert!(weather.check(&key).is_ok());
    }
}
