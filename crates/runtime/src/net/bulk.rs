//! Requests with answers: the asking side's table of what is under way, and the answering side's bounds.

use super::dial::{Lane, LaneUser};
use super::error::{BulkError, LinkError};
use super::frame::{self, BULK_BYTES_MAX, ENVELOPE_BYTES, Frame, FrameKind};
use super::handler::{BulkFailure, Handler};
use super::hello::{Purpose, REFUSAL_TEXT_BYTES_MAX};
use super::limits::{FRAME_OVERHEAD_BYTES, Limits};
use super::queue::{Outgoing, SendQueue};
use bytes::Bytes;
use gavel_types::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

const STATUS_DONE: u8 = 0;
const STATUS_FAILED: u8 = 1;
const STATUS_BUSY: u8 = 2;

type Answer = (u8, Bytes);

/// The bulk connections that this node keeps to one peer.
pub(super) struct BulkPool {
    peer: NodeId,
    pub(super) lanes: Vec<BulkLane>,
    next_id: AtomicU64,
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    link_wait: Duration,
    /// How many lanes are open.
    open: Arc<watch::Sender<usize>>,
}

/// One of them.
pub(super) struct BulkLane {
    pub(super) lane: Lane,
    waiting: Mutex<WaitingRequests>,
    open: Arc<watch::Sender<usize>>,
}

#[derive(Default)]
struct WaitingRequests {
    connected: bool,
    answers: BTreeMap<u64, oneshot::Sender<Answer>>,
}

impl BulkPool {
    pub(super) fn new(peer: NodeId, address: &str, limits: &Limits) -> BulkPool {
        let open = Arc::new(watch::Sender::new(0));
        let lane = |_| BulkLane {
            // Bounded by the permits that each frame holds; nothing is ever displaced.
            lane: Lane::new(peer, address, Purpose::Bulk, usize::MAX),
            waiting: Mutex::default(),
            open: open.clone(),
        };
        BulkPool {
            peer,
            lanes: (0..limits.bulk_connections).map(lane).collect(),
            next_id: AtomicU64::new(1),
            slots: Arc::new(Semaphore::new(limits.bulk_in_flight_max)),
            bytes: Arc::new(Semaphore::new(limits.bulk_in_flight_bytes)),
            bytes_max: limits.bulk_in_flight_bytes,
            link_wait: limits.bulk_link_wait,
            open,
        }
    }

    pub(super) async fn request(&self, kind: u8, payload: Bytes, deadline: Duration) -> Result<Bytes, BulkError> {
        let (length, max) = (payload.len(), BULK_BYTES_MAX);
        if length > max {
            return Err(BulkError::TooLarge { length, max });
        }
        let peer = self.peer;
        let until = Instant::now() + deadline;
        let late = |sent| BulkError::TimedOut { peer, deadline, sent };
        let Ok(begun) = timeout_at(until, self.begin(kind, payload)).await else {
            return Err(late(false));
        };
        let under_way = begun?;
        let answered = timeout_at(until, under_way.answer).await;
        match answered.map_err(|_| late(true))?.map_err(|_| BulkError::LinkLost(peer))? {
            (STATUS_DONE, body) => Ok(body),
            (STATUS_FAILED, text) => Err(BulkError::Failed { peer, text: failure_text(&text) }),
            (STATUS_BUSY, _) => Err(BulkError::Busy(peer)),
            _ => Err(BulkError::BadAnswer(peer)),
        }
    }

    /// How many requests were handed to connections and have no answer yet.
    pub(super) fn under_way(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.lock().answers.len()).sum()
    }

    /// Waits for its turn and for a connection, then hands the request to it.
    async fn begin(&self, kind: u8, payload: Bytes) -> Result<UnderWay<'_>, BulkError> {
        let closed = "these semaphores are never closed";
        let slot = self.slots.clone().acquire_owned().await.expect(closed);
        let cost = (payload.len() + FRAME_OVERHEAD_BYTES).min(self.bytes_max) as u32;
        let mut bytes = Some(self.bytes.clone().acquire_many_owned(cost).await.expect(closed));
        let mut open = self.open.subscribe();
        let wait_until = Instant::now() + self.link_wait;
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            // The lane with the least to do; ties go to the first.
            let mut lanes: Vec<_> = self.lanes.iter().collect();
            lanes.sort_by_key(|lane| lane.lane.queue.waiting_bytes());
            for lane in lanes {
                if let Some(answer) = lane.begin(id, kind, &payload, &mut bytes) {
                    return Ok(UnderWay { answer, _entry: Entry { lane, id }, _slot: slot });
                }
            }
            let opened = timeout_at(wait_until, open.wait_for(|open| *open > 0)).await;
            if opened.is_err() {
                let cause = self.lanes[0].lane.status.last_error();
                return Err(BulkError::NotConnected { peer: self.peer, cause });
            }
        }
    }
}

/// A request that was handed to a connection.
struct UnderWay<'a> {
    answer: oneshot::Receiver<Answer>,
    _entry: Entry<'a>,
    _slot: OwnedSemaphorePermit,
}

/// Its place in the table: given up with the request, so that an answer that comes late finds nobody.
struct Entry<'a> {
    lane: &'a BulkLane,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.lane.waiting.lock().answers.remove(&self.id);
    }
}

