//! Blobs that nothing names any more, and commits that name them.

use super::world::*;
use gavel_types::{BlobId, Key, KeyRange, NodeId, ObjectId, Retention, SessionId, Tid};
use gavel_wire::{
    Author, Content, Extent, Guard, Item, Mode, Mutation, Outcome, Plan, Record, Refusal, RequestBody, Want,
};

const COLLECTED: Outcome = Outcome::Refused { refusal: Refusal::Collected };

fn blob(number: u8) -> BlobId {
    BlobId([number; 32])
}

/// A plan that writes a file's bytes, which are in a blob.
fn write(world: &World, number: u8) -> Vec<Mutation> {
    let content = Content::Blob { id: blob(number), blob_len: 10, offset: 0 };
    let key = Key::extent(V, FILE, 10);
    let extent = Mutation::Put { key, record: Record::Extent(Extent { len: 10, content }) };
    let carve = Mutation::Carve { volume: V, object: FILE, start: 0, end: 10 };
    match world.version(&Key::attr(V, FILE)) {
        Some(_) => vec![carve, extent],
        None => vec![put_attr(FILE, file(1)), extent],
    }
}

fn put_attr(object: ObjectId, attr: gavel_wire::Attr) -> Mutation {
    Mutation::Put { key: Key::attr(V, object), record: Record::Attr(attr) }
}

fn commit_as(world: &mut World, session: SessionId, guards: Vec<Guard>, number: u8, stored_as_of: Tid) -> Outcome {
    let plan = Plan { mutations: write(world, number) };
    let body = RequestBody::Commit { guards, plan, author: Author::user(0), stored_as_of };
    let item = world.request(session, body);
    world.item(item).outcomes[0].2.clone()
}

/// A guard that holds, so that a refused commit does not take its session with it.
fn guard(world: &World) -> Vec<Guard> {
    vec![Guard::Unchanged { key: Key::attr(V, FILE), at: world.state.tid }]
}

/// Overwrites the file, and prunes what it was.
fn let_go_of_the_past(world: &mut World) {
    let policy = Retention { whole_ns: Some(1), rules: Vec::new() };
    let body = RequestBody::SetRetention { volume: V, policy };
    let item = world.request(world.session, body);
    world.item(item);
    world.item(Item::Prune { volume: V });
    for _ in 0..100 {
        if world.state.past.of(V).unwrap().pass.is_none() {
            return;
        }
        world.item(Item::Sweep { volume: V, rows: 100 });
    }
    panic!("a sweep without end");
}

fn condemned(world: &World) -> Vec<BlobId> {
    world.state.collection.condemned().keys().copied().collect()
}

/// A world in which blob 1 is named by nothing, and blob 2 by the file.
fn world_with_a_blob_to_collect() -> World {
    let mut world = World::new();
    world.committed(write(&world, 1));
    world.committed(write(&world, 2));
    let_go_of_the_past(&mut world);
    world
}

#[test]
fn what_a_version_names_is_not_marked_whether_it_lives_or_has_ended() {
    let mut world = World::new();
    world.committed(write(&world, 1));
    world.committed(write(&world, 2));
    let applied = world.item(Item::Condemn { blobs: vec![blob(1), blob(2), blob(3)] });
    assert_eq!(applied.blobs.condemned, [blob(3)], "nothing ever named the third");
    world.item(Item::Collect { blobs: vec![blob(1), blob(2)] });
    assert!(!world.state.collection.may_be_gone(blob(1), Tid::ZERO));
}

#[test]
fn a_sweep_tells_which_blobs_it_took_names_from() {
    let mut world = World::new();
    world.committed(write(&world, 1));
    world.committed(write(&world, 2));
    let policy = Retention { whole_ns: Some(1), rules: Vec::new() };
    let item = world.request(world.session, RequestBody::SetRetention { volume: V, policy });
    world.item(item);
    world.item(Item::Prune { volume: V });
    let applied = world.item(Item::Sweep { volume: V, rows: 100 });
    assert_eq!(applied.blobs.unnamed, [blob(1)]);
}

