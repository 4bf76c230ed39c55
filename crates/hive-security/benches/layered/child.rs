//! A server and a client, each a process of its own; their orders come on standard input.
//!
//! ```text
//!   server  ◀ attach            ▶ 127.0.0.1:40123
//!   client  ◀ attach ADDRESS    ▶ ready
//!           ◀ run MILLISECONDS  ▶ CALLS MICROSECONDS P50_US P99_US
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use hive_security::serve::{Authenticate, MethodPolicy, incoming};
use hive_security::{Audience, IdPattern, SpiffeId, Workload, WorkloadConfig, connect, tls};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;

use crate::echo::{Echo, METHOD};
use crate::{AUDIENCE, Kind};

const PAYLOAD_BYTES: usize = 128;
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

pub(crate) async fn serve(kind: Kind, endpoint: &str, client: &str) {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    orders.next_line().await.unwrap().unwrap();
    let workload = attach(endpoint).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = incoming(listener, &workload).unwrap();
    let policy = MethodPolicy::new().allow(METHOD, pattern(client));
    let layer = Authenticate::new(&workload, audience(), policy);
    tokio::spawn(async move {
        let served = match kind {
            Kind::Bare => {
                Server::builder().add_service(Echo).serve_with_incoming(connections).await
            }
            _ => {
                let mut server = Server::builder().layer(layer);
                server.add_service(Echo).serve_with_incoming(connections).await
            }
        };
        served.unwrap();
    });
    println!("{address}");
    // It ends with its input.
    while orders.next_line().await.unwrap().is_some() {}
}

pub(crate) async fn call(kind: Kind, endpoint: &str, server: &str, load: Load) {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let order = orders.next_line().await.unwrap().unwrap();
    let address = order.strip_prefix("attach ").unwrap().to_owned();
    let workload = attach(endpoint).await;
    println!("ready");
    match kind {
        Kind::Bare => {
            let channels = (0..load.connections).map(|_| bare(&workload, &address, server));
            obey(orders, channels.collect(), load).await;
        }
        _ => {
            let address = format!("https://{address}");
            let open = |_| connect::channel(&workload, &address, pattern(server), audience());
            let channels = (0..load.connections).map(open).collect::<Result<_, _>>();
            obey(orders, channels.unwrap(), load).await;
        }
    }
}

async fn attach(endpoint: &str) -> Workload {
    let config = WorkloadConfig::new(endpoint, ATTACH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await.unwrap();
    tokio::spawn(upkeep.run(CancellationToken::new()));
    workload
}

fn pattern(id: &str) -> IdPattern {
    IdPattern::exactly(&SpiffeId::parse(id).unwrap())
}

fn audience() -> Audience {
    Audience::parse(AUDIENCE).unwrap()
}

/// tonic's channel as it is, over the same TLS.
fn bare(workload: &Workload, address: &str, server: &str) -> Channel {
    let mut config = Arc::unwrap_or_clone(tls::client_config(workload, pattern(server)).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let dialled = address.to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (connector, address) = (connector.clone(), dialled.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("server").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector_lazy(connect)
}

async fn obey<C>(mut orders: Lines<BufReader<Stdin>>, channels: Vec<C>, load: Load)
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::Future: Send,
    C::Error: std::fmt::Debug,
    C::ResponseBody: HttpBody + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError>,
{
    while let Some(order) = orders.next_line().await.unwrap() {
        let lasts = order.strip_prefix("run ").unwrap().parse().unwrap();
        let began = Instant::now();
        let until = began + Duration::from_millis(lasts);
        let mut tasks = JoinSet::new();
        for number in 0..load.in_flight {
            tasks.spawn(calls(channels[number % channels.len()].clone(), until));
        }
        let mut latencies: Vec<u32> = tasks.join_all().await.concat();
        let took = began.elapsed().as_micros();
        latencies.sort_unstable();
        let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
        println!("{} {took} {} {}", latencies.len(), at(0.5), at(0.99));
    }
}

/// One call after another; how long each took, in microseconds.
async fn calls<C>(channel: C, until: Instant) -> Vec<u32>
where
    C: GrpcService<Body>,
    C::Error: std::fmt::Debug,
    C::ResponseBody: HttpBody + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError>,
{
    let (mut client, mut latencies) = (Grpc::new(channel), Vec::with_capacity(16_384));
    let payload = vec![b'x'; PAYLOAD_BYTES];
    loop {
        let began = Instant::now();
        if began >= until {
            return latencies;
        }
        client.ready().await.unwrap();
        let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
        let path = PathAndQuery::from_static(METHOD);
        let answer = client.unary(Request::new(payload.clone()), path, codec).await.unwrap();
        assert_eq!(answer.get_ref().len(), PAYLOAD_BYTES);
        latencies.push(began.elapsed().as_micros() as u32);
    }
}
