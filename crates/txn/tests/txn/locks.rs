//! Locks: requests for them, and what the end of a session does to them.

use super::world::*;
use gavel_txn::State;
use gavel_types::{Seq, SessionId, VolumeId};
use gavel_wire::lock::{Family, LockFile, LockKind, Span};
use gavel_wire::{Item, Outcome, Refusal, RequestBody};

const POSIX: LockFile = LockFile { volume: V, object: FILE, family: Family::Posix };
const READ: LockKind = LockKind::Read;
const WRITE: LockKind = LockKind::Write;

fn span(first: u64, last: u64) -> Span {
    Span { first, last }
}

impl World {
    /// The outcome of one request, and the requests that were granted by it.
    fn ask(&mut self, session: SessionId, body: RequestBody) -> (Outcome, Vec<(SessionId, Seq)>) {
        let request = self.request(session, body);
        let mut applied = self.item(request);
        self.state.check_invariants();
        (applied.outcomes.remove(0).2, applied.granted)
    }

    fn lock(&mut self, session: SessionId, file: LockFile, span: Span, kind: LockKind, wait: bool) -> Outcome {
        let (outcome, granted) = self.ask(session, RequestBody::Lock { file, owner: 1, span, kind, pid: 9, wait });
        assert_eq!(granted, []);
        outcome
    }

    fn is_done(&self) -> Outcome {
        Outcome::Committed { tid: self.state.tid }
    }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused { refusal }
}

#[test]
fn who_stands_in_line_is_granted_by_the_item_that_makes_room() {
    let mut world = World::new();
    let (a, b, c) = (world.session, world.open(2, 1), world.open(3, 1));
    assert_eq!(world.lock(a, POSIX, span(0, 9), WRITE, false), world.is_done());
    assert_eq!(world.lock(b, POSIX, span(5, 5), READ, false), refused(Refusal::Locked));
    let waits = world.state.sessions[&b].next;
    assert_eq!(world.lock(b, POSIX, span(5, 5), WRITE, true), Outcome::Waits);
    assert_eq!(world.lock(c, POSIX, span(5, 9), WRITE, true), Outcome::Waits);
    let unlock = RequestBody::Unlock { file: POSIX, owner: 1, span: Span::ALL };
    assert_eq!(world.ask(a, unlock), (world.is_done(), vec![(b, waits)]));
    assert_eq!(world.lock(a, POSIX, span(5, 5), WRITE, false), refused(Refusal::Locked), "nobody steps in between");
}

#[test]
fn the_end_of_a_session_gives_its_locks_to_others() {
    let mut world = World::new();
    let (a, b) = (world.session, world.open(2, 1));
    assert_eq!(world.lock(a, POSIX, Span::ALL, WRITE, false), world.is_done());
    let waits = world.state.sessions[&b].next;
    assert_eq!(world.lock(b, POSIX, Span::ALL, READ, true), Outcome::Waits);
    let applied = world.item(Item::SessionExpire { session: a });
    assert_eq!(applied.granted, [(b, waits)]);
    // A later life of the node ends the session of the one before, and its waiters with it.
    let c = world.open(3, 1);
    assert_eq!(world.lock(c, POSIX, Span::ALL, WRITE, true), Outcome::Waits);
    world.open(3, 2);
    assert_eq!(world.state.locks.waiters(), 0);
    let applied = world.item(Item::SessionExpire { session: b });
    assert_eq!((applied.granted, world.state.locks.is_empty()), (vec![], true));
    world.state.check_invariants();
}

#[test]
fn what_is_cancelled_is_not_granted_and_what_was_granted_is_not_cancelled() {
    let mut world = World::new();
    let (a, b) = (world.session, world.open(2, 1));
    assert_eq!(world.lock(a, POSIX, Span::ALL, WRITE, false), world.is_done());
    let first = world.state.sessions[&b].next;
    assert_eq!(world.lock(b, POSIX, Span::ALL, WRITE, true), Outcome::Waits);
    assert_eq!(world.ask(b, RequestBody::CancelLock { seq: first }).0, world.is_done());
    assert_eq!(world.ask(b, RequestBody::CancelLock { seq: first }).0, refused(Refusal::NotWaiting));
    assert_eq!(world.ask(a, RequestBody::CancelLock { seq: first }).0, refused(Refusal::NotWaiting));
    let second = world.state.sessions[&b].next;
    assert_eq!(world.lock(b, POSIX, Span::ALL, WRITE, true), Outcome::Waits);
    let unlock = RequestBody::Unlock { file: POSIX, owner: 1, span: Span::ALL };
    assert_eq!(world.ask(a, unlock), (world.is_done(), vec![(b, second)]));
    assert_eq!(world.ask(b, RequestBody::CancelLock { seq: second }).0, refused(Refusal::NotWaiting));
    assert_eq!(world.lock(a, POSIX, Span::ALL, READ, false), refused(Refusal::Locked));
}

#[test]
fn those_who_would_wait_for_each_other_are_told() {
    let mut world = World::new();
    let (a, b) = (world.session, world.open(2, 1));
    let other = LockFile { object: OTHER, ..POSIX };
    for (session, file) in [(a, POSIX), (b, other)] {
        assert_eq!(world.lock(session, file, Span::ALL, WRITE, false), world.is_done());
    }
    assert_eq!(world.lock(a, other, Span::ALL, WRITE, true), Outcome::Waits);
    assert_eq!(world.lock(b, POSIX, Span::ALL, READ, true), refused(Refusal::Deadlock));
    let flock = LockFile { family: Family::Flock, ..POSIX };
    assert_eq!(world.lock(b, flock, Span::ALL, WRITE, true), world.is_done(), "families do not see each other");
}

#[test]
fn nonsense_is_refused_and_locks_travel_with_the_state() {
    let mut world = World::new();
    let a = world.session;
    for span in [span(2, 1), span(0, 1 << 63), span(u64::MAX, u64::MAX)] {
        assert_eq!(world.lock(a, POSIX, span, WRITE, true), refused(Refusal::BadPlan));
    }
    let nowhere = LockFile { volume: VolumeId(77), ..POSIX };
    assert_eq!(world.lock(a, nowhere, Span::ALL, WRITE, true), refused(Refusal::BadPlan));
    let before = world.state.digest();
    assert_eq!(world.lock(a, POSIX, span(1, 2), WRITE, true), world.is_done());
    let b = world.open(2, 1);
    assert_eq!(world.lock(b, POSIX, span(2, 3), WRITE, true), Outcome::Waits);
    let copy = State::decode(&world.state.encode()).unwrap();
    assert_eq!(copy, world.state);
    let unlocked = State { locks: Default::default(), ..copy };
    assert_ne!(unlocked.digest(), world.state.digest(), "the digest tells locks");
    assert_ne!(before, world.state.digest());
}
