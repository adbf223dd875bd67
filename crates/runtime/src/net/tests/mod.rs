//! The transport over loopback, with real TLS: what must arrive, what must be refused, what must stay bounded.

mod bulk;
mod clients;
mod guests;
mod links;
mod speed;
mod strangers;

use super::frame::{self, Frame, FrameKind};
use super::hello::{Hello, Purpose, Refusal};
use super::socket::{self, Caller, Connection};
use super::transport::Local;
use super::*;
use crate::trust::{Authority, NodeTrust};
use bytes::Bytes;
use gavel_types::{ClusterId, NodeId};
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Longest that any condition is waited for: only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Event {
    Message(NodeId, Bytes),
    Link(NodeId, LinkChange),
    Guest(Bytes),
}

const ECHO: u8 = 0;
const FAIL: u8 = 1;
const GATED: u8 = 2;
const PANIC: u8 = 3;
const HUGE: u8 = 4;

/// Tells the test what arrives, and answers requests by kind.
struct Probe {
    events: mpsc::UnboundedSender<Event>,
    gate: Semaphore,
    serving: AtomicUsize,
    serving_peak: AtomicUsize,
}

impl Handler for Probe {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        let _ = self.events.send(Event::Message(from, payload));
    }

    async fn on_bulk(&self, _from: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, BulkFailure> {
        let serving = self.serving.fetch_add(1, Ordering::SeqCst) + 1;
        self.serving_peak.fetch_max(serving, Ordering::SeqCst);
        let answer = match kind {
            ECHO => Ok(payload),
            GATED => {
                self.gate.acquire().await.unwrap().forget();
                Ok(payload)
            }
            PANIC => panic!("a handler that panics"),
            HUGE => Ok(Bytes::from(vec![0; frame::BULK_BYTES_MAX + 1])),
            _ => Err(BulkFailure(format!("no\tsuch kind {kind}"))),
        };
        self.serving.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    /// Lets in who says `let me in`.
    fn on_guest(&self, guest: Guest) {
        let greeting = Bytes::copy_from_slice(guest.greeting());
        let _ = self.events.send(Event::Guest(greeting.clone()));
        tokio::spawn(async move {
            if &greeting[..] == b"let me in" {
                let (mut read, mut write) = tokio::io::split(guest.welcome().await.unwrap());
                let _ = tokio::io::copy(&mut read, &mut write).await;
            } else {
                guest.refuse("not you").await;
            }
        });
    }

    fn on_link(&self, peer: NodeId, change: LinkChange) {
        let _ = self.events.send(Event::Link(peer, change));
    }
}

/// A running node and what it hears.
struct Node {
    transport: Transport,
    probe: Arc<Probe>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Node {
    async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("no event in time")
            .expect("the transport lives")
    }

    async fn message(&mut self) -> (NodeId, Bytes) {
        loop {
            if let Event::Message(from, payload) = self.event().await {
                return (from, payload);
            }
        }
    }

    async fn link(&mut self, wanted: LinkChange) {
        while !matches!(self.event().await, Event::Link(_, change) if change == wanted) {}
    }

    fn address(&self) -> SocketAddr {
        self.transport.local_address()
    }

    fn state(&self, peer: NodeId) -> LinkState {
        self.transport.link_state().into_iter().find(|link| link.peer == peer).unwrap()
    }

    /// Waits until everything that this node dials is connected.
    async fn connected(&self) {
        until(|| {
            let links = self.transport.link_state();
            links.iter().all(|link| link.log.connected && link.bulk.iter().all(|lane| lane.connected))
        })
        .await;
    }
}

/// Waits for a condition, never for a time.
async fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "the condition did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A cluster's authority, and the addresses of its nodes.
struct World {
    authority: Authority,
    limits: Limits,
    addresses: Vec<PeerAddress>,
    listeners: Vec<(NodeId, TcpListener)>,
}

impl World {
    fn new(nodes: &[NodeId]) -> World {
        let listeners: Vec<_> = nodes.iter().map(|&node| (node, TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let addresses = listeners
            .iter()
            .map(|(id, listener)| PeerAddress { id: *id, address: listener.local_addr().unwrap().to_string() })
            .collect();
        // A loaded machine must not fail a test that is not about this.
        let limits = Limits {
            dial_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            refused_pause: Duration::from_millis(200),
            unacknowledged_max: Duration::from_secs(10),
            // Longer than PATIENCE, so that silence never passes for a refusal.
            silence_max: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            ..Limits::default()
        };
        World { authority: Authority::create(SystemTime::now()).unwrap(), limits, addresses, listeners }
    }

    fn cluster(&self) -> ClusterId {
        self.authority.cluster()
    }

    fn trust(&self, node: NodeId) -> NodeTrust {
        self.authority.issue(node, SystemTime::now()).unwrap().trust(SystemTime::now()).unwrap()
    }

    fn local(&self, node: NodeId) -> Local {
        Local { trust: self.trust(node), incarnation: 1 }
    }

    fn take_listener(&mut self, node: NodeId) -> TcpListener {
        let index = self.listeners.iter().position(|(id, _)| *id == node).unwrap();
        self.listeners.remove(index).1
    }

    fn start(&mut self, node: NodeId) -> Node {
        let listener = self.take_listener(node);
        self.start_on(node, Listen::Bound(listener), 1)
    }

    fn start_on(&self, node: NodeId, listen: Listen, incarnation: u64) -> Node {
        let (sender, events) = mpsc::unbounded_channel();
        let probe = Arc::new(Probe {
            events: sender,
            gate: Semaphore::new(0),
            serving: AtomicUsize::new(0),
            serving_peak: AtomicUsize::new(0),
        });
        let config = TransportConfig {
            trust: self.trust(node),
            incarnation,
            listen,
            peers: self.addresses.clone(),
            limits: self.limits.clone(),
        };
        let transport = Transport::start(config, probe.clone()).unwrap();
        Node { transport, probe, events }
    }

    /// Dials `to` as `node` would, up to the open connection.
    async fn dial(&self, node: NodeId, to: &Node, peer: NodeId, purpose: Purpose) -> Result<Dialled, LinkError> {
        let address = to.address().to_string();
        Ok(socket::connect(&self.local(node), &self.limits, peer, &address, purpose).await?.0)
    }

    /// Accepts one connection as `node` would, up to the open connection, which is then not read.
    async fn answer(&self, node: NodeId, listener: &tokio::net::TcpListener) -> (Connection<Accepted>, Hello) {
        let (stream, _) = listener.accept().await.unwrap();
        let local = self.local(node);
        let Caller::Peer(mut connection, hello) = socket::accept(&local, stream, |_| true).await.unwrap() else {
            panic!("a guest")
        };
        let welcome = local.hello(hello.purpose).encode();
        connection.write_frame(FrameKind::Welcome, &welcome).await.unwrap();
        (connection, hello)
    }
}

type Dialled = Connection<tokio_rustls::client::TlsStream<TcpStream>>;
type Accepted = tokio_rustls::server::TlsStream<TcpStream>;

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("not in time")
}

/// Reads until the other side ends the connection, and gives the refusal if it sent one.
async fn read_to_end(connection: &mut Dialled) -> Option<Refusal> {
    let mut refusal = None;
    let ended = in_time(async {
        loop {
            match connection.read_frame().await {
                Ok(Frame { kind: FrameKind::Refused, payload }) => refusal = Some(Refusal::decode(&payload)),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(!matches!(ended, LinkError::Frame(_)), "the node sent garbage: {ended}");
    refusal
}

fn numbered(number: u32, bytes: usize) -> Bytes {
    let mut payload = vec![number as u8; bytes.max(4)];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    Bytes::from(payload)
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().unwrap())
}
