//! Snapshots of the tree, and the register of those that are open.

use super::EngineError;
use super::fault::{self, Fault, guarded};
use super::overwritten::{Merged, Row, Rows as Newer};
use crate::engine::Snapshot;
use lsm_tree::{AbstractTree, Guard, IterGuardImpl, SeqNo, Slice, Tree};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// The sequence numbers that some snapshot reads at. What the oldest can see must not be collected.
pub(super) struct Pins {
    open: Arc<Mutex<BTreeSet<SeqNo>>>,
    /// What new snapshots share. Its number only grows.
    newest: Mutex<Arc<Pin>>,
}

/// A registered number; leaves the register when the last snapshot that shares it is dropped.
pub(super) struct Pin {
    number: SeqNo,
    /// Rows that are newer than the tree's, and visible at this number.
    newer: Newer,
    open: Arc<Mutex<BTreeSet<SeqNo>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.open.lock().remove(&self.number);
    }
}

impl Pins {
    pub(super) fn new(number: SeqNo) -> Pins {
        let open = Arc::new(Mutex::new(BTreeSet::from([number])));
        Pins { newest: Mutex::new(Arc::new(Pin { number, newer: Newer::new(), open: open.clone() })), open }
    }

    /// New snapshots read at `number` from now on, with `newer` laid over the tree, if that is later.
    pub(super) fn advance(&self, number: SeqNo, newer: Newer) {
        let mut newest = self.newest.lock();
        if number > newest.number {
            self.open.lock().insert(number);
            *newest = Arc::new(Pin { number, newer, open: self.open.clone() });
        }
    }

    pub(super) fn newest(&self) -> Arc<Pin> {
        self.newest.lock().clone()
    }

    /// The lowest number at which anybody reads, now or later.
    pub(super) fn oldest(&self) -> SeqNo {
        *self.open.lock().first().expect("the newest pin is in the register for as long as the register lives")
    }
}

/// A view of an [`LsmEngine`](super::LsmEngine).
#[derive(Clone)]
pub struct LsmSnapshot {
    tree: Tree,
    pin: Arc<Pin>,
}

impl LsmSnapshot {
    pub(super) fn new(tree: Tree, pin: Arc<Pin>) -> LsmSnapshot {
        LsmSnapshot { tree, pin }
    }
}

impl Snapshot for LsmSnapshot {
    type Bytes = Slice;

    fn get(&self, key: &[u8]) -> Result<Option<Slice>, EngineError> {
        if let Some(newer) = self.pin.newer.get(key) {
            return Ok(newer.clone());
        }
        guarded(|| self.tree.get(key, self.pin.number)).map_err(|fault| {
            fault.into_error("reading", || fault::bad_table_of_key(&self.tree, key), &self.tree.tree_config().path)
        })
    }

    fn range<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), EngineError>> + use<'s> {
        let rows = (start < end).then(|| guarded(|| Ok(self.tree.range(start..end, self.pin.number, None))));
        let rows = LsmRange { tree: &self.tree, start: start.into(), end: end.into(), rows };
        // A range that ends before it starts would make the map panic.
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(start), Bound::Excluded(end));
        let newer = (start < end).then(|| self.pin.newer.range::<_, [u8]>(bounds));
        Merged::new(rows, newer.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())))
    }
}

type Rows = Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send>;

struct LsmRange<'s> {
    tree: &'s Tree,
    start: Box<[u8]>,
    end: Box<[u8]>,
    /// None behind the last row and behind an error.
    rows: Option<Result<Rows, Fault>>,
}

impl LsmRange<'_> {
    fn step(&mut self, take: impl Fn(&mut Rows) -> Option<IterGuardImpl>) -> Option<Row> {
        let step = match self.rows.take()? {
            Ok(mut rows) => guarded(|| match take(&mut rows) {
                Some(row) => row.into_inner().map(|row| Some((row, rows))),
                None => Ok(None),
            }),
            Err(fault) => Err(fault),
        };
        match step {
            Ok(Some((row, rows))) => {
                self.rows = Some(Ok(rows));
                Some(Ok(row))
            }
            Ok(None) => None,
            Err(fault) => {
                let locate = || fault::bad_table_of_range(self.tree, &self.start, &self.end);
                Some(Err(fault.into_error("reading", locate, &self.tree.tree_config().path)))
            }
        }
    }
}

impl Iterator for LsmRange<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next())
    }
}

impl DoubleEndedIterator for LsmRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next_back())
    }
}
