//! What was done in a transaction, as bytes: a file from which the same transaction comes to be again when its host was stopped or killed.
//! `docs/formats/transactions.md` has the byte tables, `docs/protocols/transactions.md` what is done with it.
//!
//! - here: the records, written and read. It does no I/O: its host appends what [`Writer`] gives, and hands all of the file to [`Journal`]
//! - [`replay`]: the transaction that they make
//!
//! Invariants:
//! 1. Whatever was appended, each prefix of whole records replays to the transaction as it was behind the last of them.
//! 2. No bytes make it panic. What is not a whole record ends the journal.

pub mod replay;

pub use replay::{Glimpse, Replayed, Stage, glimpse, replay};

use crc_fast::{CrcAlgorithm, Digest};
use gavel_types::{BlobId, Key, ObjectId, Tid, VolumeId};
use gavel_wire::codec::as_bytes;
use gavel_wire::{AttrDelta, Guard, Plan, Version};
use serde::{Deserialize, Serialize};

/// Most bytes of a record: all small contents of a transaction, and what else it holds.
pub const RECORD_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A journal is written anew when it is longer than twice what it was then, and this.
pub const GROWTH_BYTES: u64 = 64 * 1024 * 1024;
/// The largest journal that is read: one that was written anew has the small contents and the bytes that are being stored; it doubles, grows, and gets
/// one more record.
pub const JOURNAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"GAVELTXN";
const FILE_HEADER_BYTES: usize = 16;
const RECORD_MAGIC: [u8; 4] = *b"GTR1";
const RECORD_HEADER_BYTES: usize = 24;

const _: () = assert!(RECORD_BYTES_MAX > super::INLINE_BYTES_MAX + super::MADE_BYTES_MAX + 8 * super::COMMIT_BYTES_MAX);
const _: () = assert!(JOURNAL_BYTES_MAX > 3 * RECORD_BYTES_MAX as u64 + GROWTH_BYTES);

/// Which transaction it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Its id.
    pub id: Box<str>,
    /// Its volume.
    pub volume: VolumeId,
    /// The state that it begins at, or was moved to.
    pub start: Tid,
    /// Where it is mounted.
    #[serde(with = "as_bytes")]
    pub place: Box<[u8]>,
    /// The place is a directory of the daemon's.
    pub own_place: bool,
    /// For which user.
    pub uid: u32,
    /// When it began, by the cluster's clock.
    pub began_ns: u64,
    /// What for.
    pub message: Box<str>,
    /// It was written anew: its first entry is [`Entry::Whole`].
    pub anew: bool,
}

/// Something that a [`Transaction`](super::Transaction) was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// What an operation read, and was not depended on before.
    Read(Vec<Guard>),
    /// A plan was to be accepted.
    Wrote {
        /// As the operation gave it.
        plan: Plan,
        /// What the cluster's clock showed.
        now_ns: u64,
        /// There was no room for it, and to make some the guards were made fewer.
        refused: bool,
    },
    /// An object that it made has no name, and nobody has it open.
    Forgot(ObjectId),
    /// Small contents went to blobs.
    Spilled,
}

/// A record, but the first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// An operation.
    Did {
        /// What it did.
        events: Vec<Event>,
        /// Bytes of a blob that must be on a majority before the commit; none if there are none.
        #[serde(with = "as_bytes")]
        store: Box<[u8]>,
    },
    /// These bytes are on a majority.
    Stored {
        /// The blob.
        blob: BlobId,
        /// As of when.
        as_of: Tid,
    },
    /// All that was done before.
    Whole(Box<Whole>),
    /// From here on it may be committed.
    Committing,
    /// It was not, and goes on.
    Open,
    /// It was committed.
    Committed {
        /// As which transaction of the log.
        tid: Tid,
    },
    /// Blobs that it has stored.
    Held(Vec<BlobId>),
}

/// All of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// The state that it begins at.
    pub at: Tid,
    /// Plans that were accepted.
    pub plans: u64,
    /// The last time that was given out.
    pub time: Tid,
    /// What it depends on.
    pub guards: Vec<Guard>,
    /// Objects that it made.
    pub made: Vec<ObjectId>,
    /// Runs of bytes that it wrote to files that were there.
    pub written: Vec<(ObjectId, Vec<(u64, u64)>)>,
    /// Times and sizes that it set of objects that were there.
    pub merging: Vec<(ObjectId, AttrDelta)>,
    /// What it left behind of each record.
    pub layer: Vec<(Key, Option<Version>)>,
}

/// A journal that can't be used, or not from some record on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    /// It does not begin as one.
    #[error("this is not the journal of a transaction")]
    NotOne,
    /// Made by another version of Gavel.
    #[error("the journal has version {found}; this version of Gavel knows {VERSION}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// Nothing can be made of what is left.
    #[error("the journal is damaged at its beginning")]
    Beginning,
    /// A record that is whole, and can't have been written here.
    #[error("record {number} of the journal does not fit to those before: {cause}")]
    Misfit {
        /// Its number.
        number: u64,
        /// Why.
        cause: String,
    },
    /// A record that is too large to be written.
    #[error("a record of {bytes} bytes is too large for the journal; at most {RECORD_BYTES_MAX} are allowed")]
    TooLarge {
        /// How large.
        bytes: usize,
    },
}

