//! Blobs at rest: immutable runs of file bytes, named by their BLAKE3 hash, in append-only segments.
//!
//! What it is: [`BlobStore::put_many`] takes blobs, [`BlobStore::sync`] makes them durable with one sync for many
//! writers, [`BlobStore::get`] gives one back, verified. What it is not: it knows no file, no reference and no other
//! replica, and repairs nothing by itself: it says what is damaged, and [`BlobStore::replace`] takes the good bytes that somebody
//! fetched. What is collected it is told; [`collect`] lets go of it, and returns the space. docs/formats/blobs.md has the bytes.
//!
//! Invariants:
//! 1. No bytes are given out whose hash is not the name that was asked for.
//! 2. Damage stays where it is: it costs the blobs that it hit, and no others, and never keeps the store from opening.
//! 3. What was synced is there after a crash, or is reported as damaged when it is asked for (or is absent, if the
//!    disk lost the very end of what it had acknowledged).
//! 4. Memory: the active segment's index, and for all others at most [`INDEX_MEMORY_BITS_MAX`] bits a blob.
//! 5. Behind [`BlobStore::collect`] nobody who puts or looks for the blob finds a copy that was taken before.
//! 6. No lock that a reader takes is held over a write or a sync; the short ones it takes cover memory only.
//!
//! Locks, in the order in which they may be taken: `putting` (of who puts), `moving`, `writer`,
//! `sync_turn` (held over syncs), `rebuild`, then the leaves
//! `tip`, `catalog` and those of the handles, none of which is held over I/O.

mod append;
mod buffers;
mod collect;
mod error;
mod handles;
mod index;
mod scrub;
mod segment;
mod writer;

pub use collect::{COMPACT_PART, Compacted, Cursor};
pub use error::BlobError;
pub use index::INDEX_MEMORY_BITS_MAX;
pub use scrub::{DamagedBlob, SCRUB_REPORT_MAX, ScrubReport};

use crate::disk::{DIRECT_ALIGN, Disk, DiskError, DiskFile};
use append::{Addition, DIRECT_BYTES_MIN};
use buffers::{Buffers, LARGE_BYTES_MIN};
use bytes::Bytes;
use collect::Collecting;
use gavel_types::{Blob, BlobId, Tid};
use handles::{Handle, Handles};
use index::Sealed;
use parking_lot::{Mutex, RwLock};
use segment::{RECORD_HEADER_BYTES, RecordHeader, Spot};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use writer::{Tip, Writer};

/// Bytes of a segment, after which the next one is begun: what opening a store scans at most.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Most files that are kept open for reading; a segment that is read past the machine's cache takes two descriptors.
pub const FILES_OPEN_MAX: usize = 256;

/// The blobs of one node. All functions may be called from many threads at once.
#[derive(Debug)]
pub struct BlobStore {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    /// Blobs of so many bytes or more pass the machine's cache by when they are written.
    direct_bytes_min: usize,
    buffers: Buffers,
    handles: Handles,
    catalog: RwLock<Catalog>,
    writer: Mutex<Writer>,
    /// What a sync has to cover.
    tip: Mutex<Tip>,
    /// One sync at a time, so that a failed one stops the store before the next could succeed.
    sync_turn: Mutex<()>,
    /// Everything appended before this count is durable; see [`Tip::appended`].
    durable: AtomicU64,
    /// One rebuilding of an index at a time.
    rebuild: Mutex<()>,
    collecting: Collecting,
    /// The first failure that leaves it open what is durable. Reading goes on.
    stopped: OnceLock<String>,
}

/// Where blobs are.
#[derive(Debug)]
struct Catalog {
    /// Oldest first. A newer copy of a blob shadows an older one.
    sealed: Arc<Vec<Arc<Sealed>>>,
    active: Arc<Handle>,
    active_sequence: u64,
    /// What is in the active segment.
    fresh: BTreeMap<BlobId, Spot>,
}

/// How bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// They stay in the machine's cache: somebody may want them again.
    Cached,
    /// They do not take room there.
    PastCache,
    /// The same, and they are held against their name, not only against their checksum: what was damaged in memory, before it was
    /// written, has a good one.
    Scrub,
}

/// Where a copy of a blob is.
#[derive(Clone, Debug)]
struct Place {
    handle: Arc<Handle>,
    sequence: u64,
    spot: Spot,
}

