//! Sessions: their numbers, their ends, and what of them is kept.

use super::world::*;
use gavel_lease::LeaseTable;
use gavel_lease::table::{Existing, LEASES_MAX};
use gavel_lock::table::{
    FILE_LOCKS_MAX, FILE_WAITERS_MAX, LOCKS_MAX, SESSION_LOCKS_MAX, SESSION_WAITERS_MAX, WAITERS_MAX,
};
use gavel_lock::{LockTable, Locking};
use gavel_txn::State;
use gavel_txn::apply::{LEASE_RANGES_MAX, NODES_MAX};
use gavel_txn::state::{DIGEST_EVERY, STATE_BYTES_MAX};
use gavel_types::limits::{OBJECT_BLOCK, SESSION_WINDOW_MAX, SESSIONS_MAX};
use gavel_types::{Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid};
use gavel_wire::lock::{Family, Lock, LockFile, LockKind, LockOwner, Span};
use gavel_wire::{Entry, Item, Mode, Outcome, Request, RequestBody, Want};

fn numbered(session: SessionId, seq: u64, seen: u64) -> Item {
    Item::Request(Request { session, seq: Seq(seq), seen: Seq(seen), body: commit(vec![], vec![]) })
}

#[test]
fn a_repeated_number_and_a_gap_change_nothing() {
    let mut world = World::new();
    let session = world.open(2, 1);
    let seqs = [2, 1, 1, 3, 2, 2, 1];
    let applied = world.entry(seqs.iter().map(|seq| numbered(session, *seq, 1)).collect());
    let taken: Vec<u64> = applied.outcomes.iter().map(|(_, seq, _)| seq.0).collect();
    assert_eq!(taken, [1, 2]);
    assert_eq!(next(&world, session), Seq(3));
}

#[test]
fn the_outcome_of_a_repeated_request_is_the_recorded_one() {
    let mut world = World::new();
    let request = world.request(world.session, commit(vec![], vec![put_xattr(FILE, "user.a", b"1")]));
    let first = world.item(request.clone());
    let (session, seq, outcome) = first.outcomes[0].clone();
    let again = world.item(request);
    assert_eq!((again.outcomes, again.changes), (vec![], vec![]));
    assert_eq!(world.state.sessions[&session].outcomes[&seq], outcome);
}

#[test]
fn outcomes_are_kept_until_they_are_seen() {
    let mut world = World::new();
    let session = world.open(2, 1);
    (1..=5).for_each(|seq| drop(world.item(numbered(session, seq, 1))));
    assert_eq!(world.state.sessions[&session].outcomes.len(), 5);
    world.item(numbered(session, 6, 4));
    let kept: Vec<u64> = world.state.sessions[&session].outcomes.keys().map(|seq| seq.0).collect();
    assert_eq!(kept, [4, 5, 6]);
    world.item(numbered(session, 7, 1));
    let kept: Vec<u64> = world.state.sessions[&session].outcomes.keys().map(|seq| seq.0).collect();
    assert_eq!(kept, [4, 5, 6, 7], "what was seen is not asked for again");
    world.item(numbered(session, 8, u64::MAX));
    assert_eq!(world.state.sessions[&session].outcomes.len(), 1);
}

#[test]
fn a_session_that_acknowledges_nothing_is_stopped_by_its_window() {
    let mut world = World::new();
    let session = world.open(2, 1);
    let taken = world.entry((1..=2000).map(|seq| numbered(session, seq, 1)).collect()).outcomes.len() as u64;
    assert_eq!(taken, SESSION_WINDOW_MAX);
    assert_eq!(world.item(numbered(session, taken + 1, 1)).outcomes, []);
    assert_eq!(world.item(numbered(session, taken + 1, 2)).outcomes.len(), 1, "the window moves with what was seen");
}

#[test]
fn nothing_of_an_ended_session_applies() {
    let mut world = World::new();
    let session = world.open(2, 1);
    world.item(numbered(session, 1, 1));
    let late = numbered(session, 2, 1);
    let applied = world.entry(vec![Item::SessionExpire { session }, late.clone()]);
    assert_eq!((applied.ended, applied.outcomes), (vec![session], vec![]));
    assert_eq!(world.item(late).outcomes, []);
    assert_eq!(world.item(Item::SessionExpire { session }).ended, [], "it ends once");
}

#[test]
fn requests_of_nobody_change_nothing() {
    let mut world = World::new();
    let applied = world.item(numbered(SessionId(42), 1, 1));
    assert_eq!((applied.outcomes, applied.changes), (vec![], vec![]));
}

