//! The recorder: what each read comes to depend on.

#![allow(clippy::unwrap_used)]

use gavel_types::{Class, Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Firm, Guard, Kind, Record, Recorder, Version, View, ViewError};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(1);
const O: ObjectId = ObjectId(9);
const AT: Tid = Tid(50);

struct Fixed(BTreeMap<Key, Version>);

impl View for Fixed {
    fn tid(&self) -> Tid {
        AT
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let rows = self.0.iter().filter(|(key, _)| range.contains(key));
        Ok(rows.take(limit).map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

fn xattr(name: &str) -> Key {
    Key::xattr(V, O, name.as_bytes())
}

/// An object with its attributes and three extended ones.
fn view() -> Fixed {
    let zero = Timestamp::default();
    let firm = Firm {
        kind: Kind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        parent: ObjectId(0),
        birth: zero,
        class: Class::VOLUME,
    };
    let attr = Attr { firm, nlink: 1, size: 2, allocated: 3, atime: zero, mtime: zero, ctime: zero };
    let version = |record| Version { create: Tid(7), firm: Tid(5), record };
    let names = ["a", "b", "c"].map(|name| (xattr(name), version(Record::Xattr(name.as_bytes().into()))));
    Fixed(names.into_iter().chain([(Key::attr(V, O), version(Record::Attr(attr)))]).collect())
}

fn guards(read: impl FnOnce(&Recorder<'_>)) -> Vec<Guard> {
    let view = view();
    let recorder = Recorder::new(&view);
    read(&recorder);
    recorder.into_guards()
}

#[test]
fn what_is_there_is_guarded_as_of_the_view_and_what_is_not_by_its_absence() {
    let found = guards(|tree| assert!(tree.get(&xattr("a")).unwrap().is_some()));
    assert_eq!(found, [Guard::Unchanged { key: xattr("a"), at: AT }]);
    let lacking = guards(|tree| assert!(tree.get(&xattr("x")).unwrap().is_none()));
    assert_eq!(lacking, [Guard::Empty { range: KeyRange::one(&xattr("x")) }]);
}

#[test]
fn the_firm_half_is_guarded_by_itself() {
    let firm = guards(|tree| assert_eq!(tree.firm(V, O).unwrap().unwrap().mode, 0o644));
    assert_eq!(firm, [Guard::Firm { key: Key::attr(V, O), at: AT }]);
    let whole = guards(|tree| assert_eq!(tree.attr(V, O).unwrap().unwrap().size, 2));
    assert_eq!(whole, [Guard::Unchanged { key: Key::attr(V, O), at: AT }]);
    let nobody = ObjectId(10);
    let lacking = guards(|tree| assert_eq!(tree.firm(V, nobody).unwrap(), None));
    assert_eq!(lacking, [Guard::Empty { range: KeyRange::one(&Key::attr(V, nobody)) }]);
}

#[test]
fn emptiness_depends_on_the_range_or_on_the_first_that_is_there() {
    let full = guards(|tree| assert!(!tree.is_empty(&KeyRange::xattrs(V, O)).unwrap()));
    assert_eq!(full, [Guard::Unchanged { key: xattr("a"), at: AT }]);
    let range = KeyRange::dirents(V, O);
    let empty = guards(|tree| assert!(tree.is_empty(&range).unwrap()));
    assert_eq!(empty, [Guard::Empty { range }]);
}

#[test]
fn a_list_depends_on_as_much_of_the_range_as_was_read() {
    let range = KeyRange::xattrs(V, O);
    let listed = |limit: usize, names: usize| {
        let guards = guards(|tree| assert_eq!(tree.scan(&range, limit).unwrap().len(), names));
        match &guards[..] {
            [Guard::Stable { range, at: AT }] => range.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(listed(9, 3), range, "to its end, for nothing followed");
    let two = listed(2, 2);
    assert!(two.contains(&xattr("a")) && two.contains(&xattr("aa")) && two.contains(&xattr("b")));
    assert!(!two.contains(&xattr("ba")) && !two.contains(&xattr("c")));
    assert!(listed(3, 3).contains(&xattr("c")) && !listed(3, 3).contains(&xattr("d")));
    assert_eq!(listed(0, 0), range, "who asks for none asks about all");
}

#[test]
fn a_read_that_is_repeated_is_guarded_once() {
    let guards = guards(|tree| {
        for _ in 0..3 {
            tree.get(&xattr("a")).unwrap();
            tree.get(&xattr("x")).unwrap();
        }
    });
    assert_eq!(guards.len(), 2);
}

#[test]
fn unguarded_reads_leave_no_trace() {
    assert_eq!(guards(|tree| assert!(tree.unguarded().get(&xattr("a")).unwrap().is_some())), []);
}
