//! Steps from a state that the source has no more.

use super::world::*;
use gavel_fs::Operation;
use gavel_mirror::{Encoder, Frame, Header, NotTaken, StepHead};
use gavel_types::{ObjectId, Selection, Tid};
use gavel_wire::{Kind, RequestBody};

/// A source that has gone on from the state that its mirror has, and has pruned that.
fn apart(seed: u64, before: usize, behind: usize) -> (World, Mirror, Tid) {
    let (mut dice, mut source) = (Dice(seed * 10 + 7), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, before);
    let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 300);
    mirror.receive(&bytes, 1000, || false).unwrap();
    let from = mirror.at().1;
    play(&mut dice, &mut source, behind);
    source.prune(V);
    play(&mut dice, &mut source, 3);
    let readable = source.readable(V);
    assert!(from < readable.horizon && !readable.kept.contains(&from), "{from} is there still: {readable:?}");
    (source, mirror, from)
}

pub fn is_equal(source: &World, mirror: &Mirror) {
    let (local, state) = mirror.at();
    assert_eq!(state, source.tid());
    assert_eq!(source.shown(V, state), mirror.world.shown(mirror.volume, local), "as of {state}");
}

#[test]
fn a_copy_is_what_its_source_is_behind_a_state_that_was_pruned() {
    let (mut anew, mut same) = (0, 0);
    for seed in 1..60 {
        let (mut source, mut mirror, from) = apart(seed, 80, 8);
        let (bytes, (sent, kept)) = compare(&source, from, source.tid(), 300);
        (anew, same) = (anew + sent, same + kept);
        mirror.receive(&bytes, 997, || false).unwrap();
        is_equal(&source, &mirror);
        // And on from there, one by one.
        let before = source.tid();
        play(&mut Dice(seed), &mut source, 6);
        let (bytes, _) = send(&source, before, source.tid(), 300);
        mirror.receive(&bytes, 1000, || false).unwrap();
        is_equal(&source, &mirror);
    }
    assert!(anew > 60 && same > 60, "{anew} objects were sent anew, {same} were as they had been");
}

#[test]
fn a_comparison_that_breaks_off_leaves_the_boundary_and_is_done_anew() {
    for seed in 1..40 {
        let (source, mut mirror, from) = apart(seed, 25, 20);
        let (bytes, _) = compare(&source, from, source.tid(), 100);
        let (shown, mut left) = (mirror.world.shown(mirror.volume, mirror.at().0), seed % 4);
        let died = mirror.receive(&bytes, 997, || {
            left = left.saturating_sub(1);
            left == 0
        });
        assert_eq!(died.err(), Some(Failed::Killed));
        assert_eq!(mirror.world.shown(mirror.volume, mirror.at().0), shown, "half of a step is shown");
        mirror.receive(&bytes, 997, || false).unwrap();
        is_equal(&source, &mirror);
    }
}

#[test]
fn it_compares_with_the_state_that_the_mirror_has_or_not_at_all() {
    let (source, mut mirror, from) = apart(3, 20, 14);
    let at = mirror.at().1;
    let (bytes, _) = compare(&source, Tid(from.0 - 1), source.tid(), 300);
    let refused = mirror.receive(&bytes, 1000, || false).err();
    assert_eq!(refused, Some(Failed::NotTaken(NotTaken::Across { from: Tid(from.0 - 1), at })));
}

/// What was made and removed between the state where a step begins and the one to which it leads may have left no trace. A mirror that stands between
/// them may have it.
#[test]
fn a_step_over_a_gap_does_not_begin_before_the_boundary() {
    let (mut dice, mut source) = (Dice(77), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, 10);
    let kept = source.tid();
    source.done(RequestBody::Snapshot { volume: V, name: "kept".into(), note: "".into(), at: Some(kept) });
    let (bytes, _) = send(&source, Tid::ZERO, kept, 300);
    mirror.receive(&bytes, 1000, || false).unwrap();
    let name: Box<[u8]> = b"made and removed".to_vec().into();
    let parent = ObjectId::ROOT;
    source.batch(&[Operation::Mknod { parent, name: name.clone(), kind: Kind::File, mode: 0o600, umask: 0, rdev: 0 }]);
    let (bytes, _) = send(&source, kept, source.tid(), 300);
    mirror.receive(&bytes, 1000, || false).unwrap();
    let at = mirror.at().1;
    source.batch(&[Operation::Unlink { parent, name }]);
    source.reap();
    source.prune(V);
    let (bytes, _) = send(&source, kept, source.tid(), 300);
    let refused = mirror.receive(&bytes, 1000, || false).err();
    assert_eq!(refused, Some(Failed::NotTaken(NotTaken::Across { from: kept, at })));
}

#[test]
fn runs_that_are_out_of_order_are_refused() {
    let (source, mut mirror, from) = apart(3, 20, 14);
    let to = source.tid();
    let mut refused = |runs: &[&[(u64, u64)]]| {
        let (mut bytes, mut encoder) = (Vec::new(), Encoder::new());
        let (source, name, selection) = (source.source(), "v".into(), Selection::default());
        let header = Header { source, name, from, partial: None, to: Some(to), selection };
        bytes.extend(encoder.write(&Frame::Header(header)));
        bytes.extend(encoder.write(&Frame::Step(StepHead { from, to, single: false, author: None })));
        for runs in runs {
            let runs = runs.iter().map(|(first, last)| (ObjectId(*first), ObjectId(*last))).collect();
            bytes.extend(encoder.write(&Frame::Same(runs)));
        }
        matches!(
            mirror.receive(&bytes, 1000, || false).err(),
            Some(Failed::Stream(gavel_mirror::StreamError::Malformed { .. }))
        )
    };
    assert!(
        refused(&[&[(5, 4)]])
            && refused(&[&[(5, 6), (6, 7)]])
            && refused(&[&[(5, 6)], &[(4, 4)]])
            && refused(&[&[(0, 4)]])
    );
}
