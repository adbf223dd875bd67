//! Each guard, and the interleavings that it must see.

use super::world::*;
use gavel_types::{Key, KeyRange, ObjectId, Tid};
use gavel_wire::{AttrDelta, Guard, Mutation, Outcome, Refusal};

const TOUCH: AttrDelta = AttrDelta { nlink: 0, size: 0, size_min: 7, atime: None, mtime: None, ctime: None };

fn key() -> Key {
    Key::xattr(V, FILE, b"user.a")
}

fn unchanged(at: Tid) -> Guard {
    Guard::Unchanged { key: key(), at }
}

#[test]
fn unchanged_sees_a_later_version_and_an_end() {
    let mut world = World::new();
    let before = world.state.tid;
    assert!(!world.guarded(unchanged(before)), "it does not exist");
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    let made = world.state.tid;
    assert!(!world.guarded(unchanged(before)));
    assert!(world.guarded(unchanged(made)));
    assert!(world.guarded(unchanged(world.state.tid)));
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    assert!(!world.guarded(unchanged(made)), "the same value again is another version");
    world.committed(vec![Mutation::Delete { key: key() }]);
    assert!(!world.guarded(unchanged(world.state.tid)));
}

#[test]
fn unchanged_sees_a_change_by_an_item_of_the_same_entry() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    let other = world.open(2, 1);
    let read = world.state.tid;
    let first = world.request(world.session, commit(vec![unchanged(read)], vec![put_xattr(FILE, "user.a", b"2")]));
    let second = world.request(other, commit(vec![unchanged(read)], vec![put_xattr(FILE, "user.a", b"3")]));
    let applied = world.entry(vec![first, second]);
    let outcomes: Vec<_> = applied.outcomes.into_iter().map(|(_, _, outcome)| outcome).collect();
    let tid = Tid(world.state.tid.0 - 1);
    let refusal = Refusal::Conflict { guard: 0 };
    assert_eq!(outcomes, [Outcome::Committed { tid }, Outcome::Refused { refusal }]);
}

#[test]
fn firm_sees_what_is_firm_and_nothing_else() {
    let mut world = World::new();
    let at = world.state.tid;
    let firm = Guard::Firm { key: Key::attr(V, FILE), at };
    world.committed(vec![adjust(FILE, TOUCH)]);
    assert!(world.guarded(firm.clone()), "counters and times merge");
    world.committed(vec![put_extent(FILE, 0, 5, gavel_wire::Content::Zeros)]);
    assert!(world.guarded(firm.clone()), "so do bytes");
    let attr = world.attr(FILE);
    world.committed(vec![put_attr(FILE, gavel_wire::Attr { size: 99, ..attr })]);
    assert!(world.guarded(firm.clone()), "so do attributes that are put with the same firm half");
    let mut other = attr;
    other.firm.mode = 0o600;
    world.committed(vec![put_attr(FILE, other)]);
    assert!(!world.guarded(firm.clone()));
    world.committed(vec![put_attr(FILE, attr)]);
    assert!(!world.guarded(firm), "the old mode again is another firm version: the change in between was not seen");
}

#[test]
fn firm_does_not_hold_of_what_is_gone() {
    let mut world = World::new();
    let at = world.state.tid;
    world.committed(unlink(FILE));
    assert!(world.guarded(Guard::Firm { key: Key::attr(V, FILE), at }), "an orphan has its attributes");
    world.release(world.session, &[FILE]);
    assert!(!world.guarded(Guard::Firm { key: Key::attr(V, FILE), at }));
}

