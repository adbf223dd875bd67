//! Each mutation, and what the commit rule itself counts.

use super::world::*;
use gavel_types::limits::{FILE_BYTES_MAX, LINKS_MAX};
use gavel_types::{Key, NodeId, Tid, Timestamp};
use gavel_wire::{Attr, AttrDelta, Change, Committed, Content, Mutation, Record};

#[test]
fn put_makes_and_replaces_one_version_a_commit() {
    let mut world = World::new();
    let applied = world.committed(vec![put_xattr(FILE, "user.a", b"1"), put_xattr(FILE, "user.a", b"2")]);
    assert_eq!(applied.changes.len(), 2, "the later one counts, and who made it is said");
    let version = world.version(&Key::xattr(V, FILE, b"user.a")).unwrap();
    assert_eq!((version.create, version.firm), (world.state.tid, world.state.tid));
    assert_eq!(version.record, Record::Xattr(b"2"[..].into()));
}

#[test]
fn what_is_made_and_ended_by_one_plan_never_was() {
    let mut world = World::new();
    let gone = Mutation::Delete { key: Key::xattr(V, FILE, b"user.a") };
    let applied = world.committed(vec![put_xattr(FILE, "user.a", b"1"), gone.clone()]);
    assert_eq!(applied.changes, []);
    let applied = world.committed(vec![gone]);
    assert_eq!(applied.changes, [], "to end nothing changes nothing");
}

#[test]
fn commit_times_are_the_commits() {
    let mut world = World::new();
    world.committed(vec![put_attr(FILE, file(1))]);
    let now = Timestamp::of_tid(world.state.tid);
    let attr = world.attr(FILE);
    assert_eq!((attr.firm.birth, attr.atime, attr.mtime, attr.ctime), (now, now, now, now));
    let by_hand = Timestamp { secs: -5, nanos: 1 };
    let delta = AttrDelta { atime: Some(by_hand), mtime: Some(Timestamp::COMMIT), ..Default::default() };
    world.committed(vec![adjust(FILE, delta)]);
    let later = Timestamp::of_tid(world.state.tid);
    let attr = world.attr(FILE);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (by_hand, later, now));
    assert!(later > now);
}

#[test]
fn adjustments_merge_and_leave_the_firm_half_alone() {
    let mut world = World::new();
    let firm = world.version(&Key::attr(V, FILE)).unwrap().firm;
    world.committed(vec![
        adjust(FILE, AttrDelta { nlink: 2, size: 10, ..Default::default() }),
        adjust(FILE, AttrDelta { size: -3, size_min: 5, ..Default::default() }),
        adjust(FILE, AttrDelta { nlink: -1, size_min: 100, ..Default::default() }),
    ]);
    let attr = world.attr(FILE);
    assert_eq!((attr.nlink, attr.size), (2, 100));
    let version = world.version(&Key::attr(V, FILE)).unwrap();
    assert_eq!((version.create, version.firm), (world.state.tid, firm));
    let applied = world.committed(vec![adjust(gavel_types::ObjectId(777), AttrDelta::default())]);
    assert_eq!(applied.changes, [], "to adjust nothing changes nothing");
}

#[test]
fn counters_stay_in_their_ranges() {
    let mut world = World::new();
    let delta = AttrDelta::default();
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: -2, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { size: -1, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { size_min: FILE_BYTES_MAX + 1, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: i32::MAX, ..delta })]);
    world.committed(vec![adjust(FILE, AttrDelta { size_min: FILE_BYTES_MAX, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { size: i64::MAX, ..delta })]);
    world.committed(vec![adjust(FILE, AttrDelta { nlink: LINKS_MAX as i32 - 1, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: 1, ..delta })]);
    world.refuses(vec![adjust(FILE, AttrDelta { nlink: i32::MIN, ..delta })]);
    assert_eq!(world.attr(FILE).nlink, LINKS_MAX);
}

