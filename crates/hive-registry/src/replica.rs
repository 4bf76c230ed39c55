//! One replica's view of the fleet: folded from the store's feed, kept warm by heartbeats, and what follows from both.
//!
//! Nothing here waits or looks at a clock. Heartbeats change memory; a change of standing, of home or of what an agent
//! says of itself becomes a [`Change`], and is true once the store's feed has said so.

use crate::agent::{Agent, AgentId, Pulse, Registration, ReplicaId, Standing};
use crate::bounds::{self, AGENTS_MAX, AGENTS_OF_OWNER_MAX, Refused};
use crate::directory::{Directory, Known};
use crate::liveness::{Decision, Liveness, Rules, Vital};
use crate::store::{Change, Expected, FeedItem, Revision};
use crate::watch::{Event, WatchLog};
use hive_api::registry::{AgentTelemetry, AgentType, EventType};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// One moment on both clocks: a wall clock that jumps must not expire a fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For measuring silence.
    pub(crate) monotonic: Instant,
    /// For telling callers, in seconds since the epoch.
    pub(crate) wall_s: i64,
}

/// The replica.
#[derive(Debug)]
pub(crate) struct Replica {
    me: ReplicaId,
    directory: Directory,
    liveness: Liveness,
    /// Watchers read it beside this lock.
    log: Arc<RwLock<WatchLog>>,
    replicas: BTreeSet<ReplicaId>,
    snapshot: Option<BTreeMap<AgentId, (Arc<Agent>, Revision)>>,
    /// Agents that were heard and whose record does not say so.
    heard: BTreeSet<AgentId>,
    /// Agents of which a change is being written.
    writing: HashSet<AgentId>,
}

/// What follows from time and heartbeats.
#[derive(Debug)]
pub(crate) enum Act {
    /// Many fell silent together, and nobody dies for now.
    Freeze { suspects: usize, of: usize },
    /// Silence kills again.
    Thaw { recovered: bool },
    /// Write this, and report with [`Replica::written`].
    Write { id: AgentId, change: Change, vital: Vital },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Somebody else had changed the record.
    Conflict,
    Made,
    /// The store did not say: it may be made or not.
    Unknown,
}

/// What becomes of a registration.
#[derive(Debug)]
pub(crate) enum Registering {
    /// The record says all of it already.
    Same {
        registered_at: i64,
        revision: Revision,
    },
    Write {
        registered_at: i64,
        change: Change,
    },
}

impl Replica {
    /// A replica that keeps this many events for watches.
    pub(crate) fn new(now: Instant, me: ReplicaId, rules: Rules, events_max: usize) -> Self {
        Self {
            me,
            directory: Directory::default(),
            liveness: Liveness::new(now, rules),
            log: Arc::new(RwLock::new(WatchLog::new(events_max))),
            replicas: BTreeSet::new(),
            snapshot: None,
            heard: BTreeSet::new(),
            writing: HashSet::new(),
        }
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) fn log(&self) -> Arc<RwLock<WatchLog>> {
        Arc::clone(&self.log)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.liveness.is_frozen()
    }

    /// A feed begins that tells every record.
    pub(crate) fn begin_snapshot(&mut self) {
        self.snapshot = Some(BTreeMap::new());
    }

    /// Takes in what the store says. An error names a record that cannot be read, which is passed over.
    pub(crate) fn fold(&mut self, now: Now, item: FeedItem) -> Result<(), String> {
        match item {
            FeedItem::Put { id, value, revision } => {
                let agent = decoded(id, &value)?;
                match &mut self.snapshot {
                    Some(snapshot) => _ = snapshot.insert(id, (agent, revision)),
                    None => self.put(now, agent, revision),
                }
            }
            FeedItem::Delete { id, last, revision } => self.delete(now, id, &last, revision)?,
            FeedItem::InSync { revision } => self.in_sync(now, revision),
            FeedItem::Replicas(replicas) => {
                self.replicas = replicas;
                self.place_all(now);
            }
        }
        Ok(())
    }

    /// What is to be written so that `owner` has this agent.
    pub(crate) fn register(
        &mut self,
        now: Now,
        owner: &str,
        id: AgentId,
        registration: Registration,
        telemetry: Option<AgentTelemetry>,
    ) -> Result<Registering, Refused> {
        let known = self.directory.agent(id);
        if known.is_none() {
            has_room(self.directory.len(), self.directory.owned_by(owner))?;
        }
        let pulse = pulse(now, telemetry, known);
        // A random identifier is new; one of an instance may be known to another replica already.
        let expected =
            if registration.instance_key.is_empty() { Expected::Absent } else { Expected::Any };
        let cause = known.map_or(EventType::Registered, |_| EventType::Updated);
        let agent = Agent {
            id,
            owner: owner.into(),
            registration,
            registered_at: known.map_or(now.wall_s, |known| known.agent.registered_at),
            standing: Standing::by_success(pulse.success_rate()),
            pulse,
            home: self.me.clone(),
            cause,
        };
        let registered_at = agent.registered_at;
        let same = known.filter(|known| says(&known.agent, &agent)).map(|known| known.revision);
        if known.is_some() {
            self.directory.beat(id, pulse);
            self.liveness.heard(now.monotonic, id);
        }
        if let Some(revision) = same {
            return Ok(Registering::Same { registered_at, revision });
        }
        let change = Change::Put { id, value: agent.encode(), expected };
        Ok(Registering::Write { registered_at, change })
    }

