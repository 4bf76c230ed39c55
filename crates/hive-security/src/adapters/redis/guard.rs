//! A connection that obeys a withdrawal.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::ready;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::followers::Followers;

/// A connection of redis-rs that refuses each command at once while no login is valid. See
/// [`RedisHolder::guard`](super::RedisHolder::guard).
#[derive(Clone)]
pub struct Guarded<C> {
    connection: C,
    followers: Arc<Followers>,
}

impl<C> Guarded<C> {
    pub(super) fn new(connection: C, followers: &Arc<Followers>) -> Self {
        Self { connection, followers: Arc::clone(followers) }
    }
}

impl<C: ConnectionLike> ConnectionLike for Guarded<C> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if self.followers.is_barred() {
            return ready(Err(super::barred())).boxed();
        }
        self.connection.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        if self.followers.is_barred() {
            return ready(Err(super::barred())).boxed();
        }
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

impl<C> fmt::Debug for Guarded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("barred", &self.followers.is_barred())
            .finish_non_exhaustive()
    }
}
