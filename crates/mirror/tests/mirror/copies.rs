//! Random histories, sent in streams of all kinds.

use crate::world::*;
use gavel_fs::Operation;
use gavel_mirror::{NotTaken, StreamError};
use gavel_types::{Key, MirrorSource, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Author, Firm, Kind, Outcome, Plan, Record, Refusal, RequestBody};

#[test]
fn every_boundary_is_a_state_of_the_source() {
    for seed in 1..20 {
        let mut dice = Dice(seed * 2 + 1);
        let mut source = World::new(CLUSTER);
        let mut mirror = Mirror::of(source.source());
        for round in 0..5 {
            let many = 1 + dice.below(12);
            let states = play(&mut dice, &mut source, many);
            let to = states[dice.below(states.len())].max(mirror.at().1);
            let page = [1, 200, 100_000][round % 3];
            let (bytes, _) = send(&source, mirror.at().1, to, page);
            let receiver = mirror.receive(&bytes, 1 + dice.below(3000), || false).unwrap();
            assert_eq!((mirror.at().1, receiver.at()), (to, to));
        }
        assert!(mirror.boundaries.len() > 5);
        mirror.check(&source);
    }
}

/// What transactions a mirror has had one by one, it has as its own history.
#[test]
fn a_transaction_of_the_source_is_a_boundary() {
    let (mut dice, mut source) = (Dice(11), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    let from = source.tid();
    let (whole, _) = send(&source, Tid::ZERO, from, 1000);
    mirror.receive(&whole, 1000, || false).unwrap();
    let states = play(&mut dice, &mut source, 30);
    let (bytes, _) = send(&source, from, source.tid(), 1000);
    mirror.receive(&bytes, 1000, || false).unwrap();
    let shown = |tid: &Tid| mirror.boundaries.iter().any(|(_, state)| state == tid);
    let changed: Vec<&Tid> =
        states.iter().filter(|tid| source.shown(V, **tid) != source.shown(V, Tid(tid.0 - 1))).collect();
    assert!(changed.len() > 15);
    assert!(changed.into_iter().all(shown));
    mirror.check(&source);
}

/// Behind what was pruned, a step leads from one state that is kept to the next.
#[test]
fn a_gap_is_crossed_by_differences() {
    for seed in 1..30 {
        let (mut dice, mut source) = (Dice(seed * 6 + 5), World::new(CLUSTER));
        let mut mirror = Mirror::of(source.source());
        play(&mut dice, &mut source, 10);
        let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 300);
        mirror.receive(&bytes, 1000, || false).unwrap();
        let kept = |source: &mut World, name: &str| {
            source.done(RequestBody::Snapshot {
                volume: V,
                name: name.into(),
                note: "".into(),
                at: Some(source.tid()),
            });
        };
        let mut before = mirror.at().1;
        source.done(RequestBody::Snapshot { volume: V, name: "start".into(), note: "".into(), at: Some(before) });
        for name in ["one", "two"] {
            play(&mut dice, &mut source, 12);
            kept(&mut source, name);
        }
        play(&mut dice, &mut source, 6);
        source.prune(V);
        assert_eq!(source.readable(V).kept.len(), 3, "{:?}", source.readable(V));
        play(&mut dice, &mut source, 6);
        let (bytes, _) = send(&source, before, source.tid(), 300);
        mirror.receive(&bytes, 1000, || false).unwrap();
        mirror.check_kept(&source);
        // And on from there, one by one.
        before = source.tid();
        play(&mut dice, &mut source, 6);
        let (bytes, _) = send(&source, before, source.tid(), 300);
        mirror.receive(&bytes, 1000, || false).unwrap();
        mirror.check_kept(&source);
        assert_eq!(mirror.at().1, source.tid());
    }
}

impl Mirror {
    /// As `check`, of what the source still has.
    fn check_kept(&self, source: &World) {
        let readable = source.readable(V);
        let kept = |(_, state): &&(Tid, Tid)| *state >= readable.horizon || readable.kept.contains(state);
        let boundaries: Vec<_> = self.boundaries.iter().filter(kept).copied().collect();
        for (local, state) in boundaries {
            assert_eq!(source.shown(V, state), self.world.shown(self.volume, local), "as of {state}");
        }
    }
}

/// Files of so many extents that a step with a few of them has many parts.
fn many(world: &mut World, files: u64) {
    of_extents(world, files, 1500);
}

/// The same, of so many extents.
pub fn of_extents(world: &mut World, files: u64, extents: u64) {
    for number in 0..files {
        let name: Box<[u8]> = format!("big{number}-{}", world.fresh).into_bytes().into();
        let (parent, object) = (ObjectId::ROOT, world.fresh);
        let file = Operation::Mknod { parent, name, kind: Kind::File, mode: 0o600, umask: 0, rdev: 0 };
        let content = || gavel_wire::Content::Inline([7; 3].into());
        let write = |block: u64| Operation::Write {
            object,
            offset: block * 10,
            append: false,
            len: 3,
            content: content(),
            kill_suidgid: false,
        };
        let all: Vec<Operation> = std::iter::once(file).chain((0..extents).map(write)).collect();
        world.batch(&all);
    }
}

