//! What is told to this worker through the registry: taken, acknowledged, and logged.

use crate::backoff::Backoff;
use hive_api::registry::AttendRequest;
use hive_api::registry::service_registry_client::ServiceRegistryClient;
use hive_security::connect::Channel;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Acknowledgements under way: each is sent before the next notification is read.
const SAID_MAX: usize = 2;
/// How long the registry may take to open the stream.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Notices {
    pub(crate) client: ServiceRegistryClient<Channel>,
    /// This worker's agent, once it is registered.
    pub(crate) agent_id: watch::Receiver<Option<String>>,
}

impl Notices {
    /// Keeps a stream open until `stop`. While there is none, the registry says so to whoever would notify.
    pub(crate) async fn attend(self, stop: CancellationToken) {
        tokio::select! {
            () = self.attend_always() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn attend_always(mut self) {
        let mut backoff = Backoff::default();
        // It ends with the sender, and that ends with the worker.
        while let Some(agent_id) = self.registered().await {
            if let Err(status) = self.take(agent_id, &mut backoff).await {
                tracing::debug!(%status, "notifications do not reach this worker for a moment");
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn registered(&mut self) -> Option<String> {
        self.agent_id.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Takes what comes, until the stream ends.
    async fn take(&self, agent_id: String, backoff: &mut Backoff) -> Result<(), Status> {
        let (say, said) = mpsc::channel(SAID_MAX);
        let first = AttendRequest { agent_id, acknowledged: 0 };
        // Nobody else holds the receiver, so there is room.
        _ = say.try_send(first);
        let mut client = self.client.clone();
        let opened = timeout(PATIENCE, client.attend(ReceiverStream::new(said))).await;
        let opened = opened.map_err(|_| Status::deadline_exceeded("no answer"))?;
        let mut notifications = opened?.into_inner();
        backoff.reset();
        while let Some(told) = notifications.message().await? {
            let (kind, message, from) = (told.notification_type, told.message, told.spiffe_id);
            tracing::info!(?kind, ?message, from, "notified");
            let taken = AttendRequest { agent_id: String::new(), acknowledged: told.sequence };
            if say.send(taken).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
