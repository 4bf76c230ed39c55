//! TLS over a plain TCP stream, with both ends known by name: a server and a client in one process.
//!
//! It brings a development authority along, so it runs anywhere: `cargo run --example plain_stream`.

use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry};
use hive_security::{IdPattern, Workload, WorkloadConfig, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let authority =
        Authority::start(AuthorityConfig::new(directory.path().join("api.sock"))).await?;
    authority.add_entry(Entry::of_process("/ns/shop/sa/stock", std::process::id()))?;
    let config = WorkloadConfig::new(authority.endpoint(), Duration::from_secs(30));
    let (workload, upkeep) = Workload::attach(config).await?;
    tokio::spawn(upkeep.run(CancellationToken::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    // Each end talks to itself here, so each expects its own name.
    let expected = IdPattern::exactly(&workload.spiffe_id()?);
    tokio::try_join!(greet(&workload, &expected, listener), listen(&workload, &expected, stream))?;
    Ok(())
}

async fn greet(
    workload: &Workload,
    clients: &IdPattern,
    listener: TcpListener,
) -> Result<(), Failure> {
    let (stream, _) = listener.accept().await?;
    let (mut stream, client) = tls::accept(workload, clients, stream).await?;
    stream.write_all(format!("hello {client}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn listen(
    workload: &Workload,
    servers: &IdPattern,
    stream: TcpStream,
) -> Result<(), Failure> {
    let (mut stream, server) = tls::connect(workload, servers.clone(), stream).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    println!("{server} says: {said}");
    Ok(())
}
