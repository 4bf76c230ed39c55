//! The methods: who calls, what they ask, what they get. Everything else is elsewhere.

use crate::conductor::Handle;
use crate::dispatch::Dispatch;
use crate::error::Refused;
use crate::intake::Intake;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use hive_api::orchestrator::{
    CancelRequest, ClaimRequest, ClaimResponse, ExtendRequest, ExtendResponse, GetPlanRequest,
    ListPlansRequest, ListPlansResponse, PlanView, ReportRequest, ReportResponse, SubmitRequest,
    SubmitResponse, plans_server, tickets_server,
};
use hive_security::serve;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Plans in one list, when the caller does not say how many, and at most.
const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 500;
/// Characters of a reason to cancel: it is one sentence, and stays in the log.
const REASON_CHARS_MAX: usize = 500;

/// For those who submit work.
#[derive(Clone, Debug)]
pub(super) struct Plans {
    conductor: Handle,
    intake: Intake,
    stop: CancellationToken,
}

/// For workers.
#[derive(Clone, Debug)]
pub(super) struct Tickets {
    dispatch: Dispatch,
    stop: CancellationToken,
}

impl Plans {
    pub(super) fn new(conductor: Handle, intake: Intake, stop: CancellationToken) -> Self {
        Self { conductor, intake, stop }
    }
}

impl Tickets {
    pub(super) fn new(dispatch: Dispatch, stop: CancellationToken) -> Self {
        Self { dispatch, stop }
    }
}

#[tonic::async_trait]
impl plans_server::Plans for Plans {
    type WatchStream = BoxStream<'static, Result<PlanView, Status>>;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let by = serve::peer(&request)?.spiffe_id.clone();
        Ok(Response::new(self.intake.submit(&by, request.into_inner()).await?))
    }

    async fn get(&self, request: Request<GetPlanRequest>) -> Result<Response<PlanView>, Status> {
        Ok(Response::new(self.conductor.get(request.into_inner().plan_id).await?))
    }

    async fn list(
        &self,
        request: Request<ListPlansRequest>,
    ) -> Result<Response<ListPlansResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MAX),
        };
        Ok(Response::new(ListPlansResponse { plans: self.conductor.list(limit).await? }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<PlanView>, Status> {
        let by = serve::peer(&request)?.spiffe_id.to_string();
        let CancelRequest { plan_id, reason } = request.into_inner();
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        Ok(Response::new(self.conductor.cancel(plan_id, by, reason).await?))
    }

    async fn watch(
        &self,
        request: Request<GetPlanRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let views = self.conductor.watch(request.into_inner().plan_id).await?;
        Ok(Response::new(until_over(views, self.stop.clone()).boxed()))
    }
}

#[tonic::async_trait]
impl tickets_server::Tickets for Tickets {
    async fn claim(
        &self,
        request: Request<ClaimRequest>,
    ) -> Result<Response<ClaimResponse>, Status> {
        let worker = serve::peer(&request)?.spiffe_id.clone();
        tokio::select! {
            // A ticket that was handed over in the moment of the stop is still delivered.
            biased;
            claimed = self.dispatch.claim(&worker, request.into_inner()) => Ok(Response::new(claimed?)),
            () = self.stop.cancelled() => Err(Refused::Stopping.into()),
        }
    }

    async fn extend(
        &self,
        request: Request<ExtendRequest>,
    ) -> Result<Response<ExtendResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.clone();
        Ok(Response::new(self.dispatch.extend(&caller, request.into_inner()).await?))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let caller = serve::peer(&request)?.spiffe_id.clone();
        self.dispatch.report(&caller, request.into_inner()).await?;
        Ok(Response::new(ReportResponse {}))
    }
}

/// Where a watch stands.
enum Watching {
    /// The view of this moment is still to be sent.
    Fresh(watch::Receiver<Arc<PlanView>>),
    Waiting(watch::Receiver<Arc<PlanView>>),
    Ended,
}

/// The plan as it is, then as it becomes. A slow reader misses views in between, never the last one; a stop ends the
/// stream with a reason, so that it cannot be mistaken for the plan's end.
fn until_over(
    views: watch::Receiver<Arc<PlanView>>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<PlanView, Status>> + Send {
    stream::unfold(Watching::Fresh(views), move |watching| {
        let stop = stop.clone();
        async move {
            match watching {
                Watching::Fresh(views) => Some(show(views)),
                Watching::Waiting(views) => Some(wait(views, &stop).await),
                Watching::Ended => None,
            }
        }
    })
}

async fn wait(
    mut views: watch::Receiver<Arc<PlanView>>,
    stop: &CancellationToken,
) -> (Result<PlanView, Status>, Watching) {
    tokio::select! {
        // The sender goes when the plan is over, and then the last view was seen, or when the conductor ends.
        changed = views.changed() => match changed {
            Ok(()) => show(views),
            Err(_) => (Err(Refused::Stopping.into()), Watching::Ended),
        },
        () = stop.cancelled() => (Err(Refused::Stopping.into()), Watching::Ended),
    }
}

fn show(mut views: watch::Receiver<Arc<PlanView>>) -> (Result<PlanView, Status>, Watching) {
    let view = PlanView::clone(&views.borrow_and_update());
    let next = if view.over { Watching::Ended } else { Watching::Waiting(views) };
    (Ok(view), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(revision: u64, over: bool) -> Arc<PlanView> {
        Arc::new(PlanView { revision, over, ..PlanView::default() })
    }

    #[tokio::test]
    async fn a_watch_shows_the_plan_as_it_is_and_ends_with_the_plan() {
        let (sender, receiver) = watch::channel(view(1, false));
        let mut views = Box::pin(until_over(receiver, CancellationToken::new()));
        let first = views.next().await.and_then(Result::ok).map(|view| view.revision);
        assert_eq!(first, Some(1));
        sender.send_replace(view(2, false));
        sender.send_replace(view(3, true));
        drop(sender);
        let last = views.next().await.and_then(Result::ok).map(|view| (view.revision, view.over));
        assert_eq!(last, Some((3, true)));
        assert!(views.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stop_ends_a_watch_with_a_reason() {
        let (_sender, receiver) = watch::channel(view(1, false));
        let stop = CancellationToken::new();
        let mut views = Box::pin(until_over(receiver, stop.clone()));
        assert!(views.next().await.is_some_and(|view| view.is_ok()));
        stop.cancel();
        let status = views.next().await.and_then(Result::err).expect("it ends with a reason");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(views.next().await.is_none());
    }
}
