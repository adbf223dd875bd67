//! What must hold of the records after each commit (the invariants of `gavel_fs`).

use super::world::{ROOT, Records, V};
use gavel_types::{Key, KeyParts, ObjectId};
use gavel_wire::{Attr, Content, Dirent, Extent, Kind, Record};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Object {
    attr: Option<Attr>,
    names: Vec<Dirent>,
    extents: Vec<(u64, Extent)>,
    has_target: bool,
    /// Directories in which it has a name.
    named_in: Vec<ObjectId>,
    orphan: bool,
}

/// # Panics
/// If an invariant does not hold.
pub fn check(records: &Records) {
    let objects = gather(records);
    for (id, object) in &objects {
        let attr = object.attr.unwrap_or_else(|| panic!("{id} has records but no attributes"));
        match attr.firm.kind {
            Kind::Directory => check_directory(&objects, *id, object, &attr),
            _ => {
                assert_eq!(attr.nlink as usize, object.named_in.len(), "names of {id}");
                assert_eq!(object.orphan, attr.nlink == 0, "{id} an orphan?");
                assert_eq!(attr.firm.parent, ObjectId::VOLUME);
                assert!(object.names.is_empty());
            }
        }
        check_extents(*id, object, &attr);
        assert_eq!(object.has_target, attr.firm.kind == Kind::Symlink, "target of {id}");
    }
}

fn gather(records: &Records) -> BTreeMap<ObjectId, Object> {
    let mut objects: BTreeMap<ObjectId, Object> = BTreeMap::new();
    for (key, version) in &records.live {
        assert_eq!(key.volume(), V);
        if let KeyParts::Orphan { object } = key.parts() {
            objects.entry(object).or_default().orphan = true;
            continue;
        }
        if matches!((key.parts(), &version.record), (KeyParts::Commit { .. }, Record::Commit(_))) {
            continue;
        }
        let object = objects.entry(key.object()).or_default();
        match (key.parts(), &version.record) {
            (KeyParts::Attr, Record::Attr(attr)) => object.attr = Some(*attr),
            (KeyParts::Dirent { .. }, Record::Dirent(dirent)) => {
                object.names.push(*dirent);
                objects.entry(dirent.object).or_default().named_in.push(key.object());
            }
            (KeyParts::Extent { end }, Record::Extent(extent)) => object.extents.push((end, extent.clone())),
            (KeyParts::Target, Record::Target(_)) => object.has_target = true,
            (KeyParts::Xattr { .. }, Record::Xattr(_)) => {}
            other => panic!("{key:?} holds {other:?}"),
        }
    }
    objects
}

fn check_directory(objects: &BTreeMap<ObjectId, Object>, id: ObjectId, object: &Object, attr: &Attr) {
    let subdirectories = object.names.iter().filter(|dirent| dirent.kind == Kind::Directory).count();
    assert_eq!(attr.size as usize, object.names.len(), "size of directory {id}");
    for dirent in &object.names {
        assert_eq!(objects[&dirent.object].attr.map(|attr| attr.firm.kind), Some(dirent.kind), "{dirent:?} in {id}");
    }
    if object.orphan {
        assert_eq!((attr.nlink, attr.firm.parent), (0, ObjectId::VOLUME), "removed directory {id}");
        assert!(object.names.is_empty() && object.named_in.is_empty());
        return;
    }
    assert_eq!(attr.nlink as usize, 2 + subdirectories, "links of directory {id}");
    if id == ROOT {
        assert!(object.named_in.is_empty());
    } else {
        assert_eq!(object.named_in, [attr.firm.parent], "names of directory {id}");
    }
    let (mut at, mut seen) = (id, BTreeSet::new());
    while at != ROOT {
        assert!(seen.insert(at), "directory {id} lies below itself");
        at = objects[&at].attr.map(|attr| attr.firm.parent).unwrap();
    }
}

fn check_extents(id: ObjectId, object: &Object, attr: &Attr) {
    let mut behind = 0;
    for (end, extent) in &object.extents {
        assert!(extent.len > 0 && end - extent.len >= behind, "extents of {id} overlap at {end}");
        assert!(*end <= attr.size || extent.content == Content::Zeros, "data behind the end of {id}");
        behind = *end;
    }
    assert_eq!(attr.allocated, object.extents.iter().map(|(_, extent)| extent.len).sum::<u64>(), "allocated of {id}");
}

/// Everything filed under an object, for tests that look closely.
pub fn extents_of(records: &Records, object: ObjectId) -> Vec<(u64, u64)> {
    let found = records.live.iter().filter(|(key, _)| key.object() == object);
    found
        .filter_map(|(key, version): (&Key, _)| match (key.parts(), &version.record) {
            (KeyParts::Extent { end }, Record::Extent(extent)) => Some((end - extent.len, end)),
            _ => None,
        })
        .collect()
}
