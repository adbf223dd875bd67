//! Opening a store, making the active segment durable, sealing it when it is full.

use super::buffers::Buffers;
use super::collect::{self, Collecting};
use super::handles::{Handle, Handles};
use super::index::{self, Contents, Sealed};
use super::segment::{self, HEADER_BYTES, Scan, segment_name};
use super::{BlobError, BlobStore, Catalog};
use crate::disk::{AlignedBuffer, Disk, DiskError, DiskFile};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The end of the active segment; who holds it may append.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the records end.
    pub(super) end: u64,
    /// From there up to here there are zeros, if this is behind it.
    pub(super) zeros_to: u64,
    /// Bytes of which it is not known what they held, when the segment was opened.
    pub(super) lost_bytes: u64,
    /// Bytes between its records that were never for anything.
    pub(super) fill_bytes: u64,
    /// Its index may be written: nothing more goes in, even if sealing has to be tried again.
    pub(super) full: bool,
    /// Where runs of records are put together.
    pub(super) staging: Option<AlignedBuffer>,
}

impl Writer {
    fn new(sequence: u64, file: Arc<dyn DiskFile>, scan: &Scan) -> Writer {
        let Scan { end, lost_bytes, fill_bytes, .. } = *scan;
        Writer { sequence, file, end, zeros_to: 0, lost_bytes, fill_bytes, full: false, staging: None }
    }
}

/// What a sync has to cover, and how far the last one got.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    pub(super) file: Arc<dyn DiskFile>,
    sequence: u64,
    pub(super) end: u64,
    /// Up to here the active segment is durable.
    pub(super) synced_to: u64,
    /// Counts every byte appended since the store was opened.
    pub(super) appended: u64,
}

/// See [`BlobStore::open_with`].
pub(super) fn open(disk: Arc<dyn Disk>, segment_bytes: u64, direct_bytes_min: usize) -> Result<BlobStore, BlobError> {
    let names = disk.list()?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name)?;
    }
    let with_suffix =
        |suffix| -> BTreeSet<u64> { names.iter().filter_map(|name| segment::parse_name(name, suffix)).collect() };
    let (segments, indexes) = (with_suffix(".blob"), with_suffix(".idx"));
    let mut sequences = &segments | &indexes;
    let newest = sequences.last().copied().unwrap_or(0);
    // The newest segment is the active one, unless a crash came between its index and its successor.
    let active = segments.contains(&newest) && !indexes.contains(&newest);
    if active {
        sequences.remove(&newest);
    }
    let sealed = sequences.into_iter().map(|sequence| open_sealed(&disk, sequence, segments.contains(&sequence)));
    let sealed = sealed.filter_map(Result::transpose).collect::<Result<Vec<_>, BlobError>>()?;
    let sequence = if active { newest } else { newest + 1 };
    let (file, scan) =
        if active { open_active(&disk, sequence)? } else { (create_segment(&disk, sequence)?, Scan::empty()) };
    let handle = Handle::opened(segment_name(sequence), Arc::clone(&file));
    let tip = Tip { file: Arc::clone(&file), sequence, end: scan.end, synced_to: scan.end, appended: 0 };
    let writer = Writer::new(sequence, file, &scan);
    let passed = collect::read_passed(&disk)?;
    Ok(BlobStore {
        disk,
        segment_bytes,
        direct_bytes_min,
        buffers: Buffers::default(),
        handles: Handles::default(),
        catalog: RwLock::new(Catalog {
            sealed: Arc::new(sealed),
            active: handle,
            active_sequence: sequence,
            fresh: scan.spots,
        }),
        writer: Mutex::new(writer),
        tip: Mutex::new(tip),
        sync_turn: Mutex::new(()),
        durable: AtomicU64::new(0),
        rebuild: Mutex::new(()),
        collecting: Collecting::new(passed),
        stopped: OnceLock::new(),
    })
}

/// A segment that is not written any more. `None`: it is gone, and so is the list of what it had.
fn open_sealed(disk: &Arc<dyn Disk>, sequence: u64, is_there: bool) -> Result<Option<Arc<Sealed>>, BlobError> {
    if let Some(sealed) = index::load(disk, sequence)? {
        return Ok(Some(Arc::new(sealed)));
    }
    if !is_there {
        let file = disk.describe(&segment_name(sequence));
        tracing::error!(file, "a segment of blobs is missing, and its index is damaged: what it held is not known");
        return Ok(None);
    }
    index::rebuild(disk, sequence).map(|sealed| Some(Arc::new(sealed)))
}

