//! The replicated log at rest: checksummed segment files, one sync for many batches.
//!
//! What it is: the disk side of the quorum's window. Batches go in ([`Log::append`]), become durable
//! ([`Log::sync`]), come back after a crash ([`Log::open`]), and are dropped once the store holds what they
//! did ([`Log::compact`]). What it is not: the consensus (it only refuses what would break it), nor a place to
//! read entries from while running (the window is in memory). It has no thread: the caller decides who waits.
//! docs/formats/log.md has the bytes.
//!
//! Invariants:
//! 1. Every byte of a segment is written at most once, into zeros (reopening may write the same byte again).
//! 2. A segment's header is durable before a record is written; all of a segment is durable before the next
//!    one's header, which says where it ends, is written. So only the last segment can have a torn tail.
//! 3. What was synced comes back, or the log refuses to open. What was not, comes back up to some batch.
//! 4. A segment is removed only after a newer one durably holds the hard state and a mark that covers its entries;
//!    oldest first, each made durable before the next.
//! 5. After a failed write or sync nothing is written until the log is opened again.

mod error;
mod format;
mod outline;
mod recover;

pub use error::LogError;

use crate::disk::{Disk, DiskError, DiskFile};
use format::{HEADER_BYTES, Place, RecordKind, SegmentHeader};
use gavel_types::limits::ENTRY_BYTES_MAX;
use gavel_types::{ClusterId, LogIndex, NodeId, Term};
use outline::Outline;
use std::fmt;
use std::sync::Arc;

/// Bytes of a new segment, unless [`LogOptions`] or a large batch says otherwise.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Largest segment, in bytes: offsets within it are 32-bit numbers.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 8 * 1024;
/// Largest batch, encoded, in bytes: its segment is made as large as it needs.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// See [`LogOptions`]: one large write costs the disk less than many small ones.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Space at the end of a segment that only compaction marks may use, so that a full disk can be compacted.
const MARK_RESERVE_BYTES: u64 = 2048;
/// Disks are written in blocks of so many bytes.
const BLOCK_BYTES: u64 = 4096;
/// The file of a segment that was made ahead.
const SPARE_NAME: &str = "spare";

const _: () = assert!(ENTRY_BYTES_MAX * 2 <= BATCH_BYTES_MAX);
const _: () = assert!((BATCH_BYTES_MAX as u64) * 2 <= SEGMENT_BYTES_MAX);
const _: () = assert!(MARK_RESERVE_BYTES + 2 * (HEADER_BYTES as u64) <= SEGMENT_BYTES_MIN);

/// Whose log it is. Another one's is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node; one whose disk was wiped gets a new id.
    pub node: NodeId,
}

impl fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {}", self.node, self.cluster)
    }
}

/// What a voter must remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: Option<NodeId>,
    /// Entries up to here are known to be committed.
    pub commit: LogIndex,
}

/// Names an entry: its place and the term that put it there. Zeros: before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryId {
    /// Its place.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// At most [`ENTRY_BYTES_MAX`] bytes.
    pub data: Vec<u8>,
}

/// What is to be remembered together: after a crash all of a batch is there, or nothing of it.
///
/// Taken in this order: the mark, the entries, the hard state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries that follow each other. They replace what the log has from the first one's index on.
    pub entries: Vec<LogEntry>,
    /// A snapshot was installed: the log is emptied and starts after this.
    pub snapshot_mark: Option<EntryId>,
}

impl LogBatch {
    fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.entries.is_empty() && self.snapshot_mark.is_none()
    }
}

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Whose log it must be.
    pub identity: LogIdentity,
    /// Make a new log if there is none. A node that has run before says `false`: a voter that forgot its votes is a danger.
    pub create: bool,
    /// Bytes of new segments; kept within [`SEGMENT_BYTES_MIN`] and [`SEGMENT_BYTES_MAX`] / 2.
    pub segment_bytes: u64,
    /// Appended bytes that wait in memory before they are written (not synced) early.
    buffer_bytes: usize,
}

impl LogOptions {
    /// The usual options.
    pub fn new(identity: LogIdentity, create: bool) -> LogOptions {
        LogOptions { identity, create, segment_bytes: SEGMENT_BYTES, buffer_bytes: BUFFER_BYTES }
    }
}

