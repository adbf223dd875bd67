//! What is known about links: counters, and the snapshots that `gavel status` shows.

use gavel_types::NodeId;
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything about the connections with one peer.
#[derive(Clone, Debug, Serialize)]
pub struct LinkState {
    /// The peer.
    pub peer: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Our log connection to it, which carries our messages.
    pub log: LaneState,
    /// Our bulk connections to it.
    pub bulk: Vec<LaneState>,
    /// Our requests to it that have no answer yet.
    pub bulk_under_way: usize,
    /// Whether its log connection to us is open.
    pub heard: bool,
    /// Its bulk connections to us.
    pub bulk_inbound: usize,
    /// Frames and bytes of all its connections to us, since the start.
    pub inbound: Traffic,
    /// Messages waiting to be written to it, in bytes.
    pub queued_bytes: usize,
    /// Messages to it that were displaced by newer ones because the queue was full, since the start.
    pub dropped_frames: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

/// One connection that this node keeps to a peer.
#[derive(Clone, Debug, Serialize)]
pub struct LaneState {
    /// Whether it is open.
    pub connected: bool,
    /// Since when it is open or not, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Why it ended, or could not be made, last; stays while it is open.
    pub last_error: Option<String>,
    /// The peer's incarnation, as it said when the connection was opened last.
    pub incarnation: Option<u64>,
    /// How often it was opened, since the start.
    pub opened: u64,
    /// Round trip of the last ping through both programs, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Frames and bytes, since the start.
    pub traffic: Traffic,
}

/// Frames and bytes in both directions, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Frames read.
    pub frames_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Frames written.
    pub frames_out: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// What happened at the listening socket, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DoorState {
    /// Handshakes under way now.
    pub half_open: usize,
    /// Most handshakes that ever were under way at the same time.
    pub half_open_peak: usize,
    /// TCP connections taken.
    pub accepted: u64,
    /// Connections that completed their handshake and were opened.
    pub opened: u64,
    /// Handshakes that failed or took too long: strangers, port scanners, wrong certificates.
    pub failed: u64,
    /// Handshakes given up because newer ones came while too many were under way.
    pub evicted: u64,
    /// Greetings refused: a node of this cluster that is not set up as it should be.
    pub refused: u64,
    /// Why the last connection was failed or refused.
    pub last_error: Option<String>,
}

/// Counters of one or more connections.
#[derive(Default)]
pub(super) struct Counters {
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    /// Microseconds plus one; 0 while there is none.
    round_trip: AtomicU64,
}

impl Counters {
    pub(super) fn received(&self, bytes: usize) {
        self.frames_in.fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.frames_out.fetch_add(1, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn round_trip(&self, micros: u64) {
        self.round_trip.store(micros.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            frames_in: self.frames_in.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            frames_out: self.frames_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

/// The state of one connection that this node keeps, as its dialling task sees it.
pub(super) struct LaneStatus {
    pub(super) counters: Counters,
    facts: Mutex<Facts>,
}

struct Facts {
    connected: bool,
    since: SystemTime,
    last_error: Option<String>,
    incarnation: Option<u64>,
    opened: u64,
}

impl LaneStatus {
    pub(super) fn new() -> LaneStatus {
        let facts =
            Facts { connected: false, since: SystemTime::now(), last_error: None, incarnation: None, opened: 0 };
        LaneStatus { counters: Counters::default(), facts: Mutex::new(facts) }
    }

    pub(super) fn up(&self, incarnation: u64) {
        let mut facts = self.facts.lock();
        facts.connected = true;
        facts.since = SystemTime::now();
        facts.incarnation = Some(incarnation);
        facts.opened += 1;
    }

    /// Notes that the connection ended or was not made. Gives whether that is news: it was open, or failed
    /// for another reason before.
    pub(super) fn down(&self, error: String) -> bool {
        let mut facts = self.facts.lock();
        let news = facts.connected || facts.last_error.as_ref() != Some(&error);
        if facts.connected {
            facts.connected = false;
            facts.since = SystemTime::now();
        }
        facts.last_error = Some(error);
        news
    }

    pub(super) fn last_error(&self) -> String {
        self.facts.lock().last_error.clone().unwrap_or_else(|| "no attempt to connect has ended yet".to_owned())
    }

    pub(super) fn snapshot(&self) -> LaneState {
        let facts = self.facts.lock();
        LaneState {
            connected: facts.connected,
            since_unix_ms: facts.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            last_error: facts.last_error.clone(),
            incarnation: facts.incarnation,
            opened: facts.opened,
            round_trip_us: self.counters.round_trip.load(Ordering::Relaxed).checked_sub(1),
            traffic: self.counters.traffic(),
        }
    }
}
