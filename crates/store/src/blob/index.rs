//! The index of a sealed segment: which blobs it has, and where. A file of its own, that can be made anew from the
//! segment at any time. docs/formats/blobs.md has the tables.
//!
//! The file is a header, the *summary* (the first name of every block, and a Bloom filter), and blocks of sorted entries,
//! each with its checksum. The summary is in memory; a look-up reads at most one block, unless names share 64 bits.

use super::BlobError;
use super::collect::Dead;
use super::handles::{Handle, Handles};
use super::segment::{self, Spot, index_name, segment_name};
use crate::disk::{Disk, SECTOR_BYTES};
use crc_fast::{CrcAlgorithm, Digest};
use gavel_types::BlobId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the index's format. An index of another one is made anew.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = SECTOR_BYTES;
const ENTRY_BYTES: usize = 48;
const BLOCK_BYTES: usize = 4096;
const BLOCK_ENTRIES: usize = (BLOCK_BYTES - 16) / ENTRY_BYTES;
const MAGIC: [u8; 8] = *b"GAVELBIX";
const HEADER_SUM_AT: usize = HEADER_BYTES - 8;

/// Bits of the filter for each blob, and how many of them a look-up tests: 1 in 200 misses reads a block in vain
/// (Broder and Mitzenmacher, "Network Applications of Bloom Filters", 2004, section 2).
const FILTER_BITS: u64 = 12;
const FILTER_TESTS: u64 = 6;
/// Most bits of memory for each blob of a sealed segment with a full block: its part of the filter and of the fences.
pub const INDEX_MEMORY_BITS_MAX: usize = 16;
/// Most entries an index can have: a segment is not larger, and no record smaller than its header.
const ENTRIES_MAX: u64 = super::SEGMENT_BYTES / segment::RECORD_ALIGN + 1;

const _: () = assert!(FILTER_BITS as usize + 64usize.div_ceil(BLOCK_ENTRIES) <= INDEX_MEMORY_BITS_MAX);

/// A segment that gets no more blobs.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) sequence: u64,
    /// Where its records end.
    pub(super) data_end: u64,
    pub(super) entries: u64,
    /// Bytes of all its blobs.
    pub(super) blob_bytes: u64,
    /// Bytes of which it is not known what they held, when the index was made from a damaged segment.
    pub(super) lost_bytes: u64,
    /// Bytes that fill up what is between its records.
    pub(super) fill_bytes: u64,
    pub(super) index_bytes: u64,
    pub(super) data: Arc<Handle>,
    index: Arc<Handle>,
    /// Which of its copies do not count any more.
    pub(super) dead: Arc<Dead>,
    /// The first 8 bytes of the first name of every block.
    fences: Vec<u64>,
    filter: Vec<u64>,
}

impl Sealed {
    /// Whether a look-up is worth reading the index.
    pub(super) fn may_have(&self, id: BlobId) -> bool {
        let bits = self.filter.len() as u64 * 64;
        filter_bits(id, bits).all(|bit| self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// Looks a blob up.
    pub(super) fn find(&self, disk: &Arc<dyn Disk>, handles: &Handles, id: BlobId) -> Result<Option<Spot>, BlobError> {
        let prefix = prefix_of(id);
        let first = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1);
        let end = self.fences.partition_point(|fence| *fence <= prefix);
        for number in first..end {
            let block = self.block(disk, handles, number)?;
            if let Ok(at) = block.binary_search_by_key(&id, |(id, _)| *id) {
                return Ok(Some(block[at].1));
            }
        }
        Ok(None)
    }

    /// The entries of one block.
    pub(super) fn block(
        &self,
        disk: &Arc<dyn Disk>,
        handles: &Handles,
        number: usize,
    ) -> Result<Vec<(BlobId, Spot)>, BlobError> {
        let damaged = || BlobError::IndexDamaged { file: disk.describe(&self.index.name) };
        let file = match handles.file(disk, &self.index) {
            Err(error) if error.is_missing() => return Err(damaged()),
            other => other?,
        };
        let mut bytes = [0; BLOCK_BYTES];
        let offset = blocks_start(self.fences.len(), self.filter.len()) + (number * BLOCK_BYTES) as u64;
        file.read_at(offset, &mut bytes).map_err(|_| damaged())?;
        decode_block(&bytes, self.sequence, number).ok_or_else(damaged)
    }

    pub(super) fn blocks(&self) -> usize {
        self.fences.len()
    }
}

/// What an index is made of.
pub(super) struct Contents<'a> {
    pub(super) sequence: u64,
    pub(super) data_end: u64,
    pub(super) lost_bytes: u64,
    pub(super) fill_bytes: u64,
    pub(super) spots: &'a BTreeMap<BlobId, Spot>,
}