/// What a log held when it was opened. All of it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The hard state. Its commit is at least the compacted index: what was compacted had been committed.
    pub hard_state: HardState,
    /// The log starts after this.
    pub compacted: EntryId,
    /// All entries from there on, without gaps.
    pub entries: Vec<LogEntry>,
    /// What a crash had left half written, and was cut off.
    pub cut: Option<Cut>,
}

/// The end of the last segment's good records, with something behind it that a crash tore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: String,
    /// Where the good records end.
    pub offset: u64,
}

/// The replicated log of one node, open for appending.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    outline: Outline,
    /// Segments before the active one, oldest first.
    sealed: Vec<Sealed>,
    active: Active,
    ahead: Ahead,
    /// The first failure; from then on nothing is done.
    stopped: Option<String>,
}

/// What is known of the next segment.
#[derive(Debug, Default)]
enum Ahead {
    /// It was not ordered.
    #[default]
    Nothing,
    /// Somebody makes it.
    Ordered,
    Made(Spare),
    /// It could not be made; the one after it may be.
    Failed,
}

/// A segment that was made ahead, in its file, and has not begun. To make one takes about as long as a dozen syncs.
#[derive(Debug)]
pub struct Spare {
    length: u64,
}

/// An order to make a [`Spare`].
#[derive(Debug)]
pub struct SpareOrder {
    disk: Arc<dyn Disk>,
    length: u64,
}

impl SpareOrder {
    /// Makes it. Does I/O; may run beside everything that is done to the log.
    ///
    /// # Errors
    /// The disk's. It is no failure of the log: the segment is made when it is needed.
    pub fn make(self) -> Result<Spare, DiskError> {
        self.disk.remove_if_there(SPARE_NAME)?;
        let file = self.disk.create(SPARE_NAME)?;
        file.allocate(self.length)?;
        file.sync_data()?;
        Ok(Spare { length: self.length })
    }
}

/// A segment that gets no more records.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    sequence: u64,
    /// The highest index of its entries that still count; 0 if there are none.
    newest: LogIndex,
}

/// The segment that gets the records.
#[derive(Debug)]
struct Active {
    sequence: u64,
    newest: LogIndex,
    file: Arc<dyn DiskFile>,
    length: u64,
    salt: u64,
    chain: u64,
    /// Up to here the segment is durable.
    synced_to: u64,
    /// Up to here it is written; `buffer` comes next.
    written_to: u64,
    buffer: Vec<u8>,
}

impl Active {
    fn end(&self) -> u64 {
        self.written_to + self.buffer.len() as u64
    }

    fn write_out(&mut self) -> Result<(), DiskError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let end = self.end();
        // Zeros take the place of zeros up to the end of a block: what is behind need not be read to write the whole of it.
        let whole_blocks = end.next_multiple_of(BLOCK_BYTES).min(self.length).max(end);
        self.buffer.resize((whole_blocks - self.written_to) as usize, 0);
        self.file.write_at(self.written_to, &self.buffer)?;
        self.written_to = end;
        self.buffer.clear();
        // A batch may have been much larger than what is gathered otherwise.
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.write_out()?;
        if self.synced_to < self.written_to {
            self.file.sync_data()?;
            self.synced_to = self.written_to;
        }
        Ok(())
    }

    fn push(&mut self, kind: RecordKind, body: &[u8]) {
        let place = self.next_place();
        self.chain = format::encode_record(&mut self.buffer, kind, body, place);
    }

    fn next_place(&self) -> Place {
        Place { salt: self.salt, offset: self.end(), synced_to: self.synced_to, chain: self.chain }
    }

    fn push_batch(&mut self, batch: &LogBatch) {
        let place = self.next_place();
        self.chain = format::encode_batch_record(&mut self.buffer, batch, place);
    }
}

