//! Agents as text.

use hive_api::registry::{
    AgentChangeEvent, AgentInfo, AgentStatus, EventType, Explanation, Liveness,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a watch has told so far.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    agents: BTreeMap<String, AgentInfo>,
    revision: u64,
    synced: bool,
}

impl Fleet {
    /// From where a watch can go on; 0 before it was in sync.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether it is complete.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes an event in, and says it in one line.
    pub(super) fn take(&mut self, event: &AgentChangeEvent) -> String {
        if event.event_type() == EventType::InSync {
            self.synced = true;
            self.revision = event.revision;
            return format!("in sync: {} agents\n", self.agents.len());
        }
        if !event.snapshot {
            self.revision = event.revision;
        }
        let Some(agent) = &event.agent else { return String::new() };
        let left = event.left || event.event_type() == EventType::Deregistered;
        let what = match event.event_type() {
            EventType::Deregistered => "left",
            _ if left => "no longer meant",
            _ if event.snapshot => "is",
            EventType::Registered => "registered as",
            _ => "is now",
        };
        if left {
            self.agents.remove(&agent.agent_id);
            return format!("{}  {}  {what}\n", agent.agent_id, name(agent));
        }
        self.agents.insert(agent.agent_id.clone(), agent.clone());
        let (id, name, word) = (&agent.agent_id, name(agent), standing(agent));
        format!("{id}  {name}  {what} {word}: {}\n", agent.capabilities.join(" "))
    }

    /// The table in as many lines as the terminal has: drawing over it works only while none is wrapped or scrolled
    /// away.
    pub(super) fn lines(&self, now_s: i64, (rows, columns): (usize, usize)) -> Vec<String> {
        let room = rows.saturating_sub(3).max(1);
        let agents: Vec<&AgentInfo> = self.agents.values().take(room).collect();
        let mut lines = vec![format!("{} agents", self.agents.len())];
        lines.extend(table(&agents, now_s));
        if self.agents.len() > agents.len() {
            lines.push(format!("   {} more", self.agents.len() - agents.len()));
        }
        let fits = |line: String| line.chars().take(columns.saturating_sub(1)).collect();
        lines.into_iter().map(fits).collect()
    }
}

/// All of them, or what to do when there are none.
pub(super) fn list(agents: &[AgentInfo], now_s: i64) -> String {
    if agents.is_empty() {
        return "no agents; a worker registers when it starts\n".to_owned();
    }
    let agents: Vec<&AgentInfo> = agents.iter().collect();
    table(&agents, now_s).into_iter().map(|line| line + "\n").collect()
}

/// Who would be offered, best first, and why not the others.
pub(super) fn explanations(explanations: &[Explanation]) -> String {
    if explanations.is_empty() {
        return "no agents are registered\n".to_owned();
    }
    let mut text = String::new();
    let mut place = 0;
    for one in explanations {
        let owner = path(&one.spiffe_id);
        if one.why_not.is_empty() {
            place += 1;
            // A String takes whatever is written to it.
            _ = writeln!(
                text,
                "{place:>3}. {}  {:.2} = 0.4 × health {:.2} + 0.3 × pheromone {:.2} + 0.3 × telemetry {:.2}  {owner}",
                one.agent_id, one.score, one.health, one.pheromone, one.telemetry
            );
        } else {
            _ = writeln!(text, "   - {}  {:.2}  {}  {owner}", one.agent_id, one.score, one.why_not);
        }
    }
    text
}

fn table(agents: &[&AgentInfo], now_s: i64) -> Vec<String> {
    let names = agents.iter().map(|agent| name(agent).chars().count()).max().unwrap_or(0);
    let row = |agent: &&AgentInfo| {
        format!(
            "{}  {:names$}  {:9}  {:>7}  {}  {}",
            agent.agent_id,
            name(agent),
            standing(agent),
            age(now_s, agent.last_seen),
            agent.capabilities.join(" "),
            path(&agent.spiffe_id),
        )
    };
    agents.iter().map(row).collect()
}

/// What people call it: the worker's name, its instance key, or nothing.
fn name(agent: &AgentInfo) -> &str {
    let named = agent.metadata.get("worker").map(String::as_str);
    let key = || Some(&*agent.instance_key).filter(|key| !key.is_empty());
    named.or_else(key).unwrap_or("-")
}

