use super::*;
use crate::pending::Asked;
use bytes::Bytes;
use gavel_fs::{Caller, Operation};
use gavel_types::{Key, ObjectId, VolumeId};
use gavel_wire::{AttrDelta, Content, Extent, Mutation, Record, Version, ViewError};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(1);
const FILE: ObjectId = ObjectId(20);
/// The state that the lost session knew.
const AT: Tid = Tid(100);

/// A replica as of some Tid: which keys are there, and since when.
#[derive(Default)]
struct Replica(BTreeMap<Key, Tid>);

impl View for Replica {
    fn tid(&self) -> Tid {
        AT
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        let record = Record::Xattr([].into());
        Ok(self.0.get(key).map(|tid| Version { create: *tid, firm: *tid, record: record.clone() }))
    }

    fn scan(&self, _: &KeyRange, _: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        Ok(Vec::new())
    }
}

fn lost(number: u64, guards: Vec<Guard>, mutations: Vec<Mutation>) -> LostPlan {
    let asked = Asked { volume: V, caller: Caller::default(), operation: Operation::Getattr { object: FILE } };
    let plan = Plan { mutations };
    LostPlan { number, asked, time: AT, at: AT, plan, guards, shipped: false, blob: None, stored_as_of: None }
}

fn attr() -> Key {
    Key::attr(V, FILE)
}

fn name(name: &str) -> Key {
    Key::dirent(V, ObjectId(2), name.as_bytes())
}

fn put(key: Key) -> Mutation {
    Mutation::Put { key, record: Record::Xattr([].into()) }
}

fn adjust() -> Mutation {
    Mutation::Adjust { volume: V, object: FILE, delta: AttrDelta::default() }
}

fn unchanged(key: Key) -> Guard {
    Guard::Unchanged { key, at: Tid(50) }
}

fn firm() -> Guard {
    Guard::Firm { key: attr(), at: Tid(50) }
}

/// Bytes from `start` up to `end`, whatever was there.
fn write(start: u64, end: u64) -> Vec<Mutation> {
    let content = Content::Inline(Bytes::new().to_vec().into());
    let record = Record::Extent(Extent { len: end - start, content });
    let carve = Mutation::Carve { volume: V, object: FILE, start, end };
    vec![carve, Mutation::Put { key: Key::extent(V, FILE, end), record }, adjust()]
}

fn behind(start: u64) -> KeyRange {
    KeyRange::extents_behind(V, FILE, start)
}

fn offers(plans: Vec<LostPlan>) -> Offers {
    let mut offers = Offers::default();
    offers.take_up(LostBecause::SessionEnded, plans);
    offers.check_invariants();
    offers
}

fn next(offers: &mut Offers) -> Offered {
    let offered = offers.take_offer().unwrap();
    assert_eq!(offers.take_offer(), None, "one at a time");
    offers.check_invariants();
    offered
}

fn commit(offers: &mut Offers, tid: u64, before: &[(Key, u64)]) {
    let offered = next(offers);
    let before = Replica(before.iter().map(|(key, tid)| (key.clone(), Tid(*tid))).collect());
    offers.on_outcome(offered.token, Some(Outcome::Committed { tid: Tid(tid) }), &before);
    offers.check_invariants();
}

fn refuse(offers: &mut Offers, guard: u32) {
    let offered = next(offers);
    let refusal = Refusal::Conflict { guard };
    offers.on_outcome(offered.token, Some(Outcome::Refused { refusal }), &Replica::default());
    offers.check_invariants();
}

/// What became of which plan: its commit, or why it is a conflict.
fn ends(offers: &mut Offers) -> Vec<(u64, Result<Tid, Collision>)> {
    let ends = offers.take_effects().filter_map(|effect| match effect {
        OfferEffect::Committed { number, tid } => Some((number, Ok(tid))),
        OfferEffect::Conflict { lost, why } => Some((lost.number, Err(why))),
        OfferEffect::Done | OfferEffect::Store { .. } => None,
    });
    ends.collect()
}

