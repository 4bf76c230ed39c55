//! How long something is issued for: the words that mounts, roles and tokens share.

use std::time::{Duration, SystemTime};

use hive_lease::Moment;
use hive_security::clock::Clock;
use serde_json::{Map, Value, json};

use super::cidr;
use super::clock::duration_text;
use super::engine::Ask;
use super::reply::Fault;
use super::terms_old::{self, OldTerms};

/// 32 days, as the real server has it.
pub(super) const SYSTEM_TTL: Duration = Duration::from_secs(768 * 3600);

/// What is asked for a lease. Zero: as the mount has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) ttl: Duration,
    pub(super) max_ttl: Duration,
    pub(super) renewable: bool,
}

/// When something was made, when it ends, and when it must end.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) issued: SystemTime,
    pub(super) last_renewal: Option<SystemTime>,
    /// At first.
    pub(super) ttl: Duration,
    began: Moment,
    /// None: never. That is for root tokens.
    pub(super) expires: Option<Moment>,
    /// None: there is no longest life; that is for periodic tokens.
    latest: Option<Moment>,
}

impl Span {
    pub(super) fn new(clock: &Clock, ttl: Duration, max_ttl: Option<Duration>) -> Self {
        let now = clock.now();
        let ttl = max_ttl.map_or(ttl, |max_ttl| ttl.min(max_ttl));
        Self {
            issued: clock.wall(),
            last_renewal: None,
            ttl,
            began: now,
            expires: Some(now + ttl),
            latest: max_ttl.map(|max_ttl| now + max_ttl),
        }
    }

    pub(super) fn endless(clock: &Clock) -> Self {
        let (issued, ttl, began) = (clock.wall(), Duration::ZERO, clock.now());
        Self { issued, last_renewal: None, ttl, began, expires: None, latest: None }
    }

    pub(super) fn remaining(&self, clock: &Clock) -> Duration {
        self.expires.map_or(Duration::MAX, |expires| since(clock.now(), expires))
    }

    /// By the wall clock, as it is now.
    pub(super) fn expires_at(&self, clock: &Clock) -> Option<SystemTime> {
        self.expires.map(|expires| clock.wall() + since(clock.now(), expires))
    }

    pub(super) fn is_over(&self, clock: &Clock) -> bool {
        self.expires.is_some_and(|expires| expires <= clock.now())
    }

    /// The span after a renewal, and what was granted of what was asked for.
    pub(super) fn renewed(&self, clock: &Clock, asked: Duration) -> (Self, Duration) {
        let now = clock.now();
        let expires = self.latest.map_or(now + asked, |latest| (now + asked).min(latest));
        let granted = since(now, expires);
        let last_renewal = Some(clock.wall());
        (Self { last_renewal, expires: Some(expires), ..self.clone() }, granted)
    }

    /// As long as it may last from its beginning, whatever was said then. None: without an end.
    pub(super) fn within(&self, longest: Option<Duration>) -> Self {
        Self { latest: longest.map(|longest| self.began + longest), ..self.clone() }
    }

    /// Over as of now: what happens at the end happens at once.
    pub(super) fn end(&mut self, clock: &Clock) {
        self.expires = Some(clock.now());
    }
}

/// From `now` until `then`; nothing if that is past.
pub(super) fn since(now: Moment, then: Moment) -> Duration {
    then.since_origin().saturating_sub(now.since_origin())
}

/// The real server's remark when the longest life leaves less than was asked for.
pub(super) fn cap_warning(asked: Duration, granted: Duration) -> Option<String> {
    // Less than a second is the time it took to get here.
    (granted.saturating_add(Duration::from_secs(1)) <= asked).then(|| {
        let (asked, granted) = (duration_text(asked), duration_text(granted));
        format!(
            "TTL of \"{asked}\" exceeded the effective max_ttl of \"{granted}\"; TTL value is capped accordingly"
        )
    })
}

/// The fields that the roles of every auth method share.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenTerms {
    pub(super) policies: Vec<String>,
    pub(super) ttl: Duration,
    pub(super) max_ttl: Duration,
    pub(super) explicit_max_ttl: Duration,
    pub(super) period: Duration,
    pub(super) num_uses: i64,
    /// From where the token may be used; empty: from everywhere.
    pub(super) bound_cidrs: Vec<String>,
    /// From where the login came, and nowhere else.
    pub(super) strictly_bound: bool,
    pub(super) no_default_policy: bool,
    pub(super) kind: TokenKind,
    pub(super) old: OldTerms,
}

/// `token_type` of a role.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum TokenKind {
    Batch,
    #[default]
    Default,
    Service,
}

