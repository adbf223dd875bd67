//! What the kernel holds open.
//!
//! The kernel gives each open back with a release, but not always: a mount that was detached lazily ends with the
//! close of its last file, and then the connection may be gone before the release is sent. What is still open when the
//! connection ends is closed then, or the tree would hold it for as long as the daemon runs.

use gavel_client::tree::Tree;
use gavel_types::ObjectId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Opens of different objects seldom meet in one of these.
const SHARDS: usize = 64;

/// Opens by object, told to the tree one by one.
pub(super) struct Opens {
    tree: Arc<dyn Tree>,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    counts: BTreeMap<ObjectId, u64>,
    /// The connection has ended: nothing can be open any more.
    ended: bool,
}

impl Opens {
    pub(super) fn new(tree: Arc<dyn Tree>) -> Opens {
        Opens { tree, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    pub(super) fn open(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        // The answer to a create can come after the end.
        if !shard.ended {
            *shard.counts.entry(object).or_default() += 1;
            self.tree.opened(object);
        }
    }

    /// Nothing happens if the object is not open.
    pub(super) fn close(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        let Some(count) = shard.counts.get_mut(&object) else { return };
        *count -= 1;
        if *count == 0 {
            shard.counts.remove(&object);
        }
        self.tree.closed(object);
    }

    /// The connection to the kernel has ended.
    pub(super) fn end(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.ended = true;
            for (object, count) in std::mem::take(&mut shard.counts) {
                (0..count).for_each(|_| self.tree.closed(object));
            }
        }
    }

    fn shard(&self, object: ObjectId) -> &Mutex<Shard> {
        // Objects made together have neighbouring numbers.
        &self.shards[(object.0 % SHARDS as u64) as usize]
    }
}
