//! Appending blobs to the active segment: what comes together is written together.
//!
//! Large blobs pass the machine's cache by. For that they are copied to a buffer that lies right in memory, and a run of them begins and ends at
//! multiples of [`DIRECT_ALIGN`]; what lies before and behind it up to there is zeros. Small ones are packed, and stay in the cache: whoever has made many
//! small files is likely to look at them, here or on another node.

use super::segment::{HEADER_BYTES, RecordHeader, Spot, body_sum};
use super::writer::Writer;
use super::{BlobError, BlobStore};
use crate::disk::{AlignedBuffer, DIRECT_ALIGN, DiskError, DiskFile};
use gavel_types::{BlobId, Tid};
use std::collections::BTreeSet;

/// Blobs of so many bytes or more pass the machine's cache by. 1 GiB in blobs of 1 MiB, with a sync for each 16 (ext4 in a virtual machine, November 2026):
/// 0.2 s of CPU in 0.6 s, and through the cache 0.7 to 2.0 s in 1.2 to 3.9 s, nearly all of it for fresh pages. Below a quarter of that size, waiting for the disk
/// twice, for the bytes and for the sync, takes longer than that saves.
pub(super) const DIRECT_BYTES_MIN: usize = 256 * 1024;
/// Bytes that are handed to the disk at a time: large enough for its full speed, and small enough for a processor's cache.
const STAGING_BYTES: usize = 1024 * 1024;

const _: () = assert!(STAGING_BYTES.is_multiple_of(DIRECT_ALIGN));

/// A blob that is to be appended.
pub(super) struct Addition<'a> {
    pub(super) id: BlobId,
    pub(super) bytes: &'a [u8],
    /// Even if the active segment has it.
    pub(super) again: bool,
    /// The transaction that it is taken as of.
    pub(super) as_of: Tid,
}

impl BlobStore {
    /// Writes blobs at the end of the active segment, in the order of their size.
    pub(super) fn append(&self, mut additions: Vec<Addition<'_>>) -> Result<(), BlobError> {
        let is_large = |addition: &Addition<'_>| addition.bytes.len() >= self.direct_bytes_min;
        additions.sort_by_key(is_large);
        let mut writer = self.writer.lock();
        self.check_running()?;
        {
            let fresh = &self.catalog.read().fresh;
            let mut seen = BTreeSet::new();
            additions
                .retain(|addition| addition.again || (seen.insert(addition.id) && !fresh.contains_key(&addition.id)));
        }
        let mut left = &additions[..];
        while let Some(first) = left.first() {
            let large = is_large(first);
            let alike = left.partition_point(|addition| is_large(addition) == large);
            let spots = self.spots(&writer, &left[..alike], large);
            if writer.full || spots.is_empty() {
                self.seal(&mut writer)?;
                continue;
            }
            let (run, rest) = left.split_at(spots.len());
            self.append_run(&mut writer, run, &spots, large)?;
            left = rest;
        }
        Ok(())
    }

    /// Where the first of these go that the active segment has room for. The first one of a segment always fits.
    fn spots(&self, writer: &Writer, additions: &[Addition<'_>], large: bool) -> Vec<Spot> {
        let mut end = if large { writer.end.next_multiple_of(DIRECT_ALIGN as u64) } else { writer.end };
        let mut spots = Vec::new();
        for addition in additions {
            let spot = Spot { offset: end, length: addition.bytes.len() as u32 };
            let is_first = spots.is_empty() && writer.end == HEADER_BYTES as u64;
            if spot.end() > self.segment_bytes && !is_first {
                break;
            }
            end = spot.end();
            spots.push(spot);
        }
        spots
    }

    fn append_run(
        &self,
        writer: &mut Writer,
        run: &[Addition<'_>],
        spots: &[Spot],
        large: bool,
    ) -> Result<(), BlobError> {
        let synced_to = self.tip.lock().synced_to;
        let written = write_run(writer, run, spots, synced_to, large);
        self.stop_unless_full(written)?;
        let end = spots.last().map_or(writer.end, |spot| spot.end());
        {
            let mut tip = self.tip.lock();
            tip.end = end;
            tip.appended += end - writer.end;
        }
        writer.fill_bytes += spots.first().map_or(0, |spot| spot.offset - writer.end);
        writer.end = end;
        let named = run.iter().zip(spots).map(|(addition, spot)| (addition.id, *spot));
        self.catalog.write().fresh.extend(named);
        Ok(())
    }
}

fn write_run(
    writer: &mut Writer,
    run: &[Addition<'_>],
    spots: &[Spot],
    synced_to: u64,
    large: bool,
) -> Result<(), DiskError> {
    let Some(start) = spots.first().map(|spot| spot.offset) else { return Ok(()) };
    let zeros_to = std::mem::take(&mut writer.zeros_to);
    if start > writer.end.max(zeros_to) {
        // What an earlier try left there, when the disk was full, must not be taken for a record.
        writer.file.write_at(writer.end, &vec![0; (start - writer.end) as usize])?;
    }
    let buffer = writer.staging.get_or_insert_with(|| AlignedBuffer::new(STAGING_BYTES));
    let mut staging = Staging { file: &*writer.file, buffer: buffer.as_mut_slice(), filled: 0, offset: start, large };
    for (addition, spot) in run.iter().zip(spots) {
        staging.fill_up_to(spot.offset)?;
        let Addition { id, as_of, bytes, .. } = *addition;
        let header = RecordHeader { id, length: spot.length, synced_to, as_of, body_sum: body_sum(bytes) };
        staging.push(&header.encode(writer.sequence, spot.offset))?;
        staging.push(bytes)?;
    }
    if large {
        staging.fill_up_to(staging.end().next_multiple_of(DIRECT_ALIGN as u64))?;
    }
    let end = staging.end();
    staging.write()?;
    if large {
        writer.zeros_to = end;
    }
    Ok(())
}

/// Bytes on their way to a file, one after the other.
struct Staging<'a> {
    file: &'a dyn DiskFile,
    buffer: &'a mut [u8],
    filled: usize,
    /// Where the buffer's first byte goes.
    offset: u64,
    large: bool,
}

impl Staging<'_> {
    fn end(&self) -> u64 {
        self.offset + self.filled as u64
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.buffer.len() - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.buffer.len() {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Zeros up to an offset less than [`DIRECT_ALIGN`] away.
    fn fill_up_to(&mut self, offset: u64) -> Result<(), DiskError> {
        let zeros = [0; DIRECT_ALIGN];
        self.push(&zeros[..(offset - self.end()) as usize])
    }

    fn write(&mut self) -> Result<(), DiskError> {
        let bytes = &self.buffer[..std::mem::take(&mut self.filled)];
        match (bytes.is_empty(), self.large) {
            (true, _) => {}
            (false, true) => self.file.write_past_cache(self.offset, bytes)?,
            (false, false) => self.file.write_at(self.offset, bytes)?,
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }
}
