use super::words::{Paths, what};
use super::*;
use gavel_types::{Class, Key, KeyRange, ObjectId};
use gavel_wire::{Attr, Content, Dirent, Firm, Kind, Record, Version, View, ViewError};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(1);

fn write() -> Conflict {
    let content = Content::Inline(b"text".as_slice().into());
    let object = ObjectId(300);
    Conflict {
        time: Tid(5_000_000_001),
        volume: V,
        caller: Caller { uid: 1000, gid: 100 },
        operation: Operation::Write { object, offset: 7, append: false, len: 4, content, kill_suidgid: true },
        why: Why::Changed { start: vec![1, 2], end: vec![1, 3] },
    }
}

fn rename() -> Conflict {
    let (name, new_name) = (b"old".as_slice().into(), b"new".as_slice().into());
    let (parent, new_parent) = (ObjectId(2), ObjectId(21));
    let mode = gavel_fs::operation::RenameMode::NoReplace;
    let operation = Operation::Rename { parent, name, new_parent, new_name, mode };
    Conflict { operation, why: Why::Unknown, ..write() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn files_have_the_form_that_is_documented() {
    assert_eq!(hex(&write().encode()), "0181e497d01201e807640eac020700040004746578740100020102020103");
    assert_eq!(hex(&rename().encode()), "0181e497d01201e807640b02036f6c6415036e65770102");
    assert_eq!(Conflict::decode(&write().encode()), Ok(write()));
    assert_eq!(Conflict::decode(&rename().encode()), Ok(rename()));
}

#[test]
fn what_is_no_conflict_is_refused() {
    let whole = write().encode();
    assert!((0..whole.len()).all(|len| Conflict::decode(&whole[..len]).is_err()));
    assert!(Conflict::decode(&[&whole[..], &[0]].concat()).is_err());
    assert!(Conflict::decode(&[&[VERSION + 1], &whole[1..]].concat()).is_err());
}

#[test]
fn conflicts_outlive_the_process_and_no_number_is_used_twice_while_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let conflicts = Conflicts::open(dir.path()).unwrap();
    assert_eq!((conflicts.keep(&write()).unwrap(), conflicts.keep(&rename()).unwrap()), (1, 2));
    drop(conflicts);
    std::fs::write(dir.path().join(CONFLICTS_DIR).join("new"), b"half").unwrap();
    let conflicts = Conflicts::open(dir.path()).unwrap();
    assert_eq!(conflicts.ids(), [1, 2]);
    assert_eq!(conflicts.get(2).unwrap(), Some(rename()));
    assert!(conflicts.forget(1).unwrap() && !conflicts.forget(1).unwrap());
    assert_eq!((conflicts.get(1).unwrap(), conflicts.len()), (None, 1));
    assert_eq!(conflicts.keep(&write()).unwrap(), 3);
    assert!(conflicts.forget(3).unwrap());
    assert_eq!(conflicts.keep(&write()).unwrap(), 4, "somebody may still look at a list with 3 in it");
    std::fs::write(dir.path().join(CONFLICTS_DIR).join("2"), b"\x01\xff").unwrap();
    assert!(conflicts.get(2).unwrap_err().to_string().contains("conflicts/2"));
}

struct Tree(BTreeMap<Key, Record>);

impl View for Tree {
    fn tid(&self) -> Tid {
        Tid(9)
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.0.get(key).map(|record| Version { create: Tid(1), firm: Tid(1), record: record.clone() }))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let within = self.0.iter().filter(|(key, _)| range.contains(key)).take(limit);
        Ok(within
            .map(|(key, record)| (key.clone(), Version { create: Tid(1), firm: Tid(1), record: record.clone() }))
            .collect())
    }
}

fn named(tree: &mut Tree, parent: u64, name: &[u8], object: u64, kind: Kind) {
    let time = gavel_types::Timestamp::COMMIT;
    let firm = Firm {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        parent: ObjectId(parent),
        birth: time,
        class: Class::VOLUME,
    };
    let attr = Attr { firm, nlink: 1, size: 0, allocated: 0, atime: time, mtime: time, ctime: time };
    tree.0.insert(Key::attr(V, ObjectId(object)), Record::Attr(attr));
    let dirent = Dirent { object: ObjectId(object), kind };
    tree.0.insert(Key::dirent(V, ObjectId(parent), name), Record::Dirent(dirent));
}

#[test]
fn operations_are_said_with_the_paths_of_now() {
    let mut tree = Tree(BTreeMap::new());
    named(&mut tree, ObjectId::ROOT.0, b"dir", 21, Kind::Directory);
    named(&mut tree, 21, b"fi\nle\xff", 300, Kind::File);
    let say = |conflict: Conflict| {
        let paths = Paths::of(&tree, V, super::words::named(&conflict));
        what(&conflict.operation, &paths)
    };
    assert_eq!(say(write()), r"write 4 bytes at 7 to /dir/fi\nle\xff");
    let gone = Operation::Unlink { parent: ObjectId(999), name: b"x".as_slice().into() };
    assert_eq!(say(Conflict { operation: gone, ..write() }), "remove x in (directory 999, which has no path now)");
}