#[test]
fn a_blob_is_condemned_then_collected_and_a_commit_that_stored_it_before_is_refused() {
    let mut world = world_with_a_blob_to_collect();
    let before = world.state.tid;
    world.item(Item::Collect { blobs: vec![blob(1)] });
    assert!(!world.state.collection.may_be_gone(blob(1), before), "it was not marked");
    world.item(Item::Condemn { blobs: vec![blob(1), blob(2)] });
    assert_eq!(condemned(&world), [blob(1)]);
    let applied = world.item(Item::Collect { blobs: vec![blob(1), blob(2)] });
    assert_eq!(applied.blobs.collected, [(blob(1), world.state.tid)]);
    assert_eq!((applied.blobs.released, condemned(&world)), (vec![blob(1)], vec![]));

    let (session, at) = (world.session, world.state.tid);
    let guards = guard(&world);
    assert_eq!(commit_as(&mut world, session, guards.clone(), 1, before), COLLECTED);
    assert!(matches!(commit_as(&mut world, session, guards, 1, at), Outcome::Committed { .. }), "stored anew");
    let guards = guard(&world);
    assert!(matches!(commit_as(&mut world, session, guards, 1, before), Outcome::Committed { .. }), "named by now");
}

#[test]
fn a_commit_rescues_what_is_condemned() {
    let mut world = world_with_a_blob_to_collect();
    let before = world.state.tid;
    world.item(Item::Condemn { blobs: vec![blob(1)] });
    let applied = world.committed(write(&world, 1));
    assert_eq!((applied.blobs.released, condemned(&world)), (vec![blob(1)], vec![]));
    world.item(Item::Collect { blobs: vec![blob(1)] });
    assert!(!world.state.collection.may_be_gone(blob(1), before));
}

#[test]
fn what_an_entry_names_it_does_not_condemn() {
    let mut world = world_with_a_blob_to_collect();
    let body = commit(guard(&world), write(&world, 1));
    let named = world.request(world.session, body);
    let applied =
        world.entry(vec![named, Item::Condemn { blobs: vec![blob(1)] }, Item::Collect { blobs: vec![blob(1)] }]);
    assert_eq!((applied.blobs.condemned, applied.blobs.collected), (vec![], vec![]));
}

#[test]
fn a_commit_without_guards_that_is_refused_breaks_its_session_and_leaves_it_its_leases() {
    let mut world = world_with_a_blob_to_collect();
    let before = world.state.tid;
    world.item(Item::Condemn { blobs: vec![blob(1)] });
    world.item(Item::Collect { blobs: vec![blob(1)] });
    let session = world.open(77, 1);
    let want = Want { range: KeyRange::object(V, ObjectId(900)), mode: Mode::Exclusive, urgent: true };
    let lease = world.request(session, RequestBody::Lease { wants: vec![want] });
    world.entry(vec![lease]);
    let held = world.state.leases.held_by(session);
    assert!(!held.is_empty());
    let refused = world.request(
        session,
        RequestBody::Commit {
            guards: Vec::new(),
            plan: Plan { mutations: write(&world, 1) },
            author: Author::user(0),
            stored_as_of: before,
        },
    );
    let mut behind = world.request(session, commit(Vec::new(), write(&world, 3)));
    if let Item::Request(request) = &mut behind {
        request.seq.0 += 1;
    }
    let applied = world.entry(vec![refused, behind]);
    assert_eq!(applied.outcomes.len(), 1, "what comes behind it stands on it");
    assert_eq!((&applied.outcomes[0].2, &applied.ended[..], applied.changes.len()), (&COLLECTED, &[][..], 0));
    // The node may be answering under its leases: it has not heard of this yet. A question of before, that comes late, does not end them either.
    let open = |instead_of| Item::SessionOpen { node: NodeId(77), incarnation: 1, term_ms: 5_000, instead_of };
    assert_eq!(world.state.leases.held_by(session), held);
    for late in [None, Some(SessionId(session.0 - 1))] {
        let applied = world.item(open(late));
        assert_eq!((applied.opened, applied.ended), (vec![(session, NodeId(77), 1)], vec![]));
    }
    let next = commit(Vec::new(), write(&world, 4));
    let next = world.request(session, next);
    assert!(world.entry(vec![next]).outcomes.is_empty(), "it takes nothing more");
    let applied = world.item(open(Some(session)));
    assert_eq!((applied.ended, applied.opened.len()), (vec![session], 1));
    assert!(world.state.leases.held_by(session).is_empty() && applied.opened[0].0 != session);
}

#[test]
fn a_session_that_is_not_broken_is_not_replaced_by_its_own_life() {
    let mut world = world_with_a_blob_to_collect();
    let session = world.open(77, 1);
    let again = Item::SessionOpen { node: NodeId(77), incarnation: 1, term_ms: 5_000, instead_of: Some(session) };
    let applied = world.item(again);
    assert_eq!((applied.ended, applied.opened), (vec![], vec![(session, NodeId(77), 1)]));
}