/// Writes the index of a segment, durably but for its name: the caller syncs the directory.
pub(super) fn write(disk: &Arc<dyn Disk>, contents: &Contents<'_>) -> Result<Sealed, BlobError> {
    let (bytes, sealed) = encode(contents);
    let temporary = format!("{:016x}.tmp", contents.sequence);
    disk.remove_if_there(&temporary)?;
    let file = disk.create(&temporary)?;
    file.write_at(0, &bytes)?;
    file.sync_data()?;
    disk.rename(&temporary, &index_name(contents.sequence))?;
    Ok(sealed)
}

/// Makes the index of a segment anew, from the segment.
pub(super) fn rebuild(disk: &Arc<dyn Disk>, sequence: u64) -> Result<Sealed, BlobError> {
    let file = match disk.open(&segment_name(sequence)) {
        // Nothing to make it from: the blobs are gone, and so is the list of them.
        Err(error) if error.is_missing() => {
            return Err(BlobError::IndexDamaged { file: disk.describe(&index_name(sequence)) });
        }
        other => other?,
    };
    let scan = segment::scan(&segment::read_segment(disk, &file, sequence)?, sequence);
    let segment::Scan { end: data_end, lost_bytes, fill_bytes, .. } = scan;
    let sealed = write(disk, &Contents { sequence, data_end, lost_bytes, fill_bytes, spots: &scan.spots })?;
    disk.sync_dir()?;
    Ok(sealed)
}

/// Reads the header and the summary of an index. `None`: it is missing, damaged, or of another version.
pub(super) fn load(disk: &Arc<dyn Disk>, sequence: u64) -> Result<Option<Sealed>, BlobError> {
    let file = match disk.open(&index_name(sequence)) {
        Err(error) if error.is_missing() => return Ok(None),
        other => other?,
    };
    let mut header = [0; HEADER_BYTES];
    // A sector that the disk cannot read is damage like any other: the segment has all that is needed.
    file.read_at(0, &mut header).unwrap_or(0);
    let Some(header) = Header::decode(&header).filter(|header| header.sequence == sequence) else { return Ok(None) };
    let mut summary = vec![0; 8 * (header.fences() + header.filter_words()) as usize];
    let count = file.read_at(HEADER_BYTES as u64, &mut summary).unwrap_or(0);
    if count < summary.len() || crc_fast::crc64_nvme(&summary) != header.summary_sum {
        return Ok(None);
    }
    let words = |bytes: &[u8]| bytes.chunks_exact(8).map(word).collect::<Vec<u64>>();
    let (fences, filter) = summary.split_at(8 * header.fences() as usize);
    Ok(Some(header.with_summary(words(fences), words(filter), file.length()?)))
}

/// The first sector of an index.
struct Header {
    sequence: u64,
    data_end: u64,
    entries: u64,
    blob_bytes: u64,
    lost_bytes: u64,
    summary_sum: u64,
    fill_bytes: u64,
}

impl Header {
    fn fences(&self) -> u64 {
        self.entries.div_ceil(BLOCK_ENTRIES as u64)
    }

