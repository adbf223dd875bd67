//! A node's bytes, and where it ends.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | level: 0 a leaf, and so on up |
//! | | of a leaf, rows: length of the key (2), length of the record (4), key, record |
//! | | of a branch, nodes of the level below: length of the key (2), first key, hash (32) |
//!
//! Numbers are big endian. Keys are in order, and none comes twice.

use super::RowKey;
use gavel_types::key::KEY_BYTES_MAX;

/// The hash of a node's bytes.
pub type Hash = [u8; 32];

/// A node has so many bytes on average.
pub const NODE_BYTES: usize = 64 * 1024;
/// A node that has so many ends, whatever its last entry is.
pub const NODE_BYTES_CUT: usize = 8 * NODE_BYTES;
/// Most levels: with the smallest branches that there can be on average, more rows than can be stored.
pub const LEVELS_MAX: u8 = 16;
/// Longest record in a row, in bytes: the value of an extended attribute, and a little.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Keys and records.
    Leaf(Vec<(RowKey, Box<[u8]>)>),
    /// First keys and hashes of nodes of the level below this one.
    Branch(u8, Vec<(RowKey, Hash)>),
}

impl Node {
    /// Takes the bytes of a node.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Node, &'static str> {
        let (level, mut rest) = bytes.split_first().ok_or("a node of no bytes")?;
        if *level > LEVELS_MAX {
            return Err("a node of a level that there is not");
        }
        let (mut rows, mut nodes, mut last) = (Vec::new(), Vec::new(), RowKey::default());
        while !rest.is_empty() {
            let key_len = usize::from(u16::from_be_bytes(*take(&mut rest)?));
            let record_len = if *level == 0 { u32::from_be_bytes(*take(&mut rest)?) as usize } else { 0 };
            if key_len == 0 || key_len > KEY_BYTES_MAX || record_len > RECORD_BYTES_MAX {
                return Err("a row longer than a row can be");
            }
            let key: RowKey = take_len(&mut rest, key_len)?.into();
            if key <= last {
                return Err("rows are out of order");
            }
            last.clone_from(&key);
            match level {
                0 => rows.push((key, take_len(&mut rest, record_len)?.into())),
                _ => nodes.push((key, *take(&mut rest)?)),
            }
        }
        match level {
            _ if rows.is_empty() && nodes.is_empty() => Err("a node without rows"),
            0 => Ok(Node::Leaf(rows)),
            level => Ok(Node::Branch(*level, nodes)),
        }
    }

    /// Its level: 0 for a leaf.
    pub fn level(&self) -> u8 {
        match self {
            Node::Leaf(_) => 0,
            Node::Branch(level, _) => *level,
        }
    }

    /// Its first key.
    pub fn first(&self) -> &[u8] {
        match self {
            Node::Leaf(rows) => rows.first().map_or(&[], |(key, _)| key),
            Node::Branch(_, nodes) => nodes.first().map_or(&[], |(key, _)| key),
        }
    }
}

fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Result<&'b [u8; N], &'static str> {
    let (taken, behind) = rest.split_first_chunk().ok_or("a row is cut off")?;
    *rest = behind;
    Ok(taken)
}

fn take_len<'b>(rest: &mut &'b [u8], len: usize) -> Result<&'b [u8], &'static str> {
    let (taken, behind) = rest.split_at_checked(len).ok_or("a row is cut off")?;
    *rest = behind;
    Ok(taken)
}

/// Appends a row to a leaf's bytes.
pub(super) fn put_row(bytes: &mut Vec<u8>, key: &[u8], record: &[u8]) {
    assert!(key.len() <= KEY_BYTES_MAX && record.len() <= RECORD_BYTES_MAX, "a row of {} bytes", record.len());
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend((record.len() as u32).to_be_bytes());
    bytes.extend(key);
    bytes.extend(record);
}

/// Appends a node to a branch's bytes.
pub(super) fn put_node(bytes: &mut Vec<u8>, first: &[u8], hash: &Hash) {
    assert!(first.len() <= KEY_BYTES_MAX, "a key of {} bytes", first.len());
    bytes.extend((first.len() as u16).to_be_bytes());
    bytes.extend(first);
    bytes.extend(hash);
}

/// Does a node end behind an entry of so many bytes, with this hash? Of all entries those do that are so long, one of [`NODE_BYTES`] bytes.
pub(super) fn ends(hash: &Hash, entry_bytes: usize) -> bool {
    let head = u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"));
    head < (u64::MAX / NODE_BYTES as u64).saturating_mul(entry_bytes as u64)
}
