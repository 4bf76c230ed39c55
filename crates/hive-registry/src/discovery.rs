//! Who can do it: capabilities and filters in, agents out, the best first.

use crate::liveness::Standing;
use crate::registration::{Agent, Refused, excerpt};
use std::collections::HashMap;

/// Answers when the caller does not say how many (the predecessor's default).
const DEFAULT_RESULTS: usize = 5;
/// Answers at most: beyond this the message would outgrow what a gRPC client accepts by default (4 MiB).
const MAX_RESULTS: usize = 500;

/// Exact labels that an agent must have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    namespace: Option<String>,
    cluster: Option<String>,
    version: Option<String>,
}

impl Filters {
    /// Reads filters by name. An unknown one is refused: ignored, it would let through what it was to keep out.
    pub(crate) fn parse(filters: HashMap<String, String>) -> Result<Self, Refused> {
        let mut parsed = Self::default();
        for (name, value) in filters {
            let field = match name.as_str() {
                "cluster" => &mut parsed.cluster,
                "namespace" => &mut parsed.namespace,
                "version" => &mut parsed.version,
                _ => return Err(unknown_filter(&name)),
            };
            *field = Some(value);
        }
        Ok(parsed)
    }

    /// Whether `agent` has every label asked for.
    pub(crate) fn admit(&self, agent: &Agent) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.namespace, &agent.labels.namespace)
            && same(&self.cluster, &agent.labels.cluster)
            && same(&self.version, &agent.labels.version)
    }
}

/// How many answers are wanted.
pub(crate) fn limit(max_results: i32) -> Result<usize, Refused> {
    match usize::try_from(max_results) {
        Ok(0) => Ok(DEFAULT_RESULTS),
        Ok(wanted) => Ok(wanted.min(MAX_RESULTS)),
        Err(_) => Err(Refused::Malformed(format!(
            "max_results is {max_results}; it must be 0 (for {DEFAULT_RESULTS}) or more"
        ))),
    }
}

/// The discoverable agents that have all `capabilities` and pass the filters: healthy ones first, then by success.
pub(crate) fn discover<'a>(
    agents: impl Iterator<Item = (&'a Agent, Standing)>,
    capabilities: &[String],
    filters: &Filters,
    limit: usize,
) -> Vec<(&'a Agent, Standing)> {
    let mut found: Vec<_> = agents
        .filter(|(_, standing)| standing.is_discoverable())
        .filter(|(agent, _)| capabilities.iter().all(|wanted| agent.capabilities.contains(wanted)))
        .filter(|(agent, _)| filters.admit(agent))
        .collect();
    // A stable order among equals: whoever asks twice is told the same.
    found.sort_by(|(a, a_standing), (b, b_standing)| {
        a_standing
            .cmp(b_standing)
            .then_with(|| b.success_rate().total_cmp(&a.success_rate()))
            .then_with(|| a.id.cmp(&b.id))
    });
    found.truncate(limit);
    found
}

fn unknown_filter(name: &str) -> Refused {
    Refused::Malformed(format!(
        "there is no filter {}; filters are namespace, cluster and version",
        excerpt(name)
    ))
}

#[cfg(test)]
mod tests;