impl BulkLane {
    fn begin(
        &self,
        id: u64,
        kind: u8,
        payload: &Bytes,
        bytes: &mut Option<OwnedSemaphorePermit>,
    ) -> Option<oneshot::Receiver<Answer>> {
        // Queued under the table's lock, so that an end of the connection clears both or neither.
        let mut waiting = self.waiting.lock();
        if !waiting.connected {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.answers.insert(id, sender);
        let envelope = frame::envelope(id, kind);
        self.lane.queue.push(Outgoing::enveloped(FrameKind::Request, envelope, payload.clone(), bytes.take()));
        Some(receiver)
    }
}

impl LaneUser for BulkLane {
    fn on_up(&self, _incarnation: u64) {
        self.waiting.lock().connected = true;
        self.open.send_modify(|open| *open += 1);
    }

    fn on_frame(&self, frame: Frame) -> Result<(), LinkError> {
        if frame.kind != FrameKind::Response || frame.payload.len() < ENVELOPE_BYTES {
            return Err(LinkError::Unexpected(frame.kind));
        }
        if let Some((id, status, body)) = frame::open_envelope(frame.payload)
            && let Some(waiting) = self.waiting.lock().answers.remove(&id)
        {
            // Nobody may be waiting any more; the answer is dropped then.
            let _ = waiting.send((status, body));
        }
        Ok(())
    }

    fn on_down(&self) {
        let mut waiting = self.waiting.lock();
        waiting.connected = false;
        waiting.answers.clear();
        self.lane.queue.clear();
        drop(waiting);
        self.open.send_modify(|open| *open -= 1);
    }
}

/// The answering side of one bulk connection.
pub(super) struct Serving<H> {
    pub(super) handler: Arc<H>,
    pub(super) from: NodeId,
    pub(super) queue: Arc<SendQueue>,
    /// Shared by all connections of the peer: a turn is held until the answer is written, so that
    /// answers do not pile up before a slow reader.
    pub(super) turns: Arc<Semaphore>,
    accepted: Arc<AtomicUsize>,
    accepted_max: usize,
    tasks: JoinSet<()>,
}

impl<H: Handler> Serving<H> {
    pub(super) fn new(
        handler: Arc<H>,
        from: NodeId,
        queue: Arc<SendQueue>,
        turns: Arc<Semaphore>,
        limits: &Limits,
    ) -> Serving<H> {
        Serving {
            handler,
            from,
            queue,
            turns,
            accepted: Arc::default(),
            accepted_max: limits.bulk_in_flight_max,
            tasks: JoinSet::new(),
        }
    }

    pub(super) fn on_frame(&mut self, frame: Frame) -> Result<(), LinkError> {
        let kind = frame.kind;
        let (FrameKind::Request, Some((id, request, body))) = (kind, frame::open_envelope(frame.payload)) else {
            return Err(LinkError::Unexpected(kind));
        };
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(peer = %self.from, %error, "a bulk request's handler failed");
            }
        }
        // A peer within its own bounds comes here only while requests that it has given up are still executed.
        if self.accepted.fetch_add(1, Ordering::Relaxed) >= self.accepted_max {
            self.accepted.fetch_sub(1, Ordering::Relaxed);
            let envelope = frame::envelope(id, STATUS_BUSY);
            self.queue.push(Outgoing::enveloped(FrameKind::Response, envelope, Bytes::new(), None));
            return Ok(());
        }
        let unanswered = Unanswered { id, queue: self.queue.clone(), accepted: self.accepted.clone(), answer: None };
        let (handler, from, turns) = (self.handler.clone(), self.from, self.turns.clone());
        self.tasks.spawn(async move {
            let turn = turns.acquire_owned().await.expect("this semaphore is never closed");
            let (status, body) = answer(handler.on_bulk(from, request, body).await);
            unanswered.answer(status, body, turn);
        });
        Ok(())
    }
}

/// A request that was accepted. Dropping it answers it, also when its handler panicked.
struct Unanswered {
    id: u64,
    queue: Arc<SendQueue>,
    accepted: Arc<AtomicUsize>,
    answer: Option<(u8, Bytes, OwnedSemaphorePermit)>,
}

impl Unanswered {
    fn answer(mut self, status: u8, body: Bytes, turn: OwnedSemaphorePermit) {
        self.answer = Some((status, body, turn));
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        let (status, body, turn) = match self.answer.take() {
            Some((status, body, turn)) => (status, body, Some(turn)),
            None => (STATUS_FAILED, Bytes::from_static(b"the request's handler failed; see this node's log"), None),
        };
        self.queue.push(Outgoing::enveloped(FrameKind::Response, frame::envelope(self.id, status), body, turn));
    }
}

fn answer(result: Result<Bytes, BulkFailure>) -> (u8, Bytes) {
    match result {
        Ok(body) if body.len() <= BULK_BYTES_MAX => (STATUS_DONE, body),
        Ok(body) => {
            let text = format!("the answer has {} bytes, {BULK_BYTES_MAX} are allowed", body.len());
            (STATUS_FAILED, Bytes::from(text))
        }
        Err(BulkFailure(mut text)) => {
            let mut end = text.len().min(REFUSAL_TEXT_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            (STATUS_FAILED, Bytes::from(text))
        }
    }
}

fn failure_text(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(REFUSAL_TEXT_BYTES_MAX)]).replace(char::is_control, " ")
}
