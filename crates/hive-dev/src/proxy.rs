//! A proxy before an HTTP server on this machine, which spoils what passes through it: slow, broken, lost, strange.
//!
//! ```text
//!   client ──▶ Proxy ──▶ server            the request is passed on, or not
//!   client ◀── Proxy ◀── server            the answer comes whole, late, in drops, cut off, as another one, or never
//! ```
//!
//! It stands before our development vault and before a real server alike, so that one test can run against both. It
//! speaks plain HTTP/1.1, passes each request on over a connection of its own, and keeps neither headers nor bodies.
//!
//! ```no_run
//! # async fn example(vault: &str) -> std::io::Result<()> {
//! use hive_dev::proxy::{Fault, Proxy, Rule};
//! use hive_security::clock::Clock;
//!
//! let proxy = Proxy::before(vault, Clock::system()).await?;
//! proxy.spoil(Rule::of("database/creds/", Fault::Lose).times(1));
//! // Give `proxy.address` to the client: its first database login is made, and it never hears of it.
//! # Ok(())
//! # }
//! ```

mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hive_security::clock::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// What happens to a call.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// It is not passed on; this is answered, as it is, and the connection closed.
    Answer(Vec<u8>),
    /// It is not passed on, and nothing comes back: no answer, and no end of the connection.
    Blackhole,
    /// It is not passed on, and the connection breaks.
    Break,
    /// It is passed on. The answer comes a few bytes at a time, with a pause after each.
    Drip {
        /// How many at a time.
        bytes: usize,
        /// For how long nothing comes.
        pause: Duration,
    },
    /// It is passed on, and has its effect. The answer is lost and the connection breaks.
    Lose,
    /// It is passed on. The answer is held back for so long.
    Slow(Duration),
    /// It is passed on. Of the answer only so many bytes come, and then the connection ends.
    Truncate(usize),
}

impl Fault {
    /// An answer with this status and body.
    pub fn status(status: u16, body: &str) -> Self {
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\nconnection: close\r\n"
        );
        Self::Answer(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    /// An answer that sends the client elsewhere, with its request and its token (307).
    pub fn redirect(location: &str) -> Self {
        let head = "HTTP/1.1 307 Temporary Redirect\r\nconnection: close\r\ncontent-length: 0\r\n";
        Self::Answer(format!("{head}location: {location}\r\n\r\n").into_bytes())
    }
}

/// Which calls a fault strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Option<String>,
    path: String,
    fault: Fault,
    left: usize,
}

impl Rule {
    /// Strikes every call whose path, without `/v1/`, begins like this; empty: every call.
    pub fn of(path: impl Into<String>, fault: Fault) -> Self {
        Self { method: None, path: path.into(), fault, left: usize::MAX }
    }

    /// Strikes only this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Strikes only so many calls.
    #[must_use]
    pub fn times(mut self, calls: usize) -> Self {
        self.left = calls;
        self
    }

    fn strikes(&self, method: &str, path: &str) -> bool {
        self.left > 0
            && path.starts_with(&self.path)
            && self.method.as_deref().is_none_or(|own| own == method)
    }
}

/// A call that came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// When it came, counted from the origin of the clock.
    pub at: Duration,
    /// Its method.
    pub method: String,
    /// Its path, without `/v1/` and without a query.
    pub path: String,
    /// What the server answered, if it was asked and has.
    pub status: Option<u16>,
    /// Whether a fault struck it.
    pub spoilt: bool,
}

/// A running proxy. Dropping it breaks every connection.
#[derive(Debug)]
pub struct Proxy {
    /// Where it serves: `http://127.0.0.1:<port>`.
    pub address: String,
    shared: Arc<Shared>,
    open: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    clock: Clock,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<Call>>,
    in_flight: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port of this machine, and passes everything on to `server`, such as `http://127.0.0.1:8200`.
    /// `clock` times what is slow, and says when calls came.
    pub async fn before(server: &str, clock: Clock) -> io::Result<Self> {
        let server = server.trim_start_matches("http://").trim_end_matches('/');
        let server = server.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?;
        let shared = Shared {
            server,
            clock,
            rules: Mutex::default(),
            calls: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        };
        let (shared, (open, is_open)) = (Arc::new(shared), watch::channel(true));
        let task = tokio::spawn(listen(Arc::clone(&shared), listener, own, is_open));
        let task = AbortOnDropHandle::new(task);
        Ok(Self { address: format!("http://{own}"), shared, open, _task: task })
    }

