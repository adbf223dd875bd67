//! Opening a log: which bytes count, which were torn by a crash, and which are damaged.
//!
//! A segment that has a successor must be whole up to the end that the successor's header names. Only the last
//! one may end early, where a record is not whole. That is a *tear* if a part of the record within one sector was
//! never written, and *damage* if all of it was, or if a later record was made when this one was already durable.

use super::format::{self, HeaderFault, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SegmentHeader};
use super::{Active, Cut, HEADER_BYTES, Log, LogEntry, LogError, LogOptions, Recovered, Sealed};
use super::{Ahead, SEGMENT_BYTES_MAX, SPARE_NAME, note_entries, outline::Outline, segment_name, start_segment};
use crate::disk::{Disk, DiskFile, SECTOR_BYTES};
use gavel_types::LogIndex;
use std::sync::Arc;

pub(super) fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, Recovered), LogError> {
    let (headers, blank) = read_headers(&disk, &options)?;
    let Some(last) = headers.last() else {
        if !options.create {
            return Err(LogError::NoLog { directory: disk.describe("") });
        }
        remove_blank(&disk, blank)?;
        disk.remove_if_there(SPARE_NAME)?;
        let outline = Outline::default();
        let active = start_segment(&disk, &options, &outline, None, 0)?;
        let log = Log { disk, options, outline, sealed: Vec::new(), active, ahead: Ahead::Nothing, stopped: None };
        return Ok((log, Recovered::default()));
    };
    let mut replay = Replay::start(&headers[0].header);
    let mut sealed = Vec::new();
    for pair in headers.windows(2) {
        replay.sealed_segment(&disk, &pair[0], &pair[1].header, &mut sealed)?;
    }
    let tail = replay.last_segment(&disk, last, &mut sealed)?;
    replay.check_start(&disk, headers[0].header.sequence)?;
    // So far the disk was only read.
    remove_blank(&disk, blank)?;
    disk.remove_if_there(SPARE_NAME)?;
    let mut active = tail.settle(&disk, last)?;
    let mut cut = None;
    if tail.torn {
        cut = Some(Cut { file: disk.describe(&last.name), offset: active.end() });
        let next = start_segment(&disk, &options, &replay.outline, Some((&active, None)), 0)?;
        sealed.push(Sealed { sequence: active.sequence, newest: active.newest });
        active = next;
    }
    let outline = replay.outline;
    let mut hard_state = outline.hard_state;
    hard_state.commit = hard_state.commit.max(outline.compacted.index);
    let recovered = Recovered { hard_state, compacted: outline.compacted, entries: replay.entries, cut };
    Ok((Log { disk, options, outline, sealed, active, ahead: Ahead::Nothing, stopped: None }, recovered))
}

/// A segment that is there, with a good header.
struct Found {
    name: String,
    header: SegmentHeader,
    salt: u64,
}

/// The headers of all segments, oldest first, and the number of one that was made and never started.
fn read_headers(disk: &Arc<dyn Disk>, options: &LogOptions) -> Result<(Vec<Found>, Option<u64>), LogError> {
    let mut sequences: Vec<u64> = disk.list()?.iter().filter_map(|name| parse_name(name)).collect();
    sequences.sort_unstable();
    let mut blank = None;
    if let Some(newest) = sequences.last().copied()
        && is_blank(disk, &segment_name(newest))?
    {
        // Made, but a crash came before its header was durable: nothing was ever in it.
        if newest != 1 && sequences.len() == 1 {
            return Err(LogError::Missing { file: disk.describe(&segment_name(newest - 1)) });
        }
        blank = sequences.pop();
    }
    for pair in sequences.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(LogError::Missing { file: disk.describe(&segment_name(pair[0] + 1)) });
        }
    }
    if blank.is_some_and(|blank| sequences.last().is_some_and(|last| last + 1 != blank)) {
        let newest = sequences.last().copied().unwrap_or(0);
        return Err(LogError::Missing { file: disk.describe(&segment_name(newest + 1)) });
    }
    let found = sequences.into_iter().map(|sequence| read_header(disk, options, sequence));
    Ok((found.collect::<Result<Vec<Found>, LogError>>()?, blank))
}

fn remove_blank(disk: &Arc<dyn Disk>, blank: Option<u64>) -> Result<(), LogError> {
    if let Some(sequence) = blank {
        disk.remove(&segment_name(sequence))?;
        disk.sync_dir()?;
    }
    Ok(())
}

