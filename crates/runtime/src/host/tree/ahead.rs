//! Reading ahead: whoever reads a file from front to back finds the next blobs in memory.
//!
//! Without it one blob after the other would be read, verified and handed over, each when it is asked for, by one thread at a time. What is read ahead is a
//! guess, and is dropped silently if it can't be had: whoever really asks for it is told why.

use super::Inner;
use gavel_fs::Reply;
use gavel_fs::operation::{Caller, Cx, Operation, Piece};
use gavel_types::{BlobId, ObjectId};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How far ahead of a reader. Four blobs of the size that a long write leaves behind.
const AHEAD_BYTES: u64 = 4 << 20;
/// So much in sequence makes a reader one that goes on.
const SEQUENCE_BYTES_MIN: u64 = 256 << 10;
/// The kernel has several requests under way at once, and they come in any order: so far from where the last one ended is still in sequence.
const SLACK_BYTES: u64 = 1 << 20;
/// Most readers that are remembered; the one that has read nothing for longest is forgotten.
const READERS_MAX: usize = 64;
/// Most blobs that are read ahead at a time.
const AT_ONCE: usize = 4;

const _: () = assert!(AHEAD_BYTES <= gavel_fs::ops::READ_BYTES_MAX as u64);

/// Who reads what in sequence.
pub(super) struct Ahead {
    /// Who has read last comes first.
    readers: Mutex<VecDeque<Reader>>,
    turns: Arc<Semaphore>,
}

struct Reader {
    object: ObjectId,
    /// Where what it has read ends.
    end: u64,
    /// How much it has read in sequence.
    read: u64,
    /// Up to here blobs were read ahead.
    ahead: u64,
}

impl Ahead {
    pub(super) fn new() -> Ahead {
        Ahead { readers: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Somebody reads this part of a file. Gives the part that is worth reading ahead, if there is one.
    fn on_read(&self, object: ObjectId, part: Range<u64>) -> Option<Range<u64>> {
        let mut readers = self.readers.lock();
        let goes_on = |reader: &Reader| reader.object == object && reader.end.abs_diff(part.start) <= SLACK_BYTES;
        let known = readers.iter().position(goes_on).and_then(|at| readers.remove(at));
        let mut reader = known.unwrap_or(Reader { object, end: part.start, read: 0, ahead: 0 });
        reader.read += part.end - part.start;
        reader.end = reader.end.max(part.end);
        let wanted = (reader.read >= SEQUENCE_BYTES_MIN && reader.ahead < reader.end + AHEAD_BYTES / 2).then(|| {
            let from = reader.ahead.max(reader.end);
            reader.ahead = reader.end + AHEAD_BYTES;
            from..reader.ahead
        });
        readers.push_front(reader);
        readers.truncate(READERS_MAX);
        wanted
    }
}

impl Inner {
    /// Somebody reads bytes of blobs: those that come next are read, if it reads in sequence.
    pub(super) fn read_ahead(self: &Arc<Self>, caller: Caller, object: ObjectId, part: Range<u64>) {
        let Some(wanted) = self.ahead.on_read(object, part) else { return };
        let inner = self.clone();
        self.tokio.spawn(async move {
            for blob in inner.blobs_in(caller, object, wanted) {
                let Ok(turn) = inner.ahead.turns.clone().acquire_owned().await else { return };
                let blobs = inner.blobs.clone();
                tokio::spawn(async move {
                    let _ = blobs.fetch_ahead(blob).await;
                    drop(turn);
                });
            }
        });
    }

    /// The blobs in a part of a file that are not in memory, in order.
    fn blobs_in(&self, caller: Caller, object: ObjectId, part: Range<u64>) -> Vec<BlobId> {
        let cx = Cx { volume: self.volume, caller, fresh: None };
        let read = Operation::Read { object, offset: part.start, len: (part.end - part.start) as u32 };
        let (Ok((None, Reply::Data(pieces))), _) = gavel_fs::attempt(&self.node.latest(), &cx, &read) else {
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let blobs = pieces.iter().filter_map(|piece| match piece {
            Piece::Blob { id, .. } => Some(*id),
            _ => None,
        });
        blobs.filter(|id| seen.insert(*id) && self.at_hand(&[*id]).is_none()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const FILE: ObjectId = ObjectId(7);

    /// Reads in pieces of 128 KiB; gives what was read ahead.
    fn read(ahead: &Ahead, object: ObjectId, starts: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
        starts.filter_map(|start| ahead.on_read(object, start * 128 * KIB..(start + 1) * 128 * KIB)).collect()
    }

    #[test]
    fn who_reads_in_sequence_is_kept_ahead_of_and_nothing_is_read_ahead_twice() {
        let wanted = read(&Ahead::new(), FILE, 0..100);
        assert_eq!(wanted[0], 256 * KIB..256 * KIB + AHEAD_BYTES);
        assert!(wanted.windows(2).all(|pair| pair[0].end == pair[1].start), "{wanted:?}");
        assert!(wanted[wanted.len() - 1].end >= 100 * 128 * KIB + AHEAD_BYTES / 2);
        assert!(wanted.len() < 10, "in steps: {wanted:?}");
    }

    #[test]
    fn requests_that_overtake_each_other_are_in_sequence() {
        let wanted = read(&Ahead::new(), FILE, (0..64).map(|number| number ^ 3));
        assert!(
            wanted[0].start <= SLACK_BYTES && wanted.windows(2).all(|pair| pair[0].end == pair[1].start),
            "{wanted:?}"
        );
        assert!(wanted[wanted.len() - 1].end >= 64 * 128 * KIB + AHEAD_BYTES / 2, "{wanted:?}");
    }

    #[test]
    fn who_reads_here_and_there_has_nothing_read_ahead() {
        assert_eq!(read(&Ahead::new(), FILE, (0..1000).map(|number| number * 7919 % 100_003)), []);
    }

    #[test]
    fn readers_of_one_file_do_not_disturb_each_other_and_the_oldest_are_forgotten() {
        let ahead = Ahead::new();
        let turns = (0..40).flat_map(|number| [number, 10_000 + number]);
        let wanted = read(&ahead, FILE, turns);
        assert!(wanted.iter().filter(|part| part.start < AHEAD_BYTES * 3).count() >= 3, "{wanted:?}");
        assert!(wanted.iter().filter(|part| part.start > 10_000 * 128 * KIB).count() >= 3, "{wanted:?}");
        for object in 0..1000 {
            read(&ahead, ObjectId(100 + object), 0..1);
        }
        assert_eq!(ahead.readers.lock().len(), READERS_MAX);
    }
}
