//! The listening side: strangers are kept few and short, peers are greeted and served.

use super::bulk::Serving;
use super::dial::stopped;
use super::error::LinkError;
use super::frame::{Frame, FrameKind};
use super::handler::Handler;
use super::hello::{Hello, Purpose};
use super::limits::BULK_INBOUND_MAX;
use super::link::Link;
use super::queue::SendQueue;
use super::socket::{self, Caller, Connection};
use super::state::{Counters, DoorState};
use super::transport::Shared;
use gavel_types::NodeId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// How long to wait after the system could not give us a connection (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Room for pongs in a log connection's queue: a peer that sends pings and reads nothing loses pongs.
const PONG_QUEUE_BYTES: usize = 16 * 1024;

/// Handshakes under way. One that is new displaces the oldest: a peer needs milliseconds, so a flood of
/// strangers that sit and wait keeps nobody out, and costs a bounded number of sockets.
pub(super) struct Door {
    half_open_max: usize,
    inner: Mutex<DoorInner>,
}

#[derive(Default)]
struct DoorInner {
    next: u64,
    half_open: BTreeMap<u64, oneshot::Sender<()>>,
    state: DoorState,
}

/// A handshake's place; dropping it frees the place.
struct Knock<'a> {
    door: &'a Door,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl Door {
    pub(super) fn new(half_open_max: usize) -> Door {
        Door { half_open_max, inner: Mutex::default() }
    }

    pub(super) fn state(&self) -> DoorState {
        let inner = self.inner.lock();
        DoorState { half_open: inner.half_open.len(), ..inner.state.clone() }
    }

    fn knock(&self) -> Knock<'_> {
        let (evict, evicted) = oneshot::channel();
        let mut inner = self.inner.lock();
        let id = inner.next;
        inner.next += 1;
        inner.state.accepted += 1;
        if inner.half_open.len() >= self.half_open_max
            && let Some((_, oldest)) = inner.half_open.pop_first()
        {
            inner.state.evicted += 1;
            let _ = oldest.send(());
        }
        inner.half_open.insert(id, evict);
        inner.state.half_open_peak = inner.state.half_open_peak.max(inner.half_open.len());
        Knock { door: self, id, evicted }
    }

    fn on_handshake_error(&self, error: &LinkError) {
        let mut inner = self.inner.lock();
        match error {
            // Counted when it was displaced.
            LinkError::Evicted => return,
            LinkError::Refusing(_) => inner.state.refused += 1,
            _ => inner.state.failed += 1,
        }
        inner.state.last_error = Some(error.to_string());
    }
}

impl Drop for Knock<'_> {
    fn drop(&mut self) {
        self.door.inner.lock().half_open.remove(&self.id);
    }
}

/// What this side keeps for each peer that connects to it.
pub(super) struct Inbound {
    pub(super) counters: Counters,
    turns: Arc<Semaphore>,
    log: Mutex<VecDeque<Open>>,
    bulk: Mutex<VecDeque<Open>>,
}

/// An open connection of a peer.
struct Open {
    replace: oneshot::Sender<()>,
    /// Resolves when its task has ended.
    ended: oneshot::Receiver<()>,
}

impl Inbound {
    pub(super) fn new(bulk_serving_max: usize) -> Inbound {
        Inbound {
            counters: Counters::default(),
            turns: Arc::new(Semaphore::new(bulk_serving_max)),
            log: Mutex::default(),
            bulk: Mutex::default(),
        }
    }

    /// How many connections of the peer are open for this purpose.
    pub(super) fn open(&self, purpose: Purpose) -> usize {
        let mut open = self.table(purpose).lock();
        open.retain(|one| !one.replace.is_closed());
        open.len()
    }

    fn table(&self, purpose: Purpose) -> &Mutex<VecDeque<Open>> {
        match purpose {
            Purpose::Log => &self.log,
            Purpose::Bulk => &self.bulk,
        }
    }

    /// Enters a new connection, and waits until the ones that it displaces have ended: what they still had to
    /// say was said before anything that the new one says.
    async fn enter(&self, purpose: Purpose) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let max = match purpose {
            Purpose::Log => 1,
            Purpose::Bulk => BULK_INBOUND_MAX,
        };
        let (replace, replaced) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut displaced = Vec::new();
        {
            let mut open = self.table(purpose).lock();
            open.retain(|one| !one.replace.is_closed());
            open.push_back(Open { replace, ended });
            while open.len() > max {
                displaced.extend(open.pop_front());
            }
        }
        for one in displaced {
            let _ = one.replace.send(());
            // An error is what a task that ended looks like.
            let _ = one.ended.await;
        }
        (replaced, end)
    }
}

