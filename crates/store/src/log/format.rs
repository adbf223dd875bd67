//! The bytes of a segment: header, records, and what hides zeros. docs/formats/log.md has the byte tables.
//!
//! All numbers are little-endian. Nothing here trusts what it reads.

use super::{EntryId, HardState, LogBatch, LogEntry, LogIdentity};
use crate::disk::SECTOR_BYTES;
use crc_fast::{CrcAlgorithm, Digest};
use gavel_types::limits::ENTRY_BYTES_MAX;
use gavel_types::{ClusterId, LogIndex, NodeId, Term};

/// Version of the format below. What is written with another one is refused.
pub(super) const VERSION: u32 = 1;
/// A segment's header fills one sector, so that a crash leaves all of it or nothing.
pub(super) const HEADER_BYTES: usize = SECTOR_BYTES;
/// The fixed part of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this, so that any part of a record within one sector has a whole word.
pub(super) const RECORD_ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"GAVELLOG";
const RECORD_MAGIC: [u8; 4] = *b"GLR1";
const HEADER_SUM_AT: usize = HEADER_BYTES - 8;

const HAS_HARD_STATE: u32 = 1;
const HAS_SNAPSHOT_MARK: u32 = 2;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// One [`LogBatch`].
    Batch = 1,
    /// The log was compacted up to here.
    Mark = 2,
}

/// The first sector of a segment: whose it is, where the one before it ends, and what held when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: LogIdentity,
    /// 1 for a log's first segment, then one more each.
    pub(super) sequence: u64,
    /// Bytes of the segment's file.
    pub(super) length: u64,
    /// Where the records of the segment before end. What lies behind was never acknowledged.
    pub(super) previous_end: u64,
    /// The chain value at that end.
    pub(super) previous_chain: u64,
    pub(super) hard_state: HardState,
    pub(super) compacted: EntryId,
    /// The log's last entry when this segment began.
    pub(super) last: EntryId,
}

/// Why the first sector of a segment is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// All zeros: nothing was ever written.
    Blank,
    /// Not what was written.
    Damaged,
    /// Written by another version of the format.
    Version(u32),
}

/// The fixed part of a record that was found to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind_code: u8,
    /// Bytes of the body, without padding.
    pub(super) length: usize,
    /// Up to here the segment was durable when the record was made.
    pub(super) synced_to: u64,
    /// The chain value before the record.
    pub(super) chain: u64,
    body_sum: u64,
    /// The chain value after the record.
    pub(super) sum: u64,
}

impl SegmentHeader {
    /// The header's sector, and its checksum: the salt of the segment's records and their chain's start.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], u64) {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(SEGMENT_MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((HEADER_BYTES as u32).to_le_bytes());
        bytes.extend(self.identity.cluster.0);
        let vote = self.hard_state.vote.map_or(0, |node| node.0);
        let words = [
            self.identity.node.0,
            self.sequence,
            self.length,
            self.previous_end,
            self.previous_chain,
            self.hard_state.term.0,
            vote,
            self.hard_state.commit.0,
            self.compacted.index.0,
            self.compacted.term.0,
            self.last.index.0,
            self.last.term.0,
        ];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(HEADER_BYTES, 0);
        let sum = crc_fast::crc64_nvme(&bytes[..HEADER_SUM_AT]);
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        (header, sum)
    }

    /// Reads a header and its salt out of a segment's first bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<(SegmentHeader, u64), HeaderFault> {
        let bytes = &bytes[..bytes.len().min(HEADER_BYTES)];
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(HeaderFault::Blank);
        }
        if bytes.len() < HEADER_BYTES || bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Damaged);
        }
        let mut reader = Reader(&bytes[8..HEADER_SUM_AT]);
        let version = reader.u32().ok_or(HeaderFault::Damaged)?;
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let sum = crc_fast::crc64_nvme(&bytes[..HEADER_SUM_AT]);
        if bytes[HEADER_SUM_AT..] != sum.to_le_bytes() {
            return Err(HeaderFault::Damaged);
        }
        let header = SegmentHeader::decode_fields(&mut reader).ok_or(HeaderFault::Damaged)?;
        Ok((header, sum))
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<SegmentHeader> {
        let header_bytes = reader.u32()?;
        let cluster = ClusterId(reader.bytes(16)?.try_into().ok()?);
        let header = SegmentHeader {
            identity: LogIdentity { cluster, node: NodeId(reader.u64()?) },
            sequence: reader.u64()?,
            length: reader.u64()?,
            previous_end: reader.u64()?,
            previous_chain: reader.u64()?,
            hard_state: reader.hard_state()?,
            compacted: reader.entry_id()?,
            last: reader.entry_id()?,
        };
        let rest_is_blank = reader.0.iter().all(|byte| *byte == 0);
        (header_bytes as usize == HEADER_BYTES && rest_is_blank).then_some(header)
    }
}

