//! The rows of a state, as a tree of files that states have in common.
//!
//! A leaf holds rows in the order of their keys; a branch names nodes, each with its first key. Where a node ends is decided by what its last row, or the
//! last node that it names, is: so the same rows make the same nodes, and a row that changes makes new ones on its way to the root only. (Such trees are
//! known as prolly trees; Dolt and Noms have them.)
//!
//! - [`node`]: a node's bytes; where it ends
//! - [`build`]: from rows to a tree
//! - [`change`](mod@change): from a tree and changes to another tree
//! - [`read`]: looking rows up

pub mod build;
pub mod change;
pub mod node;
pub mod read;

#[cfg(test)]
mod tests;

pub use build::Builder;
pub use change::{Changes, change};
pub use node::{Hash, Node};
pub use read::Rows;

use gavel_types::{Key, KeyError, ObjectId};
use gavel_wire::Record;

/// A row's key in a tree: the record's, without its volume.
pub type RowKey = Box<[u8]>;

/// Rows are read as if they were of this volume.
pub const VOLUME: gavel_types::VolumeId = gavel_types::VolumeId(1);

/// The key of a record, as a tree has it.
pub fn row_key(key: &Key) -> RowKey {
    key.as_bytes()[size_of::<gavel_types::VolumeId>()..].into()
}

/// The key that a tree has, as one of a record of [`VOLUME`].
///
/// # Errors
/// [`KeyError`] if it is none.
pub fn record_key(key: &[u8]) -> Result<Key, KeyError> {
    Key::from_bytes(&[&VOLUME.0.to_be_bytes()[..], key].concat())
}

/// What a row holds; none if it is no record.
pub fn record(bytes: &[u8]) -> Option<Record> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

/// A record, as a row holds it.
pub fn record_bytes(record: &Record) -> Box<[u8]> {
    crate::head::write(record).into()
}

/// Are these the attributes of an object? Of which?
pub fn attr_of(key: &[u8]) -> Option<ObjectId> {
    let (object, rest) = key.split_first_chunk()?;
    (rest == [gavel_types::Domain::Attr as u8]).then_some(ObjectId(u64::from_be_bytes(*object)))
}
