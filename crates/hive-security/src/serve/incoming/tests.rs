//! Clients that say nothing, hang up, or come all at once; over loopback sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::*;
use crate::IdPattern;
use crate::testing::{Authority, Stand};

/// For what happens by itself, on a machine that may be busy.
const SOON: Duration = Duration::from_secs(30);

fn servers() -> IdPattern {
    IdPattern::parse("spiffe://td/server").unwrap()
}

/// A server's and a client's workload.
fn pair() -> (Stand, Stand) {
    let authority = Authority::new("td");
    (authority.workload("/server"), authority.workload("/client"))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A door with rooms for so many.
fn door(server: &Stand, outside: usize, begun: usize) -> (Arc<Door>, Incoming) {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let door = Door {
        config: tls::server_config(&server.workload).unwrap(),
        outside: Room::new(outside),
        begun: Room::new(begun),
        turns: Turns::new(1),
        counts: server.workload.handshake_counts(),
        ready,
    };
    (Arc::new(door), Incoming { connections })
}

/// A connection whose client has said its first word and no more.
async fn greeting(client: &Stand, address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let config = tls::client_config(&client.workload, servers()).unwrap();
    let name = ServerName::try_from("server").unwrap();
    let mut session = rustls::ClientConnection::new(config, name).unwrap();
    let mut word = Vec::new();
    session.write_tls(&mut word).unwrap();
    tcp.write_all(&word).await.unwrap();
    tcp
}

/// Waits until so many handshakes ended like this.
async fn ended(server: &Stand, is_so: impl Fn(Handshakes) -> bool) {
    let waiting = async {
        while !is_so(server.workload.handshakes()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let told = || format!("{:?}", server.workload.handshakes());
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{}", told()));
}

/// Waits until so many are outside.
async fn outside(door: &Door, count: usize) {
    let waiting = async {
        while door.outside.len() != count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let told = || format!("there are {} outside", door.outside.len());
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{}", told()));
}

#[tokio::test]
async fn silent_strangers_hold_up_nobody() {
    let (server, client) = pair();
    let (listener, address) = listen().await;
    let mut connections = incoming(listener, &server.workload).unwrap();
    let mut strangers = Vec::new();
    for _ in 0..400 {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    let tcp = TcpStream::connect(address).await.unwrap();
    tls::connect(&client.workload, servers(), tcp).await.unwrap();
    connections.next().await.unwrap().unwrap();
    // Not because one of them had to go.
    let expected = Handshakes { succeeded: 1, ..Handshakes::default() };
    assert_eq!(server.workload.handshakes(), expected);
}

#[tokio::test]
async fn strangers_who_say_one_word_hold_up_nobody() {
    let (server, client) = pair();
    let (listener, address) = listen().await;
    let (door, mut connections) = door(&server, 4, 4);
    tokio::spawn(Arc::clone(&door).open(listener));
    let mut strangers = Vec::new();
    for _ in 0..6 {
        strangers.push(greeting(&client, address).await);
    }
    ended(&server, |handshakes| handshakes.shed == 2).await;
    // The first to come were the first to go.
    for stranger in &mut strangers[..2] {
        let mut answer = Vec::new();
        timeout(SOON, stranger.read_to_end(&mut answer)).await.unwrap().unwrap();
    }
    let tcp = TcpStream::connect(address).await.unwrap();
    tls::connect(&client.workload, servers(), tcp).await.unwrap();
    connections.next().await.unwrap().unwrap();
    let handshakes = server.workload.handshakes();
    assert_eq!((handshakes.succeeded, handshakes.expired), (1, 0));
}

#[tokio::test]
async fn the_last_to_come_is_let_in_when_every_place_is_taken() {
    let (server, client) = pair();
    let (listener, address) = listen().await;
    let (door, mut connections) = door(&server, 3, 3);
    tokio::spawn(Arc::clone(&door).open(listener));
    let mut first = TcpStream::connect(address).await.unwrap();
    outside(&door, 1).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(TcpStream::connect(address).await.unwrap());
    }
    outside(&door, 3).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    tls::connect(&client.workload, servers(), tcp).await.unwrap();
    connections.next().await.unwrap().unwrap();
    assert_eq!(timeout(SOON, first.read(&mut [0])).await.unwrap().unwrap(), 0);
    ended(&server, |handshakes| handshakes.shed == 1).await;
}

#[tokio::test]
async fn without_files_those_who_have_waited_longest_go() {
    let (server, _) = pair();
    let (listener, address) = listen().await;
    let (door, _connections) = door(&server, 3, 3);
    tokio::spawn(Arc::clone(&door).open(listener));
    let _stranger = TcpStream::connect(address).await.unwrap();
    outside(&door, 1).await;
    door.recover(&io::ErrorKind::ConnectionAborted.into()).await;
    assert_eq!(door.outside.len(), 1);
    door.recover(&io::Error::other("too many open files")).await;
    ended(&server, |handshakes| handshakes.shed == 1).await;
}

#[tokio::test]
async fn a_client_that_hung_up_costs_no_handshake() {
    let (server, client) = pair();
    let (listener, address) = listen().await;
    let (door, _connections) = door(&server, 9, 9);
    let turn = door.turns.take(Rank::Begun).await;
    tokio::spawn(Arc::clone(&door).open(listener));
    let stays = greeting(&client, address).await;
    outside(&door, 1).await;
    drop(greeting(&client, address).await);
    // Also if it is noticed only with the turn.
    ended(&server, |handshakes| handshakes.gone == 1).await;
    outside(&door, 1).await;
    drop(turn);
    outside(&door, 0).await;
    assert_eq!(door.begun.len(), 1);
    drop(stays);
    ended(&server, |handshakes| handshakes.gone == 2).await;
}

#[tokio::test]
async fn who_has_begun_is_first_and_then_who_came_last() {
    let turns = Turns::new(1);
    let turn = turns.take(Rank::Fresh).await;
    let (told, mut order) = mpsc::channel(9);
    for (number, rank) in
        [Rank::Fresh, Rank::Begun, Rank::Fresh, Rank::Fresh].into_iter().enumerate()
    {
        let (turns, told) = (Arc::clone(&turns), told.clone());
        let task = tokio::spawn(async move {
            let _turn = turns.take(rank).await;
            told.send(number).await.unwrap();
        });
        yield_now().await;
        if number == 2 {
            // Its turn is nobody's, and lost to nobody.
            task.abort();
            _ = task.await;
        }
    }
    drop((turn, told));
    let mut numbers = Vec::new();
    while let Some(number) = order.recv().await {
        numbers.push(number);
    }
    assert_eq!(numbers, [1, 3, 0]);
}

/// One thread, on which two hundred handshakes could go on at any time, and a call that needs the sockets.
#[tokio::test(flavor = "current_thread")]
async fn calls_go_on_while_handshakes_flood_in() {
    const HOPS: usize = 50;
    let (turns, steps) = (Turns::new(1), Arc::new(AtomicUsize::new(0)));
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        let (turns, steps) = (Arc::clone(&turns), Arc::clone(&steps));
        flood.spawn(async move {
            let turn = turns.take(Rank::Fresh).await;
            let handshake = std::future::poll_fn(|cx| {
                steps.fetch_add(1, Ordering::Relaxed);
                // Its client answers at once.
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            turns.pace(turn, handshake).await;
        });
    }
    let (mut client, mut server) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let mut call = [0];
        while server.read_exact(&mut call).await.is_ok() {
            server.write_all(&call).await.unwrap();
        }
    });
    while steps.load(Ordering::Relaxed) < 1000 {
        yield_now().await;
    }
    let before = steps.load(Ordering::Relaxed);
    for _ in 0..HOPS {
        client.write_all(&[7]).await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }
    let between = steps.load(Ordering::Relaxed) - before;
    assert!(between > 0, "handshakes stood still");
    assert!(between <= 8 * HOPS, "{between} steps of handshakes went before {HOPS} calls");
}