    /// From now on, calls that come are spoilt so. Of several rules the first that fits strikes.
    pub fn spoil(&self, rule: Rule) {
        self.shared.rules().push(rule);
    }

    /// From now on, what comes passes whole. What was held back goes on being held back.
    pub fn restore(&self) {
        self.shared.rules().clear();
    }

    /// Nobody listens any more: connections are refused at once, and those that are open break.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Listens again, on the same port.
    pub fn reopen(&self) {
        self.open.send_replace(true);
    }

    /// The calls that have come so far, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls().clone()
    }

    /// How many calls have come whose method is this and whose path begins like this.
    pub fn count(&self, method: &str, path: &str) -> usize {
        let fits = |call: &&Call| call.method == method && call.path.starts_with(path);
        self.shared.calls().iter().filter(fits).count()
    }

    /// How many calls are being answered. What falls into a black hole is not among them.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_for(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules();
        let rule = rules.iter_mut().find(|rule| rule.strikes(method, path))?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    fn note(&self, method: String, path: String, spoilt: bool) -> usize {
        let at = self.clock.now().since_origin();
        let mut calls = self.calls();
        calls.push(Call { at, method, path, status: None, spoilt });
        calls.len() - 1
    }
}

/// Connections live as long as this is open.
async fn listen(
    shared: Arc<Shared>,
    listener: TcpListener,
    own: SocketAddr,
    mut is_open: watch::Receiver<bool>,
) {
    let mut listener = Some(listener);
    let mut connections: Vec<AbortOnDropHandle<()>> = Vec::new();
    loop {
        let Some(open) = &listener else {
            if is_open.wait_for(|open| *open).await.is_err() {
                return;
            }
            listener = TcpListener::bind(own).await.ok();
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.retain(|connection| !connection.is_finished());
                    let task: JoinHandle<()> = tokio::spawn(serve(Arc::clone(&shared), client));
                    connections.push(AbortOnDropHandle::new(task));
                }
            }
            shut = is_open.wait_for(|open| !*open) => {
                if shut.is_err() {
                    return;
                }
                listener = None;
                connections.clear();
            }
        }
    }
}

/// Counts a call as long as it is being answered.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One call; its connection is not used for another.
async fn serve(shared: Arc<Shared>, mut client: TcpStream) {
    // A call that breaks off is the client's affair, or what was wanted.
    let _ = answer(&shared, &mut client).await;
}

async fn answer(shared: &Arc<Shared>, client: &mut TcpStream) -> io::Result<()> {
    let request = wire::read_request(client).await?;
    let fault = shared.fault_for(&request.method, &request.path);
    let in_flight = InFlight::begin(shared);
    let place = shared.note(request.method.clone(), request.path.clone(), fault.is_some());
    match &fault {
        Some(Fault::Answer(bytes)) => return wire::send(client, bytes).await,
        Some(Fault::Blackhole) => {
            drop(in_flight);
            return wire::await_end(client).await;
        }
        Some(Fault::Break) => return wire::break_off(client),
        _ => {}
    }
    let reply = wire::ask(shared.server, &request).await?;
    if let Some(call) = shared.calls().get_mut(place) {
        call.status = wire::status(&reply);
    }
    match fault {
        Some(Fault::Lose) => wire::break_off(client),
        Some(Fault::Slow(pause)) => {
            // Whoever turns the clock must not wait for it.
            drop(in_flight);
            shared.clock.sleep_until(shared.clock.now() + pause).await;
            wire::send(client, &reply).await
        }
        Some(Fault::Drip { bytes, pause }) => {
            drop(in_flight);
            for drop in reply.chunks(bytes.max(1)) {
                wire::send(client, drop).await?;
                shared.clock.sleep_until(shared.clock.now() + pause).await;
            }
            Ok(())
        }
        Some(Fault::Truncate(bytes)) => {
            wire::send(client, reply.get(..bytes).unwrap_or(&reply)).await
        }
        _ => wire::send(client, &reply).await,
    }
}