impl TokenTerms {
    /// Takes over what the body says, by the new names or by these old ones, and leaves the rest as it is.
    pub(super) fn read(&mut self, ask: &Ask<'_>, old: &[&'static str]) -> Result<(), Fault> {
        let durations = [
            ("token_ttl", &mut self.ttl),
            ("token_max_ttl", &mut self.max_ttl),
            ("token_explicit_max_ttl", &mut self.explicit_max_ttl),
            ("token_period", &mut self.period),
        ];
        for (member, own) in durations {
            *own = ask.duration(member)?.unwrap_or(*own);
        }
        if let Some(policies) = ask.strings("token_policies") {
            self.policies = policies;
        }
        if let Some(blocks) = bound_cidrs(ask, "token_bound_cidrs")? {
            self.bound_cidrs = blocks;
        }
        self.strictly_bound = ask.flag("token_strictly_bind_ip").unwrap_or(self.strictly_bound);
        self.num_uses = ask.number("token_num_uses")?.unwrap_or(self.num_uses);
        self.no_default_policy =
            ask.flag("token_no_default_policy").unwrap_or(self.no_default_policy);
        if let Some(kind) = ask.text("token_type") {
            self.kind = token_kind(kind, ask.mount.kind == "approle")?;
        }
        self.check()?;
        for name in self.old.given(ask, old) {
            terms_old::take(ask, name, self)?;
        }
        Ok(())
    }

    /// As if nobody had ever set it.
    pub(super) fn reset(&mut self, member: &str) {
        let new = Self::default();
        match member {
            "token_bound_cidrs" => self.bound_cidrs = new.bound_cidrs,
            "token_max_ttl" => self.max_ttl = new.max_ttl,
            "token_num_uses" => self.num_uses = new.num_uses,
            "token_period" => self.period = new.period,
            "token_policies" => self.policies = new.policies,
            "token_ttl" => self.ttl = new.ttl,
            _ => {}
        }
        self.old.forget(member.trim_start_matches("token_"));
    }

    /// Whether who calls is where the tokens may be used.
    pub(super) fn admits_caller(&self) -> bool {
        self.bound_cidrs.is_empty() || cidr::admit(&self.bound_cidrs)
    }

    /// From where a token may be used that is made now.
    pub(super) fn token_cidrs(&self) -> Vec<String> {
        if self.strictly_bound { vec![cidr::CALLER.to_string()] } else { self.bound_cidrs.clone() }
    }

    fn check(&self) -> Result<(), Fault> {
        let wrong = |text: &str| Err(Fault::new(400, text));
        if !self.max_ttl.is_zero() && self.ttl > self.max_ttl {
            return wrong("'token_ttl' cannot be greater than 'token_max_ttl'");
        }
        if self.num_uses < 0 {
            return wrong("'token_num_uses' cannot be negative");
        }
        if self.kind == TokenKind::Batch && self.num_uses != 0 {
            return wrong(
                "'token_type' cannot be 'batch' or 'default_batch' when set to generate tokens with limited use count",
            );
        }
        if self.kind == TokenKind::Batch && !self.period.is_zero() {
            return wrong(
                "'token_type' cannot be 'batch' or 'default_batch' when set to generate periodic tokens",
            );
        }
        if self.strictly_bound && !self.bound_cidrs.is_empty() {
            return wrong(
                "'token_strictly_bind_ip' conflicts with 'token_bound_cidrs'; set only one",
            );
        }
        Ok(())
    }

    /// Adds the fields to what a role shows.
    pub(super) fn describe(&self, data: &mut Map<String, Value>) {
        let kind = match self.kind {
            TokenKind::Batch => "batch",
            TokenKind::Default => "default",
            TokenKind::Service => "service",
        };
        let fields = json!({
            "token_bound_cidrs": self.bound_cidrs,
            "token_explicit_max_ttl": self.explicit_max_ttl.as_secs(),
            "token_max_ttl": self.max_ttl.as_secs(),
            "token_no_default_policy": self.no_default_policy,
            "token_num_uses": self.num_uses,
            "token_period": self.period.as_secs(),
            "token_policies": self.policies,
            "token_strictly_bind_ip": self.strictly_bound,
            "token_ttl": self.ttl.as_secs(),
            "token_type": kind,
        });
        data.extend(fields.as_object().cloned().unwrap_or_default());
        self.old.describe(data);
    }
}

/// The blocks of addresses in this member, if it is there.
pub(super) fn bound_cidrs(ask: &Ask<'_>, member: &str) -> Result<Option<Vec<String>>, Fault> {
    let Some(blocks) = ask.strings(member) else { return Ok(None) };
    if let Some(wrong) = blocks.iter().find(|block| !cidr::is_address(block)) {
        let text = format!(
            "error parsing address {wrong:?}: Unable to convert {wrong:?} to an IPv4 or IPv6 address, or a UNIX Socket"
        );
        return Err(Fault::new(400, text));
    }
    Ok(Some(cidr::without_needless_lengths(&blocks)))
}

/// AppRole still takes the names of what a mount may have for a default.
fn token_kind(text: &str, is_approle: bool) -> Result<TokenKind, Fault> {
    match text {
        "default-batch" if is_approle => Ok(TokenKind::Batch),
        "default-service" if is_approle => Ok(TokenKind::Service),
        "batch" => Ok(TokenKind::Batch),
        "" | "default" => Ok(TokenKind::Default),
        "service" => Ok(TokenKind::Service),
        _ => Err(Fault::new(400, format!("invalid 'token_type' value \"{text}\""))),
    }
}
