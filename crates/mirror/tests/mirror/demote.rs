//! Two volumes that take turns: one is promoted, both go on by themselves, and the other one is demoted and follows.

use crate::world::*;
use gavel_mirror::NotTaken;
use gavel_types::{Key, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Boundary, Demotion, Outcome, Record, Refusal, RequestBody, View};
use std::collections::BTreeMap;

/// The source of a mirror, as the mirror that it is to be.
fn side(world: World) -> Mirror {
    Mirror { world, volume: V, boundaries: Vec::new(), part_rows: gavel_mirror::parts::PART_ROWS_MAX }
}

/// A source behind so many transactions, its mirror, and the stream that has made it what it is.
fn two(dice: &mut Dice, transactions: usize) -> (Mirror, Mirror, Vec<u8>) {
    let mut one = side(World::new(CLUSTER));
    let mut other = Mirror::of(one.world.source());
    play(dice, &mut one.world, transactions);
    let (whole, _) = send(&one.world, Tid::ZERO, one.world.tid(), 300);
    other.receive(&whole, 700, || false).unwrap();
    (one, other, whole)
}

fn live(side: &Mirror) -> BTreeMap<Key, Record> {
    side.world.shown(side.volume, side.world.tid())
}

fn promote(mirror: &mut Mirror) {
    let volume = mirror.volume;
    mirror.world.done(RequestBody::PromoteMirror { volume });
    mirror.world.volume = volume;
}

/// Both make objects from now on, of the same numbers.
fn part(one: &mut Mirror, other: &mut Mirror) {
    let fresh = |side: &Mirror| side.world.fresh.max(side.world.state.next_object);
    let fresh = fresh(one).max(fresh(other));
    (one.world.fresh, other.world.fresh) = (fresh, fresh);
}

/// `former` is a mirror of `other` from now on. What it was is called so.
fn demote(former: &mut Mirror, other: &Mirror, name: &str) -> VolumeId {
    let lineage = other.world.state.past.of(other.volume).unwrap().mirror.as_ref().unwrap().lineage().unwrap();
    assert_eq!(lineage.source, former.world.source_of(former.volume));
    let before = live(former);
    former.world.done(RequestBody::DemoteMirror(Demotion {
        volume: former.volume,
        source: other.world.source_of(other.volume),
        own: lineage.departed,
        state: lineage.state,
        save: Some(name.into()),
        as_of: Tid::ZERO,
    }));
    former.boundaries = Vec::new();
    former.world.reap_rest();
    assert_eq!(former.at(), (lineage.departed, lineage.state));
    if other.world.state.past.of(other.volume).unwrap().can_read(lineage.state) {
        assert_eq!(former.world.shown(former.volume, lineage.departed), other.world.shown(other.volume, lineage.state));
    }
    let saved = former.world.state.past.named(name).unwrap();
    assert_eq!(former.world.shown(saved, former.world.tid()), before, "the clone is what the volume was");
    saved
}

/// Each boundary since the demotion is a state of the other one.
fn check(mirror: &Mirror, other: &Mirror) {
    for (local, state) in &mirror.boundaries {
        let (wanted, found) = (other.world.shown(other.volume, *state), mirror.world.shown(mirror.volume, *local));
        assert_eq!(wanted, found, "as of {state}, here {local}");
        let row = mirror.world.past().at(*local).get(&Key::boundary(mirror.volume)).unwrap().unwrap();
        let Record::Boundary(boundary) = row.record else { panic!("{row:?}") };
        assert_eq!(boundary, Boundary { source: *state, local: *local, to: *state, single: boundary.single });
    }
}

/// Takes over what the other one has, though receivers die now and then.
fn catch_up(dice: &mut Dice, mirror: &mut Mirror, other: &Mirror) {
    for _ in 0..3 {
        let (bytes, _) = send_of(&other.world, other.volume, mirror.at().1, other.world.tid(), 2000);
        let mut left = dice.below(8);
        let died = mirror.receive(&bytes, 700, || {
            left = left.wrapping_sub(1);
            left == usize::MAX
        });
        assert!(died.is_ok() || matches!(died, Err(Failed::Killed)), "{:?}", died.err());
        check(mirror, other);
    }
    let (bytes, _) = send_of(&other.world, other.volume, mirror.at().1, other.world.tid(), 300);
    mirror.receive(&bytes, 700, || false).unwrap();
    assert_eq!(mirror.at().1, other.world.tid());
    check(mirror, other);
}