/// Accepts until the transport shuts down, then lets the open connections end.
pub(super) async fn run<H: Handler>(shared: Arc<Shared>, listener: TcpListener, handler: Arc<H>) {
    let mut stop = shared.stop.subscribe();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let (shared, handler) = (shared.clone(), handler.clone());
                    tasks.spawn(async move {
                        let knock = shared.door.knock();
                        let error = serve(&shared, stream, knock, handler).await;
                        tracing::debug!(%address, %error, "an incoming connection ended");
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the task of an incoming connection failed");
                }
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn serve<H: Handler>(shared: &Shared, stream: TcpStream, mut knock: Knock<'_>, handler: Arc<H>) -> LinkError {
    let mut stop = shared.stop.subscribe();
    let handshake = socket::within(shared.limits.handshake_timeout, "the handshake", async {
        socket::set_options(&stream, &shared.limits).map_err(LinkError::Io)?;
        socket::accept(&shared.local, stream, |node| shared.inbound(node).is_some()).await
    });
    let greeted = tokio::select! {
        greeted = handshake => greeted,
        Ok(()) = &mut knock.evicted => Err(LinkError::Evicted),
        () = stopped(&mut stop) => return LinkError::Stopped,
    };
    drop(knock);
    match greeted {
        Ok(Caller::Guest(guest)) => {
            shared.door.inner.lock().state.opened += 1;
            handler.on_guest(guest);
            LinkError::HandedOver
        }
        Ok(Caller::Peer(connection, hello)) => {
            shared.door.inner.lock().state.opened += 1;
            open(shared, connection, hello, handler).await
        }
        Err(error) => {
            shared.door.on_handshake_error(&error);
            // A stranger could fill the disk with lines of a louder level; a refused peer cannot, it waits between attempts.
            match &error {
                LinkError::Refusing(_) => tracing::warn!(%error, "a node was turned away"),
                _ => tracing::debug!(%error, "a handshake failed"),
            }
            error
        }
    }
}

async fn open<S, H>(shared: &Shared, mut connection: Connection<S>, hello: Hello, handler: Arc<H>) -> LinkError
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let Hello { purpose, node, incarnation, .. } = hello;
    let Some(inbound) = shared.inbound(node) else { return LinkError::Replaced };
    let inbound = &inbound;
    let (replaced, _end) = inbound.enter(purpose).await;
    let welcome = shared.local.hello(purpose).encode();
    let greeting = connection.write_frame(FrameKind::Welcome, &welcome);
    if let Err(error) = socket::within(shared.limits.handshake_timeout, "the welcome", greeting).await {
        return error;
    }
    tracing::debug!(peer = %node, %purpose, incarnation, "a peer connected");
    let queue_bytes = match purpose {
        Purpose::Log => PONG_QUEUE_BYTES,
        // Bounded by the turns that each answer holds; busy answers and pongs by what the peer sends and reads.
        Purpose::Bulk => usize::MAX,
    };
    let queue = Arc::new(SendQueue::new(queue_bytes));
    let link = Link {
        queue: &queue,
        counters: &inbound.counters,
        limits: &shared.limits,
        pings: false,
        stop: shared.stop.subscribe(),
    };
    let ended = async {
        match purpose {
            Purpose::Log => link.run(connection, |frame| on_log_frame(&*handler, node, frame)).await,
            Purpose::Bulk => {
                let mut serving = Serving::new(handler, node, queue.clone(), inbound.turns.clone(), &shared.limits);
                link.run(connection, |frame| serving.on_frame(frame)).await
            }
        }
    };
    let error = tokio::select! {
        error = ended => error,
        Ok(()) = replaced => LinkError::Replaced,
    };
    if let LinkError::Refused(refusal) = &error {
        tracing::warn!(peer = %node, %refusal, "a peer that dialled this node turned it away");
    }
    error
}

fn on_log_frame(handler: &impl Handler, from: NodeId, frame: Frame) -> Result<(), LinkError> {
    match frame.kind {
        FrameKind::Message => {
            handler.on_message(from, frame.payload);
            Ok(())
        }
        other => Err(LinkError::Unexpected(other)),
    }
}
