//! Letting go of blobs that were collected, and returning their space. docs/protocols/collection.md has the protocol.
//!
//! A collection at Tid C is about the copies that were taken before it: each record says as of which transaction its copy was taken. First it is told
//! ([`BlobStore::collect`], memory only); from then on, who puts or looks for the blob passes those copies by. Then they are found, and marked as dead
//! ([`BlobStore::bury`]). A segment with many of them is rewritten ([`BlobStore::compact`]): what lives is appended to the newest segment, with the
//! transaction it has; when that is durable, the index goes, then the segment. A crash leaves the old copies, or the new ones, or both.
//!
//! Marks are in memory: after a crash, what was marked counts as live again, until it is collected again.

use super::append::Addition;
use super::index::Sealed;
use super::segment::{HEADER_BYTES, RECORD_ALIGN, RECORD_HEADER_BYTES, Spot, index_name, segment_name};
use super::{BlobError, BlobStore, Place, Way};
use crate::disk::Disk;
use gavel_types::{BlobId, Tid};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A segment is rewritten when one part in so many of it is dead: at most so much of the disk is held for nothing, and for each byte that is
/// returned at most three are written.
pub const COMPACT_PART: u64 = 4;
/// The segment that is being written is ended early for so much that is dead, one part in so many of a whole one, and not for less.
const SEAL_EARLY_PART: u64 = 16;
/// The file that says up to which transaction no collection is carried out any more.
const PASSED_FILE: &str = "passed";
const PASSED_MAGIC: [u8; 8] = *b"GAVELPAS";
const PASSED_BYTES: usize = 24;

/// The dead copies of a segment: their offsets, in units of 64 bytes, in order. 32 bits for each.
#[derive(Debug, Default)]
pub(super) struct Dead {
    offsets: RwLock<Vec<u32>>,
    bytes: AtomicU64,
}

impl Dead {
    fn unit(spot: Spot) -> u32 {
        (spot.offset / RECORD_ALIGN) as u32
    }

    pub(super) fn has(&self, spot: Spot) -> bool {
        self.offsets.read().binary_search(&Dead::unit(spot)).is_ok()
    }

    fn add(&self, spot: Spot) {
        let mut offsets = self.offsets.write();
        if let Err(at) = offsets.binary_search(&Dead::unit(spot)) {
            offsets.insert(at, Dead::unit(spot));
            self.bytes.fetch_add(spot.record_bytes(), Ordering::Relaxed);
        }
    }
}

impl Sealed {
    /// Bytes of its file that hold nothing that counts, as far as that is known without reading the index.
    pub(super) fn dead_bytes(&self) -> u64 {
        let listed = self.blob_bytes + self.entries * (RECORD_HEADER_BYTES as u64 + RECORD_ALIGN - 1);
        let unlisted = self.data_end.saturating_sub(HEADER_BYTES as u64 + listed + self.lost_bytes + self.fill_bytes);
        self.dead.bytes.load(Ordering::Relaxed) + unlisted
    }
}

/// What is being collected.
#[derive(Debug)]
pub(super) struct Collecting {
    /// The last transaction that the replica has applied.
    as_of: AtomicU64,
    /// Collected, and not buried yet: copies that were taken before this do not count.
    told: RwLock<BTreeMap<BlobId, Tid>>,
    /// Held by who puts, while it relies on the transaction that it read.
    putting: RwLock<()>,
    /// One copy is moved or buried at a time.
    moving: Mutex<()>,
    /// Collections up to this one are not carried out.
    passed: AtomicU64,
}

/// While somebody puts.
pub(super) struct Putting<'c> {
    pub(super) as_of: Tid,
    _turn: RwLockReadGuard<'c, ()>,
}

impl Collecting {
    pub(super) fn new(passed: Tid) -> Collecting {
        Collecting {
            as_of: AtomicU64::new(0),
            told: RwLock::default(),
            putting: RwLock::default(),
            moving: Mutex::default(),
            passed: AtomicU64::new(passed.0),
        }
    }

    /// Copies of the blob from before this do not count; none: all do.
    pub(super) fn since(&self, id: BlobId) -> Option<Tid> {
        self.told.read().get(&id).copied()
    }

    pub(super) fn put(&self) -> Putting<'_> {
        let turn = self.putting.read();
        Putting { as_of: Tid(self.as_of.load(Ordering::Acquire)), _turn: turn }
    }
}

/// How far a walk through all names has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// The segment; those before it are done.
    sequence: u64,
    /// The block of its index.
    block: usize,
}

