//! Streams that are cut, damaged, put in another order, or lie.

use crate::world::*;
use gavel_mirror::stream::VERSION;
use gavel_mirror::{Decoder, Encoder, Frame, Row, StepHead, StreamError, Totals};
use gavel_types::{Key, KeyRange, ObjectId, Selection, Tid};
use gavel_wire::{Attr, Content, Extent, Firm, Kind, Record, Refusal};
use proptest::prelude::*;

/// A source, a mirror that has had some of it, and a stream with the rest.
fn scene(seed: u64) -> (World, Mirror, Vec<u8>) {
    let (mut dice, mut source) = (Dice(seed * 2 + 1), World::new(CLUSTER));
    let mut mirror = Mirror::of(source.source());
    play(&mut dice, &mut source, 5);
    let (bytes, _) = send(&source, Tid::ZERO, source.tid(), 1000);
    mirror.receive(&bytes, 1000, || false).unwrap();
    let from = source.tid();
    play(&mut dice, &mut source, 10);
    let (bytes, _) = send(&source, from, source.tid(), 1000);
    (source, mirror, bytes)
}

/// Where frames begin, behind the first.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut frames) = (9, Vec::new());
    while at < bytes.len() {
        let len = u32::from_be_bytes(bytes[at + 9..at + 13].try_into().unwrap()) as usize;
        frames.push(at..at + 13 + len + 16);
        at += 13 + len + 16;
    }
    frames
}

#[test]
fn a_stream_that_is_cut_anywhere_ends_at_a_boundary() {
    let (source, _, bytes) = scene(1);
    for end in (0..bytes.len()).step_by(31) {
        let (_, mut mirror, _) = scene(1);
        let failed = mirror.receive(&bytes[..end], 700, || false).err();
        let wanted = matches!(failed, Some(Failed::Stream(StreamError::Truncated { .. } | StreamError::NotAStream)));
        assert!(wanted, "cut at {end}: {failed:?}");
        mirror.check(&source);
        // And it goes on from there.
        let (rest, _) = send(&source, mirror.at().1, source.tid(), 1000);
        mirror.receive(&rest, 1000, || false).unwrap();
        mirror.check(&source);
    }
}

#[test]
fn frames_that_are_not_where_they_were_are_refused() {
    let (source, _, bytes) = scene(2);
    let all = frames(&bytes);
    assert!(all.len() > 20);
    let with = |order: &[usize]| -> Vec<u8> {
        let frames = order.iter().flat_map(|number| bytes[all[*number].clone()].iter().copied());
        bytes[..9].iter().copied().chain(frames).collect()
    };
    let numbers: Vec<usize> = (0..all.len()).collect();
    for at in (1..all.len() - 2).step_by(3) {
        let (mut swapped, mut repeated, mut left_out) = (numbers.clone(), numbers.clone(), numbers.clone());
        swapped.swap(at, at + 1);
        repeated.insert(at, at);
        left_out.remove(at);
        let next = at as u64;
        for (order, wanted) in [
            (swapped, StreamError::Missing { next, found: next + 1 }),
            (repeated, StreamError::Again { next: next + 1, found: next }),
            (left_out, StreamError::Missing { next, found: next + 1 }),
        ] {
            let (_, mut mirror, _) = scene(2);
            assert_eq!(mirror.receive(&with(&order), 1000, || false).err(), Some(Failed::Stream(wanted)));
            mirror.check(&source);
        }
    }
    // A frame of another stream, in its place there and here.
    let (_, mut mirror, _) = scene(2);
    let (_, _, other) = scene(3);
    let theirs = frames(&other);
    let spliced = [&bytes[..all[3].start], &other[theirs[3].clone()], &bytes[all[3].end..]].concat();
    let failed = mirror.receive(&spliced, 1000, || false).err();
    assert_eq!(failed, Some(Failed::Stream(StreamError::Damaged { frame: 3 })));
    let behind = [&bytes[..], b"x"].concat();
    assert_eq!(mirror.receive(&behind, 1000, || false).err(), Some(Failed::Stream(StreamError::More)));
    mirror.check(&source);
}

#[test]
fn another_version_is_refused_by_name() {
    let (_, mut mirror, mut bytes) = scene(4);
    bytes[8] = VERSION + 1;
    let failed = mirror.receive(&bytes, 1000, || false).err();
    assert_eq!(failed, Some(Failed::Stream(StreamError::UnknownVersion { found: VERSION + 1 })));
}

