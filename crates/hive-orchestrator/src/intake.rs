//! Plans in: checked again, whoever checked them before, and held against what workers offer.

use crate::conductor::Handle;
use crate::error::Refused;
use crate::store::Submission;
use futures_util::future::join_all;
use hive_api::names::REGISTRY;
use hive_api::orchestrator::{SubmitRequest, SubmitResponse};
use hive_api::registry::DiscoverAgentsRequest;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_plan::{Mistakes, Plan, PlanId, TicketKind, TicketSpec};
use hive_security::connect::{self, Channel};
use hive_security::{Audience, IdPattern, SpiffeId, Workload};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the registry may take: a submission waits for it, and a warning is not worth more.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of a submission ID, at most: room for a UUID with a prefix.
const SUBMISSION_ID_BYTES_MAX: usize = 128;
/// Bytes of a workspace, at most: what Linux allows for a path.
const WORKSPACE_BYTES_MAX: usize = 4_096;

/// Bytes of all mistakes in one answer, at most: it travels in a header, which grows to three times that in its
/// encoding and may have 16 KiB.
const MISTAKES_BYTES_MAX: usize = 4_096;

/// What plans pass through.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    conductor: Handle,
    registry: ServiceRegistryClient<Channel>,
}

impl Intake {
    /// Connects to the registry only when the first plan asks for it.
    pub(crate) fn new(
        conductor: Handle,
        workload: &Workload,
        registry: &str,
    ) -> Result<Self, hive_security::Error> {
        let trust_domain = workload.trust_domain();
        let server = IdPattern::in_trust_domain(&trust_domain, REGISTRY.path)?;
        let audience = Audience::of_service(REGISTRY.name, &trust_domain)?;
        let channel = connect::channel(workload, registry, server, audience)?;
        Ok(Self { conductor, registry: ServiceRegistryClient::new(channel) })
    }

    /// Stores a plan, or says everything that is wrong with it.
    pub(crate) async fn submit(
        &self,
        by: &SpiffeId,
        request: SubmitRequest,
    ) -> Result<SubmitResponse, Refused> {
        check(&request)?;
        let plan = Plan::parse(&request.plan_yaml).map_err(|mistakes| mistaken(&mistakes))?;
        let needed = needed_kinds(&plan);
        let submission = Submission {
            plan_id: random_plan_id(),
            submission_id: request.submission_id,
            source: request.plan_yaml,
            workspace: request.workspace,
            submitted_by: by.to_string(),
            submitted_at: self.conductor.now(),
        };
        // Stored first: what workers offer may change in the next moment, so it can only be a warning.
        let plan_id = self.conductor.submit(plan, submission).await?;
        let warnings = self.warnings(needed).await;
        Ok(SubmitResponse { plan_id: plan_id.to_string(), warnings })
    }

    /// Which kinds nobody offers right now.
    async fn warnings(&self, kinds: BTreeSet<TicketKind>) -> Vec<String> {
        let asked = kinds.into_iter().map(|kind| self.offered(kind));
        match tokio::time::timeout(REGISTRY_DEADLINE, join_all(asked)).await {
            Ok(answers) => warnings(answers),
            Err(_) => vec![silent("it did not answer in 2 s")],
        }
    }

    async fn offered(&self, kind: TicketKind) -> (TicketKind, Result<bool, tonic::Status>) {
        let request = DiscoverAgentsRequest {
            capabilities: vec![kind.to_string()],
            max_results: 1,
            ..DiscoverAgentsRequest::default()
        };
        let answer = self.registry.clone().discover_agents(request).await;
        (kind, answer.map(|answer| !answer.into_inner().agents.is_empty()))
    }
}

/// The kinds that a worker must offer for this plan to end well, and to be undone.
fn needed_kinds(plan: &Plan) -> BTreeSet<TicketKind> {
    let undo = plan.tickets().iter().any(TicketSpec::can_be_undone);
    let kinds = plan.tickets().iter().map(|ticket| ticket.kind);
    kinds.chain(undo.then_some(TicketKind::Compensate)).collect()
}

fn warnings(answers: Vec<(TicketKind, Result<bool, tonic::Status>)>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (kind, answer) in answers {
        match answer {
            Ok(true) => {}
            Ok(false) => warnings.push(format!(
                "no live worker offers {kind}: such tickets wait until one does, or the plan's deadline passes"
            )),
            // One sentence is enough for a registry that cannot be asked.
            Err(status) => return vec![silent(status.message())],
        }
    }
    warnings
}

fn silent(reason: &str) -> String {
    format!("the registry could not say whether workers offer what this plan needs: {reason}")
}

/// Every mistake, as far as a status can hold them.
fn mistaken(mistakes: &Mistakes) -> Refused {
    let mut text = format!("the plan has {} mistakes", mistakes.len());
    for (index, mistake) in mistakes.iter().enumerate() {
        let line = format!("\nplan:{mistake}");
        if text.len() + line.len() > MISTAKES_BYTES_MAX {
            text.push_str(&format!("\nand {} more", mistakes.len() - index));
            break;
        }
        text.push_str(&line);
    }
    Refused::Invalid(text)
}

fn check(request: &SubmitRequest) -> Result<(), Refused> {
    let invalid = |text: String| Err(Refused::Invalid(text));
    if !(1..=SUBMISSION_ID_BYTES_MAX).contains(&request.submission_id.len()) {
        return invalid(format!("submission_id must have 1 to {SUBMISSION_ID_BYTES_MAX} bytes"));
    }
    let workspace = &request.workspace;
    if !workspace.starts_with('/')
        || workspace.len() > WORKSPACE_BYTES_MAX
        || workspace.contains('\0')
    {
        return invalid(format!(
            "workspace must be an absolute path of at most {WORKSPACE_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// Twelve hexadecimal digits: among a million plans, the next one meets a namesake once in 281 million times. Then the
/// log refuses it, the orchestrator starts again, and the caller's repetition gets another ID.
fn random_plan_id() -> PlanId {
    let digits = format!("{:012x}", rand::random::<u64>() >> 16);
    PlanId::parse(&digits).expect("hexadecimal digits are a plan ID")
}

#[cfg(test)]
mod tests;
