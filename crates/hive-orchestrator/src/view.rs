//! A plan as callers see it.

use crate::store::Submission;
use hive_api::orchestrator::{PlanStatus, PlanView, TicketKind, TicketView};
use hive_plan::{Saga, TicketProgress};

/// The view of a plan after so many events.
pub(crate) fn plan(saga: &Saga, submission: &Submission, revision: u64) -> PlanView {
    PlanView {
        plan_id: saga.id().to_string(),
        name: saga.plan().name().to_owned(),
        status: PlanStatus::from(saga.status()).into(),
        tickets: saga.tickets().map(|progress| ticket(&progress)).collect(),
        submitted_by: submission.submitted_by.clone(),
        submitted_at_ms: submission.submitted_at.0,
        ended_at_ms: saga.ended_at().map_or(0, |at| at.0),
        story: saga.story(),
        over: saga.status().is_over(),
        revision,
    }
}

/// The view without what makes it long: for lists.
pub(crate) fn brief(mut view: PlanView) -> PlanView {
    view.story.clear();
    for ticket in &mut view.tickets {
        ticket.needs.clear();
        ticket.detail.clear();
        ticket.worker.clear();
    }
    view
}

fn ticket(progress: &TicketProgress<'_>) -> TicketView {
    TicketView {
        name: progress.spec.name.to_string(),
        kind: TicketKind::from(progress.spec.kind).into(),
        needs: progress.spec.needs.iter().map(ToString::to_string).collect(),
        state: progress.state.to_string(),
        detail: progress.detail.clone(),
        attempt: progress.attempt,
        worker: progress.worker.unwrap_or_default().to_owned(),
        started_at_ms: progress.started.map_or(0, |at| at.0),
        ended_at_ms: progress.ended.map_or(0, |at| at.0),
    }
}
