//! What was asked and answered, when and where; and the objects that are asked.

use rustix::io::Errno;
use std::fmt;

/// Bytes of a block that files are written with. One page: a kernel may take what it keeps of a file page by page.
pub const BLOCK_BYTES: u32 = 4_096;
/// Bytes of a block that is kept as a blob.
pub const BLOB_BYTES: u32 = 20_000;
/// Bytes of an appended record.
pub const RECORD_BYTES: u32 = 16;
/// Directories of a [`Kind::Names`], and names in each.
pub const DIRS: u8 = 2;
/// See [`DIRS`].
pub const NAMES: u8 = 4;
/// Names in all: one bit of a listing each.
pub const SLOTS: u8 = DIRS * NAMES;
/// What is made under a name is known by its mode: there are so many.
pub const MADE_MAX: u32 = 0o777;

/// What kind of object it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A file of at least one block, which is written and read as a whole, through whatever the kernel keeps. Beside, its
    /// length is changed, but never below the block: then a read could take the length of one moment and the bytes of
    /// another, as it can on any Linux filesystem that keeps pages.
    Register,
    /// The same, with blocks that are kept as blobs, read with O_DIRECT (for the reason above), its length left alone.
    Blob,
    /// A file that is written as a block, cut to a half and to nothing, and read with O_DIRECT.
    Whole,
    /// A file that is appended to, and read with O_DIRECT: a read through pages that meets with a forgetting can be cut to an earlier length
    /// (docs/protocols/coherency.md, "Known faults").
    Journal,
    /// Names in two directories, between which they are moved.
    Names,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Register, Kind::Blob, Kind::Whole, Kind::Journal, Kind::Names];

    /// Bytes that are written at once, of a file that is written in blocks.
    pub fn block(self) -> u32 {
        if self == Kind::Blob { BLOB_BYTES } else { BLOCK_BYTES }
    }

    /// Is it read past what the kernel keeps?
    pub fn is_direct(self) -> bool {
        matches!(self, Kind::Blob | Kind::Whole | Kind::Journal)
    }
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// `pwrite` of a block that says this number.
    Write(u32),
    /// `pread` of a block.
    Read,
    /// `ftruncate` to so many bytes.
    Truncate(u32),
    /// `stat` or `fstat`: how long is it?
    Length,
    /// `write` with O_APPEND of a record of this number.
    Append(u32),
    /// Read all records.
    ReadAll,
    /// `open(O_CREAT | O_EXCL)` of the slot, with the mode that says this number.
    Make(u8, u32),
    /// `unlink` of the slot.
    Remove(u8),
    /// `rename` of the first slot over the second.
    Move(u8, u8),
    /// `stat` of the slot.
    Find(u8),
    /// `getdents64` of the directory.
    List(u8),
    /// `fsync` of the object.
    Sync,
}

impl Ask {
    /// Can it change anything?
    pub fn changes(self) -> bool {
        matches!(
            self,
            Ask::Write(_) | Ask::Truncate(_) | Ask::Append(_) | Ask::Make(..) | Ask::Remove(_) | Ask::Move(..)
        )
    }
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// It is done.
    Done,
    /// A block says this number (0: zeros), and so many bytes of it are there.
    Block(u32, u32),
    /// So many bytes.
    Bytes(u64),
    /// These records.
    Records(Vec<u32>),
    /// What was made with this number has the name.
    Found(u32),
    /// Nothing has the name.
    Absent,
    /// Something has the name already.
    Taken,
    /// The slots of these bits have names.
    Slots(u8),
    /// It failed, and nothing has come of it.
    Refused(Errno),
    /// It failed, and nobody knows what has come of it.
    Unknown(Errno),
    /// What must not be answered, whatever others do.
    Odd(String),
}

/// One call. Times are nanoseconds after the beginning of the recording, by one clock (CLOCK_MONOTONIC).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which object of the round.
    pub object: usize,
    /// Who called, and on the mount of which node.
    pub worker: usize,
    /// See `worker`.
    pub node: u64,
    /// Read before the call.
    pub called: u64,
    /// Read after its return.
    pub returned: u64,
    /// What was asked.
    pub ask: Ask,
    /// What was answered.
    pub said: Said,
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (called, returned) = (ms(self.called), ms(self.returned));
        write!(out, "{called:>12.4} {returned:>12.4}  node {} worker {:>2}  ", self.node, self.worker)?;
        match &self.said {
            Said::Records(all) => write!(out, "{:?} -> {} records, {all:?}", self.ask, all.len()),
            said => write!(out, "{:?} -> {said:?}", self.ask),
        }
    }
}

/// The bytes of a block that says this number.
pub fn block(number: u32, bytes: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(bytes as usize / 4)
}

/// What the bytes of a block say.
pub fn block_says(bytes: &[u8]) -> Said {
    let first = bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word));
    let equal = bytes.chunks(4).all(|word| word == first.to_le_bytes());
    if equal {
        return Said::Block(first, bytes.len() as u32);
    }
    let at = bytes.chunks(4).position(|word| word != first.to_le_bytes()).unwrap_or(0) * 4;
    Said::Odd(format!("{} bytes: {first} up to byte {at}, then {:?}", bytes.len(), &bytes[at..bytes.len().min(at + 4)]))
}

/// The bytes of an appended record.
pub fn record(number: u32) -> Vec<u8> {
    format!("{number:0width$}\n", width = RECORD_BYTES as usize - 1).into_bytes()
}

/// What the bytes of appended records say.
pub fn records_say(bytes: &[u8]) -> Said {
    let mut all = Vec::new();
    for (place, bytes) in bytes.chunks(RECORD_BYTES as usize).enumerate() {
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.trim_end().parse::<u32>().ok());
        match number.filter(|number| record(*number) == bytes) {
            Some(number) => all.push(number),
            None => return Said::Odd(format!("record {place}: {:?}", String::from_utf8_lossy(bytes))),
        }
    }
    Said::Records(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_and_mixed_ones_are_odd() {
        let (old, new) = (block(7, BLOCK_BYTES), block(8, BLOCK_BYTES));
        assert_eq!(block_says(&old), Said::Block(7, BLOCK_BYTES));
        assert_eq!(block_says(&[]), Said::Block(0, 0));
        assert_eq!(block_says(&[0; 2_048]), Said::Block(0, 2_048));
        let torn = [&old[..2_048], &new[2_048..]].concat();
        assert!(matches!(block_says(&torn), Said::Odd(_)));
        let both = [record(1), record(12)].concat();
        assert_eq!(records_say(&both), Said::Records(vec![1, 12]));
        assert!(matches!(records_say(&both[..20]), Said::Odd(_)));
        assert!(matches!(records_say(&[record(1), vec![0; 16]].concat()), Said::Odd(_)));
    }
}