#[test]
fn what_was_read_and_what_is_replaced_must_be_as_the_lost_session_knew_it() {
    let made = Guard::Empty { range: KeyRange::one(&name("new")) };
    let mut offers = offers(vec![
        lost(1, vec![firm(), made.clone()], vec![put(name("new")), adjust()]),
        lost(2, vec![firm()], write(10, 20)),
    ]);
    assert_eq!(
        next(&mut offers).guards,
        [Guard::Firm { key: attr(), at: AT }, made],
        "the name must be free, that is all"
    );
    offers.on_outcome(OFFER_TOKENS | 1, Some(Outcome::Committed { tid: Tid(200) }), &Replica::default());
    let guards = next(&mut offers).guards;
    assert!(guards.contains(&Guard::Stable { range: behind(10), at: AT }), "{guards:?}");
}

#[test]
fn what_an_own_plan_wrote_counts_from_its_commit_on() {
    let mut offers = offers(vec![
        lost(1, vec![firm()], write(10, 20)),
        lost(2, vec![firm()], write(0, 30)),
        lost(3, vec![unchanged(attr())], vec![put(attr())]),
    ]);
    commit(&mut offers, 200, &[(attr(), 100)]);
    let guards = next(&mut offers).guards;
    let until = KeyRange { start: behind(0).start, end: behind(10).start };
    assert!(guards.contains(&Guard::Stable { range: until, at: AT }), "others may have written there: {guards:?}");
    assert!(guards.contains(&Guard::Stable { range: behind(10), at: Tid(200) }), "{guards:?}");
    offers.on_outcome(
        OFFER_TOKENS | 2,
        Some(Outcome::Committed { tid: Tid(210) }),
        &Replica(BTreeMap::from([(attr(), Tid(200))])),
    );
    let guards = next(&mut offers).guards;
    let since = Tid(210);
    assert!(guards.contains(&Guard::Unchanged { key: attr(), at: since }), "the two own writes: {guards:?}");
    assert!(guards.contains(&Guard::Stable { range: KeyRange::one(&attr()), at: since }), "{guards:?}");
    assert_eq!(ends(&mut offers), [(1, Ok(Tid(200))), (2, Ok(Tid(210)))]);
}

#[test]
fn a_merging_commit_does_not_hide_what_another_node_merged_before_it() {
    let mut offers =
        offers(vec![lost(1, vec![firm()], vec![adjust()]), lost(2, vec![unchanged(attr())], vec![put(attr())])]);
    commit(&mut offers, 200, &[(attr(), 150)]);
    assert!(
        next(&mut offers).guards.contains(&Guard::Unchanged { key: attr(), at: AT }),
        "it would write at an old end"
    );
}

#[test]
fn who_stands_on_a_conflict_is_one_and_who_does_not_goes_on() {
    let mut offers = offers(vec![
        lost(1, vec![unchanged(name("a"))], vec![put(name("a")), adjust()]),
        lost(2, vec![firm()], vec![put(name("b"))]),
        lost(3, vec![unchanged(attr())], vec![put(attr())]),
        lost(4, vec![unchanged(name("a"))], vec![put(name("c"))]),
        lost(5, vec![firm()], vec![put(name("d"))]),
        lost(6, vec![Guard::Stable { range: KeyRange::dirents(V, ObjectId(2)), at: AT }], vec![put(name("e"))]),
    ]);
    refuse(&mut offers, 0);
    commit(&mut offers, 200, &[]);
    assert_eq!(offers.take_offer(), None, "5 reads the firm half, which 3 replaces");
    let why: Vec<_> = ends(&mut offers);
    let depends = || Err(Collision::Depends);
    let changed = Err(Collision::Changed(KeyRange::one(&name("a"))));
    assert_eq!(why, [(1, changed), (2, Ok(Tid(200))), (3, depends()), (4, depends()), (5, depends()), (6, depends())]);
    assert!(offers.is_idle());
}

#[test]
fn the_plans_of_two_sessions_do_not_stand_on_each_other() {
    let mut offers = offers(vec![lost(1, vec![unchanged(attr())], vec![put(attr())])]);
    let later = LostPlan { at: Tid(150), ..lost(2, vec![unchanged(attr())], vec![put(attr())]) };
    offers.take_up(LostBecause::SessionEnded, vec![later]);
    commit(&mut offers, 200, &[(attr(), 100)]);
    let guards = next(&mut offers).guards;
    assert!(guards.contains(&Guard::Unchanged { key: attr(), at: Tid(150) }), "it did not see the first: {guards:?}");
}

