//! How many agents there are of each kind, and who of the living was heard first: counted as they come, change and go, so
//! that whoever collects metrics holds up nobody.

use crate::agent::{Pulse, Standing};
use crate::directory::Known;
use hive_api::registry::{AgentStatus, AgentType};
use std::collections::BTreeMap;

/// The counts, while they change.
#[derive(Debug, Default)]
pub(crate) struct Census {
    agents: Tally<(AgentType, AgentStatus)>,
    /// When those that are not dead were heard last; as many different seconds as an agent may be silent, or few more.
    heard: Tally<i64>,
}

/// The counts of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// None is 0.
    pub(crate) agents: BTreeMap<(AgentType, AgentStatus), usize>,
    /// When the agent was heard that dies first if nobody is heard any more, in seconds since the epoch.
    pub(crate) heard_first: Option<i64>,
}

impl Census {
    pub(crate) fn counts(&self) -> Counts {
        let heard_first = self.heard.0.first_key_value().map(|(seen, _)| *seen);
        Counts { agents: self.agents.0.clone(), heard_first }
    }

    /// The directory has this agent now.
    pub(crate) fn enter(&mut self, known: &Known) {
        self.agents.add(kind(known));
        if is_living(known) {
            self.heard.add(known.pulse.last_seen);
        }
    }

    /// The directory does not have this agent any more.
    pub(crate) fn leave(&mut self, known: &Known) {
        self.agents.take(kind(known));
        if is_living(known) {
            self.heard.take(known.pulse.last_seen);
        }
    }

    /// The agent, which is as before, has this pulse from now on.
    pub(crate) fn beat(&mut self, known: &Known, pulse: &Pulse) {
        if is_living(known) && known.pulse.last_seen != pulse.last_seen {
            self.heard.take(known.pulse.last_seen);
            self.heard.add(pulse.last_seen);
        }
    }
}

fn kind(known: &Known) -> (AgentType, AgentStatus) {
    (known.agent.registration.agent_type, known.agent.standing.status())
}

fn is_living(known: &Known) -> bool {
    known.agent.standing != Standing::Dead
}

/// How often there is each. None is 0.
#[derive(Debug)]
struct Tally<T>(BTreeMap<T, usize>);

impl<T: Copy + Ord> Tally<T> {
    fn add(&mut self, of: T) {
        *self.0.entry(of).or_default() += 1;
    }

    fn take(&mut self, of: T) {
        let Some(count) = self.0.get_mut(&of) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(&of);
        }
    }
}

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
