//! The newest rows of the keys that are written again and again.
//!
//! The tree keeps every version of a key until a flush lets go of them, and whoever reads a range steps over all of them: behind 1,000 writes of one
//! key that was most of the read. So a key gets [`WRITES_IN_TREE_MAX`] versions in the memtable that is being filled. Its later rows are kept
//! here, where each takes the place of the one before, and the last one goes to the memtable when it is sealed.
//!
//! 1. A row that is here is newer than all rows of its key in the tree.
//! 2. Rows whose keys are new ([`Batch::put_new_with`](crate::engine::Batch::put_new_with)) are not counted and never here.
//! 3. Rows are here only between two seals: a cut has nothing here, and a flush need not know of this.
//! 4. What a snapshot took does not change: the map is persistent (its nodes are shared, and copied when they change).

use super::EngineError;
use imbl::OrdMap;
use lsm_tree::Slice;
use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::mem;

/// Versions of a key in the memtable that is being filled, before further ones replace each other here. A range takes 0.2 to 0.6 us for each of them
/// (`crates/store/tests/records_overwritten_measure.rs`). With none, what is written once and not again, most of all rows, would be written twice.
const WRITES_IN_TREE_MAX: u8 = 2;

/// The newest row of each key: its value, or none if it was deleted.
pub(super) type Rows = OrdMap<Slice, Option<Slice>>;

/// Counters of writes: 512 KiB, of which a few may be shared. 16 MiB of log bring a quarter of a million rows, of which a third is not new. Of these, 1 %
/// come here though they are written only once; those are written twice. A counter for each key would take 3 MiB then.
const COUNTERS: usize = 1 << 19;

/// What was written since the last seal, as far as it matters here.
pub(super) struct Overwritten {
    rows: Rows,
    bytes: u64,
    /// So that nobody can choose keys that share a counter.
    seed: u64,
    /// Versions in the memtable, by the hash of the key. Keys that share a counter come here sooner.
    writes: Vec<u8>,
}

impl Default for Overwritten {
    fn default() -> Overwritten {
        Overwritten { rows: Rows::new(), bytes: 0, seed: RandomState::new().hash_one(()), writes: vec![0; COUNTERS] }
    }
}

impl Overwritten {
    /// Keeps a row, if it is one for here; otherwise it is given back, and belongs into the tree.
    pub(super) fn take(&mut self, key: Slice, value: Option<Slice>) -> Option<(Slice, Option<Slice>)> {
        let writes = &mut self.writes[counter_of(self.seed, &key)];
        if *writes < WRITES_IN_TREE_MAX {
            *writes += 1;
            return Some((key, value));
        }
        let bytes = row_bytes(&key, value.as_deref());
        let key_bytes = key.len();
        let before = self.rows.insert(key, value);
        let before = before.map_or(0, |value| (key_bytes + value.map_or(0, |value| value.len())) as u64);
        self.bytes = self.bytes + bytes - before;
        None
    }

    /// The rows as they are now.
    pub(super) fn rows(&self) -> Rows {
        self.rows.clone()
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The memtable is sealed: what was kept here belongs into it, and counting begins anew.
    pub(super) fn drain(&mut self) -> Rows {
        // Pages that nobody touches take no memory, and those that were touched are given back.
        self.writes = vec![0; COUNTERS];
        self.bytes = 0;
        mem::take(&mut self.rows)
    }
}

/// The counter of a key. Multiply and turn, eight bytes at a time: keys differ by few bits, and a counter that is shared costs little.
fn counter_of(seed: u64, key: &[u8]) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = key.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    let hash = words.fold(seed, |hash, word| (hash.rotate_left(26) ^ word).wrapping_mul(ODD));
    (hash >> 32) as usize % COUNTERS
}

fn row_bytes(key: &[u8], value: Option<&[u8]>) -> u64 {
    (key.len() + value.map_or(0, <[u8]>::len)) as u64
}

/// A row as ranges give it.
pub(super) type Row = Result<(Slice, Slice), EngineError>;

/// One end of a range.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

/// Rows of the tree, with newer ones laid over them.
pub(super) struct Merged<I, N>
where
    I: DoubleEndedIterator<Item = Row>,
    N: DoubleEndedIterator<Item = (Slice, Option<Slice>)>,
{
    tree: Ends<I>,
    newer: Ends<N>,
    /// Behind an error nothing follows.
    failed: bool,
}

impl<I, N> Merged<I, N>
where
    I: DoubleEndedIterator<Item = Row>,
    N: DoubleEndedIterator<Item = (Slice, Option<Slice>)>,
{
    pub(super) fn new(tree: I, newer: N) -> Merged<I, N> {
        Merged { tree: Ends::new(tree), newer: Ends::new(newer), failed: false }
    }

    fn step(&mut self, end: End) -> Option<Row> {
        while !self.failed {
            let order = match (self.tree.peek(end), self.newer.peek(end)) {
                (Some(Err(_)), _) => {
                    self.failed = true;
                    return self.tree.take(end);
                }
                (Some(Ok((key, _))), Some((newer, _))) => match end {
                    End::Front => key[..].cmp(&newer[..]),
                    End::Back => newer[..].cmp(&key[..]),
                },
                (Some(Ok(_)), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order == Ordering::Less {
                return self.tree.take(end);
            }
            if order == Ordering::Equal {
                self.tree.take(end);
            }
            // A key that was deleted is in no range.
            if let (key, Some(value)) = self.newer.take(end)? {
                return Some(Ok((key, value)));
            }
        }
        None
    }
}

impl<I, N> Iterator for Merged<I, N>
where
    I: DoubleEndedIterator<Item = Row>,
    N: DoubleEndedIterator<Item = (Slice, Option<Slice>)>,
{
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        self.step(End::Front)
    }
}

impl<I, N> DoubleEndedIterator for Merged<I, N>
where
    I: DoubleEndedIterator<Item = Row>,
    N: DoubleEndedIterator<Item = (Slice, Option<Slice>)>,
{
    fn next_back(&mut self) -> Option<Row> {
        self.step(End::Back)
    }
}

/// An iterator whose first and last item can be looked at.
struct Ends<I: DoubleEndedIterator> {
    inner: I,
    front: Option<I::Item>,
    back: Option<I::Item>,
}

impl<I: DoubleEndedIterator> Ends<I> {
    fn new(inner: I) -> Ends<I> {
        Ends { inner, front: None, back: None }
    }

    fn peek(&mut self, end: End) -> Option<&I::Item> {
        // The last item of all may have been fetched from the other end.
        match end {
            End::Front => {
                if self.front.is_none() {
                    self.front = self.inner.next().or_else(|| self.back.take());
                }
                self.front.as_ref()
            }
            End::Back => {
                if self.back.is_none() {
                    self.back = self.inner.next_back().or_else(|| self.front.take());
                }
                self.back.as_ref()
            }
        }
    }

    fn take(&mut self, end: End) -> Option<I::Item> {
        self.peek(end);
        match end {
            End::Front => self.front.take(),
            End::Back => self.back.take(),
        }
    }
}