/// Makes records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writer {
    salt: u64,
    next: u64,
}

impl Writer {
    /// A journal that begins, and its first bytes.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`].
    pub fn begin(header: &Header) -> Result<(Writer, Vec<u8>), JournalError> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let mut writer = Writer { salt: 0, next: 0 };
        bytes.extend(writer.framed(header)?);
        writer.salt = u64_at(&bytes, FILE_HEADER_BYTES + 16);
        writer.next = 1;
        Ok((writer, bytes))
    }

    /// The next record. It stays the next one until it is [`Writer::written`].
    ///
    /// # Errors
    /// [`JournalError::TooLarge`].
    pub fn record(&self, entry: &Entry) -> Result<Vec<u8>, JournalError> {
        self.framed(entry)
    }

    /// The record is in the file.
    pub fn written(&mut self) {
        self.next += 1;
    }

    fn framed<T: Serialize>(&self, body: &T) -> Result<Vec<u8>, JournalError> {
        let room = vec![0; RECORD_HEADER_BYTES];
        let mut bytes = postcard::to_extend(body, room).expect("a vector grows, and the type can be encoded");
        let len = bytes.len() - RECORD_HEADER_BYTES;
        if len > RECORD_BYTES_MAX {
            return Err(JournalError::TooLarge { bytes: len });
        }
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.next.to_le_bytes());
        let sum = sum(self.salt, &bytes);
        bytes[16..24].copy_from_slice(&sum.to_le_bytes());
        Ok(bytes)
    }
}

/// The bytes of a journal as its records, up to the first that is not whole.
#[derive(Clone, Debug)]
pub struct Journal<'b> {
    header: Header,
    bytes: &'b [u8],
    at: usize,
    writer: Writer,
}

impl<'b> Journal<'b> {
    /// # Errors
    /// If it has no header.
    pub fn open(bytes: &'b [u8]) -> Result<Journal<'b>, JournalError> {
        let begins = bytes.get(..FILE_HEADER_BYTES).filter(|bytes| bytes[..8] == MAGIC);
        let begins = begins.ok_or(JournalError::NotOne)?;
        let found = u32_at(begins, 8);
        if found != VERSION {
            return Err(JournalError::Version { found });
        }
        let record = whole(bytes, FILE_HEADER_BYTES, 0, Some(0)).ok_or(JournalError::Beginning)?;
        let header = decoded(record).ok_or(JournalError::Beginning)?;
        let salt = u64_at(bytes, FILE_HEADER_BYTES + 16);
        let at = FILE_HEADER_BYTES + RECORD_HEADER_BYTES + record.len();
        Ok(Journal { header, bytes, at, writer: Writer { salt, next: 1 } })
    }

    /// Which transaction it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// Makes the records behind those that were read.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Is what lies behind those that were read not just what was never written? Then this was damaged: either the next record can't be understood although
    /// it is as it was written, or there is a later one.
    pub fn is_damaged(&self) -> bool {
        let (salt, next) = (self.writer.salt, self.writer.next);
        if whole(self.bytes, self.at, salt, Some(next)).is_some() {
            return true;
        }
        let behind = self.bytes.get(self.at + 1..).unwrap_or_default();
        let candidates = behind.windows(RECORD_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == RECORD_MAGIC);
        candidates.map(|(offset, _)| self.at + 1 + offset).any(|at| {
            let number = self.bytes.get(at..at + RECORD_HEADER_BYTES).map(|header| u64_at(header, 8));
            number.is_some_and(|number| number > next) && whole(self.bytes, at, salt, None).is_some()
        })
    }
}

impl Iterator for Journal<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let body = whole(self.bytes, self.at, self.writer.salt, Some(self.writer.next))?;
        let entry = decoded(body)?;
        self.at += RECORD_HEADER_BYTES + body.len();
        self.writer.next += 1;
        Some(entry)
    }
}

/// The body of a record, if there is a whole one.
fn whole(bytes: &[u8], at: usize, salt: u64, number: Option<u64>) -> Option<&[u8]> {
    let record = bytes.get(at..)?;
    let header = record.get(..RECORD_HEADER_BYTES).filter(|header| header[..4] == RECORD_MAGIC)?;
    let len = u32_at(header, 4) as usize;
    if len > RECORD_BYTES_MAX || number.is_some_and(|number| number != u64_at(header, 8)) {
        return None;
    }
    let record = record.get(..RECORD_HEADER_BYTES + len)?;
    (sum(salt, record) == u64_at(header, 16)).then_some(&record[RECORD_HEADER_BYTES..])
}

fn decoded<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

fn sum(salt: u64, record: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&salt.to_le_bytes());
    digest.update(&record[4..16]);
    digest.update(&record[RECORD_HEADER_BYTES..]);
    digest.finalize()
}

/// The number at an offset within the bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

/// The number at an offset within the bytes.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
}