    /// What is to be written so that this agent, which another registry knew, lives here from now on; `None` if its
    /// owner has it already.
    pub(crate) fn import(&self, agent: Agent) -> Result<Option<Change>, Refused> {
        let id = agent.id;
        if let Some(known) = self.directory.agent(id) {
            let owner = &known.agent.owner;
            return if *owner == agent.owner { Ok(None) } else { Err(owned_already(id, owner)) };
        }
        has_room(self.directory.len(), self.directory.owned_by(&agent.owner))?;
        let agent = Agent { home: self.me.clone(), ..agent };
        Ok(Some(Change::Put { id, value: agent.encode(), expected: Expected::Absent }))
    }

    /// Notes that an agent is alive; what it is, and how it stands from now on.
    pub(crate) fn heartbeat(
        &mut self,
        now: Now,
        caller: &str,
        id: AgentId,
        telemetry: Option<AgentTelemetry>,
    ) -> Result<(AgentType, Standing), Refused> {
        bounds::telemetry(telemetry.as_ref())?;
        let known = self.owned(caller, id)?;
        let agent_type = known.agent.registration.agent_type;
        let pulse = pulse(now, telemetry, Some(known));
        let standing = known.agent.standing.after(pulse.success_rate());
        self.hear(now, id, pulse);
        Ok((agent_type, standing))
    }

    /// What is to be written so that `caller` does not have this agent any more.
    pub(crate) fn deregister(&self, caller: &str, id: AgentId) -> Result<Change, Refused> {
        let known = self.owned(caller, id)?;
        Ok(Change::Delete { id, expected: Expected::At(known.revision) })
    }

    /// The agent, if it is the caller's.
    pub(crate) fn owned(&self, caller: &str, id: AgentId) -> Result<&Known, Refused> {
        let known = self.directory.agent(id).ok_or(Refused::Unknown(id))?;
        if *known.agent.owner == *caller {
            return Ok(known);
        }
        let (owner, caller) = (known.agent.owner.to_string(), caller.to_owned());
        Err(Refused::NotTheOwner { agent: id, owner, caller })
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.liveness.handle_timeout(now.monotonic);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.liveness.poll_timeout()
    }

    /// Whether [`poll_act`](Self::poll_act) may have something. Most heartbeats change nothing that anybody has to do.
    pub(crate) fn is_restless(&self) -> bool {
        !self.heard.is_empty() || self.liveness.has_decisions()
    }

    /// The next thing to do.
    pub(crate) fn poll_act(&mut self) -> Option<Act> {
        while let Some(id) = self.heard.pop_first() {
            if let Some(act) = self.record(id, Vital::Alive) {
                return Some(act);
            }
        }
        loop {
            match self.liveness.poll_decision()? {
                Decision::Freeze { suspects, of } => return Some(Act::Freeze { suspects, of }),
                Decision::Thaw { recovered } => return Some(Act::Thaw { recovered }),
                Decision::Record { id, vital } => {
                    if let Some(act) = self.record(id, vital) {
                        return Some(act);
                    }
                }
            }
        }
    }

    /// What became of a change that [`poll_act`](Self::poll_act) gave out.
    pub(crate) fn written(&mut self, id: AgentId, what: Written) {
        self.writing.remove(&id);
        match what {
            // A heartbeat that came meanwhile may want another one.
            Written::Made => self.record_if_heard(id),
            // The feed tells what it is instead.
            Written::Conflict => {}
            Written::Unknown => self.liveness.undecided(id),
        }
    }

    fn put(&mut self, now: Now, agent: Arc<Agent>, revision: Revision) {
        let before = self.directory.put(Arc::clone(&agent), revision);
        let id = agent.id;
        self.append(Event::put(now.wall_s, revision, agent, before));
        self.place(now, id);
        self.record_if_heard(id);
    }

    fn delete(
        &mut self,
        now: Now,
        id: AgentId,
        last: &[u8],
        revision: Revision,
    ) -> Result<(), String> {
        self.liveness.release(id);
        let last = match self.directory.remove(id) {
            Some(known) => known.agent,
            None => decoded(id, last)?,
        };
        self.append(Event::delete(now.wall_s, revision, last));
        Ok(())
    }

    /// After a snapshot: what it did not tell is gone, and what led here is not known.
    fn in_sync(&mut self, now: Now, revision: Revision) {
        let Some(snapshot) = self.snapshot.take() else {
            return self.write_log(|log| log.advance(revision));
        };
        let known: Vec<AgentId> = self.directory.agents().map(|known| known.agent.id).collect();
        for id in known.into_iter().filter(|id| !snapshot.contains_key(id)) {
            self.directory.remove(id);
            self.liveness.release(id);
        }
        for (agent, revision) in snapshot.into_values() {
            self.directory.put(agent, revision);
        }
        self.write_log(|log| log.reset(revision));
        self.place_all(now);
    }

