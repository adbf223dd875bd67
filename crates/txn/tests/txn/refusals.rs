//! Plans of a faulty node: what breaks a rule of the record space is refused whole, and nothing panics.

use super::world::*;
use gavel_txn::apply::GUARDS_MAX;
use gavel_txn::expand::PLAN_MUTATIONS_MAX;
use gavel_types::limits::{
    BLOB_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, LINKS_MAX, TARGET_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use gavel_types::{Key, KeyRange, ObjectId, Timestamp, VolumeId};
use gavel_wire::{Attr, AttrDelta, Content, Dirent, Extent, Guard, Kind, Mutation, Orphan, Outcome, Record, Refusal};

const NO_OBJECTS: [ObjectId; 2] = [ObjectId::VOLUME, ObjectId(u64::MAX)];

fn delete(key: Key) -> Mutation {
    Mutation::Delete { key }
}

#[test]
fn a_volume_that_is_none() {
    let mut world = World::new();
    for volume in [VolumeId(0), VolumeId(2), VolumeId(u32::MAX)] {
        world.refuses(vec![put(Key::xattr(volume, FILE, b"user.a"), Record::Xattr(Box::default()))]);
        world.refuses(vec![delete(Key::xattr(volume, FILE, b"user.a"))]);
        world.refuses(vec![Mutation::Adjust { volume, object: FILE, delta: AttrDelta::default() }]);
        world.refuses(vec![Mutation::Carve { volume, object: FILE, start: 0, end: 1 }]);
        world.refuses(vec![Mutation::Orphan { volume, object: FILE }]);
    }
}

/// Before, the last id made every replica panic when the orphan's records were to end.
#[test]
fn an_object_that_can_not_be() {
    let mut world = World::new();
    for object in NO_OBJECTS {
        world.refuses(vec![put_attr(object, file(1))]);
        world.refuses(vec![put_attr(object, file(0)), orphan(object)]);
        world.refuses(vec![orphan(object)]);
        world.refuses(vec![put_name(object, "a", FILE)]);
        world.refuses(vec![put_xattr(object, "user.a", b"")]);
        world.refuses(vec![put_text(object, 0, "a")]);
        world.refuses(vec![delete(Key::target(V, object))]);
        world.refuses(vec![adjust(object, AttrDelta::default())]);
        world.refuses(vec![carve(object, 0, 1)]);
    }
}

#[test]
fn a_record_that_does_not_fit_its_key() {
    let mut world = World::new();
    let keys = [
        Key::attr(V, FILE),
        Key::dirent(V, FILE, b"a"),
        Key::extent(V, FILE, 1),
        Key::xattr(V, FILE, b"user.a"),
        Key::target(V, FILE),
        Key::orphan(V, FILE),
    ];
    let records = [
        Record::Attr(file(1)),
        Record::Dirent(Dirent { object: FILE, kind: Kind::File }),
        Record::Extent(Extent { len: 1, content: Content::Zeros }),
        Record::Xattr(Box::default()),
        Record::Target(Box::default()),
        Record::Orphan(Orphan { holders: Vec::new() }),
    ];
    for (k, key) in keys.iter().enumerate() {
        for (r, record) in records.iter().enumerate() {
            // The quorum alone makes marks.
            if k != r || k == 5 {
                world.refuses(vec![put(key.clone(), record.clone())]);
            } else {
                world.committed(vec![put(key.clone(), record.clone())]);
            }
        }
    }
}

/// Before, plans could end the attributes of an object whose extents stayed, the root's too, and the marks of orphans.
#[test]
fn an_end_that_is_not_the_plans_to_make() {
    let mut world = World::new();
    world.committed(vec![put_text(FILE, 0, "abc")]);
    world.committed(unlink(OTHER));
    for key in [Key::attr(V, FILE), Key::attr(V, ROOT), Key::extent(V, FILE, 3), Key::orphan(V, OTHER)] {
        world.refuses(vec![delete(key)]);
    }
}

#[test]
fn bytes_of_what_is_not_there() {
    let mut world = World::new();
    let nowhere = ObjectId(555);
    world.refuses(vec![put_text(nowhere, 0, "abc")]);
    world.refuses(vec![put_text(nowhere, 0, "abc"), carve(nowhere, 1, 9)]);
    world.committed(vec![put_text(nowhere, 0, "abc"), put_attr(nowhere, file(1))]);
}

/// Before, the names of a removed object's living names led nowhere once it was reaped.
#[test]
fn names_and_marks_that_contradict_each_other() {
    let mut world = World::new();
    world.refuses(vec![orphan(FILE)]);
    world.refuses(vec![orphan(ObjectId(555))]);
    world.refuses(vec![orphan(ROOT)]);
    world.refuses(vec![put_attr(ObjectId(555), file(0))]);
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: -1, ..Default::default() })]);
    let mut root = world.attr(ROOT);
    root.nlink = 0;
    world.refuses(vec![put_attr(ROOT, root), orphan(ROOT)]);
    world.committed(unlink(FILE));
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: 1, ..Default::default() })]);
    world.refuses(vec![put_attr(FILE, file(1))]);
    world.committed(vec![orphan(FILE)]);
}

