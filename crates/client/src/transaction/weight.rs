//! What the changes of a transaction take: in its last request, and beside.

use super::{Transaction, guards, pack};
use gavel_types::{Key, ObjectId};
use gavel_wire::{Change, Content, Extent, Record, Version};
use std::collections::BTreeSet;

/// What a change weighs beside what it holds: the key's length, and what tells mutations apart.
const CHANGE_BYTES: usize = 8;
/// Attributes in a plan, no fewer than they take.
const ATTR_BYTES: usize = 112;
/// A name in a plan, beside its key.
const NAME_BYTES: usize = 12;
/// An extent in a plan, beside its key and its content.
const EXTENT_BYTES: usize = 56;
/// Attributes that are touched: of a made object that the last request names, and of a made directory in which it makes a name.
const TOUCH_BYTES: usize = 32;

/// What a layer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Weighed {
    /// Records of what was there before, and what they take in a request, no less than they do.
    pub(super) changes: usize,
    pub(super) bytes: usize,
    /// The same of what can be staged.
    pub(super) made_changes: usize,
    pub(super) made_bytes: usize,
    /// Small contents.
    pub(super) inline: usize,
}

/// Which objects the transaction made: before the operation at hand, and by it.
#[derive(Clone, Copy)]
pub(super) struct Classes<'a>(&'a BTreeSet<ObjectId>, &'a BTreeSet<ObjectId>);

impl Classes<'_> {
    fn is_made(&self, object: ObjectId) -> bool {
        self.0.contains(&object) || self.1.contains(&object)
    }

    /// Can the record be staged? What it takes to touch what it is about, if not.
    fn place(&self, key: &Key, version: Option<&Version>) -> (bool, usize) {
        let inside = self.is_made(guards::owner(key));
        match version.map(|version| &version.record) {
            Some(Record::Dirent(dirent)) => {
                let named = self.is_made(dirent.object);
                (inside && named, (usize::from(inside) + usize::from(named)) * TOUCH_BYTES)
            }
            _ => (inside, 0),
        }
    }
}

impl Weighed {
    fn put_on(&mut self, classes: Classes<'_>, key: &Key, version: Option<&Version>) {
        match classes.place(key, version) {
            (true, _) => {
                self.made_changes += 1;
                self.made_bytes += weight(key, version);
            }
            (false, beside) => {
                self.changes += 1;
                self.bytes += weight(key, version) + beside;
            }
        }
        self.inline += inline(version);
    }

    pub(super) fn take_off(&mut self, classes: Classes<'_>, key: &Key, version: Option<&Version>) {
        match classes.place(key, version) {
            (true, _) => {
                self.made_changes -= 1;
                self.made_bytes -= weight(key, version);
            }
            (false, beside) => {
                self.changes -= 1;
                self.bytes -= weight(key, version) + beside;
            }
        }
        self.inline -= inline(version);
    }
}

impl Transaction {
    pub(super) fn classes<'a>(&'a self, made: &'a BTreeSet<ObjectId>) -> Classes<'a> {
        Classes(&self.made, made)
    }

    /// What it would weigh with these changes, which make the objects `made`.
    pub(super) fn weigh(&self, changes: &[Change], made: &BTreeSet<ObjectId>) -> Weighed {
        let (mut weighed, classes) = (self.weighed, self.classes(made));
        for Change { key, new, .. } in changes {
            if let Some(laid) = self.layer.get(key) {
                weighed.take_off(classes, key, laid);
            }
            weighed.put_on(classes, key, new.as_ref());
        }
        weighed
    }
}

/// What a change takes in a request, no less than it does. Contents that are large enough go to blobs before it is made.
fn weight(key: &Key, version: Option<&Version>) -> usize {
    let record = version.map_or(0, |version| match &version.record {
        Record::Attr(_) => ATTR_BYTES,
        Record::Dirent(_) => NAME_BYTES,
        Record::Extent(_) => EXTENT_BYTES + inline(Some(version)).min(pack::PACK_BYTES_MIN),
        Record::Xattr(value) | Record::Target(value) => value.len() + 4,
        Record::Orphan(_) | Record::Commit(_) | Record::Gone | Record::Boundary(_) => 0,
    });
    key.as_bytes().len() + CHANGE_BYTES + record
}

fn inline(version: Option<&Version>) -> usize {
    match version {
        Some(Version { record: Record::Extent(Extent { content: Content::Inline(bytes), .. }), .. }) => bytes.len(),
        _ => 0,
    }
}
