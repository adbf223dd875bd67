//! Which state an undo goes back to.
#![allow(clippy::unwrap_used)]

use gavel_history::undo::{RUN_GAP, UndoError, before_last_version};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Records};
use gavel_types::{Class, ClusterId, Key, NodeId, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Change, Dirent, Firm, Kind, Record, Version, View};

const V: VolumeId = VolumeId(1);
const ROOT: ObjectId = ObjectId::ROOT;
/// Where time begins, far enough from 0 for everything that is subtracted.
const START: u64 = 1_000 * RUN_GAP;

struct World {
    records: Records<MemEngine>,
    tid: Tid,
}

impl World {
    fn new() -> World {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        let (records, _) = Records::open(MemEngine::new(), identity).unwrap();
        World { records, tid: Tid(START) }
    }

    /// One transaction, so many nanoseconds behind the last one.
    fn after(&mut self, ns: u64, changes: Vec<(Key, Option<Record>)>) -> Tid {
        self.tid = Tid(self.tid.0 + ns);
        let live = self.records.live(self.tid);
        let changes = changes.into_iter().map(|(key, record)| {
            let old = live.get(&key).unwrap();
            // What only counts links leaves the firm half as it was.
            let firm = match (&old, &record) {
                (Some(Version { firm, record: Record::Attr(old), .. }), Some(Record::Attr(new)))
                    if old.nlink != new.nlink =>
                {
                    *firm
                }
                _ => self.tid,
            };
            let new = record.map(|record| Version { create: self.tid, firm, record });
            Change { tid: self.tid, key, old, new }
        });
        let changes: Vec<Change> = changes.collect();
        self.records.apply(&changes, &[]).unwrap();
        self.tid
    }

    fn choice(&self, name: &str) -> Result<Tid, UndoError> {
        before_last_version(&self.records.past(self.tid), V, ROOT, name.as_bytes())
    }
}

fn attr(object: u64, kind: Kind, nlink: u32, size: u64) -> (Key, Option<Record>) {
    let time = Timestamp::default();
    let firm = Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent: ROOT, birth: time, class: Class::VOLUME };
    let ctime = Timestamp { secs: 1, nanos: 0 };
    let attr = Attr { firm, nlink, size, allocated: 0, atime: time, mtime: time, ctime };
    (Key::attr(V, ObjectId(object)), Some(Record::Attr(attr)))
}

fn name(parent: u64, name: &str, object: u64, kind: Kind) -> (Key, Option<Record>) {
    let record = Record::Dirent(Dirent { object: ObjectId(object), kind });
    (Key::dirent(V, ObjectId(parent), name.as_bytes()), Some(record))
}

fn gone(parent: u64, name: &str) -> (Key, Option<Record>) {
    (Key::dirent(V, ObjectId(parent), name.as_bytes()), None)
}

fn file(object: u64, size: u64) -> (Key, Option<Record>) {
    attr(object, Kind::File, 1, size)
}

fn unlinked(object: u64) -> (Key, Option<Record>) {
    attr(object, Kind::File, 0, 5)
}

fn before(tid: Tid) -> Result<Tid, UndoError> {
    Ok(Tid(tid.0 - 1))
}

#[test]
fn a_file_goes_back_before_its_last_change() {
    let mut world = World::new();
    let made = world.after(1, vec![name(1, "a", 20, Kind::File), file(20, 3)]);
    assert_eq!(world.choice("a"), before(made), "it was not there");
    let written = world.after(1, vec![file(20, 5)]);
    assert_eq!(world.choice("a"), before(written));
    world.after(1, vec![name(1, "b", 21, Kind::File), file(21, 3)]);
    assert_eq!(world.choice("a"), before(written), "others do not matter");
    assert_eq!(world.choice("c"), Err(UndoError::NeverWas));
}