#[test]
fn attributes_out_of_range() {
    let mut world = World::new();
    let no_time = Timestamp { secs: 0, nanos: 1_000_000_000 };
    let bad: [fn(&mut Attr, Timestamp); 9] = [
        |attr, _| attr.nlink = LINKS_MAX + 1,
        |attr, _| attr.size = FILE_BYTES_MAX + 1,
        |attr, _| attr.firm.mode = 0o10000,
        |attr, _| attr.firm.kind = Kind::Directory,
        |attr, no_time| attr.firm.birth = no_time,
        |attr, no_time| attr.atime = no_time,
        |attr, no_time| attr.mtime = no_time,
        |attr, no_time| attr.ctime = no_time,
        |attr, _| attr.ctime = Timestamp { secs: 0, nanos: u32::MAX },
    ];
    for (i, spoil) in bad.into_iter().enumerate() {
        let mut attr = file(1);
        spoil(&mut attr, no_time);
        println!("case {i}");
        world.refuses(vec![put_attr(FILE, attr)]);
    }
    for delta in [
        AttrDelta { atime: Some(no_time), ..Default::default() },
        AttrDelta { mtime: Some(no_time), ..Default::default() },
        AttrDelta { ctime: Some(no_time), ..Default::default() },
    ] {
        world.refuses(vec![adjust(FILE, delta)]);
    }
}

#[test]
fn extents_out_of_bounds() {
    let mut world = World::new();
    let whole = |len: u64, content| put(Key::extent(V, FILE, 100), Record::Extent(Extent { len, content }));
    world.refuses(vec![whole(0, Content::Zeros)]);
    world.refuses(vec![whole(101, Content::Zeros)]);
    world.refuses(vec![whole(u64::MAX, Content::Zeros)]);
    world.refuses(vec![whole(3, Content::Inline(b"ab"[..].into()))]);
    world.refuses(vec![whole(0, Content::Inline(Default::default()))]);
    world.refuses(vec![whole(51, blob(100, 50))]);
    world.refuses(vec![whole(1, blob(0, 0))]);
    world.refuses(vec![whole(1, blob(100, u32::MAX))]);
    world.refuses(vec![whole(1, blob(BLOB_BYTES_MAX as u32 + 1, 0))]);
    world.refuses(vec![put_extent(FILE, FILE_BYTES_MAX, 1, Content::Zeros)]);
    let long = vec![7; INLINE_BYTES_MAX + 1];
    world.refuses(vec![put_extent(FILE, 0, long.len() as u64, Content::Inline(long.into()))]);
    world.committed(vec![put_extent(FILE, FILE_BYTES_MAX - 1, 1, Content::Zeros), whole(50, blob(100, 50))]);
}

#[test]
fn extents_that_overlap() {
    let mut world = World::new();
    world.committed(vec![put_extent(FILE, 10, 10, Content::Zeros), put_extent(FILE, 30, 10, Content::Zeros)]);
    for (start, len) in [(10, 9), (9, 2), (18, 1), (15, 20), (5, 100), (19, 12), (38, 1), (0, 40), (15, 25)] {
        world.refuses(vec![put_extent(FILE, start, len, Content::Zeros)]);
    }
    world.committed(vec![put_extent(FILE, 20, 10, Content::Zeros)]);
    world.committed(vec![put_text(FILE, 38, "ab")]);
    assert_eq!(world.extents(FILE), "10..20 zeros, 20..30 zeros, 38..40 ab", "one key, a shorter extent");
    world.refuses(vec![put_text(FILE, 29, "0123456789a")]);
    world.refuses(vec![put_text(OTHER, 0, "ab"), put_text(OTHER, 1, "cd")]);
}

