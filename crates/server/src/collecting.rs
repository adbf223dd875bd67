//! What a leader does about blobs that nothing names any more: it proposes to mark them, and a grace later to collect them.
//! docs/protocols/collection.md has the protocol.
//!
//! Nothing here is needed for safety: whether a blob is named is judged where an item is applied.

use crate::server::Server;
use gavel_store::engine::Engine;
use gavel_txn::collect::COLLECT_BLOBS_MAX;
use gavel_types::{BlobId, Moment, Tid};
use gavel_wire::{Ended, Item};
use std::collections::BTreeSet;

/// Most blobs that a leader remembers to look at; what is beyond is found again by the nodes' walks.
pub const CANDIDATES_MAX: usize = 65_536;
/// While there is always something in the line, an item joins it once in so many paces.
const BUSY_PACES: u64 = 20;
/// An item that was lined up and is not applied by then is lined up once more.
const PATIENCE_NS: u64 = 10_000_000_000;

/// What a leader remembers of blobs.
#[derive(Debug, Default)]
pub struct Collecting {
    candidates: BTreeSet<BlobId>,
    /// When the last item was lined up, and how many were applied before.
    lined_up: Option<(Moment, u64)>,
}

impl Collecting {
    /// These may not be named any more.
    pub(crate) fn add(&mut self, blobs: impl IntoIterator<Item = BlobId>) {
        for blob in blobs {
            if self.candidates.len() >= CANDIDATES_MAX {
                return;
            }
            self.candidates.insert(blob);
        }
    }

    fn take(&mut self, most: usize) -> Vec<BlobId> {
        std::iter::from_fn(|| self.candidates.pop_first()).take(most).collect()
    }
}

impl<E: Engine> Server<E> {
    /// A node has had these for long, and does not name them.
    pub(crate) fn add_candidates(&mut self, blobs: Vec<BlobId>) {
        if let Some(leading) = &mut self.leading {
            leading.collecting.add(blobs.into_iter().take(COLLECT_BLOBS_MAX));
        }
    }

    /// Proposes one item, if it is time for one and there is something to propose.
    pub(crate) fn tick_collecting(&mut self) {
        let now = self.clock.now;
        let (pace, steps) = (self.config.sweep_pace_ns, self.state.collection.steps());
        let Some(leading) = self.leading.as_ref().filter(|leading| leading.established) else { return };
        let busy = !leading.line.is_empty() || !leading.under_way.is_empty();
        let waits = leading.collecting.lined_up.is_some_and(|(at, before)| match now.since_ns(at) {
            waited if before == steps => waited < PATIENCE_NS,
            waited => waited < if busy { pace * BUSY_PACES } else { pace },
        });
        if waits {
            return;
        }
        let item = match self.due() {
            blobs if !blobs.is_empty() => Item::Collect { blobs },
            _ => match self.unnamed_candidates() {
                blobs if !blobs.is_empty() => Item::Condemn { blobs },
                _ => return,
            },
        };
        if let Some(leading) = &mut self.leading {
            leading.collecting.lined_up = Some((now, steps));
            leading.line.push(item);
        }
    }

    /// Blobs whose grace is over.
    fn due(&self) -> Vec<BlobId> {
        let tid = Tid(self.clock.wall_ns).max(self.state.tid);
        let over = |since: &Tid| tid.0.saturating_sub(since.0) >= self.config.collect_grace_ns;
        let condemned = self.state.collection.condemned().iter();
        condemned.filter(|(_, since)| over(since)).map(|(blob, _)| *blob).take(COLLECT_BLOBS_MAX).collect()
    }

    /// The next candidates, without those that something names.
    fn unnamed_candidates(&mut self) -> Vec<BlobId> {
        let room = self.state.collection.room().min(COLLECT_BLOBS_MAX);
        let Some(leading) = &mut self.leading else { return Vec::new() };
        let mut blobs = leading.collecting.take(room);
        if blobs.is_empty() {
            return blobs;
        }
        let live = self.records.live(self.state.tid);
        let condemned = self.state.collection.condemned();
        // What can't be read is judged where the item is applied.
        blobs.retain(|blob| !condemned.contains_key(blob) && !live.names(*blob).unwrap_or(false));
        blobs
    }
}
