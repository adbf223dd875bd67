//! The thread that lets go of collected blobs, returns their space, and looks for blobs that were stored and never named.
//!
//! It does a little at a time, and yields to everything else. docs/protocols/collection.md has the protocol.

use crate::host::blobs::Blobs;
use crate::host::node::{Input, NodeHandle};
use gavel_store::blob::{BlobError, Cursor};
use gavel_txn::collect::COLLECT_BLOBS_MAX;
use gavel_types::BlobId;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(200);
/// Most blobs that are buried in one round.
const BURY_MAX: usize = 1024;
/// After so many bytes were copied the copying pauses: 40 MB/s at most, beside what the foreground does.
const COPY_BYTES: u64 = 2 * 1024 * 1024;
const COPY_PAUSE: Duration = Duration::from_millis(50);
/// A walk looks at one block of an index (85 blobs) in each so many rounds: 85 a second. A million takes 3 hours.
const WALK_ROUNDS: u32 = 5;
/// From the end of a walk to the next one.
const WALK_PAUSE: Duration = Duration::from_secs(600);
/// A blob that was stored so long ago, and that no version names, was never committed, or was collected while this node did not see it.
const UNNAMED_AGE: Duration = Duration::from_secs(3600);
/// Segments that could not be rewritten are tried again after this.
const STUCK_PAUSE: Duration = Duration::from_secs(600);

struct Collector {
    blobs: Weak<Blobs>,
    node: Weak<NodeHandle>,
    tokio: tokio::runtime::Handle,
    /// Segments in which something cannot be read, or for which there is no room.
    stuck: BTreeSet<u64>,
    stuck_since: Instant,
    /// Where the walk is; none between two of them.
    cursor: Option<Cursor>,
    walked_at: Instant,
}

/// Starts the thread. It ends with the node.
///
/// # Errors
/// If no thread can be started.
pub fn start(blobs: &Arc<Blobs>, node: &Arc<NodeHandle>) -> std::io::Result<()> {
    let now = Instant::now();
    let mut collector = Collector {
        blobs: Arc::downgrade(blobs),
        node: Arc::downgrade(node),
        tokio: tokio::runtime::Handle::current(),
        stuck: BTreeSet::new(),
        stuck_since: now,
        cursor: None,
        walked_at: now,
    };
    let run = move || {
        collector.hold_conflicts();
        let mut round: u32 = 0;
        while collector.round(round) {
            round = round.wrapping_add(1);
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new().name("gavel-collect".into()).spawn(run).map(drop)
}

impl Collector {
    /// Conflicts that are kept need their bytes.
    fn hold_conflicts(&self) {
        let (Some(blobs), Some(node)) = (self.blobs.upgrade(), self.node.upgrade()) else { return };
        for id in node.conflicts.ids() {
            match node.conflicts.get(id) {
                Ok(conflict) => {
                    conflict.and_then(|conflict| conflict.blob()).into_iter().for_each(|blob| blobs.in_use.hold(blob));
                }
                Err(error) => tracing::warn!(id, %error, "a conflict can't be read"),
            }
        }
    }

    /// One round. False if the node has stopped.
    fn round(&mut self, round: u32) -> bool {
        let (Some(blobs), Some(node)) = (self.blobs.upgrade(), self.node.upgrade()) else { return false };
        if node.failure().is_some() {
            return false;
        }
        let done = self.collect(&blobs).and_then(|()| match round.is_multiple_of(WALK_ROUNDS) {
            true => self.walk(&blobs, &node),
            false => Ok(()),
        });
        match done {
            Ok(()) | Err(BlobError::Stopped { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "collecting blobs; it is tried again");
                std::thread::sleep(10 * PAUSE);
            }
        }
        true
    }

    /// Buries what was collected, and rewrites a segment if that is worth the while.
    fn collect(&mut self, blobs: &Arc<Blobs>) -> Result<(), BlobError> {
        let store = blobs.store();
        store.bury(BURY_MAX, &|blob| blobs.in_use.has(blob))?;
        if self.stuck_since.elapsed() >= STUCK_PAUSE {
            self.stuck.clear();
        }
        let mut copied = 0;
        let compacted = store.compact(&self.stuck, |bytes| {
            copied += bytes;
            if copied >= COPY_BYTES {
                copied = 0;
                std::thread::sleep(COPY_PAUSE);
            }
            true
        })?;
        let Some(segment) = compacted.segment else { return Ok(()) };
        if compacted.damaged.is_empty() {
            tracing::info!(segment, bytes = compacted.returned, "the space of collected blobs was returned");
        } else {
            self.replace(blobs, segment, &compacted.damaged);
        }
        Ok(())
    }

    /// Fetches what could not be read from peers.
    fn replace(&mut self, blobs: &Arc<Blobs>, segment: u64, damaged: &[BlobId]) {
        for blob in damaged {
            if let Err(error) = self.tokio.block_on(blobs.repair(*blob)) {
                tracing::warn!(segment, %error, "a segment of blobs cannot be rewritten yet");
                self.stuck.insert(segment);
                self.stuck_since = Instant::now();
            }
        }
    }

    /// Looks at the next blobs that are stored here, and tells the leader of those that nothing has named for long.
    fn walk(&mut self, blobs: &Arc<Blobs>, node: &NodeHandle) -> Result<(), BlobError> {
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None if self.walked_at.elapsed() < WALK_PAUSE => return Ok(()),
            None => Cursor::default(),
        };
        let (listed, next) = blobs.store().listed_from(cursor)?;
        (self.cursor, self.walked_at) = (next, Instant::now());
        let now = node.cluster_ns();
        let mut unnamed = Vec::new();
        for (blob, _) in listed {
            // Records that can't be read, or are being copied, say nothing.
            let named = node.records.is_being_copied() || node.records.is_named(blob).unwrap_or(true);
            if named || blobs.in_use.has(blob) || blobs.is_condemned(blob) {
                continue;
            }
            let age = blobs.store().taken_as_of(blob)?.map(|taken| now.saturating_sub(taken.0));
            if age.is_some_and(|age| age >= UNNAMED_AGE.as_nanos() as u64) {
                unnamed.push(blob);
            }
        }
        for blobs in unnamed.chunks(COLLECT_BLOBS_MAX) {
            node.inbox.push(Input::Unnamed(blobs.to_vec()));
        }
        Ok(())
    }
}
