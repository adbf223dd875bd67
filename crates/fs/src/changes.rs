//! Plans in the making: the changes that operations have in common.

use crate::acl::Acl;
use gavel_types::limits::FILE_BYTES_MAX;
use gavel_types::{Key, ObjectId, Timestamp, VolumeId};
use gavel_wire::{Attr, AttrDelta, Content, Dirent, Extent, Mutation, Plan, Record};

/// A plan in the making.
pub(crate) struct Changes {
    volume: VolumeId,
    mutations: Vec<Mutation>,
}

/// The content changes: mtime and ctime are the commit's.
pub(crate) const MODIFIED: AttrDelta = AttrDelta {
    nlink: 0,
    size: 0,
    size_min: 0,
    atime: None,
    mtime: Some(Timestamp::COMMIT),
    ctime: Some(Timestamp::COMMIT),
};

/// The object changes, but not its content: ctime is the commit's.
pub(crate) const CHANGED: AttrDelta = AttrDelta { mtime: None, ..MODIFIED };

impl Changes {
    pub(crate) fn new(volume: VolumeId) -> Changes {
        Changes { volume, mutations: Vec::new() }
    }

    pub(crate) fn into_plan(self) -> Plan {
        Plan { mutations: self.mutations }
    }

    fn put(&mut self, key: Key, record: Record) {
        self.mutations.push(Mutation::Put { key, record });
    }

    /// All attributes get these values: the operation must depend on all that it read of them.
    pub(crate) fn put_attr(&mut self, object: ObjectId, attr: Attr) {
        self.put(Key::attr(self.volume, object), Record::Attr(attr));
    }

    pub(crate) fn adjust(&mut self, object: ObjectId, delta: AttrDelta) {
        self.mutations.push(Mutation::Adjust { volume: self.volume, object, delta });
    }

    pub(crate) fn put_dirent(&mut self, parent: ObjectId, name: &[u8], dirent: Dirent) {
        self.put(Key::dirent(self.volume, parent, name), Record::Dirent(dirent));
    }

    pub(crate) fn delete_dirent(&mut self, parent: ObjectId, name: &[u8]) {
        self.mutations.push(Mutation::Delete { key: Key::dirent(self.volume, parent, name) });
    }

    /// A directory gains (or loses) so many names, of which so many are subdirectories.
    pub(crate) fn adjust_names(&mut self, directory: ObjectId, names: i64, subdirectories: i32) {
        self.adjust(directory, AttrDelta { size: names, nlink: subdirectories, ..MODIFIED });
    }

    /// One name of a file goes. `attr` are its attributes before, all of which the operation depends on.
    pub(crate) fn drop_link(&mut self, object: ObjectId, attr: &Attr) {
        self.adjust(object, AttrDelta { nlink: -1, ..CHANGED });
        if attr.nlink <= 1 {
            self.mutations.push(Mutation::Orphan { volume: self.volume, object });
        }
    }

    /// An empty directory loses its name. `attr` are its attributes before, all of which the operation depends on.
    pub(crate) fn remove_directory(&mut self, object: ObjectId, mut attr: Attr) {
        attr.nlink = 0;
        attr.firm.parent = ObjectId::VOLUME;
        attr.ctime = Timestamp::COMMIT;
        self.put_attr(object, attr);
        self.mutations.push(Mutation::Orphan { volume: self.volume, object });
    }

    pub(crate) fn put_target(&mut self, object: ObjectId, target: &[u8]) {
        self.put(Key::target(self.volume, object), Record::Target(target.into()));
    }

    pub(crate) fn put_xattr(&mut self, object: ObjectId, name: &[u8], value: &[u8]) {
        self.put(Key::xattr(self.volume, object, name), Record::Xattr(value.into()));
    }

    pub(crate) fn delete_xattr(&mut self, object: ObjectId, name: &[u8]) {
        self.mutations.push(Mutation::Delete { key: Key::xattr(self.volume, object, name) });
    }

    pub(crate) fn put_acl(&mut self, object: ObjectId, name: &[u8], acl: &Acl) {
        self.put_xattr(object, name, &acl.encode());
    }

    /// The bytes from `start` up to and without `end` become a hole.
    pub(crate) fn carve(&mut self, object: ObjectId, start: u64, end: u64) {
        if start < end {
            self.mutations.push(Mutation::Carve { volume: self.volume, object, start, end });
        }
    }

    /// All bytes from `start` on become a hole, allocated ones behind the end of the file too.
    pub(crate) fn carve_tail(&mut self, object: ObjectId, start: u64) {
        self.carve(object, start, FILE_BYTES_MAX);
    }

    /// Puts `len` bytes behind the end, wherever it will be.
    pub(crate) fn append(&mut self, object: ObjectId, len: u64, content: Content) {
        self.mutations.push(Mutation::Append { volume: self.volume, object, len, content });
    }

    /// Puts `len` bytes at `start` of a hole.
    pub(crate) fn fill(&mut self, object: ObjectId, start: u64, len: u64, content: Content) {
        self.put(Key::extent(self.volume, object, start + len), Record::Extent(Extent { len, content }));
    }
}
