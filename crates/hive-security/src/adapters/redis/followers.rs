//! Who has authenticated with which login, as far as it can be seen from here.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::adapters::login::Login;

/// So long after a connection was given its first login, it is there or has failed: redis-rs grants a second, if it is
/// not told otherwise. Whoever grants more risks that a connect which takes longer is refused.
const CONNECTING: Duration = Duration::from_millis(1500);

pub(super) struct Followers {
    /// None while nothing may be used.
    current: watch::Sender<Option<Arc<Current>>>,
    book: Mutex<Book>,
    changed: watch::Sender<()>,
}

/// One generation.
pub(super) struct Current {
    pub(super) generation: u64,
    pub(super) login: Login,
    may_list: AtomicBool,
}

#[derive(Default)]
struct Book {
    usernames: BTreeMap<u64, String>,
    /// The streams that are being read.
    following: HashMap<u64, Progress>,
    streams_total: u64,
    /// By generation: when a connection was last begun with it.
    connecting: BTreeMap<u64, Instant>,
    /// By generation: streams that were dropped instead of confirming the next login. Their connections may be gone, or
    /// may live on and never authenticate again.
    lost: BTreeMap<u64, u64>,
}

/// How far a stream was read.
#[derive(Clone, Copy, Default)]
struct Progress {
    handed_out: Option<u64>,
    confirmed: Option<u64>,
}

