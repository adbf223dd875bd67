//! Is a tree whole? Every object has the names, links, sizes and bytes that its attributes say.

use gavel_types::{BlobId, Key, KeyParts, KeyRange, ObjectId, VolumeId};
use gavel_wire::{Attr, Content, Kind, Record, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// What there is in a volume.
#[derive(Debug, Default)]
pub struct Tree {
    attrs: BTreeMap<ObjectId, Attr>,
    /// Directory -> name, object, kind.
    names: BTreeMap<ObjectId, Vec<(Vec<u8>, ObjectId, Kind)>>,
    /// File -> start and end of its extents, in order.
    extents: BTreeMap<ObjectId, Vec<(u64, u64)>>,
    targets: BTreeMap<ObjectId, usize>,
    xattrs: BTreeSet<ObjectId>,
    /// Orphans, and how many sessions hold them.
    pub orphans: BTreeMap<ObjectId, usize>,
    /// Blobs that live extents name.
    pub blobs: BTreeSet<BlobId>,
    problems: Vec<String>,
}

/// Everything in a volume.
pub fn everything(volume: VolumeId) -> KeyRange {
    KeyRange { start: Box::from(volume.0.to_be_bytes()), end: Box::from((volume.0 + 1).to_be_bytes()) }
}

impl Tree {
    /// Reads a volume.
    ///
    /// # Errors
    /// The view's.
    pub fn read(view: &dyn View, volume: VolumeId) -> Result<Tree, ViewError> {
        let mut tree = Tree::default();
        for (key, version) in view.scan(&everything(volume), usize::MAX)? {
            tree.take(&key, version.record);
        }
        Ok(tree)
    }

    fn take(&mut self, key: &Key, record: Record) {
        let object = key.object();
        match (key.parts(), record) {
            (KeyParts::Attr, Record::Attr(attr)) => drop(self.attrs.insert(object, attr)),
            (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) => {
                self.names.entry(object).or_default().push((name.to_vec(), dirent.object, dirent.kind));
            }
            (KeyParts::Extent { end }, Record::Extent(extent)) => {
                self.extents.entry(object).or_default().push((end.saturating_sub(extent.len), end));
                if let Content::Blob { id, .. } = extent.content {
                    self.blobs.insert(id);
                }
            }
            (KeyParts::Target, Record::Target(target)) => drop(self.targets.insert(object, target.len())),
            (KeyParts::Xattr { .. }, Record::Xattr(_)) => drop(self.xattrs.insert(object)),
            (KeyParts::Orphan { object }, Record::Orphan(orphan)) => {
                self.orphans.insert(object, orphan.holders.len());
            }
            (KeyParts::Commit { .. }, Record::Commit(_)) => {}
            (_, record) => self.problems.push(format!("{key:?} holds {record:?}")),
        }
    }

    /// Leaves out what was staged: no name leads there, and some of it may be missing. True if there was any.
    pub fn leave_out(&mut self, staged: impl Fn(ObjectId) -> bool) -> bool {
        let before = self.attrs.len();
        self.attrs.retain(|object, _| !staged(*object));
        self.names.retain(|object, _| !staged(*object));
        self.extents.retain(|object, _| !staged(*object));
        self.targets.retain(|object, _| !staged(*object));
        self.xattrs.retain(|object| !staged(*object));
        self.attrs.len() < before
    }

    /// How many objects there are, and bytes of extents.
    pub fn counts(&self) -> (u64, u64) {
        let bytes = self.extents.values().flatten().map(|(start, end)| end - start).sum();
        (self.attrs.len() as u64, bytes)
    }

    /// Everything that is wrong.
    pub fn check(mut self) -> Vec<String> {
        let links = self.count_links();
        let attrs = std::mem::take(&mut self.attrs);
        for (object, attr) in &attrs {
            self.check_links(&attrs, *object, attr, links.get(object).copied().unwrap_or((0, 0)));
            self.check_bytes(*object, attr);
        }
        let owners = self.names.keys().chain(self.extents.keys()).chain(self.targets.keys());
        let strays: Vec<ObjectId> =
            owners.chain(&self.xattrs).filter(|owner| !attrs.contains_key(owner)).copied().collect();
        self.problems.extend(strays.into_iter().map(|stray| format!("{stray} has records but no attributes")));
        self.check_loops(&attrs);
        self.problems
    }

    /// How many names an object has, and how many subdirectories.
    fn count_links(&mut self) -> BTreeMap<ObjectId, (u32, u32)> {
        let mut links: BTreeMap<ObjectId, (u32, u32)> = BTreeMap::new();
        for (directory, names) in &self.names {
            for (name, object, kind) in names {
                links.entry(*object).or_default().0 += 1;
                if *kind == Kind::Directory {
                    links.entry(*directory).or_default().1 += 1;
                }
                match self.attrs.get(object) {
                    Some(attr) if attr.firm.kind == *kind => {}
                    other => {
                        let name = name.escape_ascii();
                        self.problems
                            .push(format!("{directory}/{name} names {object}, a {kind:?}, which is {other:?}"));
                    }
                }
            }
        }
        links
    }

    fn check_links(
        &mut self,
        attrs: &BTreeMap<ObjectId, Attr>,
        object: ObjectId,
        attr: &Attr,
        (names, subdirectories): (u32, u32),
    ) {
        let mut wrong = |what: String| self.problems.push(format!("{object}: {what}"));
        let root = object == ObjectId::ROOT;
        let orphan = self.orphans.contains_key(&object);
        if attr.firm.kind == Kind::Directory {
            let (want, size) = (2 + subdirectories, self.names.get(&object).map_or(0, Vec::len) as u64);
            if orphan {
                if attr.nlink != 0 || size != 0 || names != 0 || attr.firm.parent != ObjectId::VOLUME {
                    wrong(format!("a removed directory with {names} names, {size} entries and {attr:?}"));
                }
                return;
            }
            if attr.nlink != want {
                wrong(format!("{} links, should be {want}", attr.nlink));
            }
            if attr.size != size {
                wrong(format!("size {}, has {size} names", attr.size));
            }
            if names != u32::from(!root) {
                wrong(format!("a directory with {names} names"));
            }
            let parent = attr.firm.parent;
            let held = self.names.get(&parent).is_some_and(|names| names.iter().any(|(_, held, _)| *held == object));
            if !(root || held && attrs.contains_key(&parent)) {
                wrong(format!("its parent {parent} does not have it"));
            }
        } else {
            if attr.nlink != names {
                wrong(format!("{} links, has {names} names", attr.nlink));
            }
            if orphan != (names == 0) {
                wrong(format!("{names} names, and the mark of an orphan is {orphan}"));
            }
        }
    }

    fn check_bytes(&mut self, object: ObjectId, attr: &Attr) {
        let extents = self.extents.get(&object).cloned().unwrap_or_default();
        let mut wrong = |what: String| self.problems.push(format!("{object}: {what}"));
        if extents.windows(2).any(|pair| pair[0].1 > pair[1].0) || extents.iter().any(|(start, end)| start >= end) {
            wrong(format!("extents overlap: {extents:?}"));
        }
        let bytes: u64 = extents.iter().map(|(start, end)| end - start).sum();
        if attr.allocated != bytes {
            wrong(format!("{} bytes allocated, extents have {bytes}", attr.allocated));
        }
        if attr.firm.kind != Kind::File && !extents.is_empty() {
            wrong(format!("extents of a {:?}", attr.firm.kind));
        }
        if attr.firm.kind == Kind::Symlink && self.targets.get(&object).copied() != Some(attr.size as usize) {
            wrong("its target is not as long as it says".into());
        }
    }

    /// Every directory leads up to the root.
    fn check_loops(&mut self, attrs: &BTreeMap<ObjectId, Attr>) {
        for (object, attr) in attrs {
            if attr.firm.kind != Kind::Directory || self.orphans.contains_key(object) {
                continue;
            }
            let mut at = *object;
            for _ in 0..=attrs.len() {
                if at == ObjectId::ROOT {
                    break;
                }
                at = attrs.get(&at).map_or(ObjectId::VOLUME, |attr| attr.firm.parent);
            }
            if at != ObjectId::ROOT {
                self.problems.push(format!("{object} does not lie below the root"));
            }
        }
    }
}