#[test]
fn values_that_are_too_long() {
    let mut world = World::new();
    let long = vec![1; XATTR_VALUE_BYTES_MAX + 1];
    world.refuses(vec![put_xattr(FILE, "user.a", &long)]);
    world.committed(vec![put_xattr(FILE, "user.a", &long[1..])]);
    let target = |len| put(Key::target(V, FILE), Record::Target(vec![b'a'; len].into()));
    world.refuses(vec![target(TARGET_BYTES_MAX + 1)]);
    world.committed(vec![target(TARGET_BYTES_MAX)]);
}

#[test]
fn names_that_no_path_can_hold() {
    let mut world = World::new();
    for name in [".", "..", "/", "a/b", "../x"] {
        world.refuses(vec![put_name(ROOT, name, FILE)]);
    }
    for object in NO_OBJECTS.into_iter().chain([ROOT]) {
        world.refuses(vec![put_name(ROOT, "a", object)]);
    }
    world.committed(vec![put_name(ROOT, "...", FILE)]);
}

/// Before, the sum of two huge files made a replica of one build panic and one of another count on from below.
#[test]
fn more_bytes_than_can_be_counted() {
    let mut world = World::new();
    let huge = |object| put_extent(object, 0, FILE_BYTES_MAX, Content::Zeros);
    world.refuses(vec![huge(FILE), huge(OTHER)]);
    world.committed(vec![huge(FILE)]);
    world.committed(vec![huge(OTHER)]);
    assert_eq!(world.state.volumes[&V].bytes, 2 * FILE_BYTES_MAX);
    let third = ObjectId(22);
    world.committed(vec![put_attr(third, file(1)), put_extent(third, 0, 1, Content::Zeros)]);
    world.refuses(vec![put_extent(third, 1, 1, Content::Zeros)]);
    world.committed(vec![carve(FILE, 0, u64::MAX)]);
    world.committed(vec![carve(OTHER, 0, u64::MAX)]);
    assert_eq!(world.state.volumes[&V].bytes, 1);
}

#[test]
fn more_than_a_plan_may_hold() {
    let mut world = World::new();
    let touch = adjust(FILE, AttrDelta::default());
    world.refuses(vec![touch.clone(); PLAN_MUTATIONS_MAX + 1]);
    let guard = Guard::Empty { range: KeyRange::one(&Key::target(V, FILE)) };
    let (outcome, _) = world.commit(vec![guard; GUARDS_MAX + 1], vec![touch]);
    assert_eq!(outcome, Outcome::Refused { refusal: Refusal::BadPlan });
}

/// A plan that makes every replica look at the same extents over and over.
#[test]
fn more_than_a_plan_may_look_at() {
    let mut world = World::new();
    let text = "x".repeat(INLINE_BYTES_MAX);
    world.committed(vec![put_text(FILE, 1, &text), put_text(FILE, 1 + text.len() as u64, &text)]);
    world.refuses(vec![carve(FILE, 0, 1); PLAN_MUTATIONS_MAX]);
}

#[test]
fn a_request_of_the_greatest_length_is_judged_in_bearable_time() {
    let mut world = World::new();
    world.committed((0..20_000).map(|i| put_extent(FILE, i * 3, 2, Content::Zeros)).collect());
    // Each piece is put in front of what was carved, and of what was put before.
    let mut plan = vec![carve(FILE, 0, u64::MAX)];
    plan.extend((0..60_000).rev().map(|i| put_extent(FILE, i, 1, Content::Zeros)));
    world.committed(plan);
    assert_eq!(world.attr(FILE).allocated, 60_000);
}

#[test]
fn a_bad_end_takes_the_whole_plan_with_it() {
    let mut world = World::new();
    let before = world.memory.clone();
    let good = || vec![put_text(FILE, 0, "abc"), put_name(ROOT, "a", FILE), put_xattr(FILE, "user.a", b"1")];
    world.refuses(good().into_iter().chain([put_text(FILE, 2, "de")]).collect());
    world.refuses(good().into_iter().chain([adjust(FILE, AttrDelta { nlink: -5, ..Default::default() })]).collect());
    assert_eq!(world.memory, before);
}