fn standing(agent: &AgentInfo) -> &'static str {
    match (agent.liveness(), agent.status()) {
        (Liveness::Dead, _) => "dead",
        (Liveness::Suspect, _) => "suspect",
        (_, AgentStatus::Healthy) => "healthy",
        (_, AgentStatus::Degraded) => "degraded",
        (_, AgentStatus::Unhealthy) => "unhealthy",
        (_, AgentStatus::Unspecified) => "unknown",
    }
}

fn age(now_s: i64, seen_s: i64) -> String {
    match now_s.saturating_sub(seen_s) {
        seconds @ ..120 => format!("{} s", seconds.max(0)),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// The path of a SPIFFE ID: the trust domain is everybody's.
fn path(spiffe_id: &str) -> &str {
    let rest = spiffe_id.trim_start_matches("spiffe://");
    rest.find('/').map_or(spiffe_id, |at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> AgentInfo {
        AgentInfo {
            agent_id: id.to_owned(),
            capabilities: vec!["BUILD".to_owned(), "TEST".to_owned()],
            status: AgentStatus::Healthy.into(),
            liveness: Liveness::Alive.into(),
            last_seen: 100,
            spiffe_id: "spiffe://example.org/sa/worker".to_owned(),
            instance_key: "pod-1".to_owned(),
            ..AgentInfo::default()
        }
    }

    fn event(event_type: EventType, agent: Option<AgentInfo>, revision: u64) -> AgentChangeEvent {
        let event_type = event_type.into();
        AgentChangeEvent { event_type, agent, revision, ..AgentChangeEvent::default() }
    }

    #[test]
    fn a_list_says_who_how_when_and_what() {
        assert_eq!(
            list(&[agent("a1")], 103),
            "a1  pod-1  healthy        3 s  BUILD TEST  /sa/worker\n"
        );
        assert!(list(&[], 0).starts_with("no agents"));
    }

    #[test]
    fn a_watch_is_told_line_by_line_and_can_go_on_from_its_last_event() {
        let mut fleet = Fleet::default();
        let told = AgentChangeEvent {
            snapshot: true,
            ..event(EventType::Registered, Some(agent("a1")), 0)
        };
        assert_eq!(fleet.take(&told), "a1  pod-1  is healthy: BUILD TEST\n");
        assert_eq!((fleet.revision(), fleet.is_synced()), (0, false));
        assert_eq!(fleet.take(&event(EventType::InSync, None, 7)), "in sync: 1 agents\n");
        assert_eq!((fleet.revision(), fleet.is_synced()), (7, true));
        let dead = AgentInfo { liveness: Liveness::Dead.into(), ..agent("a1") };
        let told = fleet.take(&event(EventType::StatusChanged, Some(dead), 8));
        assert_eq!(told, "a1  pod-1  is now dead: BUILD TEST\n");
        let told = fleet.take(&event(EventType::Deregistered, Some(agent("a1")), 9));
        assert_eq!(told, "a1  pod-1  left\n");
        assert_eq!((fleet.revision(), fleet.lines(0, (24, 80)).len()), (9, 1));
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let mut fleet = Fleet::default();
        for number in 0..50 {
            let id = format!("agent-{number}");
            fleet.take(&event(EventType::Registered, Some(agent(&id)), number + 1));
        }
        let lines = fleet.lines(100, (10, 20));
        assert!(lines.len() < 10, "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() < 20), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("   43 more"));
    }

    #[test]
    fn an_explanation_shows_the_sum_and_the_reasons() {
        let offered = Explanation {
            agent_id: "a1".to_owned(),
            spiffe_id: "spiffe://example.org/w".to_owned(),
            score: 0.85,
            health: 1.0,
            pheromone: 0.5,
            telemetry: 1.0,
            why_not: String::new(),
        };
        let not = Explanation { why_not: "it cannot BUILD".to_owned(), ..offered.clone() };
        let text = explanations(&[offered, not]);
        assert!(text.starts_with("  1. a1  0.85 = 0.4 × health 1.00 + "), "{text}");
        assert!(text.ends_with("   - a1  0.85  it cannot BUILD  /w\n"), "{text}");
    }
}