/// Bytes that a record with such a body takes in its segment.
pub(super) fn record_bytes(body: usize) -> usize {
    RECORD_HEADER_BYTES + body.next_multiple_of(RECORD_ALIGN)
}

/// Appends the record for `body` to `out`, as it must stand at `offset`; returns the chain value after it.
pub(super) fn encode_record(out: &mut Vec<u8>, kind: RecordKind, body: &[u8], place: Place) -> u64 {
    encode_record_of(out, kind, place, |out| out.extend_from_slice(body))
}

/// The same for a batch, whose body is not put together elsewhere first.
pub(super) fn encode_batch_record(out: &mut Vec<u8>, batch: &LogBatch, place: Place) -> u64 {
    out.reserve(record_bytes(batch_body_bytes(batch)));
    encode_record_of(out, RecordKind::Batch, place, |out| encode_batch_to(batch, out))
}

fn encode_record_of(out: &mut Vec<u8>, kind: RecordKind, place: Place, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES, 0);
    body(out);
    let body_bytes = out.len() - start - RECORD_HEADER_BYTES;
    out.resize(start + record_bytes(body_bytes), 0);
    let (header, stored) = out[start..].split_at_mut(RECORD_HEADER_BYTES);
    mask(stored, place.salt, place.offset);
    header[0..4].copy_from_slice(&RECORD_MAGIC);
    header[4] = kind as u8;
    header[8..12].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(place.synced_to as u32).to_le_bytes());
    header[16..24].copy_from_slice(&place.chain.to_le_bytes());
    header[24..32].copy_from_slice(&crc_fast::crc64_nvme(stored).to_le_bytes());
    let sum = header_sum(&header[..32], place.salt, place.offset);
    header[32..40].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) salt: u64,
    pub(super) offset: u64,
    pub(super) synced_to: u64,
    pub(super) chain: u64,
}

impl RecordHeader {
    /// The record header at `offset` of a segment, if one stands there that was written for that place.
    pub(super) fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<RecordHeader> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if bytes[..4] != RECORD_MAGIC {
            return None;
        }
        let mut reader = Reader(&bytes[4..]);
        let kind_code = reader.bytes(4)?[0];
        let length = reader.u32()? as usize;
        let synced_to = u64::from(reader.u32()?);
        let (chain, body_sum, sum) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let whole = sum == header_sum(&bytes[..32], salt, offset);
        whole.then_some(RecordHeader { kind_code, length, synced_to, chain, body_sum, sum })
    }

    /// The record's body, if `stored` (its bytes in the segment, with padding) is what was written.
    pub(super) fn body(&self, stored: &[u8], salt: u64, offset: u64) -> Option<Vec<u8>> {
        if stored.len() != self.length.next_multiple_of(RECORD_ALIGN) || crc_fast::crc64_nvme(stored) != self.body_sum {
            return None;
        }
        let mut body = stored.to_vec();
        mask(&mut body, salt, offset);
        body.truncate(self.length);
        Some(body)
    }
}

fn header_sum(fields: &[u8], salt: u64, offset: u64) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&salt.to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.update(fields);
    digest.finalize()
}

