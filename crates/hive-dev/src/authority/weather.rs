//! Bad weather on demand: what a client must live through, when a test says so and in the order that it says.
//!
//! The unit is the answer: what a method returns once, or one message of a stream. Each answer takes the next
//! trouble of its method; without one the weather is fair. Only a caller with an identity meets any. The
//! weather is made from inside the process: nothing that comes over a socket, or over the control stream, can change it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::clock::{Clock, ClockShift};
use super::issuer::Validity;
use super::socket::Caller;
use super::workload_api::stopping;

/// A method of the Workload API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `FetchJWTBundles`, a stream.
    FetchJwtBundles,
    /// `FetchJWTSVID`.
    FetchJwtSvid,
    /// `FetchX509Bundles`, a stream.
    FetchX509Bundles,
    /// `FetchX509SVID`, a stream.
    FetchX509Svid,
    /// `ValidateJWTSVID`.
    ValidateJwtSvid,
}

/// What befalls an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The connection breaks, and with it everything else that is open on it.
    Drop,
    /// The documents in it expired a while ago. Bundles and validations hold none, and stay as they are.
    Expired,
    /// It can be read, and makes no sense.
    Malformed(Malformed),
    /// It is a status instead; a stream ends with it.
    Refuse {
        /// The status code.
        code: Code,
        /// The message beside it.
        message: String,
    },
    /// It comes late: when [`Weather::release`] is called, and at the latest after this long.
    Stall {
        /// The deadline.
        at_most: Duration,
    },
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing is in it.
    Empty,
    /// Certificates, tokens and keys are bytes without meaning.
    Garbage,
    /// Certificates, tokens and keys end in the middle.
    Torn,
}

/// What an answer is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Fair,
    /// The wait was long: who is asking may have changed.
    Late,
    Expired,
    Malformed(Malformed),
}

impl Condition {
    pub(super) fn validity(self) -> Validity {
        if self == Self::Expired { Validity::Expired } else { Validity::Good }
    }
}

/// The weather of one authority. Fair until someone says otherwise.
#[derive(Debug)]
pub struct Weather {
    troubles: Mutex<BTreeMap<Method, VecDeque<Spell>>>,
    released: watch::Sender<u64>,
    stalled: watch::Sender<usize>,
    /// Makes open streams speak.
    pub(super) spoken: watch::Sender<u64>,
    clock: Clock,
}

/// One trouble, and how many answers it is still for; None is for all.
#[derive(Debug)]
struct Spell {
    trouble: Trouble,
    left: Option<u32>,
}

impl Weather {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            troubles: Mutex::default(),
            released: watch::Sender::new(0),
            stalled: watch::Sender::new(0),
            spoken: watch::Sender::new(0),
            clock,
        }
    }

    /// The next `answers` of `method` meet this trouble, after those that were announced before.
    pub fn next(&self, method: Method, answers: u32, trouble: Trouble) {
        if answers > 0 {
            self.push(method, Spell { trouble, left: Some(answers) });
        }
    }

    /// Every answer of `method` meets this trouble from now on, after those that were announced before.
    pub fn always(&self, method: Method, trouble: Trouble) {
        self.push(method, Spell { trouble, left: None });
    }

    /// Fair weather, at once: nothing is announced any more, what stalls goes on, the clock is right.
    pub fn clear(&self) {
        self.troubles().clear();
        self.release();
        self.clock.shift(ClockShift::Right);
        self.say_again();
    }

    /// How many answers of `method` are still to meet trouble; None if all are.
    pub fn announced(&self, method: Method) -> Option<u32> {
        let troubles = self.troubles();
        let spells = troubles.get(&method).into_iter().flatten();
        spells.map(|spell| spell.left).sum()
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

    /// Sets the authority's clock wrong, or right. Open streams say their state again, by that clock.
    pub fn shift_clock(&self, shift: ClockShift) {
        self.clock.shift(shift);
        self.say_again();
    }

    /// Makes every open stream say its state again, in the weather that is announced.
    pub fn say_again(&self) {
        self.spoken.send_modify(|times| *times += 1);
    }

    /// Lives through the next trouble, and says what the answer shall be.
    pub(super) async fn meet(
        &self,
        method: Method,
        caller: &Caller,
        stop: &CancellationToken,
    ) -> Result<Condition, Status> {
        let Some(trouble) = self.take(method) else { return Ok(Condition::Fair) };
        tracing::debug!(?method, ?trouble, "an answer meets bad weather");
        match trouble {
            Trouble::Drop => {
                caller.hang_up.cancel();
                // Nothing can be said any more; the broken connection takes this with it.
                stop.cancelled().await;
                Err(stopping())
            }
            Trouble::Expired => Ok(Condition::Expired),
            Trouble::Malformed(how) => Ok(Condition::Malformed(how)),
            Trouble::Refuse { code, message } => Err(Status::new(code, message)),
            Trouble::Stall { at_most } => {
                self.stall(at_most, stop).await;
                Ok(Condition::Late)
            }
        }
    }

    async fn stall(&self, at_most: Duration, stop: &CancellationToken) {
        let mut released = self.released.subscribe();
        let _counted = Counted::new(&self.stalled);
        tokio::select! {
            () = tokio::time::sleep(at_most) => {}
            _ = released.changed() => {}
            () = stop.cancelled() => {}
        }
    }

    fn push(&self, method: Method, spell: Spell) {
        self.troubles().entry(method).or_default().push_back(spell);
    }

    fn take(&self, method: Method) -> Option<Trouble> {
        let mut troubles = self.troubles();
        let spells = troubles.get_mut(&method)?;
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

    /// Every change is one call, so a panicking holder leaves it whole.
    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Method, VecDeque<Spell>>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Trouble::Refuse { code: Code::Internal, message: message.to_owned() }
    }

    #[test]
    fn troubles_come_in_the_order_of_their_announcement_and_to_their_own_method() {
        let weather = Weather::new(Clock::default());
        let method = Method::FetchJwtSvid;
        weather.next(method, 2, refusal("first"));
        weather.next(method, 0, refusal("never"));
        weather.next(method, 1, Trouble::Expired);
        assert_eq!(weather.announced(method), Some(3));
        assert_eq!(weather.take(Method::FetchX509Svid), None);
        let expected =
            [Some(refusal("first")), Some(refusal("first")), Some(Trouble::Expired), None];
        assert_eq!([(); 4].map(|()| weather.take(method)), expected);
        assert_eq!(weather.announced(method), Some(0));
    }

    #[test]
    fn what_is_announced_for_always_lasts_until_it_clears() {
        let weather = Weather::new(Clock::default());
        let method = Method::FetchX509Svid;
        weather.always(method, Trouble::Malformed(Malformed::Empty));
        assert_eq!(weather.announced(method), None);
        assert!((0..10).all(|_| weather.take(method).is_some()));
        weather.clear();
        assert_eq!((weather.take(method), weather.announced(method)), (None, Some(0)));
    }
}
