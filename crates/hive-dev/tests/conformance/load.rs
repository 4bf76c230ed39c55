//! Requests that never stop: 64 at a time, over several connections, and not one may fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hive_security::connect::{self, Channel};
use hive_security::{Audience, IdPattern, Workload};
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::peer::METHOD;
use crate::waiting::until;

const IN_FLIGHT: usize = 64;
const CONNECTIONS: usize = 8;

/// Longer than any handshake may take, and than a busy machine needs.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// What is shown of the failures; all are counted.
const SHOWN_MAX: usize = 5;

pub(crate) struct Load {
    callers: JoinSet<()>,
    stop: CancellationToken,
    seen: Arc<Seen>,
    began: Instant,
}

#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    failed: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

impl Load {
    /// Begins; when this returns, the first requests were answered.
    pub(crate) async fn start(
        workload: &Workload,
        address: &str,
        server: &IdPattern,
        audience: &Audience,
    ) -> Self {
        let mut load = Self {
            callers: JoinSet::new(),
            stop: CancellationToken::new(),
            seen: Arc::default(),
            began: Instant::now(),
        };
        for _ in 0..CONNECTIONS {
            let channel = channel(workload, address, server, audience);
            for _ in 0..IN_FLIGHT / CONNECTIONS {
                let (seen, stop) = (Arc::clone(&load.seen), load.stop.clone());
                load.callers.spawn(call_until(channel.clone(), stop, seen, load.began));
            }
        }
        load.goes_on(IN_FLIGHT as u64).await;
        load
    }

    /// Waits until so many more requests were answered.
    pub(crate) async fn goes_on(&self, requests: u64) {
        let before = self.seen.answered.load(Ordering::SeqCst);
        until("requests are answered", async || {
            assert_eq!(self.seen.failed.load(Ordering::SeqCst), 0, "{}", self.reasons());
            self.seen.answered.load(Ordering::SeqCst) >= before + requests
        })
        .await;
    }

    /// Ends, and says how many requests there were, of which none failed.
    pub(crate) async fn end(mut self) -> u64 {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("a caller does not panic");
        }
        assert_eq!(self.seen.failed.load(Ordering::SeqCst), 0, "{}", self.reasons());
        self.seen.answered.load(Ordering::SeqCst)
    }

    fn reasons(&self) -> String {
        self.seen.reasons.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

pub(crate) fn channel(
    workload: &Workload,
    address: &str,
    server: &IdPattern,
    audience: &Audience,
) -> Channel {
    let address = format!("https://{address}");
    connect::channel(workload, &address, server.clone(), audience.clone()).expect("a good address")
}

/// One call: by which name the server knows us.
pub(crate) async fn ask(channel: &Channel, request: Request<String>) -> Result<String, Status> {
    ask_over(channel.clone(), request).await
}

/// The same over any channel.
pub(crate) async fn ask_over<C>(channel: C, request: Request<String>) -> Result<String, Status>
where
    C: GrpcService<tonic::body::Body>,
    C::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(channel);
    let answer = async {
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = ProstCodec::<String, String>::default();
        grpc.unary(request, PathAndQuery::from_static(METHOD), codec).await
    };
    let answer = tokio::time::timeout(CALL_DEADLINE, answer).await;
    let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
    Ok(answer.into_inner())
}

async fn call_until(channel: Channel, stop: CancellationToken, seen: Arc<Seen>, began: Instant) {
    while !stop.is_cancelled() {
        match ask(&channel, Request::new("who am I?".to_owned())).await {
            Ok(_) => {
                seen.answered.fetch_add(1, Ordering::SeqCst);
            }
            Err(status) => {
                seen.failed.fetch_add(1, Ordering::SeqCst);
                let mut reasons = seen.reasons.lock().unwrap_or_else(PoisonError::into_inner);
                if reasons.len() < SHOWN_MAX {
                    let (code, message) = (status.code(), status.message());
                    reasons.push(format!("after {:?}: {code:?}: {message}", began.elapsed()));
                }
            }
        }
    }
}
