//! Looking rows up.

use super::node::{Hash, LEVELS_MAX, Node};
use super::{RowKey, record, record_key};
use crate::error::BackupError;
use crate::folder::Folder;
use crate::repository::Repository;
use gavel_types::Key;
use gavel_wire::Record;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Nodes that are kept in memory: about [`NODE_BYTES`](super::node::NODE_BYTES) each.
const CACHED_MAX: usize = 128;

/// The rows of one tree.
pub struct Rows<'r, F: Folder> {
    repository: &'r Repository<F>,
    root: Option<Hash>,
    /// The nodes that were used last, the last one first.
    cached: RefCell<VecDeque<(Hash, Rc<Node>)>>,
}

/// A node that another one names.
///
/// # Errors
/// As [`Repository::read`], and [`BackupError::Damaged`] if it is no node, or another one than is named.
pub fn node<F: Folder>(repository: &Repository<F>, hash: &Hash, wanted: Wanted<'_>) -> Result<Node, BackupError> {
    let file = repository.node(hash);
    let damaged = |what| BackupError::Damaged { file, what };
    let node = Node::from_bytes(&repository.read(file)?).map_err(damaged)?;
    if wanted.level.is_some_and(|level| node.level() != level)
        || wanted.first.is_some_and(|first| node.first() != first)
    {
        return Err(damaged("it is another node than the one above it says"));
    }
    Ok(node)
}

/// What the node above says of one.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'k> {
    /// Its level.
    pub level: Option<u8>,
    /// Its first key.
    pub first: Option<&'k [u8]>,
}

impl<'r, F: Folder> Rows<'r, F> {
    /// The rows of the tree with this root.
    pub fn new(repository: &'r Repository<F>, root: Option<Hash>) -> Rows<'r, F> {
        Rows { repository, root, cached: RefCell::default() }
    }

    fn node(&self, hash: &Hash, wanted: Wanted<'_>) -> Result<Rc<Node>, BackupError> {
        let mut cached = self.cached.borrow_mut();
        if let Some(place) = cached.iter().position(|(cached, _)| cached == hash)
            && let Some(found) = cached.remove(place)
        {
            cached.push_front(found.clone());
            return Ok(found.1);
        }
        let node = Rc::new(node(self.repository, hash, wanted)?);
        cached.truncate(CACHED_MAX - 1);
        cached.push_front((*hash, node.clone()));
        Ok(node)
    }

    /// What is filed under a key.
    ///
    /// # Errors
    /// As [`node`].
    pub fn get(&self, key: &Key) -> Result<Option<Record>, BackupError> {
        let key = super::row_key(key);
        let end = [&key[..], &[0]].concat();
        Ok(self.scan((&key, Some(&end)), 1)?.pop().map(|(_, record)| record))
    }

    /// The rows from `from` on, and before `end` if there is one, `most` of them at most.
    ///
    /// # Errors
    /// As [`node`].
    pub fn scan(&self, range: (&[u8], Option<&[u8]>), most: usize) -> Result<Vec<(Key, Record)>, BackupError> {
        let mut found = Vec::new();
        if let Some(root) = self.root {
            self.scan_node(&root, Wanted::default(), range, most, &mut found)?;
        }
        Ok(found)
    }

    fn scan_node(
        &self,
        hash: &Hash,
        wanted: Wanted<'_>,
        (from, end): (&[u8], Option<&[u8]>),
        most: usize,
        found: &mut Vec<(Key, Record)>,
    ) -> Result<(), BackupError> {
        let node = self.node(hash, wanted)?;
        match &*node {
            Node::Leaf(rows) => {
                let first = rows.partition_point(|(key, _)| **key < *from);
                let within = rows[first..].iter().take_while(|(key, _)| is_within(key, end));
                for row in within.take(most - found.len()) {
                    let damaged = BackupError::Damaged { file: self.repository.node(hash), what: "a row is no record" };
                    found.push(parsed(row).ok_or(damaged)?);
                }
            }
            Node::Branch(level, nodes) => {
                let first = nodes.partition_point(|(key, _)| **key <= *from).saturating_sub(1);
                for (first, below) in &nodes[first..] {
                    if found.len() >= most || !is_within(first, end) {
                        break;
                    }
                    let wanted = Wanted { level: Some(level.min(&LEVELS_MAX) - 1), first: Some(first) };
                    self.scan_node(below, wanted, (from, end), most, found)?;
                }
            }
        }
        Ok(())
    }
}

fn is_within(key: &[u8], end: Option<&[u8]>) -> bool {
    end.is_none_or(|end| key < end)
}

/// A row, as a record's key and the record; none if it is none.
pub(crate) fn parsed((key, bytes): &(RowKey, Box<[u8]>)) -> Option<(Key, Record)> {
    Some((record_key(key).ok()?, record(bytes)?))
}
