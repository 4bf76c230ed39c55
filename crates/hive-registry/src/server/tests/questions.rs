//! Many questions in one call.

use super::*;
use hive_api::registry::{DiscoverManyRequest, DiscoverResult};

impl Stack {
    async fn asked(
        &self,
        questions: Vec<DiscoverAgentsRequest>,
    ) -> Result<Vec<DiscoverResult>, Status> {
        let asked = self.operator.clone().discover_many(DiscoverManyRequest { questions }).await;
        Ok(asked?.into_inner().results)
    }
}

#[tokio::test]
async fn each_question_has_its_answer_and_a_bad_one_spoils_no_other() {
    let mut stack = Stack::start().await;
    let builder = stack.registered("a").await;
    let able = RegisterRequest { instance_key: "b".to_owned(), ..able(&["TEST"]) };
    let tester = stack.worker.register(able).await.expect("it is allowed").into_inner().agent_id;
    let colour = [("colour".to_owned(), "red".to_owned())];
    let results = stack.asked(vec![
        wanted("TEST"),
        DiscoverAgentsRequest { max_results: -1, ..wanted("BUILD") },
        DiscoverAgentsRequest { explain: true, ..wanted("BUILD") },
        DiscoverAgentsRequest { filters: colour.into(), ..wanted("BUILD") },
        wanted("BUILD"),
        wanted("DEPLOY"),
    ]);
    let results = results.await.expect("each has its answer");
    let found = |result: &DiscoverResult| {
        let found = result.found.clone()?;
        assert!(found.ranked && found.explanations.is_empty());
        assert_eq!((result.code, &*result.error), (0, ""));
        Some(found.agents.into_iter().map(|agent| agent.agent_id).collect::<Vec<_>>())
    };
    let answers: Vec<_> = results.iter().map(found).collect();
    let expected = [Some(vec![tester]), None, None, None, Some(vec![builder]), Some(vec![])];
    assert_eq!(answers, expected);
    for (at, field) in [(1, "max_results: "), (2, "explain: "), (3, "filters[\"colour\"]: ")] {
        assert_eq!(results[at].code, Code::InvalidArgument as i32);
        assert!(results[at].error.starts_with(field), "{:?}", results[at]);
    }
}

#[tokio::test]
async fn a_call_may_have_a_hundred_questions_that_want_five_hundred_results() {
    let mut stack = Stack::start().await;
    let agent_id = stack.registered("a").await;
    let results = stack.asked(vec![wanted("BUILD"); 100]).await.expect("a hundred");
    assert_eq!(results.len(), 100);
    for found in results.into_iter().map(|result| result.found.expect("it is found")) {
        assert_eq!(found.agents.len(), 1);
        assert_eq!(found.agents[0].agent_id, agent_id);
    }
    let wants = |max_results| DiscoverAgentsRequest { max_results, ..wanted("BUILD") };
    assert_eq!(stack.asked(vec![wants(499), wants(1), wants(-9)]).await.expect("500").len(), 3);
    assert_eq!(stack.asked(Vec::new()).await.expect("none"), []);
    for questions in [vec![wanted("BUILD"); 101], vec![wants(499), wants(2)], vec![wants(501); 2]] {
        let refused = stack.asked(questions).await.expect_err("too much");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("questions: "), "{refused}");
    }
}
