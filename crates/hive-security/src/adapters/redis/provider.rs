//! Streams of logins, and what can be seen by how they are read.
//!
//! redis-rs reads two streams for each connection. From the first it takes one login, with which it connects. The
//! second it reads as long as the connection lives: it asks for the next login once it has authenticated with the last
//! one, and drops the stream if that failed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use redis::RedisResult;
use redis::auth::{BasicAuth, StreamingCredentialsProvider};
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::followers::{Current, Follower, Followers};

/// Gives the connections of redis-rs each login in turn.
#[derive(Clone)]
pub struct Provider(Arc<Followers>);

impl Provider {
    pub(super) fn new(followers: &Arc<Followers>) -> Self {
        Self(Arc::clone(followers))
    }
}

impl StreamingCredentialsProvider for Provider {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        let mut logins = self.0.logins();
        logins.mark_changed();
        let reader = Reader { follower: Follower::new(&self.0), logins, is_new: true };
        Box::pin(stream::unfold(reader, Reader::next))
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

struct Reader {
    follower: Follower,
    logins: watch::Receiver<Option<Arc<Current>>>,
    is_new: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(RedisResult<BasicAuth>, Self)> {
        // Whoever asks for another one has done with the last.
        self.follower.confirm();
        loop {
            self.logins.changed().await.ok()?;
            let current = self.logins.borrow_and_update().clone();
            let is_new = std::mem::replace(&mut self.is_new, false);
            match current {
                Some(current) => {
                    self.follower.hand_out(current.generation);
                    let login = &current.login;
                    let username = login.username.expose_secret().to_owned();
                    let password = login.password.expose_secret().to_owned();
                    return Some((Ok(BasicAuth::new(username, password)), self));
                }
                // Who begins is told at once; who has a connection waits for what comes.
                None if is_new => return Some((Err(super::barred()), self)),
                None => {}
            }
        }
    }
}
