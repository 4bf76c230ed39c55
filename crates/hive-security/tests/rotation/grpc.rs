//! A gRPC service whose callers prove themselves with both SVIDs, over connections that live for a second.

use std::time::Duration;

use hive_security::connect::{Channel, channel};
use hive_security::serve::{Authenticate, ConnectionAge, MethodPolicy, incoming};
use hive_security::{Audience, IdPattern, Workload};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tonic::client::Grpc;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::echo::{Echo, METHOD};

const AGE: ConnectionAge = ConnectionAge { max: Duration::from_secs(1) };
const DEADLINE: Duration = Duration::from_secs(10);

/// The service, and how it is reached.
pub(crate) struct Served {
    pub(crate) channel: Channel,
    task: AbortHandle,
}

impl Served {
    pub(crate) async fn start(workload: &Workload) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let me = workload.x509_svid().expect("an SVID").spiffe_id().clone();
        let policy = MethodPolicy::new().allow(METHOD, IdPattern::exactly(&me));
        let layer = Authenticate::new(workload, audience(), policy);
        let connections = incoming(listener, workload).expect("it listens");
        let mut server = Server::builder().max_connection_age(AGE.max).layer(layer);
        let served = server.add_service(Echo).serve_with_incoming(connections);
        let task = tokio::spawn(served).abort_handle();
        let address = format!("https://{address}");
        let channel = channel(workload, &address, IdPattern::exactly(&me), audience());
        let channel = channel.and_then(|channel| channel.max_connection_age(AGE));
        Self { channel: channel.expect("an address"), task }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn audience() -> Audience {
    Audience::parse("echo").expect("an audience")
}

pub(crate) async fn call(channel: Channel) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    let mut request = Request::new(vec![b'x'; 128]);
    request.set_timeout(DEADLINE);
    let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
    client.unary(request, PathAndQuery::from_static(METHOD), codec).await.map(drop)
}
