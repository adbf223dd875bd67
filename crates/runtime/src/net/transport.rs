//! The door of this room: one [`Transport`] per node.

use super::accept::{self, Door, Inbound};
use super::bulk::BulkPool;
use super::dial::{Lane, LaneUser};
use super::error::{BulkError, LinkError, SendError, StartError};
use super::frame::{Frame, FrameKind, MESSAGE_BYTES_MAX};
use super::handler::{Handler, LinkChange};
use super::hello::{Hello, Purpose};
use super::limits::Limits;
use super::queue::Outgoing;
use super::state::{DoorState, LinkState};
use crate::trust::NodeTrust;
use bytes::Bytes;
use gavel_types::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// An address of this machine; port 0 lets the system choose ([`Transport::local_address`] tells).
    Address(SocketAddr),
    /// A socket that is listening already.
    Bound(std::net::TcpListener),
    /// Nowhere: this is a client, whom nobody dials.
    Nowhere,
}

/// Most clients that are known; one of which nothing is connected is forgotten for a new one.
pub const CLIENTS_MAX: usize = 256;

/// A node to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node.
    pub id: NodeId,
    /// `host:port`. A name is looked up at every attempt to connect; an address needs nobody's help.
    pub address: String,
}

/// What a transport needs.
#[derive(Debug)]
pub struct TransportConfig {
    /// This node's identity (cluster and node id), and whom it believes.
    pub trust: NodeTrust,
    /// Which run of this node this is; told to peers, who show it and hand it to their owners.
    pub incarnation: u64,
    /// Where to listen.
    pub listen: Listen,
    /// All nodes to talk to; this node itself may be among them and is skipped.
    pub peers: Vec<PeerAddress>,
    /// Bounds and times.
    pub limits: Limits,
}

/// Connections to and from all peers. Dropping it ends them at once; [`Transport::shutdown`] in order.
pub struct Transport {
    shared: Arc<Shared>,
    local_address: SocketAddr,
    tasks: JoinSet<()>,
}

/// Who this node is.
pub(super) struct Local {
    pub(super) trust: NodeTrust,
    pub(super) incarnation: u64,
}

impl Local {
    pub(super) fn hello(&self, purpose: Purpose) -> Hello {
        Hello { purpose, cluster: self.trust.cluster(), node: self.trust.node(), incarnation: self.incarnation }
    }
}

/// What all tasks of a transport share. There is no lock around it.
pub(super) struct Shared {
    pub(super) local: Local,
    pub(super) limits: Limits,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// What clients connect to.
    clients: Mutex<BTreeMap<NodeId, Arc<Inbound>>>,
    pub(super) door: Door,
    pub(super) stop: watch::Sender<bool>,
}

impl Shared {
    /// Where a node's connections to this one are entered; none for who may not have any.
    pub(super) fn inbound(&self, node: NodeId) -> Option<Arc<Inbound>> {
        if !node.is_client() {
            return self.peers.get(&node).map(|peer| peer.inbound.clone());
        }
        if self.local.trust.node().is_client() {
            return None;
        }
        let mut clients = self.clients.lock();
        if !clients.contains_key(&node) {
            if clients.len() >= CLIENTS_MAX {
                let is_open = |inbound: &Inbound| inbound.open(Purpose::Log) + inbound.open(Purpose::Bulk) > 0;
                // Whoever is being greeted holds one, too.
                clients.retain(|_, inbound| Arc::strong_count(inbound) > 1 || is_open(inbound));
            }
            if clients.len() >= CLIENTS_MAX {
                return None;
            }
            clients.insert(node, Arc::new(Inbound::new(self.limits.bulk_serving_max)));
        }
        clients.get(&node).cloned()
    }
}

/// All connections with one peer.
pub(super) struct Peer {
    log: Lane,
    bulk: BulkPool,
    pub(super) inbound: Arc<Inbound>,
}