fn read_header(disk: &Arc<dyn Disk>, options: &LogOptions, sequence: u64) -> Result<Found, LogError> {
    let name = segment_name(sequence);
    let file = disk.open(&name)?;
    let mut bytes = [0; HEADER_BYTES];
    let count = file.read_at(0, &mut bytes)?;
    let damaged = |what| LogError::Damaged { file: disk.describe(&name), offset: 0, what };
    let (header, salt) = SegmentHeader::decode(&bytes[..count]).map_err(|fault| match fault {
        HeaderFault::Blank => damaged("the segment's header was never written, or lost"),
        HeaderFault::Damaged => damaged("the segment's header is not what was written"),
        HeaderFault::Version(found) => LogError::Version { file: disk.describe(&name), found, known: format::VERSION },
    })?;
    if header.identity != options.identity {
        let (found, expected) = (header.identity, options.identity);
        return Err(LogError::WrongOwner { file: disk.describe(&name), found, expected });
    }
    if header.sequence != sequence {
        return Err(damaged("the segment has another one's number"));
    }
    let possible = HEADER_BYTES as u64..=SEGMENT_BYTES_MAX;
    if !possible.contains(&header.length) || file.length()? < header.length {
        return Err(damaged("the segment is shorter than it was made, or of a length that none has"));
    }
    Ok(Found { name, header, salt })
}

/// Whether nothing was ever written to the file.
fn is_blank(disk: &Arc<dyn Disk>, name: &str) -> Result<bool, LogError> {
    let file = disk.open(name)?;
    let mut piece = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let count = file.read_at(offset, &mut piece)?;
        if count == 0 {
            return Ok(true);
        }
        if !is_zeros(&piece[..count]) {
            return Ok(false);
        }
        offset += count as u64;
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn parse_name(name: &str) -> Option<u64> {
    let sequence = u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()?;
    (sequence > 0 && segment_name(sequence) == name).then_some(sequence)
}

/// What has been read so far.
struct Replay {
    outline: Outline,
    entries: Vec<LogEntry>,
    /// The entries read so far start after this.
    base: LogIndex,
}

/// Where the records of a segment were found to end.
struct Walk {
    end: u64,
    chain: u64,
    /// The furthest that a record says was durable before it.
    proven: u64,
    newest: LogIndex,
}

/// The last segment, read.
struct Tail {
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
    walk: Walk,
    /// Something follows that a crash tore.
    torn: bool,
}

impl Replay {
    fn start(first: &SegmentHeader) -> Replay {
        let outline = Outline::resume(first.hard_state, first.compacted, first.last);
        Replay { outline, entries: Vec::new(), base: first.last.index }
    }

    /// Everything between the compaction mark and the first entry that was read must be nothing.
    fn check_start(&self, disk: &Arc<dyn Disk>, oldest: u64) -> Result<(), LogError> {
        if self.base <= self.outline.compacted.index {
            return Ok(());
        }
        Err(LogError::Missing { file: disk.describe(&segment_name(oldest.saturating_sub(1))) })
    }

    fn sealed_segment(
        &mut self,
        disk: &Arc<dyn Disk>,
        found: &Found,
        next: &SegmentHeader,
        sealed: &mut Vec<Sealed>,
    ) -> Result<(), LogError> {
        let bytes = read_segment(&disk.open(&found.name)?, found)?;
        let damaged = |offset, what| LogError::Damaged { file: disk.describe(&found.name), offset, what };
        let end = next.previous_end;
        if end < HEADER_BYTES as u64 || end > found.header.length {
            return Err(damaged(0, "the next segment names an end outside of this one"));
        }
        let walk = self.walk(&bytes[..end as usize], found, sealed, disk)?;
        if walk.end != end {
            return Err(damaged(walk.end, "a record is not what was written"));
        }
        if walk.chain != next.previous_chain {
            return Err(damaged(walk.end, "the next segment continues another one"));
        }
        let outline = &self.outline;
        if (outline.hard_state, outline.compacted, outline.last) != (next.hard_state, next.compacted, next.last) {
            return Err(damaged(walk.end, "the next segment starts from another state"));
        }
        sealed.push(Sealed { sequence: found.header.sequence, newest: walk.newest });
        Ok(())
    }

    /// Reads the last segment, which a crash may have torn.
    fn last_segment(&mut self, disk: &Arc<dyn Disk>, found: &Found, sealed: &mut [Sealed]) -> Result<Tail, LogError> {
        let file = disk.open(&found.name)?;
        let bytes = read_segment(&file, found)?;
        let walk = self.walk(&bytes, found, sealed, disk)?;
        let end = walk.end as usize;
        let torn = !is_zeros(&bytes[end..]);
        if torn && let Some(what) = damage(&bytes, end, found.salt) {
            return Err(LogError::Damaged { file: disk.describe(&found.name), offset: walk.end, what });
        }
        Ok(Tail { file, bytes, walk, torn })
    }

    /// Takes in record after record, up to the first that is not whole.
    fn walk(
        &mut self,
        bytes: &[u8],
        found: &Found,
        sealed: &mut [Sealed],
        disk: &Arc<dyn Disk>,
    ) -> Result<Walk, LogError> {
        let start = HEADER_BYTES as u64;
        let mut walk = Walk { end: start, chain: found.salt, proven: start, newest: LogIndex(0) };
        while let Some((header, body)) = whole_record(bytes, walk.end, found.salt) {
            let damaged = |what| LogError::Damaged { file: disk.describe(&found.name), offset: walk.end, what };
            if header.chain != walk.chain {
                return Err(damaged("a record does not continue the one before"));
            }
            if header.synced_to > walk.end || header.synced_to < walk.proven {
                return Err(damaged("a record contradicts the ones before about what was durable"));
            }
            let newest = self.take(header.kind_code, &body, sealed, walk.newest).map_err(damaged)?;
            walk = Walk {
                end: walk.end + format::record_bytes(header.length) as u64,
                chain: header.sum,
                proven: header.synced_to,
                newest,
            };
        }
        Ok(walk)
    }

    fn take(
        &mut self,
        kind_code: u8,
        body: &[u8],
        sealed: &mut [Sealed],
        mut newest: LogIndex,
    ) -> Result<LogIndex, &'static str> {
        if kind_code == RecordKind::Mark as u8 {
            let mark = format::decode_mark(body).ok_or("a mark that cannot be read")?;
            self.outline.compact(mark)?;
            self.drop_compacted();
            return Ok(newest);
        }
        if kind_code != RecordKind::Batch as u8 {
            return Err("a record of a kind that this format does not have");
        }
        let batch = format::decode_batch(body).ok_or("a batch that cannot be read")?;
        self.outline.take(&batch)?;
        note_entries(sealed, &mut newest, &batch);
        if let Some(mark) = batch.snapshot_mark {
            self.entries.clear();
            self.base = mark.index;
        }
        if let Some(first) = batch.entries.first() {
            let before = LogIndex(first.index.0 - 1);
            self.entries.truncate(before.0.saturating_sub(self.base.0) as usize);
            self.base = self.base.min(before);
        }
        self.entries.extend(batch.entries);
        Ok(newest)
    }

    fn drop_compacted(&mut self) {
        let compacted = self.outline.compacted.index;
        let count = compacted.0.saturating_sub(self.base.0).min(self.entries.len() as u64);
        self.entries.drain(..count as usize);
        self.base.0 += count;
    }
}