fn attr(kind: Kind, nlink: u32) -> Record {
    let now = Default::default();
    let (parent, class) = (ObjectId::ROOT, Default::default());
    let firm = Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent, birth: now, class };
    Record::Attr(Attr { firm, nlink, size: 9, allocated: 0, atime: now, mtime: now, ctime: now })
}

/// Sound frames around rows of which nothing good comes.
#[test]
fn streams_that_lie_are_refused() {
    let (source, _, _) = scene(5);
    let file = |number| Key::attr(V, ObjectId(number));
    let bytes = |len| Record::Extent(Extent { len, content: Content::Zeros });
    let put = |key: &Key, record: Record| Row { key: key.clone(), record: Some(record) };
    let end = |key: Key| Row { key, record: None };
    let extent = |at| Key::extent(V, ObjectId(9000), at);
    let lies: Vec<(Vec<Row>, bool)> = vec![
        (vec![put(&extent(5), bytes(5))], false),
        (vec![put(&file(9001), attr(Kind::File, 1)), put(&file(9000), attr(Kind::File, 1))], false),
        (vec![put(&file(9000), attr(Kind::File, 0))], false),
        (vec![end(file(9000))], false),
        (vec![put(&Key::orphan(V, ObjectId(9000)), attr(Kind::File, 1))], false),
        (vec![put(&file(9000), bytes(4))], false),
        (vec![put(&file(9000), attr(Kind::File, 1)), put(&extent(5), bytes(5)), put(&extent(7), bytes(5))], true),
        (vec![put(&file(9000), attr(Kind::File, 1)), put(&extent(5), bytes(9))], true),
        (vec![put(&file(9000), attr(Kind::File, 1)), put(&extent(5), attr(Kind::File, 1))], true),
        (vec![put(&file(1), attr(Kind::File, 1))], true),
        (vec![put(&file(1), attr(Kind::Directory, 2)), end(file(1))], true),
        (vec![put(&file(u64::MAX - 1), attr(Kind::File, 1))], true),
    ];
    for (number, (rows, is_well_formed)) in lies.into_iter().enumerate() {
        let (_, mut mirror, _) = scene(5);
        let from = mirror.at().1;
        let header = gavel_mirror::Header {
            source: source.source(),
            name: "v".into(),
            from,
            to: None,
            partial: None,
            selection: Selection::default(),
        };
        let mut encoder = Encoder::new();
        let totals = Totals { rows: rows.len() as u64, blobs: 0 };
        let head = StepHead { from, to: Tid(from.0 + 1), single: true, author: None };
        let frames = [Frame::Header(header), Frame::Step(head), Frame::Rows(rows), Frame::StepEnd(totals)];
        let stream: Vec<u8> = frames.iter().flat_map(|frame| encoder.write(frame)).collect();
        let failed = mirror.receive(&stream, 1000, || false).err();
        match is_well_formed {
            true => assert_eq!(failed, Some(Failed::Refused(Refusal::BadPlan)), "lie {number}"),
            false => assert!(
                matches!(failed, Some(Failed::Stream(StreamError::Malformed { .. }))),
                "lie {number}: {failed:?}"
            ),
        }
        assert_eq!(mirror.at().1, from);
        mirror.check(&source);
        let (rest, _) = send(&source, from, source.tid(), 1000);
        mirror.receive(&rest, 1000, || false).unwrap();
        mirror.check(&source);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bit_that_is_flipped_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, piece in 1usize..900) {
        let (source, mut mirror, mut bytes) = scene(6);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let failed = mirror.receive(&bytes, piece, || false).err();
        prop_assert!(matches!(failed, Some(Failed::Stream(_))), "{:?}", failed);
        mirror.check(&source);
        let (rest, _) = send(&source, mirror.at().1, source.tid(), 1000);
        mirror.receive(&rest, 1000, || false).unwrap();
        mirror.check(&source);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), begun in any::<bool>()) {
        let mut decoder = Decoder::new();
        if begun {
            decoder.push(b"GAVELMIR\x01");
        }
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.read() {}
    }
}

/// The ranges that the tests read are those of objects.
#[test]
fn a_mirror_has_no_rows_of_its_source_volume() {
    let (source, mirror, _) = scene(7);
    let all = mirror.world.shown(mirror.volume, mirror.at().0);
    assert!(all.len() > 3 && source.shown(V, mirror.at().1) == all);
    assert!(!KeyRange::of_objects(mirror.volume).overlaps(&KeyRange::of_objects(V)));
}
