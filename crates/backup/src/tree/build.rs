//! From rows to a tree.

use super::RowKey;
use super::node::{Hash, LEVELS_MAX, NODE_BYTES_CUT, Node, ends, put_node, put_row};
use super::read::{Wanted, node};
use crate::error::BackupError;
use crate::folder::Folder;
use crate::name::Kind;
use crate::repository::Repository;

/// Makes a tree of rows that come in the order of their keys.
pub struct Builder<'r, F: Folder> {
    repository: &'r Repository<F>,
    /// What is there is looked at, too.
    again: bool,
    /// The nodes that are being filled, the leaf first.
    open: Vec<Open>,
}

#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    first: RowKey,
    /// The last node that was put, and how many were.
    last: Hash,
    entries: usize,
}

impl<'r, F: Folder> Builder<'r, F> {
    /// No rows yet. If `again`, files that are there are looked at, and replaced if they are damaged.
    pub fn new(repository: &'r Repository<F>, again: bool) -> Builder<'r, F> {
        Builder { repository, again, open: Vec::new() }
    }

    /// The next row.
    ///
    /// # Errors
    /// As the folder's.
    pub fn row(&mut self, key: &[u8], record: &[u8]) -> Result<(), BackupError> {
        let open = self.open(0, key)?;
        let before = open.bytes.len();
        put_row(&mut open.bytes, key, record);
        open.entries += 1;
        let (added, all) = (open.bytes.len() - before, open.bytes.len());
        if ends(blake3::hash(key).as_bytes(), added) || all >= NODE_BYTES_CUT {
            self.close(0)?;
        }
        Ok(())
    }

    /// Would a node of this level that is there already, and comes next, be made anew just as it is?
    pub fn is_between(&self, level: u8) -> bool {
        self.open.iter().take(usize::from(level) + 1).all(|open| open.entries == 0)
    }

    /// A node that is there already, of `level`, comes next: [`is_between`](Self::is_between) said so.
    ///
    /// # Errors
    /// As the folder's.
    pub fn node(&mut self, level: u8, first: &[u8], hash: Hash) -> Result<(), BackupError> {
        debug_assert!(self.is_between(level), "a node in the middle of another one");
        let above = level + 1;
        let open = self.open(above, first)?;
        let before = open.bytes.len();
        put_node(&mut open.bytes, first, &hash);
        open.entries += 1;
        open.last = hash;
        let (added, all) = (open.bytes.len() - before, open.bytes.len());
        if ends(&hash, added) || all >= NODE_BYTES_CUT {
            self.close(above)?;
        }
        Ok(())
    }

    /// There are no more rows. Gives the root; none if there were no rows.
    ///
    /// # Errors
    /// As the folder's.
    pub fn finish(mut self) -> Result<Option<Hash>, BackupError> {
        let mut level = 0;
        while let Some(open) = self.open.get(usize::from(level)) {
            let is_top = usize::from(level) + 1 == self.open.len();
            if is_top && level > 0 && open.entries == 1 {
                return self.root(open.last).map(Some);
            }
            if open.entries > 0 {
                self.close(level)?;
            }
            level += 1;
        }
        Ok(None)
    }

    /// A branch with one node below it is no root: that node is.
    fn root(&self, mut hash: Hash) -> Result<Hash, BackupError> {
        loop {
            match node(self.repository, &hash, Wanted::default())? {
                Node::Branch(_, nodes) if nodes.len() == 1 => hash = nodes[0].1,
                _ => return Ok(hash),
            }
        }
    }

    fn open(&mut self, level: u8, first: &[u8]) -> Result<&mut Open, BackupError> {
        if level > LEVELS_MAX {
            return Err(BackupError::Refused(format!("a tree of rows would have more than {LEVELS_MAX} levels")));
        }
        while self.open.len() <= usize::from(level) {
            self.open.push(Open::default());
        }
        let open = &mut self.open[usize::from(level)];
        if open.entries == 0 {
            open.bytes.push(level);
            open.first = first.into();
        }
        Ok(open)
    }

    fn close(&mut self, level: u8) -> Result<(), BackupError> {
        let Open { bytes, first, .. } = std::mem::take(&mut self.open[usize::from(level)]);
        let hash = self.repository.store(Kind::Node, &bytes, self.again)?;
        self.node(level, &first, hash)
    }
}