impl Place {
    fn of(segment: &Sealed, spot: Spot) -> Place {
        Place { handle: Arc::clone(&segment.data), sequence: segment.sequence, spot }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobStats {
    /// Blobs; one that was replaced counts again.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all files.
    pub disk_bytes: u64,
    /// Bytes of files that hold nothing that counts: they are returned when there are enough of them in a segment.
    pub dead_bytes: u64,
}

impl BlobStore {
    /// Opens the blobs in `disk`; an empty directory is an empty store. Scans the last segment, and those
    /// whose index is missing or damaged.
    ///
    /// # Errors
    /// [`BlobError::Version`] if it was written by another format; [`BlobError::Disk`].
    pub fn open(disk: Arc<dyn Disk>) -> Result<BlobStore, BlobError> {
        BlobStore::open_with(disk, SEGMENT_BYTES)
    }

    /// As [`BlobStore::open`], with segments of `segment_bytes` (at most [`SEGMENT_BYTES`]).
    pub fn open_with(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<BlobStore, BlobError> {
        writer::open(disk, segment_bytes.min(SEGMENT_BYTES), DIRECT_BYTES_MIN)
    }

    /// A blob's bytes, verified against their checksum. `None`: it is not here.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] if it was here, and no copy is what was written: fetch it from another replica and
    /// [`BlobStore::replace`] it.
    pub fn get(&self, id: BlobId) -> Result<Option<Bytes>, BlobError> {
        self.get_taken_since(id, Tid::ZERO, Way::Cached)
    }

    /// As [`BlobStore::get`], for one of many that are read once, one after the other: a large blob takes no room in the machine's cache.
    ///
    /// # Errors
    /// As [`BlobStore::get`].
    pub fn get_past_cache(&self, id: BlobId) -> Result<Option<Bytes>, BlobError> {
        self.get_taken_since(id, Tid::ZERO, Way::PastCache)
    }

    /// A copy that was taken as of `since` or later.
    fn get_taken_since(&self, id: BlobId, since: Tid, way: Way) -> Result<Option<Bytes>, BlobError> {
        loop {
            let (fresh, sealed) = self.places(id);
            let found = self.get_from(id, since, fresh, &sealed, way);
            // A segment that has gone meanwhile is no damage: what it had is elsewhere.
            if matches!(found, Ok(Some(_))) || Arc::ptr_eq(&sealed, &self.catalog.read().sealed) {
                return found;
            }
        }
    }

    /// Where a blob may be.
    fn places(&self, id: BlobId) -> (Option<Place>, Arc<Vec<Arc<Sealed>>>) {
        let catalog = self.catalog.read();
        let fresh = catalog.fresh.get(&id).map(|spot| Place {
            handle: Arc::clone(&catalog.active),
            sequence: catalog.active_sequence,
            spot: *spot,
        });
        (fresh, Arc::clone(&catalog.sealed))
    }

    fn get_from(
        &self,
        id: BlobId,
        since: Tid,
        fresh: Option<Place>,
        sealed: &[Arc<Sealed>],
        way: Way,
    ) -> Result<Option<Bytes>, BlobError> {
        let mut damaged = None;
        if let Some(place) = fresh {
            match self.read_blob(&place, id, way) {
                Err(error @ BlobError::Damaged { .. }) => damaged = Some(error),
                Ok((_, as_of)) if as_of < since => {}
                other => return other.map(|(bytes, _)| Some(bytes)),
            }
        }
        for segment in sealed.iter().rev() {
            let read = match self.find_in(segment, id) {
                Ok(None) => continue,
                Ok(Some(spot)) => self.read_blob(&Place::of(segment, spot), id, way),
                Err(BlobError::IndexDamaged { file }) => Err(BlobError::Damaged { id, file, offset: 0 }),
                Err(error) => Err(error),
            };
            match read {
                Err(error @ BlobError::Damaged { .. }) => damaged = damaged.or(Some(error)),
                Ok((_, as_of)) if as_of < since => {}
                other => return other.map(|(bytes, _)| Some(bytes)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// Whether the blob is listed here, and was not collected since. It may be damaged: only [`BlobStore::get`] looks at it.
    pub fn contains(&self, id: BlobId) -> Result<bool, BlobError> {
        if let Some(since) = self.collecting.since(id) {
            return Ok(self.get_taken_since(id, since, Way::Cached)?.is_some());
        }
        loop {
            let (fresh, sealed) = self.places(id);
            if fresh.is_some() {
                return Ok(true);
            }
            let found = sealed.iter().rev().find_map(|segment| self.find_in(segment, id).transpose()).transpose();
            if Arc::ptr_eq(&sealed, &self.catalog.read().sealed) {
                return found.map(|found| found.is_some());
            }
        }
    }

    /// Takes blobs that are not here yet, or only damaged. They are durable after the next [`BlobStore::sync`]: then they are here as of the
    /// transaction that this gives.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`]: nothing was done. [`BlobError::Disk`]: some of them may
    /// have been taken; if [`crate::disk::DiskError::is_full`], try again when there is space, otherwise the store has stopped.
    pub fn put_many<B: AsRef<[u8]>>(&self, blobs: &[Blob<B>]) -> Result<Tid, BlobError> {
        blobs.iter().try_for_each(check_size)?;
        self.check_running()?;
        let putting = self.collecting.put();
        let mut lacking = Vec::new();
        for blob in blobs {
            let since = self.collecting.since(blob.id());
            // A copy on the disk that does not read back is no reason to drop good bytes.
            let again = match self.get_taken_since(blob.id(), since.unwrap_or(Tid::ZERO), Way::PastCache) {
                Ok(Some(_)) => continue,
                Ok(None) => since.is_some(),
                Err(BlobError::Damaged { .. }) => true,
                Err(error) => return Err(error),
            };
            lacking.push(Addition { id: blob.id(), bytes: blob.bytes().as_ref(), again, as_of: putting.as_of });
        }
        self.append(lacking)?;
        Ok(putting.as_of)
    }

    /// Puts good bytes in place of a damaged blob. They are durable after the next [`BlobStore::sync`].
    ///
    /// # Errors
    /// As [`BlobStore::put_many`].
    pub fn replace<B: AsRef<[u8]>>(&self, blob: &Blob<B>) -> Result<(), BlobError> {
        check_size(blob)?;
        self.check_running()?;
        let putting = self.collecting.put();
        let bytes = blob.bytes().as_ref();
        self.append(vec![Addition { id: blob.id(), bytes, again: true, as_of: putting.as_of }])
    }

    /// Makes durable what was put before this call, by any thread. Waiting threads share a sync.
    ///
    /// # Errors
    /// [`BlobError::Disk`]: it is open what is durable, and the store has stopped taking blobs.
    pub fn sync(&self) -> Result<(), BlobError> {
        let target = self.tip.lock().appended;
        let done = || self.durable.load(Ordering::Acquire) >= target;
        self.check_running()?;
        if done() {
            return Ok(());
        }
        let _turn = self.sync_turn.lock();
        self.check_running()?;
        if done() {
            return Ok(());
        }
        let tip = self.tip.lock().clone();
        self.sync_tip(&tip)
    }

    /// How much there is.
    pub fn stats(&self) -> BlobStats {
        let catalog = self.catalog.read();
        let mut stats = BlobStats::default();
        for segment in catalog.sealed.iter() {
            stats.blobs += segment.entries;
            stats.bytes += segment.blob_bytes;
            stats.disk_bytes += segment.data_end + segment.index_bytes;
            stats.dead_bytes += segment.dead_bytes();
        }
        stats.blobs += catalog.fresh.len() as u64;
        stats.bytes += catalog.fresh.values().map(|spot| u64::from(spot.length)).sum::<u64>();
        drop(catalog);
        stats.disk_bytes += self.tip.lock().end;
        stats
    }

    fn check_running(&self) -> Result<(), BlobError> {
        match self.stopped.get() {
            Some(cause) => Err(BlobError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Reads a blob where it must be, and believes nothing. Gives its bytes, and as of which transaction they were taken.
    fn read_blob(&self, place: &Place, id: BlobId, way: Way) -> Result<(Bytes, Tid), BlobError> {
        let Place { handle, sequence, spot } = place;
        let damaged = || BlobError::Damaged { id, file: self.disk.describe(&handle.name), offset: spot.offset };
        let bytes = self.read_at(place, RECORD_HEADER_BYTES + spot.length as usize, way)?.ok_or_else(damaged)?;
        let header = RecordHeader::decode(&bytes, *sequence, spot.offset).ok_or_else(damaged)?;
        let body = bytes.slice(RECORD_HEADER_BYTES..);
        let is_named_so = way != Way::Scrub || BlobId::of(&body) == id;
        if header.id != id || !header.is_of(&body) || !is_named_so {
            return Err(damaged());
        }
        Ok((body, header.as_of))
    }

    /// So many bytes of a record; none if they are not there, or the disk cannot read them.
    fn read_at(&self, place: &Place, count: usize, way: Way) -> Result<Option<Bytes>, BlobError> {
        let file = match self.handles.file(&self.disk, &place.handle) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let read = if count >= LARGE_BYTES_MIN {
            self.read_large(&*file, place.spot.offset, count, way)
        } else {
            let mut bytes = vec![0; count];
            file.read_at(place.spot.offset, &mut bytes).map(|read| (read == count).then(|| Bytes::from(bytes)))
        };
        // A sector that the disk cannot read is damage like any other: other replicas have the blob.
        read.or_else(|error| {
            tracing::warn!(%error, "a blob cannot be read");
            Ok(None)
        })
    }

    /// Reads whole pages, as passing the cache by wants it.
    fn read_large(&self, file: &dyn DiskFile, offset: u64, count: usize, way: Way) -> Result<Option<Bytes>, DiskError> {
        let skipped = (offset % DIRECT_ALIGN as u64) as usize;
        let wanted = skipped..skipped + count;
        let whole = wanted.end.next_multiple_of(DIRECT_ALIGN);
        let mut buffer = self.buffers.take(whole);
        let read = match way {
            Way::PastCache | Way::Scrub => {
                file.read_past_cache(offset - skipped as u64, &mut buffer.as_mut_slice()[..whole])?
            }
            Way::Cached => skipped + file.read_at(offset, &mut buffer.as_mut_slice()[wanted.clone()])?,
        };
        Ok((read >= wanted.end).then(|| buffer.into_bytes(wanted)))
    }

    /// The header of a copy; none if it cannot be read.
    fn header_of(&self, place: &Place, id: BlobId) -> Result<Option<RecordHeader>, BlobError> {
        let header = self.read_at(place, RECORD_HEADER_BYTES, Way::Cached)?;
        let header = header.and_then(|bytes| RecordHeader::decode(&bytes, place.sequence, place.spot.offset));
        Ok(header.filter(|header| header.id == id))
    }

    /// Looks a blob up in a sealed segment's index; rebuilds the index if it is damaged. Finds nothing that is dead.
    fn find_in(&self, segment: &Arc<Sealed>, id: BlobId) -> Result<Option<Spot>, BlobError> {
        if !segment.may_have(id) {
            return Ok(None);
        }
        let found = match segment.find(&self.disk, &self.handles, id) {
            Err(BlobError::IndexDamaged { .. }) => {
                let rebuilt = self.rebuild_index(segment)?;
                rebuilt.find(&self.disk, &self.handles, id)?
            }
            other => other?,
        };
        Ok(found.filter(|spot| !segment.dead.has(*spot)))
    }

    /// The index of a segment, made anew from the segment; or by another thread, meanwhile.
    fn rebuild_index(&self, damaged: &Arc<Sealed>) -> Result<Arc<Sealed>, BlobError> {
        let _turn = self.rebuild.lock();
        let current = Arc::clone(&self.catalog.read().sealed);
        let at = current.iter().position(|segment| segment.sequence == damaged.sequence);
        let Some(at) = at else { return Ok(Arc::clone(damaged)) };
        if !Arc::ptr_eq(&current[at], damaged) {
            return Ok(Arc::clone(&current[at]));
        }
        let mut rebuilt = index::rebuild(&self.disk, damaged.sequence)?;
        rebuilt.dead = Arc::clone(&damaged.dead);
        let rebuilt = Arc::new(rebuilt);
        let mut catalog = self.catalog.write();
        let mut sealed = Vec::clone(&catalog.sealed);
        for segment in &mut sealed {
            if segment.sequence == rebuilt.sequence {
                *segment = Arc::clone(&rebuilt);
            }
        }
        catalog.sealed = Arc::new(sealed);
        Ok(rebuilt)
    }
}

fn check_size<B: AsRef<[u8]>>(blob: &Blob<B>) -> Result<(), BlobError> {
    let (id, bytes) = (blob.id(), blob.length());
    if bytes > gavel_types::limits::BLOB_BYTES_MAX { Err(BlobError::TooLarge { id, bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