/// Finds what is in the segment that was written last, cuts off what a crash tore, and makes the rest durable.
fn open_active(disk: &Arc<dyn Disk>, sequence: u64) -> Result<(Arc<dyn DiskFile>, Scan), BlobError> {
    let file = disk.open(&segment_name(sequence))?;
    let bytes = segment::read_segment(disk, &file, sequence)?;
    let scan = segment::scan(&bytes, sequence);
    // The bytes may have been read from the machine's cache after a sync of an earlier life failed; then only
    // writing them again makes a sync mean something.
    file.write_at(0, &segment::encode_header(sequence))?;
    let end = (scan.end as usize).min(bytes.len());
    if let Some(unproven) = bytes.get(scan.proven as usize..end) {
        file.write_at(scan.proven, unproven)?;
    }
    if file.length()? > scan.end {
        file.truncate(scan.end)?;
    }
    file.sync_data()?;
    disk.sync_dir()?;
    Ok((file, scan))
}

fn create_segment(disk: &Arc<dyn Disk>, sequence: u64) -> Result<Arc<dyn DiskFile>, DiskError> {
    let name = segment_name(sequence);
    // What an earlier try left behind when the disk was full; no segment has had this number.
    disk.remove_if_there(&name)?;
    let file = disk.create(&name)?;
    file.write_at(0, &segment::encode_header(sequence))?;
    file.sync_data()?;
    disk.sync_dir()?;
    Ok(file)
}

impl BlobStore {
    /// Makes durable what `tip` covers. The caller holds `sync_turn`.
    pub(super) fn sync_tip(&self, tip: &Tip) -> Result<(), BlobError> {
        let synced = tip.file.sync_data();
        if let Err(error) = &synced {
            // Before anybody else may sync: a second sync of the same file could succeed, and mean nothing.
            self.stop(error);
        }
        synced?;
        self.durable.fetch_max(tip.appended, Ordering::AcqRel);
        let mut current = self.tip.lock();
        if current.sequence == tip.sequence {
            current.synced_to = current.synced_to.max(tip.end);
        }
        Ok(())
    }

    /// Bytes of the active segment of which it is not known what they held.
    pub(super) fn active_lost_bytes(&self) -> u64 {
        self.writer.lock().lost_bytes
    }

    /// Writes the index of the active segment, and begins the next one.
    pub(super) fn seal(&self, writer: &mut Writer) -> Result<(), BlobError> {
        writer.full = true;
        {
            let _turn = self.sync_turn.lock();
            self.check_running()?;
            let tip = self.tip.lock().clone();
            self.sync_tip(&tip)?;
        }
        let spots = self.catalog.read().fresh.clone();
        let Writer { sequence, end: data_end, lost_bytes, fill_bytes, .. } = *writer;
        let contents = Contents { sequence, data_end, lost_bytes, fill_bytes, spots: &spots };
        let sealed = index::write(&self.disk, &contents);
        let sealed = self.stop_unless_full(sealed)?;
        let next = sequence + 1;
        let file = self.stop_unless_full(create_segment(&self.disk, next))?;
        let end = HEADER_BYTES as u64;
        {
            let mut catalog = self.catalog.write();
            let mut list = Vec::clone(&catalog.sealed);
            list.push(Arc::new(sealed));
            catalog.sealed = Arc::new(list);
            catalog.active = Handle::opened(segment_name(next), Arc::clone(&file));
            catalog.active_sequence = next;
            catalog.fresh.clear();
        }
        {
            let mut tip = self.tip.lock();
            *tip = Tip { file: Arc::clone(&file), sequence: next, end, synced_to: end, appended: tip.appended };
        }
        *writer = Writer { staging: writer.staging.take(), ..Writer::new(next, file, &Scan::empty()) };
        Ok(())
    }

    /// A full disk leaves the store as it was, for a write to the same place can be tried again; any other
    /// failure of a write stops it.
    pub(super) fn stop_unless_full<T, E: Into<BlobError>>(&self, result: Result<T, E>) -> Result<T, BlobError> {
        result.map_err(|error| {
            let error = error.into();
            if !matches!(&error, BlobError::Disk(disk) if disk.is_full()) {
                self.stop(&error);
            }
            error
        })
    }

    fn stop(&self, error: &dyn std::fmt::Display) {
        // Only the first failure is kept.
        let _ = self.stopped.set(error.to_string());
    }
}