impl Default for Followers {
    fn default() -> Self {
        Self {
            current: watch::Sender::new(None),
            book: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Followers {
    pub(super) fn adopt(&self, generation: u64, login: Login) {
        let username = login.username.expose_secret().to_owned();
        self.book().usernames.insert(generation, username);
        let current = Current { generation, login, may_list: AtomicBool::new(true) };
        self.current.send_replace(Some(Arc::new(current)));
    }

    pub(super) fn bar(&self) {
        self.current.send_replace(None);
    }

    pub(super) fn is_barred(&self) -> bool {
        self.current.borrow().is_none()
    }

    pub(super) fn current(&self) -> Option<Arc<Current>> {
        self.current.borrow().clone()
    }

    pub(super) fn logins(&self) -> watch::Receiver<Option<Arc<Current>>> {
        self.current.subscribe()
    }

    /// Changes whenever somebody has moved or is gone.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether somebody is known to use, or about to use, an older login.
    pub(super) fn has_below(&self, generation: u64) -> bool {
        let book = self.book();
        let behind = |progress: &Progress| progress.confirmed.is_none_or(|of| of < generation);
        let on_the_way = |(_, since): (&u64, &Instant)| since.elapsed() < CONNECTING;
        book.following.values().filter(|progress| progress.handed_out.is_some()).any(behind)
            || book.connecting.range(..generation).any(on_the_way)
    }

    /// Whether connections with an older login may exist that we have lost sight of.
    pub(super) fn lost_below(&self, generation: u64) -> bool {
        self.book().lost.range(..generation).next().is_some()
    }

    pub(super) fn usernames_below(&self, generation: u64) -> Vec<String> {
        let book = self.book();
        // A static user keeps its name, and then nobody can be told apart by it.
        let now = book.usernames.range(generation..).map(|(_, name)| name).collect::<Vec<_>>();
        let below = book.usernames.range(..generation).map(|(_, name)| name);
        below.filter(|name| !now.contains(name)).cloned().collect()
    }

    pub(super) fn forget_logins_below(&self, generation: u64) {
        let mut book = self.book();
        book.usernames = book.usernames.split_off(&generation);
        book.connecting = book.connecting.split_off(&generation);
        book.lost = book.lost.split_off(&generation);
    }

    /// Counts no longer whoever has not moved. What still uses an older login ends with it.
    pub(super) fn give_up_below(&self, generation: u64) {
        let mut book = self.book();
        book.connecting = book.connecting.split_off(&generation);
        book.lost = book.lost.split_off(&generation);
        book.following.retain(|_, progress| progress.confirmed.is_some_and(|of| of >= generation));
        drop(book);
        self.changed.send_replace(());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics while it is held, and every change leaves it whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Whether it makes sense to ask the server who is connected.
    pub(super) fn may_list(&self) -> bool {
        self.may_list.load(Ordering::Relaxed)
    }

    pub(super) fn may_not_list(&self) {
        self.may_list.store(false, Ordering::Relaxed);
    }
}

/// The entry of one stream.
pub(super) struct Follower {
    number: u64,
    followers: Arc<Followers>,
}

impl Follower {
    pub(super) fn new(followers: &Arc<Followers>) -> Self {
        let mut book = followers.book();
        book.streams_total += 1;
        let number = book.streams_total;
        book.following.insert(number, Progress::default());
        drop(book);
        Self { number, followers: Arc::clone(followers) }
    }

    pub(super) fn hand_out(&self, generation: u64) {
        // It may have been given up, and counts again from here.
        self.followers.book().following.entry(self.number).or_default().handed_out =
            Some(generation);
    }

    pub(super) fn confirm(&self) {
        if let Some(progress) = self.followers.book().following.get_mut(&self.number) {
            progress.confirmed = progress.handed_out;
        }
        self.followers.changed.send_replace(());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut book = self.followers.book();
        let progress = book.following.remove(&self.number).unwrap_or_default();
        match (progress.handed_out, progress.confirmed) {
            // The first stream of a connection, which is now being opened.
            (Some(handed_out), None) => {
                book.connecting.insert(handed_out, Instant::now());
            }
            (Some(handed_out), Some(confirmed)) if handed_out != confirmed => {
                *book.lost.entry(confirmed).or_default() += 1;
                tracing::debug!(
                    generation = handed_out,
                    "a connection to Redis did not authenticate again"
                );
            }
            _ => {}
        }
        drop(book);
        self.followers.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tokio::time::advance;

    use super::*;

    fn followers(generations: &[(u64, &str)]) -> Arc<Followers> {
        let followers = Arc::new(Followers::default());
        for (generation, username) in generations {
            let (username, password) = (SecretString::from(*username), SecretString::from("p"));
            followers.adopt(*generation, Login { username, password });
        }
        followers
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_in_use_from_when_it_is_handed_out_until_the_next_one_is_confirmed() {
        let followers = followers(&[(1, "a"), (2, "b")]);
        let follower = Follower::new(&followers);
        assert!(!followers.has_below(2), "it has no login yet");
        follower.hand_out(1);
        assert!(followers.has_below(2), "it is about to be used");
        follower.confirm();
        assert!(followers.has_below(2), "it is used");
        follower.hand_out(2);
        assert!(followers.has_below(2), "the next one is not used yet");
        follower.confirm();
        assert!(!followers.has_below(2));
        drop(follower);
        assert!(!followers.has_below(3) && !followers.lost_below(3), "it has said goodbye");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_in_use_while_a_connection_is_opened_with_it() {
        let followers = followers(&[(1, "a"), (2, "b")]);
        let follower = Follower::new(&followers);
        follower.hand_out(1);
        drop(follower);
        advance(Duration::from_secs(1)).await;
        assert!(followers.has_below(2), "redis-rs grants a second");
        advance(Duration::from_secs(1)).await;
        assert!(!followers.has_below(2), "by now it is there or has failed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_confirm_the_next_login_is_lost_until_it_is_given_up() {
        let followers = followers(&[(1, "a"), (2, "b"), (3, "c")]);
        let behind = Follower::new(&followers);
        behind.hand_out(1);
        behind.confirm();
        behind.hand_out(2);
        drop(behind);
        assert!(followers.lost_below(2) && followers.lost_below(3) && !followers.lost_below(1));
        let slow = Follower::new(&followers);
        slow.hand_out(2);
        slow.confirm();
        followers.give_up_below(3);
        assert!(!followers.lost_below(3) && !followers.has_below(3));
        slow.hand_out(3);
        assert!(followers.has_below(4), "it counts again from here");
    }

    #[tokio::test]
    async fn a_user_who_stays_is_not_among_those_who_are_to_go() {
        let followers = followers(&[(1, "a"), (2, "static"), (3, "static")]);
        assert_eq!(followers.usernames_below(3), ["a"]);
        followers.forget_logins_below(3);
        assert!(followers.usernames_below(3).is_empty());
    }
}