    fn filter_words(&self) -> u64 {
        (self.entries * FILTER_BITS).div_ceil(64).max(1)
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        let counts = [self.data_end, self.entries, self.blob_bytes, self.lost_bytes];
        let fields = std::iter::once(self.sequence).chain(counts).chain([self.summary_sum, self.fill_bytes]);
        for (field, place) in fields.zip(bytes[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let sum = crc_fast::crc64_nvme(&bytes[..HEADER_SUM_AT]);
        bytes[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let sum = crc_fast::crc64_nvme(&bytes[..HEADER_SUM_AT]);
        let version = u32::from_le_bytes(*bytes[8..].first_chunk()?);
        if bytes[0..8] != MAGIC || bytes[HEADER_SUM_AT..] != sum.to_le_bytes() || version != VERSION {
            return None;
        }
        let mut fields = bytes[16..].chunks_exact(8).map(word);
        let header = Header {
            sequence: fields.next()?,
            data_end: fields.next()?,
            entries: fields.next()?,
            blob_bytes: fields.next()?,
            lost_bytes: fields.next()?,
            summary_sum: fields.next()?,
            fill_bytes: fields.next()?,
        };
        (header.entries <= ENTRIES_MAX).then_some(header)
    }

    fn with_summary(&self, fences: Vec<u64>, filter: Vec<u64>, index_bytes: u64) -> Sealed {
        Sealed {
            sequence: self.sequence,
            data_end: self.data_end,
            entries: self.entries,
            blob_bytes: self.blob_bytes,
            lost_bytes: self.lost_bytes,
            fill_bytes: self.fill_bytes,
            index_bytes,
            data: Handle::closed(segment_name(self.sequence)),
            index: Handle::closed(index_name(self.sequence)),
            dead: Arc::default(),
            fences,
            filter,
        }
    }
}

fn encode(contents: &Contents<'_>) -> (Vec<u8>, Sealed) {
    let spots: Vec<(&BlobId, &Spot)> = contents.spots.iter().collect();
    let mut header = Header {
        sequence: contents.sequence,
        data_end: contents.data_end,
        entries: spots.len() as u64,
        blob_bytes: spots.iter().map(|(_, spot)| u64::from(spot.length)).sum(),
        lost_bytes: contents.lost_bytes,
        fill_bytes: contents.fill_bytes,
        summary_sum: 0,
    };
    let fences: Vec<u64> = spots.chunks(BLOCK_ENTRIES).map(|block| prefix_of(*block[0].0)).collect();
    let mut filter = vec![0u64; header.filter_words() as usize];
    let bits = filter.len() as u64 * 64;
    for bit in spots.iter().flat_map(|(id, _)| filter_bits(**id, bits)) {
        filter[(bit / 64) as usize] |= 1 << (bit % 64);
    }
    let summary: Vec<u8> = fences.iter().chain(&filter).flat_map(|word| word.to_le_bytes()).collect();
    header.summary_sum = crc_fast::crc64_nvme(&summary);
    let mut bytes = header.encode().to_vec();
    bytes.extend(summary);
    bytes.resize(blocks_start(fences.len(), filter.len()) as usize, 0);
    for (number, block) in spots.chunks(BLOCK_ENTRIES).enumerate() {
        bytes.extend(encode_block(block, contents.sequence, number));
    }
    let sealed = header.with_summary(fences, filter, bytes.len() as u64);
    (bytes, sealed)
}

/// Where the first block is: what comes before it is filled up to a whole block.
fn blocks_start(fences: usize, filter_words: usize) -> u64 {
    ((HEADER_BYTES + 8 * (fences + filter_words)) as u64).next_multiple_of(BLOCK_BYTES as u64)
}

fn encode_block(entries: &[(&BlobId, &Spot)], sequence: u64, number: usize) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    for ((id, spot), place) in entries.iter().zip(bytes.chunks_exact_mut(ENTRY_BYTES)) {
        place[0..32].copy_from_slice(&id.0);
        place[32..40].copy_from_slice(&spot.offset.to_le_bytes());
        place[40..44].copy_from_slice(&spot.length.to_le_bytes());
    }
    bytes[BLOCK_BYTES - 16..BLOCK_BYTES - 12].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    let sum = block_sum(&bytes, sequence, number);
    bytes[BLOCK_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode_block(bytes: &[u8; BLOCK_BYTES], sequence: u64, number: usize) -> Option<Vec<(BlobId, Spot)>> {
    if bytes[BLOCK_BYTES - 8..] != block_sum(bytes, sequence, number).to_le_bytes() {
        return None;
    }
    let count = u32::from_le_bytes(*bytes[BLOCK_BYTES - 16..].first_chunk()?) as usize;
    if count > BLOCK_ENTRIES {
        return None;
    }
    let entry = |entry: &[u8]| {
        let offset = word(&entry[32..40]);
        let length = u32::from_le_bytes(*entry[40..].first_chunk()?);
        let fits = length as usize <= gavel_types::limits::BLOB_BYTES_MAX;
        fits.then_some((BlobId(*entry.first_chunk()?), Spot { offset, length }))
    };
    bytes.chunks_exact(ENTRY_BYTES).take(count).map(entry).collect()
}

fn block_sum(bytes: &[u8; BLOCK_BYTES], sequence: u64, number: usize) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&sequence.to_le_bytes());
    digest.update(&(number as u64).to_le_bytes());
    digest.update(&bytes[..BLOCK_BYTES - 8]);
    digest.finalize()
}

/// The bits of the filter that stand for a blob. Names are hashes already: no other hash is needed.
fn filter_bits(id: BlobId, bits: u64) -> impl Iterator<Item = u64> {
    let (start, step) = (word(&id.0[8..16]), word(&id.0[16..24]) | 1);
    (0..FILTER_TESTS).map(move |test| start.wrapping_add(test.wrapping_mul(step)) % bits)
}

fn prefix_of(id: BlobId) -> u64 {
    word(&id.0[..8]).swap_bytes()
}

/// The little-endian number in 8 bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