/// Half of a step must not be mixed with another step: the mirror goes back to its boundary first.
#[test]
fn a_step_to_another_state_begins_at_the_boundary() {
    let (mut dice, mut source) = (Dice(21), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    let breaks_off = |mirror: &mut Mirror, source: &World| {
        let (bytes, _) = send(source, mirror.at().1, source.tid(), 20_000);
        let mut parts = 0;
        let died = mirror.receive(&bytes, 5000, || {
            parts += 1;
            parts > 2
        });
        assert_eq!(died.err(), Some(Failed::Killed));
        mirror.standing().step.unwrap().at.to
    };
    play(&mut dice, &mut source, 10);
    many(&mut source, 8);
    for round in 0..3 {
        // The first step leads from nothing, the others over a gap.
        let first = breaks_off(&mut mirror, &source);
        play(&mut dice, &mut source, 10);
        source.reap();
        if round > 0 {
            source.prune(V);
        }
        let second = breaks_off(&mut mirror, &source);
        assert!(second > first, "a step to another state is under way");
        mirror.check_kept(&source);
        play(&mut dice, &mut source, 10);
        let (bytes, _) = send(&source, mirror.at().1, source.tid(), 20_000);
        mirror.receive(&bytes, 5000, || false).unwrap();
        mirror.check_kept(&source);
        let (volume, at) = (V, Some(mirror.at().1));
        source.done(RequestBody::Snapshot { volume, name: format!("s{round}").into(), note: "".into(), at });
        play(&mut dice, &mut source, 10);
        many(&mut source, 8);
        source.prune(V);
    }
}

/// A receiver dies anywhere, and another goes on: with the same stream, with one from the boundary, or with one to another state.
#[test]
fn a_receiver_that_dies_leaves_the_boundary() {
    for seed in 1..20 {
        let (mut dice, mut source) = (Dice(seed * 2 + 77), World::new(CLUSTER));
        let mut mirror = Mirror::of(source.source());
        for _ in 0..3 {
            play(&mut dice, &mut source, 4);
            if seed % 8 == 1 {
                many(&mut source, 3);
            }
            let to = source.tid();
            for _ in 0..4 {
                let (bytes, _) = send(&source, mirror.at().1, to, 20_000);
                let mut left = dice.below(6);
                let died = mirror.receive(&bytes, 5000, || {
                    left = left.wrapping_sub(1);
                    left == usize::MAX
                });
                assert!(died.is_ok() || matches!(died, Err(Failed::Killed)), "{:?}", died.err());
                mirror.check(&source);
                if dice.below(2) == 0 {
                    play(&mut dice, &mut source, 1);
                }
            }
        }
        let (bytes, _) = send(&source, mirror.at().1, source.tid(), 20_000);
        mirror.receive(&bytes, 5000, || false).unwrap();
        mirror.check(&source);
    }
}

#[test]
fn what_was_had_is_passed_over_and_what_does_not_fit_is_refused() {
    let (mut dice, mut source) = (Dice(5), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, 8);
    let first = source.tid();
    let (whole, _) = send(&source, Tid::ZERO, first, 1000);
    mirror.receive(&whole, 1000, || false).unwrap();
    play(&mut dice, &mut source, 8);
    let second = source.tid();
    let (more, _) = send(&source, first, second, 1000);
    play(&mut dice, &mut source, 8);
    let third = source.tid();
    let (gap, _) = send(&source, second, third, 1000);
    let refused = |mirror: &mut Mirror, bytes: &[u8]| mirror.receive(bytes, 1000, || false).err();
    assert_eq!(refused(&mut mirror, &gap), Some(Failed::NotTaken(NotTaken::Gap { from: second, at: first })));
    mirror.receive(&more, 1000, || false).unwrap();
    let again = mirror.receive(&more, 1000, || false).unwrap();
    assert!(again.passed_over > 0 && again.steps == 0);
    mirror.receive(&whole, 1000, || false).unwrap();
    let (anew, _) = send(&source, Tid::ZERO, third, 1000);
    assert_eq!(refused(&mut mirror, &anew), Some(Failed::NotTaken(NotTaken::Whole { at: second })));
    let (both, _) = send(&source, first, third, 1000);
    mirror.receive(&both, 1000, || false).unwrap();
    assert_eq!(mirror.at().1, third);
    mirror.check(&source);
    // Another cluster's, another volume's, and that of a volume that had the number earlier.
    let ours = source.source();
    let theirs = [
        MirrorSource { cluster: gavel_types::ClusterId([9; 16]), ..ours },
        MirrorSource { volume: VolumeId(ours.volume.0 + 1), ..ours },
        MirrorSource { made: Tid(ours.made.0 - 1), ..ours },
    ];
    for wanted in theirs {
        let mut of_other = Mirror::of(wanted);
        let found = refused(&mut of_other, &whole);
        let refusal = NotTaken::OtherVolume { name: "v".into(), found: ours, wanted };
        assert_eq!(found, Some(Failed::NotTaken(refusal)));
        assert_eq!(of_other.at().1, Tid::ZERO);
    }
    let nothing = refused(&mut mirror, b"not a stream at all");
    assert_eq!(nothing, Some(Failed::Stream(StreamError::NotAStream)));
}

/// Only its source changes a mirror; a part that is not the next one is refused; a promoted one is a volume as any other.
#[test]
fn the_log_judges_who_changes_a_mirror() {
    let (mut dice, mut source) = (Dice(3), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, 8);
    let (whole, _) = send(&source, Tid::ZERO, source.tid(), 1000);
    mirror.receive(&whole, 1000, || false).unwrap();
    let volume = mirror.volume;
    let commit = |mirror: &mut Mirror| {
        let delta = gavel_wire::AttrDelta { size_min: 9, ..Default::default() };
        let mutations = vec![gavel_wire::Mutation::Adjust { volume, object: ObjectId::ROOT, delta }];
        let (guards, author) = (Vec::new(), Author::user(0));
        mirror.world.ask(RequestBody::Commit { guards, plan: Plan { mutations }, author, stored_as_of: Tid::MAX })
    };
    assert_eq!(commit(&mut mirror), Outcome::Refused { refusal: Refusal::ReadOnly });
    let at = mirror.at().1;
    let part = |part, last, to| {
        let (rows, author) = (Vec::new(), Author::user(0));
        let (from, single, stored_as_of) = (at, true, Tid::MAX);
        RequestBody::MirrorStep(gavel_wire::MirrorStep {
            volume,
            from,
            to,
            part,
            last,
            single,
            resumes: None,
            rows,
            author,
            stored_as_of,
        })
    };
    let behind = Outcome::Refused { refusal: Refusal::Behind };
    let (next, later) = (Tid(at.0 + 1), Tid(at.0 + 2));
    assert_eq!(mirror.world.ask(part(1, false, next)), behind);
    assert_eq!(mirror.world.ask(part(0, false, Tid(at.0 - 1))), behind);
    mirror.world.done(part(0, false, next));
    assert_eq!(mirror.world.ask(part(0, false, later)), behind, "rows of two steps would be mixed");
    assert_eq!(mirror.world.ask(part(2, true, next)), behind);
    assert_eq!(mirror.world.ask(RequestBody::PromoteMirror { volume }), behind);
    mirror.world.done(part(1, false, next));
    // The way back may begin at any time, and takes the volume from who is at work.
    mirror.world.done(part(0, true, at));
    assert_eq!(mirror.world.ask(part(2, true, next)), behind);
    assert_eq!(mirror.at().1, at);
    mirror.world.done(RequestBody::PromoteMirror { volume });
    assert!(matches!(commit(&mut mirror), Outcome::Committed { .. }));
    made_below_what_was_mirrored(&mut mirror);
    let not = Outcome::Refused { refusal: Refusal::NotMirror };
    assert_eq!(mirror.world.ask(part(0, true, next)), not);
    assert_eq!(
        mirror.world.ask(RequestBody::PromoteMirror { volume: VolumeId(1) }).clone(),
        Outcome::Refused { refusal: Refusal::Missing }
    );
}

/// What is made in a promoted mirror has an id that nothing has that was mirrored.
fn made_below_what_was_mirrored(mirror: &mut Mirror) {
    let (volume, next) = (mirror.volume, mirror.world.state.next_object);
    let mut make = |object: ObjectId| {
        let now = Default::default();
        let (parent, class) = (ObjectId::VOLUME, Default::default());
        let firm = Firm { kind: Kind::File, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent, birth: now, class };
        let attr = Attr { firm, nlink: 1, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
        let mutations = vec![gavel_wire::Mutation::Put { key: Key::attr(volume, object), record: Record::Attr(attr) }];
        let (guards, author) = (Vec::new(), Author::user(0));
        mirror.world.ask(RequestBody::Commit { guards, plan: Plan { mutations }, author, stored_as_of: Tid::MAX })
    };
    assert!(next > ObjectId(100), "the mirrored ids raise the next one");
    assert_eq!(make(ObjectId(50)), Outcome::Refused { refusal: Refusal::BadPlan });
    assert!(matches!(make(next), Outcome::Committed { .. }));
}

/// What has not changed is not read.
#[test]
fn an_incremental_pass_reads_what_has_changed() {
    let mut source = World::new(CLUSTER);
    let name = |number: u64| -> Box<[u8]> { format!("f{number}").into_bytes().into() };
    let make = |number| Operation::Mknod {
        parent: ObjectId::ROOT,
        name: name(number),
        kind: Kind::File,
        mode: 0o600,
        umask: 0,
        rdev: 0,
    };
    for block in 0..10 {
        let all: Vec<Operation> = (0..200).map(|number| make(block * 200 + number)).collect();
        source.batch(&all);
    }
    let before = source.tid();
    for number in 0..5 {
        source.batch(&[make(10_000 + number)]);
    }
    let (_, read) = send(&source, before, source.tid(), 100_000);
    // Five files: attributes, a name, the directory's attributes, and who made it; each looked for, and found.
    assert!(read.rows == 0 && read.changes <= 50 && read.records <= 60, "{read:?}");
    let (_, whole) = send(&source, Tid::ZERO, source.tid(), 100_000);
    assert!((4000..6000).contains(&whole.rows), "{whole:?}");
    let (_, paged) = send(&source, Tid::ZERO, source.tid(), 100);
    assert_eq!(whole, paged, "rows are read once, however they are cut");
}

/// Snapshots and schedules of a mirror name its boundary, and retention of its own keeps that.
#[test]
fn the_boundary_is_kept() {
    let (mut dice, mut source) = (Dice(8), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, 20);
    let (whole, _) = send(&source, Tid::ZERO, source.tid(), 1000);
    mirror.receive(&whole, 1000, || false).unwrap();
    let (local, _) = mirror.at();
    mirror.world.prune(mirror.volume);
    mirror.check(&source);
    let volume = mirror.volume;
    mirror.world.done(RequestBody::Snapshot { volume, name: "s".into(), note: "".into(), at: None });
    let past = mirror.world.state.past.of(volume).unwrap();
    assert_eq!(past.snapshots["s"].tid, local);
    assert!(past.horizon > local && past.kept == [local]);
    play(&mut dice, &mut source, 20);
    let (more, _) = send(&source, mirror.at().1, source.tid(), 1000);
    mirror.receive(&more, 1000, || false).unwrap();
    mirror.world.prune(volume);
    let last = mirror.at();
    assert_eq!(source.shown(V, last.1), mirror.world.shown(volume, last.0));
}

/// A mirror of a mirror goes from one boundary of that to the next, and never shows half of a step.
#[test]
fn a_mirror_of_a_mirror_shows_its_boundaries() {
    let mut many_parts = 0;
    for seed in 1..19 {
        let (mut dice, mut source) = (Dice(seed * 8 + 3), World::new(CLUSTER));
        let mut first = Mirror::of(source.source());
        play(&mut dice, &mut source, 10);
        let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 300);
        first.receive(&bytes, 1000, || false).unwrap();
        let mut second = Mirror::of(first.world.source_of(first.volume));
        let (bytes, _) = send_of(&first.world, first.volume, Tid::ZERO, first.at().0, 300);
        second.receive(&bytes, 1000, || false).unwrap();
        for round in 0..4 {
            let from = source.tid();
            let large = seed % 6 == 0 && round == 1;
            if large {
                // One transaction of several parts.
                of_extents(&mut source, 1, 4200);
            }
            play(&mut dice, &mut source, 5);
            let (bytes, _) = send(&source, from, source.tid(), 100);
            // The first mirror's receiver dies now and then, and leaves half of a step.
            let mut left = if large { 3 } else { dice.below(9) };
            let died = first.receive(&bytes, 1000, || {
                left = left.saturating_sub(1);
                left == 1
            });
            many_parts += usize::from(first.standing().step.is_some());
            let at = second.at().1;
            let (bytes, _) = send_of(&first.world, first.volume, at, first.at().0, 300);
            second.receive(&bytes, 1000, || false).unwrap();
            for (local, state) in &second.boundaries {
                let wanted = first.world.shown(first.volume, *state);
                assert_eq!(wanted, second.world.shown(second.volume, *local), "seed {seed}, as of {state}");
                let is_one = first.boundaries.iter().any(|(boundary, _)| boundary == state);
                assert!(is_one, "{state} is no boundary of the first mirror");
            }
            if died.is_err() {
                let (bytes, _) = send(&source, first.at().1, source.tid(), 100);
                first.receive(&bytes, 1000, || false).unwrap();
            }
        }
        let (bytes, _) = send_of(&first.world, first.volume, second.at().1, first.at().0, 300);
        second.receive(&bytes, 1000, || false).unwrap();
        let (local, _) = second.at();
        assert_eq!(source.shown(V, source.tid()), second.world.shown(second.volume, local));
    }
    assert!(many_parts >= 3, "half of a step was there {many_parts} times only");
}