/// The record at `offset`, if all of it is what was written there.
fn whole_record(bytes: &[u8], offset: u64, salt: u64) -> Option<(RecordHeader, Vec<u8>)> {
    let at = usize::try_from(offset).ok()?;
    let header = RecordHeader::decode(bytes.get(at..)?, salt, offset)?;
    let stored = bytes.get(at + RECORD_HEADER_BYTES..at.checked_add(format::record_bytes(header.length))?)?;
    let body = header.body(stored, salt, offset)?;
    Some((header, body))
}

/// Why the record at `end`, which is not whole, cannot be one that a crash tore; `None` if it can.
fn damage(bytes: &[u8], end: usize, salt: u64) -> Option<&'static str> {
    let later = (end + RECORD_ALIGN..bytes.len()).step_by(RECORD_ALIGN);
    let proof = |at: usize| {
        RecordHeader::decode(&bytes[at..], salt, at as u64).is_some_and(|header| header.synced_to > end as u64)
    };
    if later.into_iter().any(proof) {
        return Some("a record is not what was written, and later ones say that it was durable");
    }
    let header = RecordHeader::decode(&bytes[end..], salt, end as u64);
    let length = header.map_or(RECORD_HEADER_BYTES, |header| format::record_bytes(header.length));
    let Some(record) = bytes.get(end..end + length) else {
        // Too close to the end of the segment for a record: nothing was ever written there.
        return Some("bytes where no record can be");
    };
    let in_first_sector = (SECTOR_BYTES - end % SECTOR_BYTES).min(length);
    let (first, rest) = record.split_at(in_first_sector);
    let unwritten = is_zeros(first) || rest.chunks(SECTOR_BYTES).any(is_zeros);
    if unwritten { None } else { Some("a record was written completely and is not what was written") }
}

fn read_segment(file: &Arc<dyn DiskFile>, found: &Found) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; found.header.length as usize];
    let count = file.read_at(0, &mut bytes)?;
    // Shorter than its length only if someone cuts the file while it is read; zeros are refused further on.
    bytes[count..].fill(0);
    Ok(bytes)
}

impl Tail {
    /// Makes what was read durable. It may have been read from the machine's cache after a sync of an earlier
    /// life failed; then only writing the same bytes again makes a sync mean something.
    fn settle(&self, disk: &Arc<dyn Disk>, found: &Found) -> Result<Active, LogError> {
        self.file.write_at(0, &self.bytes[..HEADER_BYTES])?;
        let unproven = &self.bytes[self.walk.proven as usize..self.walk.end as usize];
        self.file.write_at(self.walk.proven, unproven)?;
        self.file.sync_data()?;
        disk.sync_dir()?;
        Ok(Active {
            sequence: found.header.sequence,
            newest: self.walk.newest,
            file: Arc::clone(&self.file),
            length: found.header.length,
            salt: found.salt,
            chain: self.walk.chain,
            synced_to: self.walk.end,
            written_to: self.walk.end,
            buffer: Vec::new(),
        })
    }
}