    fn place_all(&mut self, now: Now) {
        let all: Vec<AgentId> = self.directory.agents().map(|known| known.agent.id).collect();
        all.into_iter().for_each(|id| self.place(now, id));
    }

    /// Judges the silence of the agents whose home is here, and of those whose home is gone.
    fn place(&mut self, now: Now, id: AgentId) {
        let Some(known) = self.directory.agent(id) else { return };
        let home = &known.agent.home;
        if *home == self.me || !self.replicas.contains(home) {
            let recorded = vital(known.agent.standing);
            self.liveness.adopt(now.monotonic, id, recorded);
        } else {
            self.liveness.release(id);
        }
    }

    fn hear(&mut self, now: Now, id: AgentId, pulse: Pulse) {
        self.liveness.heard(now.monotonic, id);
        let Some(known) = self.directory.beat(id, pulse) else { return };
        if known.agent.home != self.me || known.agent.standing != standing(known) {
            self.heard.insert(id);
        }
    }

    /// An agent that is alive here, and whose record does not say how it stands, is recorded again.
    fn record_if_heard(&mut self, id: AgentId) {
        let Some(known) = self.directory.agent(id) else { return };
        let alive = known.agent.home == self.me && self.liveness.is_alive(id);
        if alive && known.agent.standing != standing(known) {
            self.heard.insert(id);
        }
    }

    /// What is to be written so that the agent's record says this; `None` if it does, or if a change is under way.
    fn record(&mut self, id: AgentId, vital: Vital) -> Option<Act> {
        let known = self.directory.agent(id)?;
        let expected = Expected::At(known.revision);
        let standing = match vital {
            Vital::Alive => standing(known),
            Vital::Suspect => Standing::Suspect,
            Vital::Dead => Standing::Dead,
            Vital::Gone => {
                let change = Change::Delete { id, expected };
                return self.writing.insert(id).then_some(Act::Write { id, change, vital });
            }
        };
        // Whoever hears an agent is its home; whoever only misses it is not.
        let home = if vital == Vital::Alive { &self.me } else { &known.agent.home };
        if known.agent.standing == standing && known.agent.home == *home {
            return None;
        }
        let agent = Agent {
            standing,
            home: home.clone(),
            pulse: known.pulse,
            cause: EventType::StatusChanged,
            ..(*known.agent).clone()
        };
        let change = Change::Put { id, value: agent.encode(), expected };
        if !self.writing.insert(id) {
            // Whoever is alive is looked at again when that is written; silence is decided again a little later.
            if vital != Vital::Alive {
                self.liveness.undecided(id);
            }
            return None;
        }
        Some(Act::Write { id, change, vital })
    }

    fn append(&self, event: Event) {
        self.write_log(|log| log.append(event));
    }

    fn write_log(&self, write: impl FnOnce(&mut WatchLog)) {
        // Each method changes the log in one step.
        write(&mut self.log.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Whether one more agent fits, beside `all` and the owner's `own`.
fn has_room(all: usize, own: usize) -> Result<(), Refused> {
    let (of, max) = match () {
        () if all >= AGENTS_MAX => ("the registry", AGENTS_MAX),
        () if own >= AGENTS_OF_OWNER_MAX => ("this SPIFFE ID", AGENTS_OF_OWNER_MAX),
        () => return Ok(()),
    };
    Err(Refused::Full(format!("{of} has {max} agents, the limit; deregister some")))
}

/// An import takes nothing away from whoever registered or was named first.
fn owned_already(id: AgentId, owner: &str) -> Refused {
    let reason = format!(
        "agent {id} belongs to {owner} here, and stays so; if that is wrong and nobody heartbeats, it will be forgotten, \
         and can be imported then"
    );
    Refused::malformed("spiffe_id", reason)
}

/// How an agent that is heard stands.
fn standing(known: &Known) -> Standing {
    known.agent.standing.after(known.pulse.success_rate())
}

fn vital(standing: Standing) -> Vital {
    match standing {
        Standing::Degraded | Standing::Healthy | Standing::Unhealthy => Vital::Alive,
        Standing::Suspect => Vital::Suspect,
        Standing::Dead => Vital::Dead,
    }
}

/// Telemetry is kept until newer telemetry arrives.
fn pulse(now: Now, telemetry: Option<AgentTelemetry>, known: Option<&Known>) -> Pulse {
    let telemetry = telemetry.or_else(|| known.and_then(|known| known.pulse.telemetry));
    Pulse { last_seen: now.wall_s, telemetry }
}

/// Whether the record says of the agent all that `wanted` says.
fn says(recorded: &Agent, wanted: &Agent) -> bool {
    recorded.registration == wanted.registration
        && recorded.standing == wanted.standing
        && recorded.home == wanted.home
}

fn decoded(id: AgentId, value: &[u8]) -> Result<Arc<Agent>, String> {
    let agent = Agent::decode(value).map_err(|wrong| format!("record {id}: {wrong}"))?;
    if agent.id != id {
        return Err(format!("record {id} is about agent {}", agent.id));
    }
    Ok(Arc::new(agent))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