#[test]
fn a_node_has_one_session_and_one_life() {
    let mut world = World::new();
    let first = world.open(2, 7);
    assert_eq!(world.open(2, 7), first, "asked for again");
    let applied = world.item(Item::SessionOpen { node: NodeId(2), incarnation: 8, term_ms: 5_000, instead_of: None });
    assert_eq!(applied.ended, [first]);
    assert_eq!(applied.opened, [(SessionId(world.state.tid.0), NodeId(2), 8)]);
}

#[test]
fn a_full_house_opens_no_more_until_somebody_leaves() {
    let mut world = World::new();
    let open = |node| Item::SessionOpen { node: NodeId(node), incarnation: 1, term_ms: 5_000, instead_of: None };
    world.entry((2..2 + SESSIONS_MAX as u64 * 2).map(open).collect());
    assert_eq!(world.state.sessions.len(), SESSIONS_MAX);
    assert_eq!(world.item(open(9999)).opened, []);
    world.item(Item::SessionExpire { session: world.session });
    world.open(9999, 1);
}

#[test]
fn object_ids_are_given_out_once() {
    let mut world = World::new();
    let other = world.open(2, 1);
    let ask = |world: &World, session| world.request(session, RequestBody::AllocateObjects);
    let items = vec![ask(&world, world.session), ask(&world, other)];
    let given: Vec<_> = world.entry(items).outcomes.into_iter().map(|(_, _, outcome)| outcome).collect();
    let first = ObjectId::FIRST_FREE;
    let second = ObjectId(first.0 + OBJECT_BLOCK);
    let block = |first| Outcome::Allocated { first, count: OBJECT_BLOCK };
    assert_eq!(given, [block(first), block(second)]);
}

#[test]
fn an_entry_that_is_not_later_than_the_last_one_is_passed_over_whole() {
    let mut world = World::new();
    let tid = world.state.tid;
    let request = world.request(world.session, commit(vec![], vec![put_xattr(FILE, "user.a", b"1")]));
    for tid in [tid, Tid(tid.0 - 1), Tid::ZERO] {
        let applied = world.apply(Some(&Entry { tid, items: vec![request.clone()] }));
        assert_eq!((applied.outcomes, applied.changes), (vec![], vec![]));
        assert_eq!(next(&world, world.session), Seq(2), "the request was not taken: it can be sent again");
    }
    assert_eq!(world.item(request).outcomes.len(), 1);
}

#[test]
fn the_logs_own_entries_move_the_index_and_nothing_else() {
    let mut world = World::new();
    let before = world.state.clone();
    world.apply(None);
    assert_eq!(world.state, State { applied: LogIndex(before.applied.0 + 1), ..before });
}

#[test]
fn a_checkpoint_finds_the_replica_that_differs() {
    let mut world = World::new();
    while world.state.digests.is_empty() {
        world.apply(None);
    }
    let (index, digest) = *world.state.digests.back().unwrap();
    assert_eq!(index.0, DIGEST_EVERY);
    assert_eq!(world.item(Item::Checkpoint { index, digest }).diverged, None);
    assert_eq!(world.item(Item::Checkpoint { index: LogIndex(1), digest: [0; 32] }).diverged, None, "not kept");
    let mut other = world.clone();
    other.state.digests.back_mut().unwrap().1[0] ^= 1;
    assert_eq!(other.item(Item::Checkpoint { index, digest }).diverged, Some(index));
}

#[test]
fn digests_do_not_pile_up() {
    let mut world = World::empty();
    for _ in 0..DIGEST_EVERY * 70 {
        let index = LogIndex(world.state.applied.0 + 1);
        gavel_txn::apply(&mut world.state, &world.memory.at(DAWN), index, None).unwrap();
    }
    world.state.check_invariants();
    assert_eq!(world.state.digests.len(), 64);
}

/// The most ranges that can be cut, with names as long as they can be at both ends, and as many holders as there can be.
fn fill(leases: &mut LeaseTable) {
    let existing = Existing { first_free: ObjectId(u64::MAX), theirs: &[] };
    let name = |i: usize| Key::dirent(V, ObjectId(u64::MAX - 9), format!("{i:0>255}").as_bytes());
    let mut names: Vec<Key> = (0..2 * LEASES_MAX).map(name).collect();
    names.sort_unstable();
    let all = Want { range: KeyRange::volume(V), mode: Mode::Shared, urgent: false };
    for session in 1..=16 {
        leases.grant(SessionId(u64::MAX - session), &all, Tid(1), existing).unwrap();
    }
    for names in names.chunks(LEASE_RANGES_MAX) {
        let cut: Vec<KeyRange> = names.iter().map(KeyRange::one).collect();
        // It refuses when it is full.
        let _ = leases.give_up(SessionId(u64::MAX - 1), &cut, None);
    }
    assert!(leases.len() > LEASES_MAX);
}

