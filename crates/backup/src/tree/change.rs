//! From a tree and changes to another tree.

use super::build::Builder;
use super::node::{Hash, Node};
use super::read::{Wanted, node};
use super::{RowKey, attr_of, record};
use crate::error::BackupError;
use crate::folder::Folder;
use crate::head::Counts;
use crate::name::Name;
use crate::repository::Repository;
use gavel_wire::{Kind, Record};
use std::collections::BTreeMap;
use std::iter::Peekable;

/// What rows are to be; none: they end.
pub type Changes = BTreeMap<RowKey, Option<Box<[u8]>>>;

/// The tree that another one is with changes, and what that has. Only nodes with changes, and those above them, are read. If `again`, files that are there
/// already are looked at, and replaced if they are damaged.
///
/// # Errors
/// As the folder's; [`BackupError::Damaged`] and [`BackupError::Missing`] of nodes of the tree.
pub fn change<F: Folder>(
    repository: &Repository<F>,
    (root, counts): (Option<Hash>, Counts),
    changes: Changes,
    again: bool,
) -> Result<(Option<Hash>, Counts), BackupError> {
    let changes = changes.into_iter().peekable();
    let mut change = Change { repository, builder: Builder::new(repository, again), changes, counts };
    if let Some(root) = root {
        change.node(&root, Wanted::default(), None)?;
    }
    while let Some((key, new)) = change.changes.next() {
        change.put(repository.node(&[0; 32]), key, None, new)?;
    }
    Ok((change.builder.finish()?, change.counts))
}

struct Change<'r, F: Folder> {
    repository: &'r Repository<F>,
    builder: Builder<'r, F>,
    changes: Peekable<std::collections::btree_map::IntoIter<RowKey, Option<Box<[u8]>>>>,
    counts: Counts,
}

impl<F: Folder> Change<'_, F> {
    /// Is there a change before `end`? None: behind everything.
    fn is_changed(&mut self, end: Option<&[u8]>) -> bool {
        self.changes.peek().is_some_and(|(key, _)| end.is_none_or(|end| **key < *end))
    }

    /// A node, with all changes before `end`.
    fn node(&mut self, hash: &Hash, wanted: Wanted<'_>, end: Option<&[u8]>) -> Result<(), BackupError> {
        if let Wanted { level: Some(level), first: Some(first) } = wanted
            && !self.is_changed(end)
            && self.builder.is_between(level)
        {
            return self.builder.node(level, first, *hash);
        }
        let file = self.repository.node(hash);
        match node(self.repository, hash, wanted)? {
            Node::Leaf(rows) => {
                for (key, record) in rows {
                    while self.is_changed(Some(&key))
                        && let Some((key, new)) = self.changes.next()
                    {
                        self.put(file, key, None, new)?;
                    }
                    match self.changes.next_if(|(changed, _)| *changed == key) {
                        Some((_, new)) => self.put(file, key, Some(record), new)?,
                        None => self.builder.row(&key, &record)?,
                    }
                }
                while self.is_changed(end)
                    && let Some((key, new)) = self.changes.next()
                {
                    self.put(file, key, None, new)?;
                }
            }
            Node::Branch(level, nodes) => {
                for (place, (first, below)) in nodes.iter().enumerate() {
                    let end = nodes.get(place + 1).map(|(first, _)| &**first).or(end);
                    self.node(below, Wanted { level: Some(level - 1), first: Some(first) }, end)?;
                }
            }
        }
        Ok(())
    }

    /// A row that was `old` and is to be `new`.
    fn put(
        &mut self,
        file: Name,
        key: RowKey,
        old: Option<Box<[u8]>>,
        new: Option<Box<[u8]>>,
    ) -> Result<(), BackupError> {
        for (bytes, by) in [(&old, -1), (&new, 1)] {
            let Some(bytes) = bytes else { continue };
            let counted = count(&mut self.counts, &key, bytes, by);
            counted
                .ok_or(BackupError::Damaged { file, what: "a row is no record, or what was counted is not there" })?;
        }
        match new {
            Some(new) => self.builder.row(&key, &new),
            None => Ok(()),
        }
    }
}

/// One row more, or one less. None if it is no row.
fn count(counts: &mut Counts, key: &[u8], bytes: &[u8], by: i64) -> Option<()> {
    counts.rows = counts.rows.checked_add_signed(by)?;
    if attr_of(key).is_none() {
        return Some(());
    }
    let Some(Record::Attr(attr)) = record(bytes) else { return None };
    let place = match attr.firm.kind {
        Kind::File => {
            let size = i64::try_from(attr.size).ok()?;
            // It may be more than there is of files with holes: what is too much is taken off again the same way.
            counts.bytes = counts.bytes.wrapping_add_signed(size.wrapping_mul(by));
            &mut counts.files
        }
        Kind::Directory => &mut counts.directories,
        _ => &mut counts.others,
    };
    *place = place.checked_add_signed(by)?;
    Some(())
}
