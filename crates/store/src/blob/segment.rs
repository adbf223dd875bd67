//! The bytes of a blob segment, and finding the blobs in one without an index. docs/formats/blobs.md has the tables.
//!
//! All numbers are little-endian. Nothing here trusts what it reads.

use super::BlobError;
use super::SEGMENT_BYTES;
use crate::disk::{DIRECT_ALIGN, Disk, DiskFile, SECTOR_BYTES};
use crc_fast::{CrcAlgorithm, Digest};
use gavel_types::limits::BLOB_BYTES_MAX;
use gavel_types::{BlobId, Tid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the segments' format. What is written with another one is refused.
pub(super) const VERSION: u32 = 4;
/// A segment's header fills one sector.
pub(super) const HEADER_BYTES: usize = SECTOR_BYTES;
/// The fixed part in front of a blob.
pub(super) const RECORD_HEADER_BYTES: usize = 72;
/// Records start at multiples of this.
pub(super) const RECORD_ALIGN: u64 = 64;
/// Longest file that is read as a segment: a blob may begin just before the bound, and zeros follow up to a multiple of [`DIRECT_ALIGN`].
const SEGMENT_FILE_BYTES_MAX: u64 =
    SEGMENT_BYTES + (BLOB_BYTES_MAX + HEADER_BYTES + RECORD_HEADER_BYTES + 2 * DIRECT_ALIGN) as u64;

const SEGMENT_MAGIC: [u8; 8] = *b"GAVELBLB";
const RECORD_MAGIC: [u8; 4] = *b"GBL1";
const HEADER_SUM_AT: usize = HEADER_BYTES - 8;

/// Where a blob's record is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) offset: u64,
    /// Bytes of the blob.
    pub(super) length: u32,
}

impl Spot {
    /// Bytes of the record, with what follows up to the next one.
    pub(super) fn record_bytes(self) -> u64 {
        self.end() - self.offset
    }

    /// Where the next record begins.
    pub(super) fn end(self) -> u64 {
        (self.offset + RECORD_HEADER_BYTES as u64 + u64::from(self.length)).next_multiple_of(RECORD_ALIGN)
    }
}

/// What stands in front of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) id: BlobId,
    pub(super) length: u32,
    /// Up to here the segment was durable when the record was made.
    pub(super) synced_to: u64,
    /// The last transaction that the replica had applied when it took this copy.
    pub(super) as_of: Tid,
    /// The checksum of the blob's bytes: see [`body_sum`].
    pub(super) body_sum: u64,
}

impl RecordHeader {
    /// Is this what it stands in front of?
    pub(super) fn is_of(&self, body: &[u8]) -> bool {
        body.len() == self.length as usize && body_sum(body) == self.body_sum
    }

    pub(super) fn encode(&self, sequence: u64, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.as_of.0.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.id.0);
        bytes[48..56].copy_from_slice(&self.synced_to.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.body_sum.to_le_bytes());
        let sum = record_sum(&bytes[..64], sequence, offset);
        bytes[64..72].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if it was written for this segment and offset.
    pub(super) fn decode(bytes: &[u8], sequence: u64, offset: u64) -> Option<RecordHeader> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        if bytes[0..4] != RECORD_MAGIC {
            return None;
        }
        let sum = u64::from_le_bytes(*bytes[64..].first_chunk()?);
        if sum != record_sum(&bytes[..64], sequence, offset) {
            return None;
        }
        let length = u32::from_le_bytes(*bytes[4..].first_chunk()?);
        let id = BlobId(*bytes[16..].first_chunk()?);
        let synced_to = u64::from_le_bytes(*bytes[48..].first_chunk()?);
        let as_of = Tid(u64::from_le_bytes(*bytes[8..].first_chunk()?));
        let body_sum = u64::from_le_bytes(*bytes[56..].first_chunk()?);
        (length as usize <= BLOB_BYTES_MAX).then_some(RecordHeader { id, length, synced_to, as_of, body_sum })
    }
}

/// What tells damaged bytes from those that were stored, in half of the time that their name takes when they come from the disk.
pub(super) fn body_sum(body: &[u8]) -> u64 {
    crc_fast::crc64_nvme(body)
}

fn record_sum(fields: &[u8], sequence: u64, offset: u64) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&sequence.to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.update(fields);
    digest.finalize()
}

