//! Questions for agents, one or many in a call.
//!
//! What a call may want is bounded, and so is what is answered. A question of many is decided by itself, and others have
//! the replica in between: one for metadata may look at every agent.

use crate::bounds::Refused;
use crate::directory::{Found, Known};
use crate::discovery::{self, RESULTS_MAX};
use crate::encoding::{self, Results};
use crate::filter::Filter;
use crate::node::Node;
use crate::service::Registry;
use hive_api::registry::{DiscoverAgentsRequest, DiscoverManyRequest, Explanation};
use prost::bytes::Bytes;
use std::time::Instant;
use tonic::Status;

/// Questions in one call at most; with the default of five results each, they want what one question may.
const QUESTIONS_MAX: usize = 100;

/// A question within bounds.
struct Question {
    filter: Filter,
    limit: usize,
    explain: bool,
}

impl Registry {
    /// Who may do what is asked for: a `DiscoverAgentsResponse`, encoded.
    pub(crate) fn discovered(&self, request: DiscoverAgentsRequest) -> Result<Bytes, Status> {
        let question = Question::read(request)?;
        let (found, explanations) = question.ask(self.synced()?);
        Ok(encoding::discovered(&found, &explanations))
    }

    /// The same for each of many questions: a `DiscoverManyResponse`, encoded.
    pub(crate) async fn discovered_many(
        &self,
        request: DiscoverManyRequest,
    ) -> Result<Bytes, Status> {
        let questions = read(request)?;
        let node = self.synced()?;
        let mut results = Results::default();
        for question in questions {
            let found = question.map(|question| question.ask(node).0);
            match found.and_then(|found| results.found(&found)) {
                Ok(()) => {}
                Err(refused) => results.refused(&refused.into()),
            }
            tokio::task::yield_now().await;
        }
        Ok(results.encoded())
    }
}

/// The questions of one call, each read or refused by itself.
fn read(request: DiscoverManyRequest) -> Result<Vec<Result<Question, Refused>>, Refused> {
    let asked = request.questions.len();
    if asked > QUESTIONS_MAX {
        let reason = format!("{asked} are too many; at most {QUESTIONS_MAX}");
        return Err(Refused::malformed("questions", reason));
    }
    let questions: Vec<_> = request.questions.into_iter().map(Question::of_many).collect();
    let wanted: usize = questions.iter().flatten().map(|question| question.limit).sum();
    if wanted > RESULTS_MAX {
        let reason = format!(
            "their max_results come to {wanted}; at most {RESULTS_MAX} fit into one answer, so ask in several calls"
        );
        return Err(Refused::malformed("questions", reason));
    }
    Ok(questions)
}

impl Question {
    fn read(request: DiscoverAgentsRequest) -> Result<Self, Refused> {
        let DiscoverAgentsRequest { capabilities, filters, max_results, filter, explain } = request;
        let filter = Filter::read(filter, filters)?.and_capabilities(capabilities)?;
        Ok(Self { filter, limit: discovery::limit(max_results)?, explain })
    }

    /// Explanations are for a person, who asks one question, and are longer than what is found.
    fn of_many(request: DiscoverAgentsRequest) -> Result<Self, Refused> {
        if request.explain {
            let reason = "one of many questions is not explained; ask it alone, in DiscoverAgents";
            return Err(Refused::malformed("explain", reason));
        }
        Self::read(request)
    }

    /// Who is found, best first, and why, if that is asked for.
    fn ask(&self, node: &Node) -> (Vec<Known>, Vec<Explanation>) {
        let began = Instant::now();
        let (found, candidates, explanations) = {
            let replica = node.replica();
            let directory = replica.directory();
            let Found { best, candidates } =
                directory.discover(&self.filter, self.limit, rand::random());
            let explain = || discovery::explain(directory, &self.filter, &best);
            let explanations = self.explain.then(explain).unwrap_or_default();
            (best.into_iter().cloned().collect::<Vec<_>>(), candidates, explanations)
        };
        node.metrics.discovered(self.filter.agent_type(), began, candidates, found.len());
        (found, explanations)
    }
}