impl Log {
    /// Opens the log in `disk`, and reads all of it. Cuts off what a crash tore; makes the rest durable.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Missing`], [`LogError::Version`] and [`LogError::WrongOwner`] if the log
    /// is not whole, or not ours; nothing has been changed then. [`LogError::NoLog`] if there is none and
    /// `options.create` is false.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, Recovered), LogError> {
        let segment_bytes = options.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX / 2);
        recover::open(disk, LogOptions { segment_bytes, ..options })
    }

    /// Takes a batch. It is durable only after the next [`Log::sync`]; it may be written (or a segment be
    /// finished) before.
    ///
    /// # Errors
    /// [`LogError::TooLarge`] and [`LogError::Contradiction`]: nothing was done. [`LogError::Disk`]: the log has stopped.
    pub fn append(&mut self, batch: &LogBatch) -> Result<(), LogError> {
        self.check_running()?;
        if batch.is_empty() {
            return Ok(());
        }
        if let Some(entry) = batch.entries.iter().find(|entry| entry.data.len() > ENTRY_BYTES_MAX) {
            return Err(LogError::TooLarge { what: "a log entry", bytes: entry.data.len(), max: ENTRY_BYTES_MAX });
        }
        let bytes = format::batch_body_bytes(batch);
        if bytes > BATCH_BYTES_MAX {
            return Err(LogError::TooLarge { what: "a batch for the log", bytes, max: BATCH_BYTES_MAX });
        }
        let mut outline = self.outline.clone();
        outline.take(batch).map_err(LogError::Contradiction)?;
        self.make_room(format::record_bytes(bytes) as u64, MARK_RESERVE_BYTES)?;
        self.active.push_batch(batch);
        self.outline = outline;
        self.note_entries(batch);
        if self.active.buffer.len() >= self.options.buffer_bytes {
            let written = self.active.write_out();
            self.stop_on_error(written)?;
        }
        Ok(())
    }

    /// Makes everything that was appended durable, with one sync of one file.
    ///
    /// # Errors
    /// [`LogError::Disk`]: it is open what is durable, and the log has stopped.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_running()?;
        let synced = self.active.sync();
        self.stop_on_error(synced)
    }

    /// An order for the next segment, if it will be needed soon, and no order is out. What comes of it, [`Log::take_spare`] is to be told.
    pub fn order_spare(&mut self) -> Option<SpareOrder> {
        let is_due = self.active.end() >= self.active.length / 2 && self.stopped.is_none();
        if !is_due || !matches!(self.ahead, Ahead::Nothing) {
            return None;
        }
        self.ahead = Ahead::Ordered;
        Some(SpareOrder { disk: self.disk.clone(), length: self.options.segment_bytes })
    }

    /// What was ordered has been made; none: it could not be.
    pub fn take_spare(&mut self, spare: Option<Spare>) {
        self.ahead = spare.map_or(Ahead::Failed, Ahead::Made);
    }

    /// The entries up to `up_to` are not needed any more. Syncs, then removes the segments that hold nothing else.
    /// Does nothing for what is compacted already.
    ///
    /// # Errors
    /// [`LogError::Contradiction`] if the log does not reach so far; [`LogError::Disk`]: the log has stopped.
    pub fn compact(&mut self, up_to: LogIndex) -> Result<(), LogError> {
        self.check_running()?;
        if up_to <= self.outline.compacted.index {
            return Ok(());
        }
        let term = self.outline.term_of(up_to).ok_or(LogError::Contradiction("a compaction behind the last entry"))?;
        let mark = EntryId { index: up_to, term };
        let body = format::encode_mark(mark);
        self.make_room(format::record_bytes(body.len()) as u64, 0)?;
        self.outline.compact(mark).map_err(LogError::Contradiction)?;
        self.active.push(RecordKind::Mark, &body);
        self.sync()?;
        let removed = self.remove_unneeded();
        self.stop_on_error(removed)
    }

    /// The hard state, the start and the last entry of the log, unsynced batches included.
    pub fn ends(&self) -> (HardState, EntryId, EntryId) {
        (self.outline.hard_state, self.outline.compacted, self.outline.last)
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.sealed.len() + 1
    }

    fn check_running(&self) -> Result<(), LogError> {
        match &self.stopped {
            Some(cause) => Err(LogError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn stop_on_error(&mut self, result: Result<(), DiskError>) -> Result<(), LogError> {
        result.map_err(|error| {
            self.stopped = Some(error.to_string());
            LogError::Disk(error)
        })
    }

    /// Starts a new segment if a record of `bytes` does not fit and leave `reserve` bytes free.
    fn make_room(&mut self, bytes: u64, reserve: u64) -> Result<(), LogError> {
        if self.active.end() + bytes + reserve <= self.active.length {
            return Ok(());
        }
        let rolled = self.roll(bytes);
        self.stop_on_error(rolled)
    }

    fn roll(&mut self, bytes: u64) -> Result<(), DiskError> {
        self.active.sync()?;
        let spare = match std::mem::take(&mut self.ahead) {
            Ahead::Made(spare) => Some(spare),
            // It comes too late for this one.
            Ahead::Ordered => {
                self.ahead = Ahead::Ordered;
                None
            }
            Ahead::Failed | Ahead::Nothing => None,
        };
        let next = start_segment(&self.disk, &self.options, &self.outline, Some((&self.active, spare)), bytes)?;
        self.sealed.push(Sealed { sequence: self.active.sequence, newest: self.active.newest });
        self.active = next;
        Ok(())
    }

    /// Keeps count of which segment holds which entries that still matter.
    fn note_entries(&mut self, batch: &LogBatch) {
        note_entries(&mut self.sealed, &mut self.active.newest, batch);
    }

    fn remove_unneeded(&mut self) -> Result<(), DiskError> {
        let compacted = self.outline.compacted.index;
        let keep = self.sealed.iter().position(|segment| segment.newest > compacted).unwrap_or(self.sealed.len());
        for segment in self.sealed.drain(..keep) {
            self.disk.remove(&segment_name(segment.sequence))?;
            // One by one: a crash must not leave a hole between two segments that remain.
            self.disk.sync_dir()?;
        }
        Ok(())
    }
}

fn note_entries(sealed: &mut [Sealed], newest: &mut LogIndex, batch: &LogBatch) {
    let first = batch.entries.first().map(|entry| entry.index);
    let cut = if batch.snapshot_mark.is_some() { Some(LogIndex(1)) } else { first };
    if let Some(cut) = cut {
        let below = LogIndex(cut.0.saturating_sub(1));
        for segment in sealed {
            segment.newest = segment.newest.min(below);
        }
        *newest = (*newest).min(below);
    }
    if let Some(last) = batch.entries.last() {
        *newest = last.index;
    }
}

/// Makes the segment after `previous` (or the first), durably, with room for a record of `bytes`: out of the spare one, if that is there and long enough.
fn start_segment(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    outline: &Outline,
    previous: Option<(&Active, Option<Spare>)>,
    bytes: u64,
) -> Result<Active, DiskError> {
    let (previous, spare) = previous.map_or((None, None), |(previous, spare)| (Some(previous), spare));
    let sequence = previous.map_or(1, |segment| segment.sequence + 1);
    let needed = HEADER_BYTES as u64 + bytes + MARK_RESERVE_BYTES;
    let name = segment_name(sequence);
    let (file, length) = match spare {
        Some(Spare { length }) if length >= needed => {
            disk.rename(SPARE_NAME, &name)?;
            (disk.open(&name)?, length)
        }
        _ => {
            let (file, length) = (disk.create(&name)?, options.segment_bytes.max(needed));
            file.allocate(length)?;
            (file, length)
        }
    };
    let (header, salt) = SegmentHeader {
        identity: options.identity,
        sequence,
        length,
        previous_end: previous.map_or(0, Active::end),
        previous_chain: previous.map_or(0, |segment| segment.chain),
        hard_state: outline.hard_state,
        compacted: outline.compacted,
        last: outline.last,
    }
    .encode();
    file.write_at(0, &header)?;
    file.sync_data()?;
    disk.sync_dir()?;
    let start = HEADER_BYTES as u64;
    Ok(Active {
        sequence,
        newest: LogIndex(0),
        file,
        length,
        salt,
        chain: salt,
        synced_to: start,
        written_to: start,
        buffer: Vec::new(),
    })
}

fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.log")
}

#[cfg(test)]
mod tests;