#[test]
fn carve_cuts_trims_and_splits() {
    let whole = vec![put_text(FILE, 10, "abcdefghij"), put_text(FILE, 20, "klm"), put_text(FILE, 30, "xyz")];
    let cases = [
        ((0, 10), "10..20 abcdefghij, 20..23 klm, 30..33 xyz"),
        ((0, 11), "11..20 bcdefghij, 20..23 klm, 30..33 xyz"),
        ((10, 20), "20..23 klm, 30..33 xyz"),
        ((12, 14), "10..12 ab, 14..20 efghij, 20..23 klm, 30..33 xyz"),
        ((19, 21), "10..19 abcdefghi, 21..23 lm, 30..33 xyz"),
        ((15, 31), "10..15 abcde, 31..33 yz"),
        ((23, 30), "10..20 abcdefghij, 20..23 klm, 30..33 xyz"),
        ((0, u64::MAX), ""),
        ((33, 40), "10..20 abcdefghij, 20..23 klm, 30..33 xyz"),
        ((15, 15), "10..20 abcdefghij, 20..23 klm, 30..33 xyz"),
        ((16, 15), "10..20 abcdefghij, 20..23 klm, 30..33 xyz"),
    ];
    for ((start, end), left) in cases {
        let mut world = World::new();
        world.committed(whole.clone());
        world.committed(vec![carve(FILE, start, end)]);
        assert_eq!(world.extents(FILE), left, "{start}..{end}");
        // The same, of extents that the plan itself has put.
        let mut world = World::new();
        world.committed([whole.clone(), vec![carve(FILE, start, end)]].concat());
        assert_eq!(world.extents(FILE), left, "{start}..{end} in one plan");
    }
}

#[test]
fn carve_slices_blobs_and_zeros() {
    let mut world = World::new();
    world.committed(vec![put_extent(FILE, 0, 10, blob(100, 50)), put_extent(FILE, 10, 10, Content::Zeros)]);
    world.committed(vec![carve(FILE, 4, 6), carve(FILE, 12, 13)]);
    assert_eq!(world.extents(FILE), "0..4 blob+50, 6..10 blob+56, 10..12 zeros, 13..20 zeros");
    assert_eq!(world.attr(FILE).allocated, 17);
}

#[test]
fn an_overwrite_is_a_carve_and_a_put_and_changes_no_count() {
    let mut world = World::new();
    world.committed(vec![put_text(FILE, 0, "abcdef"), adjust(FILE, AttrDelta { size_min: 6, ..Default::default() })]);
    let counts = world.state.volumes[&V];
    world.committed(vec![carve(FILE, 2, 4), put_text(FILE, 2, "XY")]);
    assert_eq!(world.extents(FILE), "0..2 ab, 2..4 XY, 4..6 ef");
    assert_eq!(world.state.volumes[&V], counts);
}

#[test]
fn an_append_goes_behind_the_end_that_it_finds() {
    let mut world = World::new();
    let size = |size_min| adjust(FILE, AttrDelta { size_min, ..Default::default() });
    world.committed(vec![put_text(FILE, 0, "abc"), size(3)]);
    let firm = world.version(&Key::attr(V, FILE)).unwrap().firm;
    // Two that were made of one state; room that is reserved behind the end; a hole before it.
    world.committed(vec![append(FILE, "de")]);
    world.committed(vec![append(FILE, "fgh"), append(FILE, "i")]);
    assert_eq!(world.extents(FILE), "0..3 abc, 3..5 de, 5..8 fgh, 8..9 i");
    assert_eq!(world.version(&Key::attr(V, FILE)).unwrap().firm, firm, "what depends on the mode does not collide");
    world.committed(vec![put_extent(FILE, 10, 10, Content::Zeros), size(12)]);
    world.committed(vec![append(FILE, "jk")]);
    assert_eq!(world.extents(FILE), "0..3 abc, 3..5 de, 5..8 fgh, 8..9 i, 10..12 zeros, 12..14 jk, 14..20 zeros");
    assert_eq!((world.attr(FILE).size, world.attr(FILE).allocated), (14, 19));
    let applied = world.committed(vec![append(gavel_types::ObjectId(777), "x")]);
    assert_eq!(applied.changes, [], "behind nothing there is nothing");
    world.committed(vec![size(FILE_BYTES_MAX - 1)]);
    world.refuses(vec![append(FILE, "xy")]);
    world.committed(vec![append(FILE, "x")]);
    assert_eq!(world.attr(FILE).size, FILE_BYTES_MAX);
}

