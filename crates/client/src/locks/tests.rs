use super::*;
use gavel_types::{ObjectId, Tid, VolumeId};
use gavel_wire::lock::Family;

const FILE: LockFile = LockFile { volume: VolumeId(1), object: ObjectId(7), family: Family::Posix };
const DONE: Outcome = Outcome::Committed { tid: Tid(1) };

fn lock(owner: u64, wait: bool) -> LockCall {
    LockCall::Lock { file: FILE, owner, span: Span { first: 0, last: 9 }, kind: LockKind::Write, pid: 1, wait }
}

fn unlock(owner: u64, closing: bool) -> LockCall {
    LockCall::Unlock { file: FILE, owner, span: Span::ALL, closing }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused { refusal }
}

fn ships(next: &Next) -> bool {
    matches!(next, Next::Ship(_))
}

/// Owner 1 holds a lock, taken as call 1; call 2 of owner 2 waits under number 2.
fn one_holds_and_two_waits() -> Locks {
    let mut locks = Locks::default();
    assert!(ships(&locks.begin(1, lock(1, false))));
    assert_eq!(locks.settled(1, Seq(1), &DONE), Next::Answer(LockAnswer::Done));
    assert!(ships(&locks.begin(2, lock(2, true))));
    assert_eq!(locks.settled(2, Seq(2), &Outcome::Waits), Next::Nothing);
    locks.check_invariants();
    locks
}

#[test]
fn a_lock_that_waits_is_answered_when_it_is_granted() {
    let mut locks = one_holds_and_two_waits();
    assert_eq!(locks.granted(Seq(9)), None);
    assert_eq!(locks.granted(Seq(2)), Some((2, Next::Answer(LockAnswer::Done))));
    assert_eq!(locks.granted(Seq(2)), None);
    assert_eq!(locks.len(), 0);
    assert!(ships(&locks.begin(3, unlock(2, true))));
    locks.check_invariants();
}

#[test]
fn a_cancelled_wait_ends_as_the_log_says() {
    let mut locks = one_holds_and_two_waits();
    let cancel = Next::Ship(RequestBody::CancelLock { seq: Seq(2) });
    assert_eq!((locks.cancel(2), locks.cancel(2)), (cancel.clone(), Next::Nothing));
    assert_eq!(locks.cancel_settled(2, &DONE), Next::Answer(LockAnswer::Cancelled));
    // Cancelled before its outcome is known; and granted before it could be cancelled.
    assert!(ships(&locks.begin(3, lock(3, true))));
    assert_eq!(locks.cancel(3), Next::Nothing);
    assert_eq!(locks.settled(3, Seq(2), &Outcome::Waits), cancel);
    assert_eq!(locks.cancel_settled(3, &refused(Refusal::NotWaiting)), Next::Nothing);
    assert_eq!(locks.granted(Seq(2)), Some((3, Next::Answer(LockAnswer::Done))));
    locks.check_invariants();
}

#[test]
fn who_has_nothing_gives_nothing_back() {
    let mut locks = Locks::default();
    assert_eq!(locks.begin(1, unlock(1, true)), Next::Answer(LockAnswer::Done));
    assert!(ships(&locks.begin(2, lock(1, false))));
    assert!(ships(&locks.begin(3, unlock(1, true))), "it may have something by then");
    assert_eq!(locks.settled(2, Seq(1), &DONE), Next::Answer(LockAnswer::Done));
    assert_eq!(locks.settled(3, Seq(2), &DONE), Next::Answer(LockAnswer::Done));
    assert_eq!(locks.begin(4, unlock(1, true)), Next::Answer(LockAnswer::Done));
    for (refusal, answer) in [
        (Refusal::Locked, LockAnswer::Locked),
        (Refusal::Deadlock, LockAnswer::Deadlock),
        (Refusal::NoLocks, LockAnswer::NoLocks),
    ] {
        assert!(ships(&locks.begin(5, lock(1, true))));
        assert_eq!(locks.settled(5, Seq(3), &refused(refusal)), Next::Answer(answer));
    }
}

#[test]
fn locks_that_were_lost_are_told_to_their_owner_and_what_waits_is_asked_for_again() {
    let mut locks = one_holds_and_two_waits();
    assert!(ships(&locks.begin(3, lock(1, false))));
    let next = locks.lose();
    assert_eq!(next.len(), 2);
    assert!(matches!(&next[0], (2, Next::Ship(RequestBody::Lock { owner: 2, wait: true, .. }))));
    assert_eq!(next[1], (3, Next::Answer(LockAnswer::Lost)));
    locks.check_invariants();
    assert!(locks.has_lost(FILE, 1) && !locks.has_lost(FILE, 2));
    assert_eq!(locks.begin(4, lock(1, true)), Next::Answer(LockAnswer::Lost));
    assert_eq!(locks.begin(5, unlock(1, false)), Next::Answer(LockAnswer::Lost));
    assert!(ships(&locks.begin(6, lock(1, true))), "it was told");
    assert_eq!(locks.settled(6, Seq(1), &DONE), Next::Answer(LockAnswer::Done));
    locks.lose();
    assert_eq!(locks.begin(7, unlock(1, true)), Next::Answer(LockAnswer::Done), "who closes hears of nothing");
    assert!(!locks.has_lost(FILE, 1));
}

#[test]
fn a_lock_that_comes_too_late_is_given_back() {
    let mut locks = Locks::default();
    assert!(ships(&locks.begin(1, lock(1, true))));
    assert_eq!(locks.abandon(1), Next::Nothing);
    let back = RequestBody::Unlock { file: FILE, owner: 1, span: Span { first: 0, last: 9 } };
    assert_eq!(locks.settled(1, Seq(1), &DONE), Next::Ship(back));
    // Its owner gets no other before that is known, and keeps what it had.
    assert!(ships(&locks.begin(2, lock(2, true))));
    assert_eq!(locks.settled(2, Seq(2), &DONE), Next::Answer(LockAnswer::Done));
    assert!(ships(&locks.begin(3, lock(2, true))));
    assert_eq!(locks.abandon(3), Next::Nothing);
    assert_eq!(locks.begin(4, lock(2, true)), Next::Answer(LockAnswer::Unsettled));
    assert_eq!(locks.settled(3, Seq(3), &DONE), Next::Nothing);
    assert!(ships(&locks.begin(5, lock(2, true))));
}

#[test]
fn a_replica_that_skipped_a_part_of_the_log_misses_no_grant() {
    let locks = one_holds_and_two_waits();
    assert_eq!(locks.not_waiting(|seq| seq == Seq(2)), []);
    assert_eq!(locks.not_waiting(|_| false), [Seq(2)]);
}