/// Lays a stream of noise over a body (and takes it off again). A sector of zeros in a segment then means
/// that nothing was written there, whatever the entries carry: entries full of zeros are common, and without
/// the noise a damaged one could not be told from one that a crash tore.
fn mask(body: &mut [u8], salt: u64, offset: u64) {
    for (number, word) in body.chunks_exact_mut(RECORD_ALIGN).enumerate() {
        let mut noise = salt ^ (offset + 8 * number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        noise = (noise ^ (noise >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        noise = (noise ^ (noise >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        noise ^= noise >> 31;
        for (byte, noise) in word.iter_mut().zip(noise.to_le_bytes()) {
            *byte ^= noise;
        }
    }
}

/// The body of a [`RecordKind::Batch`].
#[cfg(test)]
pub(super) fn encode_batch(batch: &LogBatch) -> Vec<u8> {
    let mut body = Vec::with_capacity(batch_body_bytes(batch));
    encode_batch_to(batch, &mut body);
    body
}

fn encode_batch_to(batch: &LogBatch, body: &mut Vec<u8>) {
    let mut flags = 0;
    flags |= if batch.hard_state.is_some() { HAS_HARD_STATE } else { 0 };
    flags |= if batch.snapshot_mark.is_some() { HAS_SNAPSHOT_MARK } else { 0 };
    body.extend(flags.to_le_bytes());
    body.extend((batch.entries.len() as u32).to_le_bytes());
    if let Some(state) = &batch.hard_state {
        let words = [state.term.0, state.vote.map_or(0, |node| node.0), state.commit.0];
        body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    if let Some(mark) = &batch.snapshot_mark {
        body.extend(encode_mark(*mark));
    }
    if let Some(first) = batch.entries.first() {
        body.extend(first.index.0.to_le_bytes());
    }
    for entry in &batch.entries {
        body.extend(entry.term.0.to_le_bytes());
        body.extend((entry.data.len() as u32).to_le_bytes());
        body.extend_from_slice(&entry.data);
    }
}

/// How long the body of a batch is.
pub(super) fn batch_body_bytes(batch: &LogBatch) -> usize {
    let states = if batch.hard_state.is_some() { 24 } else { 0 } + if batch.snapshot_mark.is_some() { 16 } else { 0 };
    let first = if batch.entries.is_empty() { 0 } else { 8 };
    8 + states + first + batch.entries.iter().map(|entry| 12 + entry.data.len()).sum::<usize>()
}

/// Reads the body of a [`RecordKind::Batch`]. `None`: this is no such body.
pub(super) fn decode_batch(body: &[u8]) -> Option<LogBatch> {
    let mut reader = Reader(body);
    let (flags, count) = (reader.u32()?, reader.u32()?);
    if flags & !(HAS_HARD_STATE | HAS_SNAPSHOT_MARK) != 0 {
        return None;
    }
    let hard_state = if flags & HAS_HARD_STATE != 0 { Some(reader.hard_state()?) } else { None };
    let snapshot_mark = if flags & HAS_SNAPSHOT_MARK != 0 { Some(reader.entry_id()?) } else { None };
    let first = if count > 0 { reader.u64()? } else { 0 };
    let mut entries = Vec::new();
    for number in 0..u64::from(count) {
        let index = LogIndex(first.checked_add(number)?);
        let term = Term(reader.u64()?);
        let length = reader.u32()? as usize;
        if length > ENTRY_BYTES_MAX {
            return None;
        }
        entries.push(LogEntry { index, term, data: reader.bytes(length)?.to_vec() });
    }
    reader.0.is_empty().then_some(LogBatch { hard_state, entries, snapshot_mark })
}

/// The body of a [`RecordKind::Mark`].
pub(super) fn encode_mark(mark: EntryId) -> Vec<u8> {
    [mark.index.0, mark.term.0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Reads the body of a [`RecordKind::Mark`]. `None`: this is no such body.
pub(super) fn decode_mark(body: &[u8]) -> Option<EntryId> {
    let mut reader = Reader(body);
    let mark = reader.entry_id()?;
    reader.0.is_empty().then_some(mark)
}

/// Takes fixed fields off the front of bytes, as long as there are any.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn hard_state(&mut self) -> Option<HardState> {
        let (term, vote, commit) = (self.u64()?, self.u64()?, self.u64()?);
        let vote = (vote != 0).then_some(NodeId(vote));
        Some(HardState { term: Term(term), vote, commit: LogIndex(commit) })
    }

    fn entry_id(&mut self) -> Option<EntryId> {
        Some(EntryId { index: LogIndex(self.u64()?), term: Term(self.u64()?) })
    }
}

#[cfg(test)]
mod tests;