/// As many locks and waiters as there can be, with the longest numbers. (Who waits must find room for one lock.)
fn fill_locks(locks: &mut LockTable) {
    let granted = &mut Vec::new();
    let lock = |session, id, span| {
        let owner = LockOwner { session: SessionId(u64::MAX - session), id: u64::MAX - id };
        Lock { owner, span, kind: LockKind::Write, pid: u32::MAX }
    };
    let file = |i, family| LockFile { volume: V, object: ObjectId(u64::MAX - i), family };
    let files = (WAITERS_MAX / FILE_WAITERS_MAX) as u64;
    for i in 0..LOCKS_MAX as u64 - files - 1 {
        let first = (1 << 62) + 2 * i;
        let lock = lock(i / SESSION_LOCKS_MAX as u64, 0, Span { first, last: first });
        let file = file(i / FILE_LOCKS_MAX as u64, Family::Posix);
        assert_eq!(locks.lock(file, lock, None, granted), Locking::Granted);
    }
    for i in 0..files {
        assert_eq!(locks.lock(file(i, Family::Flock), lock(4, i, Span::ALL), None, granted), Locking::Granted);
    }
    for i in 0..WAITERS_MAX as u64 {
        let lock = lock(5 + i / SESSION_WAITERS_MAX as u64, i, Span::ALL);
        let file = file(i / FILE_WAITERS_MAX as u64, Family::Flock);
        assert_eq!(locks.lock(file, lock, Some(Seq((1 << 35) + i)), granted), Locking::Waits);
    }
    assert_eq!((locks.len(), locks.waiters()), (LOCKS_MAX - 1, WAITERS_MAX));
}

/// The largest state that requests make: all sessions there can be, none of which acknowledges anything. Numbers take the
/// bytes that they take in this century, for sessions of up to 2^35 requests (a year of a thousand in a second).
#[test]
fn the_fullest_state_is_within_its_bound() {
    let mut state = World::new().state;
    let late = (1u64 << 35) - SESSION_WINDOW_MAX;
    let outcome = Outcome::Committed { tid: Tid(4_000_000_000_000_000_000) };
    let outcomes = (0..SESSION_WINDOW_MAX).map(|i| (Seq(late + i), outcome.clone())).collect();
    let session = gavel_txn::Session {
        node: NodeId(1),
        incarnation: u64::MAX,
        term_ms: u32::MAX,
        blocks: vec![ObjectId(u64::MAX); 2],
        next: Seq(1 << 35),
        outcomes,
        broken: true,
    };
    for i in 0..SESSIONS_MAX as u64 {
        let session = gavel_txn::Session { node: NodeId(i + 1), ..session.clone() };
        state.sessions.insert(SessionId(state.tid.0 - i), session);
    }
    state.incarnations = (0..NODES_MAX as u64).map(|i| (NodeId(u64::MAX - i), u64::MAX)).collect();
    fill(&mut state.leases);
    fill_locks(&mut state.locks);
    state.digests = (0..64).map(|i| (LogIndex(late + i), [7; 32])).collect();
    let bytes = state.encode();
    assert!(bytes.len() <= STATE_BYTES_MAX, "{}", bytes.len());
    assert!(State::decode(&bytes).is_ok());
}

#[test]
fn a_state_that_is_not_one_is_refused() {
    let bytes = World::new().state.encode();
    assert!(State::decode(&bytes).is_ok());
    assert!(State::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(State::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert!(State::decode(&[&[99], &bytes[1..]].concat()).is_err());
    assert!(State::decode(&[]).is_err());
}

#[test]
fn a_volume_is_made_once_and_never_without_a_number() {
    let mut world = World::new();
    let make = |volume| Item::CreateVolume { volume: gavel_types::VolumeId(volume), mode: 0o1777, uid: 5, gid: 6 };
    assert_eq!(world.item(make(1)).changes, []);
    assert_eq!(world.item(make(0)).changes, []);
    assert_eq!(world.item(make(2)).changes.len(), 1);
    assert_eq!(world.state.volumes.len(), 2);
}
