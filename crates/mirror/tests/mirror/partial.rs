//! Whole copies that were broken off, and are gone on with.

use super::compare::is_equal;
use super::copies::of_extents;
use super::world::*;
use gavel_fs::Operation;
use gavel_mirror::{NotTaken, Partial};
use gavel_types::{Key, KeyParts, ObjectId, Tid};
use gavel_wire::{Record, RequestBody};

/// Receives, and dies before an act, if there are so many.
fn receive(mirror: &mut Mirror, bytes: &[u8], acts: usize) -> Result<(), Failed> {
    let mut left = acts;
    let received = mirror.receive(bytes, 997, || {
        left = left.wrapping_sub(1);
        left == usize::MAX
    });
    received.map(drop)
}

/// A source with so many files beside some random objects, and a mirror of it that has nothing and takes small parts.
fn begin(seed: u64, files: u64) -> (Dice, World, Mirror) {
    let (mut dice, mut source) = (Dice(seed * 31 + 5), World::new(CLUSTER));
    play(&mut dice, &mut source, 15);
    of_extents(&mut source, files, 3);
    play(&mut dice, &mut source, 15);
    let mut mirror = Mirror::of(source.source());
    mirror.part_rows = 2 + dice.below(4);
    (dice, source, mirror)
}

/// It dies again and again, while the source goes on and prunes; each stream begins where the last one has ended.
#[test]
fn it_goes_on_where_it_was_broken_off_whatever_the_source_has_done_meanwhile() {
    let (mut resumed, mut anew, mut same) = (0, 0, 0);
    for seed in 1..60 {
        let (mut dice, mut source, mut mirror) = begin(seed, 15);
        let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 400);
        let mut patience = 12;
        let mut died = receive(&mut mirror, &bytes, 1 + dice.below(patience));
        while mirror.at().1 == Tid::ZERO {
            assert_eq!(died, Err(Failed::Killed));
            patience += 20;
            assert!(mirror.boundaries.iter().all(|(_, state)| *state == Tid::ZERO), "half of a copy is shown");
            let transactions = 1 + dice.below(8);
            play(&mut dice, &mut source, transactions);
            if dice.below(3) == 0 {
                source.prune(V);
            }
            let Some(partial) = mirror.partial() else {
                let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 400);
                died = receive(&mut mirror, &bytes, 1 + dice.below(patience));
                continue;
            };
            resumed += 1;
            let (bytes, (sent, kept)) = go_on(&source, partial, source.tid(), 400);
            (anew, same) = (anew + sent, same + kept);
            died = receive(&mut mirror, &bytes, 1 + dice.below(patience));
        }
        is_equal(&source, &mirror);
        let state = mirror.at().1;
        play(&mut dice, &mut source, 6);
        let (bytes, _) = send(&source, state, source.tid(), 300);
        mirror.receive(&bytes, 1000, || false).unwrap();
        is_equal(&source, &mirror);
    }
    assert!(resumed > 60 && anew > 100 && same > 300, "{resumed} times, {anew} sent anew, {same} as they were");
}

/// What was there already is not sent again.
#[test]
fn what_is_there_is_not_sent_again() {
    let (_, source, mut mirror) = begin(3, 400);
    let (whole, _) = send(&source, Tid::ZERO, source.tid(), 400);
    let sent = whole.len() * 3 / 4;
    assert_eq!(mirror.receive(&whole[..sent], 997, || false).map(drop).unwrap_err(), truncated(&whole[..sent]));
    let partial = mirror.partial().expect("something is there");
    let (rest, (anew, same)) = go_on(&source, partial, source.tid(), 400);
    assert!(
        rest.len() < whole.len() / 2 && same > 200 && anew > 50,
        "{} of {}: {same}, {anew}",
        rest.len(),
        whole.len()
    );
    mirror.receive(&rest, 997, || false).unwrap();
    is_equal(&source, &mirror);
}

fn truncated(bytes: &[u8]) -> Failed {
    let mut decoder = gavel_mirror::Decoder::new();
    decoder.push(bytes);
    while decoder.read().unwrap().is_some() {}
    Failed::Stream(decoder.finish().unwrap_err())
}

/// What must be there and is not, is not gone on with; a whole copy to another state takes all of it back first.
#[test]
fn it_goes_on_with_what_is_there_or_not_at_all() {
    let (mut dice, mut source, mut mirror) = begin(9, 30);
    let first = source.tid();
    let (bytes, _) = send(&source, Tid::ZERO, first, 400);
    assert_eq!(receive(&mut mirror, &bytes, 25), Err(Failed::Killed));
    let there = mirror.partial().expect("something is there");
    assert_eq!(there.since, first);
    // The last object that is there whole is removed.
    let last = |(key, record): (Key, Record)| match (key.parts(), record) {
        (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) if dirent.object.0 + 1 == there.before.0 => {
            Some(Operation::Unlink { parent: key.object(), name: name.into() })
        }
        _ => None,
    };
    let removals: Vec<Operation> = source.shown(V, first).into_iter().filter_map(last).collect();
    assert_eq!(removals.len(), 1);
    source.batch(&removals);
    source.reap();
    play(&mut dice, &mut source, 5);
    for wanted in
        [Partial { before: ObjectId(there.before.0 + 1), ..there }, Partial { since: Tid(there.since.0 - 1), ..there }]
    {
        let (bytes, _) = go_on(&source, wanted, source.tid(), 400);
        let refused = Failed::NotTaken(NotTaken::Partial { wanted, found: Some(there) });
        assert_eq!(receive(&mut mirror, &bytes, usize::MAX), Err(refused));
    }
    // More is there than the stream knows of: somebody has received on meanwhile.
    let less = Partial { before: ObjectId(there.before.0 - 2), ..there };
    let (bytes, _) = go_on(&source, less, source.tid(), 400);
    assert_eq!(receive(&mut mirror, &bytes, 12), Err(Failed::Killed));
    assert_eq!(mirror.partial().map(|partial| partial.since), Some(first), "rows of the first state are there still");
    // To the very state that was under way, from its beginning: what was there of the one before must not stay.
    let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 400);
    receive(&mut mirror, &bytes, usize::MAX).unwrap();
    is_equal(&source, &mirror);
}

/// Who goes on with what somebody else has gone on with meanwhile is refused by the log.
#[test]
fn two_that_go_on_do_no_harm() {
    let (_, source, mut mirror) = begin(4, 50);
    let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 400);
    assert_eq!(receive(&mut mirror, &bytes, 25), Err(Failed::Killed));
    let standing = mirror.standing().step.unwrap();
    let (bytes, _) = go_on(&source, standing.partial().unwrap(), source.tid(), 400);
    assert_eq!(receive(&mut mirror, &bytes, 12), Err(Failed::Killed));
    let late = gavel_wire::MirrorStep {
        volume: mirror.volume,
        from: Tid::ZERO,
        to: source.tid(),
        part: 0,
        last: false,
        single: false,
        resumes: Some(standing.at),
        rows: Vec::new(),
        author: gavel_wire::Author::user(0),
        stored_as_of: Tid::MAX,
    };
    let refused = mirror.world.ask(RequestBody::MirrorStep(late));
    assert_eq!(refused, gavel_wire::Outcome::Refused { refusal: gavel_wire::Refusal::Behind });
    let (bytes, _) = go_on(&source, mirror.partial().unwrap(), source.tid(), 400);
    mirror.receive(&bytes, 997, || false).unwrap();
    is_equal(&source, &mirror);
}