/// The first sector of a segment.
pub(super) fn encode_header(sequence: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    let sum = crc_fast::crc64_nvme(&bytes[..HEADER_SUM_AT]);
    bytes[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The version of another format, if `bytes` is a whole header and it names one. A damaged header is not an
/// error: the records say themselves where they belong.
pub(super) fn foreign_version(bytes: &[u8]) -> Option<u32> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let sum = u64::from_le_bytes(*header[HEADER_SUM_AT..].first_chunk()?);
    let version = u32::from_le_bytes(*header[8..].first_chunk()?);
    let whole = header[..8] == SEGMENT_MAGIC && sum == crc_fast::crc64_nvme(&header[..HEADER_SUM_AT]);
    (whole && version != VERSION).then_some(version)
}

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.blob")
}

pub(super) fn index_name(sequence: u64) -> String {
    format!("{sequence:016x}.idx")
}

/// The number in a name that [`segment_name`] or [`index_name`] made.
pub(super) fn parse_name(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (sequence > 0 && format!("{sequence:016x}") == digits).then_some(sequence)
}

/// What is in a segment.
#[derive(Debug)]
pub(super) struct Scan {
    /// Where each blob's best copy is; some are damaged.
    pub(super) spots: BTreeMap<BlobId, Spot>,
    /// Where the records end. What lies behind was torn by a crash.
    pub(super) end: u64,
    /// The furthest that a record says was durable before it.
    pub(super) proven: u64,
    /// Bytes between records in which it is not known what was.
    pub(super) lost_bytes: u64,
    /// Bytes between records that were never for anything.
    pub(super) fill_bytes: u64,
}

impl Scan {
    /// Of a segment that was just begun.
    pub(super) fn empty() -> Scan {
        let start = HEADER_BYTES as u64;
        Scan { spots: BTreeMap::new(), end: start, proven: start, lost_bytes: 0, fill_bytes: 0 }
    }
}

/// All bytes of a segment's file.
pub(super) fn read_segment(
    disk: &Arc<dyn Disk>,
    file: &Arc<dyn DiskFile>,
    sequence: u64,
) -> Result<Vec<u8>, BlobError> {
    let length = file.length()?.min(SEGMENT_FILE_BYTES_MAX);
    let mut bytes = vec![0; length as usize];
    let count = file.read_at(0, &mut bytes)?;
    bytes.truncate(count);
    match foreign_version(&bytes) {
        Some(found) => Err(BlobError::Version { file: disk.describe(&segment_name(sequence)), found, known: VERSION }),
        None => Ok(bytes),
    }
}

/// Finds the records of a segment. Where there is none, looks for the next that is whole.
pub(super) fn scan(bytes: &[u8], sequence: u64) -> Scan {
    let mut found: Vec<(RecordHeader, Spot, bool)> = Vec::new();
    let mut scan = Scan::empty();
    while let Some((header, spot)) = next_record(bytes, sequence, scan.end) {
        let between = spot.offset - scan.end;
        match is_fill(bytes, scan.end, spot.offset) {
            true => scan.fill_bytes += between,
            false => scan.lost_bytes += between,
        }
        scan.proven = scan.proven.max(header.synced_to);
        scan.end = spot.end();
        let body = spot.offset as usize + RECORD_HEADER_BYTES..;
        let body = bytes[body].get(..spot.length as usize);
        let intact = body.is_some_and(|body| header.is_of(body));
        found.push((header, spot, intact));
    }
    // Bodies at the end that are not whole, and that nobody says were durable, are a crash's.
    while let Some((_, spot, false)) = found.last()
        && spot.offset >= scan.proven
    {
        scan.end = spot.offset;
        found.pop();
    }
    found.sort_by_key(|(_, spot, intact)| (*intact, spot.offset));
    scan.spots = found.into_iter().map(|(header, spot, _)| (header.id, spot)).collect();
    scan
}

/// Is this what lies in front of a run of large blobs?
fn is_fill(bytes: &[u8], from: u64, to: u64) -> bool {
    to.is_multiple_of(DIRECT_ALIGN as u64)
        && to - from < DIRECT_ALIGN as u64
        && bytes.get(from as usize..to as usize).is_some_and(|fill| fill.iter().all(|byte| *byte == 0))
}

/// The first whole record header at or after `from`.
fn next_record(bytes: &[u8], sequence: u64, from: u64) -> Option<(RecordHeader, Spot)> {
    let mut offset = from;
    while let Some(rest) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)) {
        if rest.len() < RECORD_HEADER_BYTES {
            return None;
        }
        if let Some(header) = RecordHeader::decode(rest, sequence, offset) {
            return Some((header, Spot { offset, length: header.length }));
        }
        offset += RECORD_ALIGN;
    }
    None
}
