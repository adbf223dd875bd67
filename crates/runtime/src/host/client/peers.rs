//! Asking the peers: one of them is asked, and if it does not answer, the next. Everything that goes this way may be asked twice.

use crate::host::clients::Answered;
use crate::net::Sender;
use bytes::Bytes;
use gavel_types::NodeId;
use gavel_wire::client::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A peer that has not answered by then is left alone, and the next one is asked. Longer than a peer waits before it says "not yet".
const TRY: Duration = Duration::from_millis(1500);
/// When all have failed in a row, they are left alone for so long.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests under way at once that a peer answers at once, and of those that wait there: fewer than it serves of one client, so that
/// its `WATCH` always has a turn.
pub const ASKS_MAX: usize = 8;
const WAITING_MAX: usize = 4;

const _: () = assert!(TRY.as_nanos() > gavel_node::clients::CLIENT_PATIENCE_NS as u128);

/// Does a request wait at the peer for others?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// It is answered at once.
    Quick,
    /// It may wait for the quorum, or for leases of others.
    Waiting,
}

/// Why nobody has answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// Not in time.
    #[error("no peer has answered in time: {0}")]
    TooLong(String),
    /// There is no such volume.
    #[error("the volume is not used any more")]
    NoVolume,
    /// The records can't be read there.
    #[error("{0}")]
    Unreadable(String),
}

/// The peers, as a client sees them.
pub struct Peers {
    sender: Sender,
    ids: Vec<NodeId>,
    /// The place of the one that is asked first.
    at: AtomicUsize,
    quick: Semaphore,
    waiting: Semaphore,
    /// How often another one was taken.
    switches: AtomicU64,
}

impl Peers {
    /// Begins with the peer at `first`, counted round.
    pub fn new(sender: Sender, ids: Vec<NodeId>, first: u64) -> Peers {
        let at = AtomicUsize::new((first % ids.len().max(1) as u64) as usize);
        let (quick, waiting) = (Semaphore::new(ASKS_MAX), Semaphore::new(WAITING_MAX));
        Peers { sender, ids, at, quick, waiting, switches: AtomicU64::new(0) }
    }

    /// All of them.
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// The way to each of them.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The one that is asked first at the moment, and how often another was taken.
    pub fn current(&self) -> (NodeId, u64) {
        (self.ids[self.at.load(Ordering::Relaxed) % self.ids.len()], self.switches.load(Ordering::Relaxed))
    }

    /// Another one than `peer` is to be asked first, if nobody has seen to that.
    pub fn leave(&self, peer: NodeId) {
        let at = self.at.load(Ordering::Relaxed);
        if self.ids[at % self.ids.len()] == peer
            && self.at.compare_exchange(at, (at + 1) % self.ids.len(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.switches.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks until somebody answers, for `patience` at most.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: u8,
        pace: Pace,
        ask: &Q,
        patience: Duration,
    ) -> Result<A, AskError> {
        let until = Instant::now() + patience;
        let payload = Bytes::from(encode(ask));
        let turns = if pace == Pace::Quick { &self.quick } else { &self.waiting };
        let mut cause = "it was not their turn".to_owned();
        let mut unreadable = 0;
        for tried in 1_usize.. {
            let Ok(Ok(turn)) = tokio::time::timeout_at(until, turns.acquire()).await else { break };
            let (peer, _) = self.current();
            let answer = self.try_one(peer, kind, &payload).await;
            drop(turn);
            match answer {
                Ok(Answered::Done(answer)) => return Ok(answer),
                Ok(Answered::NoVolume) => return Err(AskError::NoVolume),
                Ok(Answered::NotYet) => cause = format!("node {peer} could not answer yet"),
                Ok(Answered::Unreadable(text)) => {
                    unreadable += 1;
                    if unreadable >= self.ids.len() {
                        return Err(AskError::Unreadable(text));
                    }
                    cause = text;
                }
                Err(text) => cause = text,
            }
            self.leave(peer);
            if Instant::now() >= until {
                break;
            }
            if tried.is_multiple_of(self.ids.len()) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(AskError::TooLong(cause))
    }

    async fn try_one<A: DeserializeOwned>(
        &self,
        peer: NodeId,
        kind: u8,
        payload: &Bytes,
    ) -> Result<Answered<A>, String> {
        let answer = self.sender.bulk_request_within(peer, kind, payload.clone(), TRY).await;
        let answer = answer.map_err(|error| error.to_string())?;
        decode("answer of a peer", &answer).map_err(|error| error.to_string())
    }

    /// Asks the peers in turn for what is answered in bytes of its own, and takes the first answer that `good` accepts.
    ///
    /// # Errors
    /// What the last one said.
    pub async fn ask_raw(&self, kind: u8, payload: Bytes, good: impl Fn(&Bytes) -> bool) -> Result<Bytes, String> {
        let mut cause = "no peer".to_owned();
        for _ in 0..self.ids.len() {
            let (peer, _) = self.current();
            match self.sender.bulk_request_within(peer, kind, payload.clone(), TRY).await {
                Ok(answer) if good(&answer) => return Ok(answer),
                Ok(_) => cause = format!("node {peer} sent something else"),
                Err(error) => cause = error.to_string(),
            }
            self.leave(peer);
        }
        Err(cause)
    }
}
