//! Bytes of entries, messages, versions and small replicated state: one format byte, then the value in postcard's
//! encoding. The byte changes when the meaning of any byte behind it changes; the golden tests below see to that.

use crate::entry::Entry;
use crate::message::Message;
use crate::record::Version;
use bytes::Bytes;
use gavel_types::limits::{ENTRY_BYTES_MAX, ENTRY_ITEMS_MAX};
use postcard::ser_flavors::{Flavor, Size};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

pub use gavel_types::as_bytes;

/// Format of log entries.
pub const ENTRY_FORMAT: u8 = 8;
/// Format of record versions at rest.
pub const VERSION_FORMAT: u8 = 4;
/// Format of messages between nodes.
pub const MESSAGE_FORMAT: u8 = 8;
/// Largest encoded message: a log message with one entry and its envelope, or a part of a change scan.
pub const MESSAGE_BYTES_MAX: usize = ENTRY_BYTES_MAX * 2 + 128 * 1024;

/// How [`Message::Log`] begins behind the format.
const LOG_VARIANT: u8 = 0;
/// Room that is made for what is encoded: most versions need less, and a buffer that grows to this is copied seven times.
const ENCODED_BYTES: usize = 128;

/// Bytes that are not what they should be. Nothing was done with them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Made by a version of Gavel that this one does not know.
    #[error("{what} has format {found}; this version of Gavel knows format {known} (upgrade it?)")]
    UnknownFormat {
        /// What was to be read.
        what: &'static str,
        /// The format byte.
        found: u8,
        /// The format that is known.
        known: u8,
    },
    /// Damaged, truncated, or something else altogether.
    #[error("{what} is malformed")]
    Malformed {
        /// What was to be read.
        what: &'static str,
    },
    /// Larger than the named bound.
    #[error("{what} has {len} bytes; at most {max} are allowed")]
    TooLarge {
        /// What was to be read.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
}

/// Encodes `value` behind a format byte.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENCODED_BYTES);
    encode_to(&mut bytes, format, value);
    bytes
}

/// The same of what may be large: its length is counted first. A buffer that grows to a quarter of a megabyte costs more, most of all in fresh pages.
pub fn encode_large<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let counted = postcard::serialize_with_flavor(value, Size::default());
    let mut bytes = Vec::with_capacity(1 + counted.expect("postcard counts every value of our types"));
    encode_to(&mut bytes, format, value);
    bytes
}

/// The same, behind what is in `bytes`.
pub fn encode_to<T: Serialize>(bytes: &mut Vec<u8>, format: u8, value: &T) {
    bytes.push(format);
    let written = postcard::serialize_with_flavor(value, Behind(bytes));
    written.expect("postcard writes every value of our types to a growing buffer");
}

/// Writes behind what is in a buffer. (The crate's own way to extend one goes byte by byte.)
struct Behind<'b>(&'b mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Decodes what [`encode`] made; all bytes must be used up.
///
/// # Errors
/// [`DecodeError`] for anything else.
pub fn decode<T: DeserializeOwned>(what: &'static str, known: u8, max: usize, bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLarge { what, len: bytes.len(), max });
    }
    let (&found, rest) = bytes.split_first().ok_or(DecodeError::Malformed { what })?;
    if found != known {
        return Err(DecodeError::UnknownFormat { what, found, known });
    }
    decode_rest(what, rest)
}

fn decode_rest<'b, T: Deserialize<'b>>(what: &'static str, rest: &'b [u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed { what }),
    }
}

impl Entry {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_large(ENTRY_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not an entry within its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        let entry: Entry = decode("log entry", ENTRY_FORMAT, ENTRY_BYTES_MAX, bytes)?;
        if entry.items.len() > ENTRY_ITEMS_MAX || entry.tid.0.checked_add(ENTRY_ITEMS_MAX as u64).is_none() {
            return Err(DecodeError::Malformed { what: "log entry" });
        }
        Ok(entry)
    }
}

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_large(MESSAGE_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not a message within its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        decode("message", MESSAGE_FORMAT, MESSAGE_BYTES_MAX, bytes)
    }

    /// The same; the bytes of a message of the log stay where they are: there may be a megabyte of them.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a message within its bounds.
    pub fn decode_shared(bytes: &Bytes) -> Result<Message, DecodeError> {
        match bytes.as_ref() {
            [MESSAGE_FORMAT, LOG_VARIANT, ..] if bytes.len() <= MESSAGE_BYTES_MAX => {
                let log: &[u8] = decode_rest("message", &bytes[2..])?;
                Ok(Message::Log(bytes.slice_ref(log)))
            }
            _ => Message::decode(bytes),
        }
    }
}

impl Version {
    /// The version's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        self.encode_to(&mut bytes);
        bytes
    }

    /// The same, behind what is in `bytes`.
    pub fn encode_to(&self, bytes: &mut Vec<u8>) {
        encode_to(bytes, VERSION_FORMAT, self);
    }

    /// How many bytes that takes, about.
    pub fn encoded_bytes(&self) -> usize {
        ENCODED_BYTES + self.record.carried_bytes()
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not a record version.
    pub fn decode(bytes: &[u8]) -> Result<Version, DecodeError> {
        decode("record", VERSION_FORMAT, ENTRY_BYTES_MAX, bytes)
    }
}