/// Some blobs, with their bytes.
pub type Listed = Vec<(BlobId, u32)>;

/// What rewriting a segment came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// The segment that was looked at; none: none is worth it.
    pub segment: Option<u64>,
    /// Bytes of files that were returned, less what was written for it.
    pub returned: u64,
    /// Blobs that could not be read: the segment stays until they have been replaced.
    pub damaged: Vec<BlobId>,
}

impl BlobStore {
    /// The replica has applied everything up to this transaction, and this store was told of all that was collected till then.
    pub fn applied(&self, tid: Tid) {
        self.collecting.as_of.fetch_max(tid.0, Ordering::AcqRel);
    }

    /// These were collected, each as of a transaction. To be called before [`BlobStore::applied`] with that.
    pub fn collect(&self, blobs: &[(BlobId, Tid)]) {
        let passed = Tid(self.collecting.passed.load(Ordering::Acquire));
        let mut told = self.collecting.told.write();
        for (id, tid) in blobs.iter().filter(|(_, tid)| *tid > passed) {
            let since = told.entry(*id).or_insert(*tid);
            *since = (*since).max(*tid);
        }
    }

    /// How many were collected and are not buried yet.
    pub fn unburied(&self) -> usize {
        self.collecting.told.read().len()
    }

    /// From now on, and in all lives to come, no collection up to this transaction is carried out: this replica has skipped some. Does I/O.
    ///
    /// # Errors
    /// [`BlobError::Disk`]: nobody must be told that this replica has applied the transaction.
    pub fn pass_over(&self, tid: Tid) -> Result<(), BlobError> {
        if tid.0 <= self.collecting.passed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut bytes = [0; PASSED_BYTES];
        bytes[0..8].copy_from_slice(&PASSED_MAGIC);
        bytes[8..16].copy_from_slice(&tid.0.to_le_bytes());
        let sum = crc_fast::crc64_nvme(&bytes[..16]);
        bytes[16..].copy_from_slice(&sum.to_le_bytes());
        let temporary = "passed.tmp";
        self.disk.remove_if_there(temporary)?;
        let file = self.disk.create(temporary)?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        self.disk.rename(temporary, PASSED_FILE)?;
        self.disk.sync_dir()?;
        self.collecting.passed.store(tid.0, Ordering::Release);
        Ok(())
    }

    /// Finds the copies of some blobs that were collected, and marks them as dead; of those that are `in_use` a copy is made first, as of the collection.
    /// Gives how many were done with. Does I/O.
    ///
    /// # Errors
    /// [`BlobError::Disk`], [`BlobError::IndexDamaged`], [`BlobError::Stopped`]: what is left is tried again by the next call.
    pub fn bury(&self, most: usize, in_use: &dyn Fn(BlobId) -> bool) -> Result<usize, BlobError> {
        let as_of = self.collecting.as_of.load(Ordering::Acquire);
        let ready: Vec<(BlobId, Tid)> = {
            let told = self.collecting.told.read();
            told.iter().filter(|(_, tid)| tid.0 <= as_of).take(most).map(|(id, tid)| (*id, *tid)).collect()
        };
        if ready.is_empty() {
            return Ok(0);
        }
        // Whoever read an earlier transaction than these has put what it puts behind this. Who begins later reads a later one.
        drop(self.collecting.putting.write());
        let mut kept = false;
        for (id, tid) in ready.iter().filter(|(id, _)| in_use(*id)) {
            kept |= self.keep(*id, *tid)?;
        }
        if kept {
            self.sync()?;
        }
        for (id, tid) in &ready {
            self.bury_one(*id, *tid)?;
            let mut told = self.collecting.told.write();
            if told.get(id) == Some(tid) {
                told.remove(id);
            }
        }
        Ok(ready.len())
    }

