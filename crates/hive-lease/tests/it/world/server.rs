//! What is true: the tokens and leases that exist, and until when, by the server's own clock.

use std::collections::BTreeMap;

/// A moment in the world, in microseconds.
pub(crate) type Micros = u64;

/// How long something lives: at first and at each renewal, and at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) ttl: Micros,
    /// Zero means for ever.
    pub(crate) max: Micros,
    pub(crate) renewable: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Thing {
    /// For a token: itself.
    pub(crate) token: u64,
    pub(crate) ends: Micros,
    pub(crate) ends_at_most: Micros,
    pub(crate) life: Life,
}

#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) tokens: BTreeMap<u64, Thing>,
    pub(crate) leases: BTreeMap<u64, Thing>,
    last: u64,
}

impl Server {
    /// Forgets what has ended. A lease never outlives its token.
    pub(crate) fn age(&mut self, now: Micros) {
        let before = self.tokens.len();
        self.tokens.retain(|_, token| token.ends > now);
        self.leases.retain(|_, lease| lease.ends > now);
        if self.tokens.len() != before {
            let tokens = &self.tokens;
            self.leases.retain(|_, lease| tokens.contains_key(&lease.token));
        }
    }

    pub(crate) fn login(&mut self, now: Micros, life: Life) -> (u64, Micros) {
        self.last += 1;
        let token = born(self.last, now, life);
        self.tokens.insert(self.last, token);
        (self.last, token.ends - now)
    }

    /// None if the token is not known (any more).
    pub(crate) fn issue(&mut self, now: Micros, token: u64, life: Life) -> Option<(u64, Micros)> {
        self.tokens.get(&token)?;
        self.last += 1;
        let lease = born(token, now, life);
        self.leases.insert(self.last, lease);
        Some((self.last, lease.ends - now))
    }

    pub(crate) fn renew_token(&mut self, now: Micros, token: u64) -> Option<Micros> {
        self.tokens.get_mut(&token).map(|token| renew(token, now))
    }

    pub(crate) fn renew_lease(&mut self, now: Micros, token: u64, lease: u64) -> Option<Micros> {
        self.tokens.get(&token)?;
        self.leases.get_mut(&lease).map(|lease| renew(lease, now))
    }

    pub(crate) fn revoke_token(&mut self, token: u64) {
        if self.tokens.remove(&token).is_some() {
            self.leases.retain(|_, lease| lease.token != token);
        }
    }

    /// Whether the caller's token was known.
    pub(crate) fn revoke_lease(&mut self, token: u64, lease: u64) -> bool {
        let is_known = self.tokens.contains_key(&token);
        if is_known {
            self.leases.remove(&lease);
        }
        is_known
    }
}

fn born(token: u64, now: Micros, life: Life) -> Thing {
    let ends_at_most = if life.max == 0 { Micros::MAX } else { now + life.max };
    Thing { token, ends: (now + life.ttl).min(ends_at_most), ends_at_most, life }
}

fn renew(thing: &mut Thing, now: Micros) -> Micros {
    thing.ends = (now + thing.life.ttl).min(thing.ends_at_most).max(thing.ends);
    thing.ends - now
}