#[test]
fn empty_looks_at_what_is_there_and_at_nothing_else() {
    let mut world = World::new();
    let names = KeyRange::dirents(V, ROOT);
    assert!(world.guarded(Guard::Empty { range: names.clone() }));
    world.committed(vec![put_name(ROOT, "a", FILE)]);
    assert!(!world.guarded(Guard::Empty { range: names.clone() }));
    assert!(!world.guarded(Guard::Empty { range: KeyRange::one(&Key::dirent(V, ROOT, b"a")) }));
    assert!(world.guarded(Guard::Empty { range: KeyRange::one(&Key::dirent(V, ROOT, b"b")) }));
    world.committed(vec![Mutation::Delete { key: Key::dirent(V, ROOT, b"a") }]);
    assert!(world.guarded(Guard::Empty { range: names }), "there and gone again: running now would see the same");
}

#[test]
fn empty_sees_what_earlier_items_of_the_entry_made_and_ended() {
    let mut world = World::new();
    let name = KeyRange::one(&Key::dirent(V, ROOT, b"a"));
    let others: Vec<_> = (2..5).map(|node| world.open(node, 1)).collect();
    let guard = || vec![Guard::Empty { range: name.clone() }];
    let make = world.request(others[0], commit(guard(), vec![put_name(ROOT, "a", FILE)]));
    let late = world.request(others[1], commit(guard(), vec![put_name(ROOT, "a", OTHER)]));
    let end = world.request(world.session, commit(vec![], vec![Mutation::Delete { key: Key::dirent(V, ROOT, b"a") }]));
    let again = world.request(others[2], commit(guard(), vec![put_name(ROOT, "a", OTHER)]));
    let applied = world.entry(vec![make, late, end, again]);
    let went: Vec<bool> = applied.outcomes.iter().map(|(_, _, o)| matches!(o, Outcome::Committed { .. })).collect();
    assert_eq!(went, [true, false, true, true]);
}

#[test]
fn stable_sees_whatever_was_made_changed_or_ended() {
    let mut world = World::new();
    world.committed(vec![put_name(ROOT, "a", FILE)]);
    let range = KeyRange::dirents(V, ROOT);
    let changes = [
        vec![put_name(ROOT, "b", FILE)],
        vec![put_name(ROOT, "b", OTHER)],
        vec![Mutation::Delete { key: Key::dirent(V, ROOT, b"a") }],
    ];
    for change in changes {
        let at = world.state.tid;
        assert!(world.guarded(Guard::Stable { range: range.clone(), at }));
        world.committed(change);
        assert!(!world.guarded(Guard::Stable { range: range.clone(), at }));
    }
    let at = world.state.tid;
    world.committed(vec![put_name(ROOT, "c", FILE)]);
    world.committed(vec![Mutation::Delete { key: Key::dirent(V, ROOT, b"c") }]);
    assert!(!world.guarded(Guard::Stable { range, at }), "there and gone again is a change, to a list");
}

#[test]
fn guards_on_nothing_hold() {
    let mut world = World::new();
    let upside_down = KeyRange { start: [9].into(), end: [1].into() };
    assert!(world.guarded(Guard::Empty { range: upside_down.clone() }));
    assert!(world.guarded(Guard::Stable { range: upside_down, at: Tid::ZERO }));
}

#[test]
fn a_guard_of_the_future_sees_the_present() {
    let mut world = World::new();
    let at = Tid::MAX;
    assert!(world.guarded(Guard::Unchanged { key: Key::attr(V, FILE), at }));
    assert!(world.guarded(Guard::Stable { range: KeyRange::object(V, FILE), at }));
    assert!(!world.guarded(Guard::Unchanged { key: Key::attr(V, ObjectId(999)), at }));
}

#[test]
fn the_first_broken_guard_is_named_and_comes_before_the_plan() {
    let mut world = World::new();
    let at = world.state.tid;
    let holds = Guard::Firm { key: Key::attr(V, FILE), at };
    let broken = Guard::Unchanged { key: key(), at };
    let bad = vec![put_xattr(ObjectId::VOLUME, "user.a", b"")];
    let (outcome, _) = world.commit(vec![holds, broken.clone(), broken], bad);
    assert_eq!(outcome, Outcome::Refused { refusal: Refusal::Conflict { guard: 1 } });
}