    /// Makes a copy as of the collection, if there is none since. True if one was made.
    fn keep(&self, id: BlobId, tid: Tid) -> Result<bool, BlobError> {
        if matches!(self.get_taken_since(id, tid, Way::Cached), Ok(Some(_))) {
            return Ok(false);
        }
        match self.get(id) {
            Ok(Some(bytes)) => {
                self.append(vec![Addition { id, bytes: &bytes, again: true, as_of: tid }]).map(|()| true)
            }
            Ok(None) => Ok(false),
            Err(error @ BlobError::Damaged { .. }) => {
                tracing::error!(%error, "what this node still needs was collected, and cannot be read here");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn bury_one(&self, id: BlobId, tid: Tid) -> Result<(), BlobError> {
        let _moving = self.collecting.moving.lock();
        {
            // Who ends the segment meanwhile would list what is taken off here.
            let _writer = self.writer.lock();
            if let (Some(place), _) = self.places(id)
                && self.is_before(&place, id, tid)?
            {
                self.catalog.write().fresh.remove(&id);
            }
        }
        for segment in self.places(id).1.iter() {
            if let Some(spot) = self.find_in(segment, id)?
                && self.is_before(&Place::of(segment, spot), id, tid)?
            {
                segment.dead.add(spot);
            }
        }
        Ok(())
    }

    /// Was this copy taken before? One that cannot be read is of no use either.
    fn is_before(&self, place: &Place, id: BlobId, tid: Tid) -> Result<bool, BlobError> {
        Ok(self.header_of(place, id)?.is_none_or(|header| header.as_of < tid))
    }

    /// Rewrites the segment of which the most is dead, if that is enough, and it is none of `not_these`. `go_on` is told how many bytes were copied,
    /// after each blob; it may wait, and ends the work with `false`. Does I/O.
    ///
    /// # Errors
    /// [`BlobError::Disk`] (full: what lives needs room before the rest is returned), [`BlobError::IndexDamaged`], [`BlobError::Stopped`]. No blob is lost.
    pub fn compact(
        &self,
        not_these: &BTreeSet<u64>,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<Compacted, BlobError> {
        self.check_running()?;
        self.seal_early()?;
        let sealed = Arc::clone(&self.catalog.read().sealed);
        let worth = |segment: &&Arc<Sealed>| segment.dead_bytes() * COMPACT_PART >= segment.data_end;
        let allowed = sealed.iter().filter(|segment| !not_these.contains(&segment.sequence));
        let Some(segment) = allowed.filter(worth).max_by_key(|segment| segment.dead_bytes()) else {
            return Ok(Compacted::default());
        };
        let mut done = Compacted { segment: Some(segment.sequence), ..Compacted::default() };
        let mut copied = 0;
        for (id, spot) in self.listed(segment)? {
            let bytes = self.move_on(segment, id, spot, &mut done.damaged)?;
            copied += bytes;
            if bytes > 0 && !go_on(bytes) {
                return Ok(done);
            }
        }
        if done.damaged.is_empty() {
            self.sync()?;
            self.remove_segment(segment)?;
            done.returned = (segment.data_end + segment.index_bytes).saturating_sub(copied);
        }
        Ok(done)
    }

    /// The copies that a segment lists, in the order in which they lie.
    fn listed(&self, segment: &Arc<Sealed>) -> Result<Vec<(BlobId, Spot)>, BlobError> {
        let mut listed = match self.read_listed(segment) {
            Err(BlobError::IndexDamaged { .. }) => self.read_listed(&self.rebuild_index(segment)?)?,
            other => other?,
        };
        listed.sort_by_key(|(_, spot)| spot.offset);
        Ok(listed)
    }

    fn read_listed(&self, segment: &Arc<Sealed>) -> Result<Vec<(BlobId, Spot)>, BlobError> {
        let mut listed = Vec::new();
        for number in 0..segment.blocks() {
            listed.extend(segment.block(&self.disk, &self.handles, number)?);
        }
        Ok(listed)
    }

    /// Appends a live copy to the newest segment, unless a newer one reads back good. Gives the bytes that were written.
    fn move_on(
        &self,
        segment: &Arc<Sealed>,
        id: BlobId,
        spot: Spot,
        damaged: &mut Vec<BlobId>,
    ) -> Result<u64, BlobError> {
        let _moving = self.collecting.moving.lock();
        if segment.dead.has(spot) {
            return Ok(0);
        }
        let (fresh, sealed) = self.places(id);
        let newer = sealed.iter().filter(|other| other.sequence > segment.sequence);
        let newer: Vec<Arc<Sealed>> = newer.map(Arc::clone).collect();
        if matches!(self.get_from(id, Tid::ZERO, fresh, &newer, Way::Scrub), Ok(Some(_))) {
            return Ok(0);
        }
        match self.read_blob(&Place::of(segment, spot), id, Way::Scrub) {
            Ok((bytes, as_of)) => {
                self.append(vec![Addition { id, bytes: &bytes, again: true, as_of }])?;
                Ok(spot.record_bytes())
            }
            Err(error @ BlobError::Damaged { .. }) => {
                tracing::warn!(%error, "a blob cannot be read while its segment is rewritten");
                damaged.push(id);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// The index first: a segment without one is looked through when the store is opened.
    fn remove_segment(&self, segment: &Arc<Sealed>) -> Result<(), BlobError> {
        if segment.lost_bytes > 0 {
            let file = self.disk.describe(&segment_name(segment.sequence));
            tracing::warn!(file, bytes = segment.lost_bytes, "what damage had cost its name goes with its segment");
        }
        let _turn = self.rebuild.lock();
        {
            let mut catalog = self.catalog.write();
            let left = catalog.sealed.iter().filter(|other| other.sequence != segment.sequence);
            catalog.sealed = Arc::new(left.map(Arc::clone).collect());
        }
        for name in [index_name(segment.sequence), segment_name(segment.sequence)] {
            self.disk.remove_if_there(&name)?;
            self.disk.sync_dir()?;
        }
        Ok(())
    }

    /// Ends the segment that is being written, if much of it is dead: only one that is not written any more is rewritten.
    fn seal_early(&self) -> Result<(), BlobError> {
        let mut writer = self.writer.lock();
        let live: u64 = self.catalog.read().fresh.values().map(|spot| spot.record_bytes()).sum();
        let end = self.tip.lock().end;
        let dead = end.saturating_sub(HEADER_BYTES as u64 + live + writer.lost_bytes + writer.fill_bytes);
        if dead * COMPACT_PART >= end && dead * SEAL_EARLY_PART >= self.segment_bytes {
            self.seal(&mut writer)?;
        }
        Ok(())
    }

    /// Some of the blobs that are listed, with their bytes, from `cursor` on, and where it goes on; none behind the last ones. What is dead is not among
    /// them. Does I/O.
    ///
    /// # Errors
    /// [`BlobError::IndexDamaged`] if an index could not be rebuilt; [`BlobError::Disk`].
    pub fn listed_from(&self, cursor: Cursor) -> Result<(Listed, Option<Cursor>), BlobError> {
        let sealed = Arc::clone(&self.catalog.read().sealed);
        let Some(segment) = sealed.iter().find(|segment| segment.sequence >= cursor.sequence) else {
            let catalog = self.catalog.read();
            return Ok((catalog.fresh.iter().map(|(id, spot)| (*id, spot.length)).collect(), None));
        };
        let block = if segment.sequence == cursor.sequence { cursor.block } else { 0 };
        if block >= segment.blocks() {
            return Ok((Vec::new(), Some(Cursor { sequence: segment.sequence + 1, block: 0 })));
        }
        let entries = match segment.block(&self.disk, &self.handles, block) {
            Err(BlobError::IndexDamaged { .. }) => {
                self.rebuild_index(segment)?.block(&self.disk, &self.handles, block).unwrap_or_default()
            }
            other => other?,
        };
        let live = entries.into_iter().filter(|(_, spot)| !segment.dead.has(*spot));
        let next = Cursor { sequence: segment.sequence, block: block + 1 };
        Ok((live.map(|(id, spot)| (id, spot.length)).collect(), Some(next)))
    }

    /// As of which transaction the newest copy of the blob was taken; none if there is none that can be read.
    ///
    /// # Errors
    /// [`BlobError::IndexDamaged`] if an index could not be rebuilt; [`BlobError::Disk`].
    pub fn taken_as_of(&self, id: BlobId) -> Result<Option<Tid>, BlobError> {
        let (fresh, sealed) = self.places(id);
        let mut place = fresh;
        for segment in sealed.iter().rev() {
            if place.is_none() {
                place = self.find_in(segment, id)?.map(|spot| Place::of(segment, spot));
            }
        }
        let Some(place) = place else { return Ok(None) };
        Ok(self.header_of(&place, id)?.map(|header| header.as_of))
    }
}

/// Up to which transaction no collection is carried out. A file that cannot be understood says nothing: whoever opens the store says anyway where this life
/// begins.
pub(super) fn read_passed(disk: &Arc<dyn Disk>) -> Result<Tid, BlobError> {
    let file = match disk.open(PASSED_FILE) {
        Err(error) if error.is_missing() => return Ok(Tid::ZERO),
        other => other?,
    };
    let mut bytes = [0; PASSED_BYTES];
    let count = file.read_at(0, &mut bytes).unwrap_or(0);
    let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if count < PASSED_BYTES || bytes[..8] != PASSED_MAGIC || number(16) != crc_fast::crc64_nvme(&bytes[..16]) {
        tracing::error!(file = disk.describe(PASSED_FILE), "it is damaged, and is written anew");
        return Ok(Tid::ZERO);
    }
    Ok(Tid(number(8)))
}
