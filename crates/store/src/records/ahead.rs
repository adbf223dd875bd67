//! A past state for whoever reads many objects of it: what was made together is read together.
//!
//! Ids are handed out in order, so objects that were made together are filed side by side. To look one of them up in history is to open ranges, which
//! costs as much as reading dozens of rows. So ids are divided into blocks of [`BLOCK_OBJECTS`]; when a block has been asked about [`ASKED_MIN`] times, all of it is read by one scan, and the
//! rest is answered from memory. A block of which nothing more is wanted then has cost a few times what it would have, never more: one with many rows is
//! left alone.
//!
//! What the past was does not change, so what was read stays good while the view below is renewed ([`AheadView::into_read`]).

use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Content, Extent, Record, Version, View, ViewError};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// Objects of a block.
const BLOCK_OBJECTS: u64 = 64;
/// So often a block is asked about before it is read as a whole. An object is asked about two or three times.
const ASKED_MIN: u32 = 6;
/// Rows of a block that is read as a whole, at most: a small file has two or three.
const BLOCK_ROWS_MAX: usize = 1024;
/// Bytes of such a block, about, at most.
const BLOCK_BYTES_MAX: usize = 512 * 1024;
/// Rows that are read at a time: until then nothing is known of their bytes.
const PAGE_ROWS: usize = 256;
/// Blocks that something is known of.
const BLOCKS_MAX: usize = 4096;
/// Bytes of all blocks, about.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a row takes beside its bytes, about.
const ROW_BYTES: usize = 192;
const _: () = assert!(BLOCK_BYTES_MAX < BYTES_MAX && PAGE_ROWS <= BLOCK_ROWS_MAX);

/// What has been read of one past state.
#[derive(Debug, Default)]
pub struct ReadAhead {
    blocks: BTreeMap<BlockName, Block>,
    /// The blocks as they came: the first one goes first.
    order: VecDeque<BlockName>,
    bytes: usize,
}

type BlockName = (VolumeId, u64);
type Row = (Key, Version);

#[derive(Debug)]
enum Block {
    /// It was asked about so often.
    Asked(u32),
    /// All its rows, and their bytes.
    Read(Vec<Row>, usize),
    /// It has too many.
    Large,
}

/// A past state that is read ahead.
#[derive(Debug)]
pub struct AheadView<V> {
    view: V,
    read: RefCell<ReadAhead>,
}

impl<V: View> AheadView<V> {
    /// Reads `view`. `read` is what was read of the same state before.
    pub fn new(view: V, read: ReadAhead) -> AheadView<V> {
        AheadView { view, read: RefCell::new(read) }
    }

    /// What was read.
    pub fn into_read(self) -> ReadAhead {
        self.read.into_inner()
    }

    /// Answers from the rows of the block that `range` is in; none if it is to be looked up.
    fn answer<T>(&self, range: &KeyRange, of: impl FnOnce(&[Row]) -> T) -> Result<Option<T>, ViewError> {
        let Some((volume, object)) = range.of_object() else { return Ok(None) };
        let name = (volume, object.0 / BLOCK_OBJECTS);
        let mut read = self.read.borrow_mut();
        if read.is_due(name) {
            let block = read_block(&self.view, name)?;
            read.put(name, block);
        }
        match read.blocks.get(&name) {
            Some(Block::Read(rows, _)) => Ok(Some(of(within(rows, range)))),
            _ => Ok(None),
        }
    }
}

impl ReadAhead {
    /// Notes that a block is asked about. Is it time to read it?
    fn is_due(&mut self, name: BlockName) -> bool {
        match self.blocks.get_mut(&name) {
            Some(Block::Asked(asked)) => {
                *asked += 1;
                *asked >= ASKED_MIN
            }
            Some(Block::Read(..) | Block::Large) => false,
            None => {
                self.put(name, Block::Asked(1));
                false
            }
        }
    }

    fn put(&mut self, name: BlockName, block: Block) {
        self.bytes += block.bytes();
        match self.blocks.insert(name, block) {
            Some(before) => self.bytes -= before.bytes(),
            None => self.order.push_back(name),
        }
        while self.order.len() > BLOCKS_MAX || self.bytes > BYTES_MAX {
            let Some(first) = self.order.pop_front() else { break };
            self.bytes -= self.blocks.remove(&first).map_or(0, |gone| gone.bytes());
        }
    }
}

impl Block {
    fn bytes(&self) -> usize {
        match self {
            Block::Read(_, bytes) => *bytes,
            Block::Asked(_) | Block::Large => 0,
        }
    }
}

fn read_block(view: &dyn View, (volume, number): BlockName) -> Result<Block, ViewError> {
    let first = number * BLOCK_OBJECTS;
    let last = first.saturating_add(BLOCK_OBJECTS - 1);
    let mut range = KeyRange::objects(volume, ObjectId(first), ObjectId(last));
    let (mut rows, mut bytes) = (Vec::new(), 0);
    loop {
        let page = view.scan(&range, PAGE_ROWS)?;
        let is_last = page.len() < PAGE_ROWS;
        bytes += page.iter().map(bytes_of).sum::<usize>();
        rows.extend(page);
        if bytes > BLOCK_BYTES_MAX || rows.len() > BLOCK_ROWS_MAX {
            return Ok(Block::Large);
        }
        match rows.last() {
            Some((last, _)) if !is_last => range.start = KeyRange::one(last).end,
            _ => return Ok(Block::Read(rows, bytes)),
        }
    }
}

fn bytes_of((key, version): &Row) -> usize {
    let carried = match &version.record {
        Record::Extent(Extent { content: Content::Inline(bytes), .. }) => bytes.len(),
        Record::Xattr(bytes) | Record::Target(bytes) => bytes.len(),
        _ => 0,
    };
    ROW_BYTES + key.as_bytes().len() + carried
}

fn within<'r>(rows: &'r [Row], range: &KeyRange) -> &'r [Row] {
    let from = rows.partition_point(|(key, _)| *key.as_bytes() < *range.start);
    let to = rows.partition_point(|(key, _)| *key.as_bytes() < *range.end);
    rows.get(from..to).unwrap_or_default()
}

impl<V: View> View for AheadView<V> {
    fn tid(&self) -> Tid {
        self.view.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        let first = |rows: &[Row]| rows.first().map(|(_, version)| version.clone());
        match self.answer(&KeyRange::one(key), first)? {
            Some(found) => Ok(found),
            None => self.view.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, ViewError> {
        match self.answer(range, |rows| rows.iter().take(limit).cloned().collect())? {
            Some(found) => Ok(found),
            None => self.view.scan(range, limit),
        }
    }
}