#[test]
fn a_hole_of_many_extents_is_filled_piece_by_piece() {
    let mut world = World::new();
    world.committed((0..600).map(|i| put_text(FILE, i * 10, "0123456789")).collect());
    let mut plan = vec![carve(FILE, 5, 5995)];
    plan.extend((1..599).map(|i| put_text(FILE, i * 10, "abc")));
    plan.push(put_text(FILE, 5, "abcde"));
    world.committed(plan.clone());
    assert_eq!(world.attr(FILE).allocated, 10 + 598 * 3 + 5);
    plan.push(put_text(FILE, 5994, "##"));
    world.refuses(plan);
}

#[test]
fn allocated_is_counted_whatever_the_plan_says() {
    let mut world = World::new();
    world.committed(vec![put_attr(FILE, Attr { allocated: 12345, ..file(1) })]);
    assert_eq!(world.attr(FILE).allocated, 0);
    world.committed(vec![put_text(FILE, 0, "abc"), put_attr(FILE, Attr { allocated: 9, ..file(1) })]);
    assert_eq!(world.attr(FILE).allocated, 3);
    world.committed(vec![put_attr(FILE, Attr { allocated: 0, ..file(1) }), put_text(FILE, 3, "de"), carve(FILE, 0, 1)]);
    assert_eq!(world.attr(FILE).allocated, 4);
    assert_eq!(world.state.volumes[&V].bytes, 4);
}

#[test]
fn objects_of_a_volume_are_counted_once() {
    let mut world = World::new();
    assert_eq!(world.state.volumes[&V].objects, 3, "the root and two files");
    world.committed(vec![put_attr(FILE, file(1)), adjust(FILE, AttrDelta::default())]);
    assert_eq!(world.state.volumes[&V].objects, 3);
    world.committed(unlink(FILE));
    assert_eq!(world.state.volumes[&V].objects, 3, "an orphan is an object");
    world.release(world.session, &[FILE]);
    assert_eq!(world.state.volumes[&V].objects, 2);
}

#[test]
fn a_plan_sees_what_it_has_done_itself() {
    let mut world = World::new();
    let id = gavel_types::ObjectId(40);
    world.committed(vec![
        put_attr(id, file(1)),
        put_text(id, 0, "hello"),
        carve(id, 1, 4),
        adjust(id, AttrDelta { size_min: 5, ..Default::default() }),
    ]);
    assert_eq!(world.extents(id), "0..1 h, 4..5 o");
    assert_eq!((world.attr(id).size, world.attr(id).allocated), (5, 2));
}

#[test]
fn tids_of_an_entry_count_up_from_its_own() {
    let mut world = World::new();
    let other = world.open(2, 1);
    let base = world.state.tid.0 + 1000; // The next microsecond.
    let items = vec![
        world.request(world.session, commit(vec![], vec![put_xattr(FILE, "user.a", b"1")])),
        world.request(other, commit(vec![], vec![put_xattr(FILE, "user.a", b"2")])),
    ];
    let applied = world.entry(items);
    let tids: Vec<Tid> = applied.changes.iter().map(|change| change.tid).collect();
    assert_eq!(tids, [Tid(base), Tid(base), Tid(base + 1), Tid(base + 1)]);
    assert_eq!(applied.changes[2].old, applied.changes[0].new);
    let author = |change: &Change| change.new.as_ref().map(|version| version.record.clone());
    let by = |node| Some(Record::Commit(Committed { node: NodeId(node), uid: 1000, note: "".into(), staged: vec![] }));
    assert_eq!((author(&applied.changes[1]), author(&applied.changes[3])), (by(1), by(2)));
}
