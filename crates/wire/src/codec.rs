//! Bytes of entries, messages, versions and small replicated state: one format byte, then the value in postcard's
//! encoding. The byte changes when the meaning of any byte behind it changes; the golden tests below see to that.

use crate::entry::Entry;
use crate::message::Message;
use crate::record::Version;
use gavel_types::limits::{ENTRY_BYTES_MAX, ENTRY_ITEMS_MAX};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Format of log entries.
pub const ENTRY_FORMAT: u8 = 8;
/// Format of record versions at rest.
pub const VERSION_FORMAT: u8 = 4;
/// Format of messages between nodes.
pub const MESSAGE_FORMAT: u8 = 8;
/// Largest encoded message: a log message with one entry and its envelope, or a part of a change scan.
pub const MESSAGE_BYTES_MAX: usize = ENTRY_BYTES_MAX * 2 + 128 * 1024;

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
    bytes.push(format);
    postcard::to_extend(value, bytes).expect("postcard writes every value of our types to a growing buffer")
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
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed { what }),
    }
}

impl Entry {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(ENTRY_FORMAT, self)
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
        encode(MESSAGE_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not a message within its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        decode("message", MESSAGE_FORMAT, MESSAGE_BYTES_MAX, bytes)
    }
}

impl Version {
    /// The version's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(VERSION_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not a record version.
    pub fn decode(bytes: &[u8]) -> Result<Version, DecodeError> {
        decode("record", VERSION_FORMAT, ENTRY_BYTES_MAX, bytes)
    }
}

/// Bytes as one run instead of a sequence of numbers: the same encoding, without a step for each byte.
pub mod as_bytes {
    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::Serializer;
    use std::fmt;
    use std::marker::PhantomData;

    /// For `#[serde(with = ...)]`.
    ///
    /// # Errors
    /// As the serializer's.
    pub fn serialize<T: AsRef<[u8]>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes.as_ref())
    }

    /// For `#[serde(with = ...)]`.
    ///
    /// # Errors
    /// As the deserializer's.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: From<Vec<u8>> + for<'a> From<&'a [u8]>,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_byte_buf(Bytes(PhantomData))
    }

    struct Bytes<T>(PhantomData<T>);

    impl<'de, T: From<Vec<u8>> + for<'a> From<&'a [u8]>> Visitor<'de> for Bytes<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
            Ok(bytes.into())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<T, E> {
            Ok(bytes.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<T, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = sequence.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes.into())
        }
    }
}