impl Transport {
    /// Listens, and starts connecting to every peer. Must be called within a tokio runtime.
    ///
    /// Errors: the address cannot be listened on; limits or peers make no sense. Nothing is running then.
    pub fn start<H: Handler>(config: TransportConfig, handler: Arc<H>) -> Result<Transport, StartError> {
        config.limits.check().map_err(StartError::Limits)?;
        let peers = peers(&config)?;
        let listener = listen(config.listen)?;
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = listener.as_ref().map_or(Ok(nowhere), TcpListener::local_addr);
        let local_address = address.map_err(StartError::Listener)?;
        let shared = Arc::new(Shared {
            local: Local { trust: config.trust, incarnation: config.incarnation },
            door: Door::new(config.limits.half_open_max),
            limits: config.limits,
            peers,
            clients: Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        if let Some(listener) = listener {
            tasks.spawn(accept::run(shared.clone(), listener, handler.clone()));
        }
        for (&id, peer) in &shared.peers {
            tasks.spawn(keep_log(shared.clone(), id, handler.clone()));
            for index in 0..peer.bulk.lanes.len() {
                tasks.spawn(keep_bulk(shared.clone(), id, index));
            }
        }
        Ok(Transport { shared, local_address, tasks })
    }

    /// Where this transport listens; port 0 if it does not.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Queues a message to `peer`. It may be lost (the connection breaks, or the queue is full and newer
    /// messages come), but never overtakes or doubles another.
    pub fn send(&self, peer: NodeId, payload: Bytes) -> Result<(), SendError> {
        self.sender().send(peer, payload)
    }

    /// Asks `peer`, with the default deadline.
    pub async fn bulk_request(&self, peer: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, BulkError> {
        self.sender().bulk_request(peer, kind, payload).await
    }

    /// A handle for sending that can be cloned and kept anywhere. It does not keep the transport alive: after
    /// a shutdown its messages go nowhere and its requests fail as not connected.
    pub fn sender(&self) -> Sender {
        Sender { shared: self.shared.clone() }
    }

    /// The connections with each peer, by node id.
    pub fn link_state(&self) -> Vec<LinkState> {
        self.sender().link_state()
    }

    /// What happened at the listening socket.
    pub fn door_state(&self) -> DoorState {
        self.sender().door_state()
    }

    /// Stops listening, writes what is queued on open connections, closes them, and returns when
    /// nothing of this transport runs any more: after [`Limits::drain`] at the latest, plus what aborting takes.
    pub async fn shutdown(mut self) {
        self.shared.stop.send_replace(true);
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.limits.drain, all_ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Sends on behalf of a [`Transport`].
#[derive(Clone)]
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    /// As [`Transport::send`].
    pub fn send(&self, peer: NodeId, payload: Bytes) -> Result<(), SendError> {
        let (length, max) = (payload.len(), MESSAGE_BYTES_MAX);
        if length > max {
            return Err(SendError::TooLarge { length, max });
        }
        let known = self.shared.peers.get(&peer).ok_or(SendError::UnknownPeer(peer))?;
        known.log.queue.push(Outgoing::plain(FrameKind::Message, payload));
        Ok(())
    }

    /// Asks `peer`, with the default deadline. See [`Sender::bulk_request_within`].
    pub async fn bulk_request(&self, peer: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, BulkError> {
        self.bulk_request_within(peer, kind, payload, self.shared.limits.bulk_deadline).await
    }

    /// Asks `peer` to do `kind` with `payload`; gives its answer. Waits for its turn if too much is under
    /// way to this peer. Never repeats a request by itself.
    ///
    /// Errors: see [`BulkError`], and [`BulkError::outcome_known`] before asking again.
    pub async fn bulk_request_within(
        &self,
        peer: NodeId,
        kind: u8,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, BulkError> {
        let known = self.shared.peers.get(&peer).ok_or(BulkError::UnknownPeer(peer))?;
        known.bulk.request(kind, payload, deadline).await
    }

    /// As [`Transport::link_state`].
    pub fn link_state(&self) -> Vec<LinkState> {
        self.shared.peers.iter().map(|(&id, peer)| peer.state(id)).collect()
    }

    /// As [`Transport::door_state`].
    pub fn door_state(&self) -> DoorState {
        self.shared.door.state()
    }
}

impl Peer {
    fn state(&self, peer: NodeId) -> LinkState {
        let dropped = self.log.queue.dropped();
        LinkState {
            peer,
            address: self.log.address.clone(),
            log: self.log.status.snapshot(),
            bulk: self.bulk.lanes.iter().map(|lane| lane.lane.status.snapshot()).collect(),
            bulk_under_way: self.bulk.under_way(),
            heard: self.inbound.open(Purpose::Log) > 0,
            bulk_inbound: self.inbound.open(Purpose::Bulk),
            inbound: self.inbound.counters.traffic(),
            queued_bytes: self.log.queue.waiting_bytes(),
            dropped_frames: dropped.frames,
            dropped_bytes: dropped.bytes,
        }
    }
}

fn peers(config: &TransportConfig) -> Result<BTreeMap<NodeId, Peer>, StartError> {
    let limits = &config.limits;
    let mut peers = BTreeMap::new();
    for PeerAddress { id, address } in &config.peers {
        if *id == config.trust.node() {
            continue;
        }
        let peer = Peer {
            log: Lane::new(*id, address, Purpose::Log, limits.send_queue_bytes),
            bulk: BulkPool::new(*id, address, limits),
            inbound: Arc::new(Inbound::new(limits.bulk_serving_max)),
        };
        if *id == NodeId(0) || peers.insert(*id, peer).is_some() {
            return Err(StartError::Peers(format!("node {id} is listed twice, or is 0")));
        }
    }
    Ok(peers)
}

fn listen(listen: Listen) -> Result<Option<TcpListener>, StartError> {
    let listener = match listen {
        Listen::Nowhere => return Ok(None),
        Listen::Bound(listener) => listener,
        Listen::Address(address) => {
            std::net::TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?
        }
    };
    listener.set_nonblocking(true).map_err(StartError::Listener)?;
    TcpListener::from_std(listener).map(Some).map_err(StartError::Listener)
}

/// The log lane's user: nothing but signs of life comes back on it.
struct LogUser<H> {
    peer: NodeId,
    handler: Arc<H>,
}

impl<H: Handler> LaneUser for LogUser<H> {
    fn on_up(&self, incarnation: u64) {
        self.handler.on_link(self.peer, LinkChange::Up { incarnation });
    }

    fn on_frame(&self, frame: Frame) -> Result<(), LinkError> {
        Err(LinkError::Unexpected(frame.kind))
    }

    fn on_down(&self) {
        self.handler.on_link(self.peer, LinkChange::Down);
    }
}

async fn keep_log<H: Handler>(shared: Arc<Shared>, peer: NodeId, handler: Arc<H>) {
    let user = LogUser { peer, handler };
    shared.peers[&peer].log.keep(&shared, &user).await;
}

async fn keep_bulk(shared: Arc<Shared>, peer: NodeId, index: usize) {
    let lane = &shared.peers[&peer].bulk.lanes[index];
    lane.lane.keep(&shared, lane).await;
}