#[test]
fn a_truncation_belongs_to_the_writing_behind_it() {
    let mut world = World::new();
    world.after(1, vec![name(1, "a", 20, Kind::File), file(20, 3)]);
    let emptied = world.after(1, vec![file(20, 0)]);
    assert_eq!(world.choice("a"), before(emptied));
    world.after(1, vec![file(20, 7)]);
    assert_eq!(world.choice("a"), before(emptied));
    let later = world.after(RUN_GAP + 1, vec![file(20, 0)]);
    let written = world.after(RUN_GAP + 1, vec![file(20, 8)]);
    assert_eq!(world.choice("a"), before(written), "it was empty for long");
    assert!(later < written);
}

#[test]
fn a_removal_and_a_name_that_came_in_its_place_go_back_one_each() {
    let mut world = World::new();
    world.after(1, vec![name(1, "a", 20, Kind::File), file(20, 3)]);
    let removed = world.after(1, vec![gone(1, "a"), unlinked(20)]);
    assert_eq!(world.choice("a"), before(removed));
    let anew = world.after(1, vec![name(1, "a", 21, Kind::File), file(21, 9)]);
    assert_eq!(world.choice("a"), before(anew));
    let replaced = world.after(1, vec![name(1, "a", 22, Kind::File), file(22, 9), unlinked(21)]);
    assert_eq!(world.choice("a"), before(replaced));
}

fn tree(world: &mut World) {
    let directory = |object| attr(object, Kind::Directory, 2, 0);
    world.after(1, vec![name(1, "d", 30, Kind::Directory), directory(30)]);
    world.after(1, vec![name(30, "below", 31, Kind::Directory), directory(31)]);
    for object in 40..44 {
        world.after(1, vec![name(31, &object.to_string(), object, Kind::File), file(object, 5)]);
    }
}

#[test]
fn a_tree_that_was_removed_bit_by_bit_is_one_version() {
    let mut world = World::new();
    tree(&mut world);
    let kept = world.after(1, vec![file(43, 6)]);
    let second_name = vec![name(1, "second", 41, Kind::File), attr(41, Kind::File, 2, 5)];
    world.after(1, second_name);
    let first = world.after(RUN_GAP / 2, vec![gone(31, "40"), unlinked(40)]);
    world.after(RUN_GAP / 2, vec![gone(31, "41"), file(41, 5), gone(31, "42"), unlinked(42)]);
    world.after(RUN_GAP / 2, vec![gone(31, "43"), unlinked(43)]);
    world.after(RUN_GAP, vec![gone(30, "below")]);
    world.after(RUN_GAP, vec![gone(1, "d")]);
    assert_eq!(world.choice("d"), before(first));
    assert!(kept < first);
}

#[test]
fn a_run_of_removals_ends_at_a_pause_and_at_anything_else() {
    let mut world = World::new();
    tree(&mut world);
    world.after(1, vec![gone(31, "40"), unlinked(40)]);
    let second = world.after(RUN_GAP + 1, vec![gone(31, "41"), unlinked(41)]);
    world.after(1, vec![gone(31, "42"), unlinked(42)]);
    assert_eq!(world.choice("d"), before(second), "a directory that is there, emptied in part");
    world.after(1, vec![file(43, 9)]);
    let last = world.after(1, vec![gone(31, "43"), unlinked(43)]);
    assert_eq!(world.choice("d"), before(last));
}

#[test]
fn what_comes_back_whole_goes_back_whole() {
    let mut world = World::new();
    tree(&mut world);
    // Built up under another name, and renamed.
    world.after(1, vec![name(1, ".undo-1", 50, Kind::Directory), attr(50, Kind::Directory, 2, 0)]);
    world.after(1, vec![name(50, "f", 51, Kind::File), file(51, 5)]);
    let renamed = world.after(1, vec![gone(1, ".undo-1"), name(1, "back", 50, Kind::Directory)]);
    assert_eq!(world.choice("back"), before(renamed));
}