#[test]
fn they_take_turns_and_nothing_that_either_had_is_lost() {
    for seed in 1..16 {
        let mut dice = Dice(seed * 2 + 9);
        let (mut one, mut other, _) = two(&mut dice, 12);
        let mut saved: Vec<(u32, VolumeId, BTreeMap<Key, Record>)> = Vec::new();
        for round in 0..4 {
            promote(&mut other);
            part(&mut one, &mut other);
            let (mine, theirs) = (dice.below(14), dice.below(14));
            play(&mut dice, &mut one.world, mine);
            play(&mut dice, &mut other.world, theirs);
            let before = live(&one);
            let clone = demote(&mut one, &other, &format!("saved-{round}"));
            saved.push((round, clone, before));
            catch_up(&mut dice, &mut one, &other);
            assert_eq!(live(&one), live(&other));
            play(&mut dice, &mut other.world, 3);
            catch_up(&mut dice, &mut one, &other);
            std::mem::swap(&mut one, &mut other);
            for (round, clone, before) in saved.iter().filter(|(at, ..)| (at + round) % 2 == 0) {
                let found = other.world.shown(*clone, other.world.tid());
                assert_eq!(&found, before, "what was saved in round {round}");
            }
        }
    }
}

/// The other one has not kept its states from the common one on: what is there is compared with that.
#[test]
fn what_was_pruned_since_is_compared() {
    for seed in 1..8 {
        let mut dice = Dice(seed * 4 + 1);
        let (mut one, mut other, _) = two(&mut dice, 20);
        promote(&mut other);
        part(&mut one, &mut other);
        play(&mut dice, &mut one.world, 10);
        play(&mut dice, &mut other.world, 10);
        other.world.prune(other.volume);
        demote(&mut one, &other, "saved");
        let (bytes, _) = compare(&other.world, one.at().1, other.world.tid(), 500);
        one.receive(&bytes, 700, || false).unwrap();
        assert_eq!(live(&one), live(&other));
        // It was taken back first: what the other one showed then is gone there.
        assert_eq!(one.boundaries.len(), 2);
        one.boundaries.remove(0);
        check(&one, &other);
    }
}

/// One that was demoted takes streams of its new source alone, and can be promoted at once.
#[test]
fn a_demoted_volume_can_be_promoted_at_once() {
    let mut dice = Dice(77);
    let (mut one, mut other, whole) = two(&mut dice, 20);
    promote(&mut other);
    part(&mut one, &mut other);
    play(&mut dice, &mut one.world, 10);
    play(&mut dice, &mut other.world, 10);
    let common = live_at(&other, other.at().0);
    demote(&mut one, &other, "saved");
    let refused = one.receive(&whole, 700, || false).map(drop);
    assert!(matches!(refused, Err(Failed::NotTaken(NotTaken::OtherVolume { .. }))), "{refused:?}");
    let (anew, _) = send_of(&other.world, other.volume, Tid::ZERO, other.world.tid(), 300);
    let refused = one.receive(&anew, 700, || false).map(drop);
    assert!(matches!(refused, Err(Failed::NotTaken(NotTaken::Whole { .. }))), "{refused:?}");
    let behind = Outcome::Refused { refusal: Refusal::Behind };
    assert_eq!(one.world.ask(RequestBody::PromoteMirror { volume: V }), behind);
    one.go_back().unwrap();
    promote(&mut one);
    assert_eq!(live(&one), common);
    assert!(one.world.state.next_object > ObjectId(1 << 40));
    // And so the other one can come back to it, from the state that they have in common.
    part(&mut one, &mut other);
    play(&mut dice, &mut one.world, 5);
    demote(&mut other, &one, "theirs");
    catch_up(&mut dice, &mut other, &one);
    assert_eq!(live(&other), live(&one));
}

fn live_at(side: &Mirror, tid: Tid) -> BTreeMap<Key, Record> {
    side.world.shown(side.volume, tid)
}

/// A mirror of a volume that is demoted has had what is taken back, and goes on all the same.
#[test]
fn a_mirror_of_a_demoted_volume_goes_on() {
    for seed in 1..8 {
        let mut dice = Dice(seed * 8 + 3);
        let mut one = side(World::new(CLUSTER));
        let (mut other, mut third) = (Mirror::of(one.world.source()), Mirror::of(one.world.source()));
        play(&mut dice, &mut one.world, 10);
        let (bytes, _) = send(&one.world, Tid::ZERO, one.world.tid(), 300);
        other.receive(&bytes, 700, || false).unwrap();
        promote(&mut other);
        part(&mut one, &mut other);
        play(&mut dice, &mut one.world, 8);
        let (bytes, _) = send(&one.world, Tid::ZERO, one.world.tid(), 300);
        third.receive(&bytes, 700, || false).unwrap();
        play(&mut dice, &mut one.world, 4);
        play(&mut dice, &mut other.world, 8);
        demote(&mut one, &other, "saved");
        catch_up(&mut dice, &mut one, &other);
        let (bytes, _) = send_of(&one.world, V, third.at().1, one.at().0, 300);
        third.receive(&bytes, 700, || false).unwrap();
        assert_eq!(live(&third), live(&other));
        check(&third, &one);
    }
}