#[test]
fn what_may_have_been_applied_is_never_offered_nor_what_stands_on_it() {
    let mut offers = Offers::default();
    let shipped = LostPlan { shipped: true, ..lost(1, vec![], vec![put(name("a"))]) };
    let plans =
        vec![shipped, lost(2, vec![unchanged(name("a"))], vec![put(name("b"))]), lost(3, vec![], vec![put(name("c"))])];
    offers.take_up(LostBecause::Unknown, plans.clone());
    assert_eq!(next(&mut offers).plan, plans[2].plan);
    assert_eq!(ends(&mut offers), [(1, Err(Collision::Unknown)), (2, Err(Collision::Depends))]);
    offers.on_unknown(OFFER_TOKENS | 1);
    assert_eq!(ends(&mut offers), [(3, Err(Collision::Unknown))], "the next session ended unseen, too");
}

#[test]
fn what_the_log_refused_is_not_offered() {
    let mut offers = Offers::default();
    let shipped = LostPlan { shipped: true, ..lost(1, vec![], vec![put(name("a"))]) };
    offers.take_up(LostBecause::Refused, vec![shipped, lost(2, vec![], vec![put(name("a"))])]);
    assert_eq!(offers.effects.back(), Some(&OfferEffect::Done));
    assert_eq!(ends(&mut offers), [(1, Err(Collision::Unknown)), (2, Err(Collision::Refused))]);
}

#[test]
fn what_could_not_be_tried_is_tried_again_at_the_next_tick() {
    let mut offers = offers(vec![lost(1, vec![], vec![put(name("a"))])]);
    let leased = || Some(Outcome::Refused { refusal: Refusal::Leased });
    for outcome in [None, leased(), None] {
        let first = next(&mut offers);
        offers.on_outcome(first.token, outcome, &Replica::default());
        assert_eq!(offers.take_offer(), None);
        offers.on_tick();
        offers.on_nothing(first.token);
    }
    let last = next(&mut offers);
    offers.on_outcome(OFFER_TOKENS | 1, Some(Outcome::Committed { tid: Tid(200) }), &Replica::default());
    assert_eq!(ends(&mut offers), [], "an answer to an earlier try");
    offers.on_outcome(last.token, Some(Outcome::Committed { tid: Tid(201) }), &Replica::default());
    assert_eq!(ends(&mut offers), [(1, Ok(Tid(201)))]);
}

#[test]
fn there_is_a_bound() {
    let plans =
        |from: u64, count: usize| (from..).take(count).map(|number| lost(number, vec![], vec![adjust()])).collect();
    let mut offers = offers(plans(1, OFFERS_MAX - 1));
    offers.take_up(LostBecause::SessionEnded, plans(1_000_000, 2));
    assert_eq!(ends(&mut offers), []);
    for _ in 0..OFFERS_MAX {
        commit(&mut offers, 200, &[]);
    }
    let ends = ends(&mut offers);
    assert_eq!(ends.last(), Some(&(1_000_001, Err(Collision::TooMany))));
    assert!(offers.is_idle());
}

#[test]
fn an_offer_whose_bytes_were_collected_waits_until_they_are_stored_once_more() {
    let bytes = Bytes::from_static(b"bytes of a file");
    let blob = Some((gavel_types::BlobId::of(&bytes), bytes.clone()));
    let plan = LostPlan { blob, stored_as_of: Some(Tid(120)), ..lost(1, vec![], vec![put(name("a"))]) };
    let mut offers = offers(vec![plan]);
    let first = next(&mut offers);
    assert_eq!(first.stored_as_of, Tid(120));
    let collected = Outcome::Refused { refusal: Refusal::Collected };
    offers.on_outcome(first.token, Some(collected), &Replica::default());
    assert_eq!(offers.take_effects().collect::<Vec<_>>(), [OfferEffect::Store { number: 1, bytes }]);
    offers.on_tick();
    assert_eq!(offers.take_offer(), None);
    offers.stored(1, Tid(150));
    assert_eq!(next(&mut offers).stored_as_of, Tid(150));
}
