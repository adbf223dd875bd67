//! Rule 2 of the commit rule: what other sessions hold leases over.

use super::world::*;
use gavel_types::{Key, KeyRange, ObjectId, SessionId};
use gavel_wire::{Guard, Mode, Mutation, Outcome, Refusal, RequestBody, Want};

const LEASED: Outcome = Outcome::Refused { refusal: Refusal::Leased };

fn told(world: &mut World, session: SessionId, body: RequestBody) -> Outcome {
    let item = world.request(session, body);
    world.item(item).outcomes.into_iter().next().expect("it was the session's next").2
}

fn lease(world: &mut World, session: SessionId, object: ObjectId, mode: Mode) {
    let want = Want { range: KeyRange::object(V, object), mode, urgent: true };
    told(world, session, RequestBody::Lease { wants: vec![want] });
}

fn change(object: ObjectId) -> Vec<Mutation> {
    vec![put_xattr(object, "a", b"1")]
}

fn depends_on(world: &World, object: ObjectId) -> Vec<Guard> {
    vec![Guard::Firm { key: Key::attr(V, object), at: world.state.tid }]
}

#[test]
fn what_another_session_holds_is_not_written() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let mut world = World::new();
        let (one, two) = (world.session, world.open(2, 1));
        lease(&mut world, two, FILE, mode);
        assert_eq!(told(&mut world, one, commit(vec![], change(FILE))), LEASED, "{mode:?}");
        assert!(matches!(told(&mut world, one, commit(vec![], change(OTHER))), Outcome::Committed { .. }));
        assert!(matches!(told(&mut world, two, commit(vec![], change(FILE))), Outcome::Committed { .. }));
    }
}

#[test]
fn what_another_session_holds_exclusively_is_not_relied_on_until_it_is_shared() {
    let mut world = World::new();
    let (one, two) = (world.session, world.open(2, 1));
    lease(&mut world, two, FILE, Mode::Exclusive);
    let guards = depends_on(&world, FILE);
    assert_eq!(told(&mut world, one, commit(guards.clone(), change(OTHER))), LEASED);
    let ranges = vec![KeyRange::object(V, FILE)];
    told(&mut world, two, RequestBody::Downgrade { ranges, cool: true });
    assert!(matches!(told(&mut world, one, commit(guards, change(OTHER))), Outcome::Committed { .. }));
    assert_eq!(told(&mut world, one, commit(vec![], change(FILE))), LEASED, "the other one still reads it");
}

#[test]
fn who_is_given_ids_holds_them_exclusively() {
    let mut world = World::new();
    let (one, two) = (world.session, world.open(2, 1));
    let Outcome::Allocated { first, count } = told(&mut world, two, RequestBody::AllocateObjects) else { panic!() };
    let block = KeyRange::objects(V, first, ObjectId(first.0 + count - 1));
    assert!(world.state.leases.held_exclusively_by(two).covers(&block));
    assert!(!world.state.leases.held_by(two).touches(&KeyRange::object(V, ROOT)), "and nothing else");
    let make = vec![put_attr(first, file(1)), put_name(ROOT, "new", first)];
    assert_eq!(told(&mut world, one, commit(vec![], make)), LEASED);
    world.item(gavel_wire::Item::SessionExpire { session: two });
    assert!(world.state.leases.is_empty());
}
