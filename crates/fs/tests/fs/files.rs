//! Bytes: writing, reading, holes, room, sharing.

use super::invariants::extents_of;
use super::world::*;
use gavel_fs::operation::{Allocate, Piece, Seek};
use gavel_fs::ops::{COPY_BYTES_MAX, COPY_EXTENTS_MAX, COPY_INLINE_BYTES_MAX, READ_BYTES_MAX, RESERVE_HOLES_MAX};
use gavel_fs::{FsError, Operation, Reply};
use gavel_types::limits::{FILE_BYTES_MAX, INLINE_BYTES_MAX};
use gavel_types::{Key, ObjectId};
use gavel_wire::{AttrDelta, Content, Extent, Kind, Mutation, Plan, Record};

fn with_file() -> (World, ObjectId) {
    let mut world = World::new();
    let f = world.made(&file(ROOT, "f"));
    (world, f)
}

fn written(object: ObjectId, offset: u64, len: u32, content: Content) -> Operation {
    Operation::Write { object, offset, append: false, len, content, kill_suidgid: false }
}

fn allocate(object: ObjectId, offset: u64, len: u64, how: Allocate) -> Operation {
    Operation::Fallocate { object, offset, len, how }
}

const RESERVE: Allocate = Allocate::Reserve { keep_size: false };
const RESERVE_BEHIND: Allocate = Allocate::Reserve { keep_size: true };

/// Puts extents of one byte at every other offset, without an operation for each.
fn comb(world: &mut World, object: ObjectId, teeth: u64, content: &Content) {
    let put = |i| Mutation::Put {
        key: Key::extent(V, object, 2 * i + 2),
        record: Record::Extent(Extent { len: 1, content: content.clone() }),
    };
    let mut mutations: Vec<Mutation> = (0..teeth).map(put).collect();
    let delta = AttrDelta { size_min: 2 * teeth, ..AttrDelta::default() };
    mutations.push(Mutation::Adjust { volume: V, object, delta });
    world.commit(vec![], Plan { mutations }).unwrap();
}

#[test]
fn a_read_is_made_of_bytes_blobs_and_zeros() {
    let (mut world, f) = with_file();
    world.run(&write(f, 0, b"abcd")).unwrap();
    world.run(&write(f, 4, b"efgh")).unwrap();
    let blob = world.blob(&[9; 20]);
    let Content::Blob { id, blob_len, .. } = blob else { panic!() };
    world.run(&written(f, 16, 20, blob)).unwrap();
    world.run(&truncate(f, 50)).unwrap();
    let found = world.run(&read(f, 2, 1000));
    let pieces = vec![
        Piece::Bytes(b"cdefgh"[..].into()),
        Piece::Zeros(8),
        Piece::Blob { id, blob_len, offset: 3, len: 20 },
        Piece::Zeros(14),
    ];
    assert_eq!(found, Ok(Reply::Data(pieces)));
    let found = world.run(&read(f, 20, 5));
    assert_eq!(found, Ok(Reply::Data(vec![Piece::Blob { id, blob_len, offset: 7, len: 5 }])));
    assert_eq!(world.run(&read(f, 50, 5)), Ok(Reply::Data(vec![])));
    assert_eq!(world.run(&read(f, u64::MAX, u32::MAX)), Ok(Reply::Data(vec![])));
    assert_eq!(world.run(&read(ROOT, 0, 5)), Err(FsError::IsDirectory));
    let fifo = world.made(&mknod(ROOT, "p", Kind::Fifo));
    assert_eq!(world.run(&read(fifo, 0, 5)), Err(FsError::Invalid));
}

#[test]
fn a_read_of_many_extents_goes_page_by_page_and_ends_at_its_limit() {
    let (mut world, f) = with_file();
    comb(&mut world, f, 1000, &Content::Inline([5].into()));
    let bytes = world.read(f);
    assert_eq!(bytes, [0, 5].repeat(1000));
    world.run(&truncate(f, FILE_BYTES_MAX)).unwrap();
    assert_eq!(world.read(f).len(), READ_BYTES_MAX as usize);
}

#[test]
fn neighbouring_extents_are_read_without_a_seam() {
    let (mut world, f) = with_file();
    let bytes: Vec<u8> = (1..=200).collect();
    for byte in &bytes {
        world.run(&append(f, &[*byte])).unwrap();
    }
    assert_eq!(world.run(&read(f, 0, 1000)), Ok(Reply::Data(vec![Piece::Bytes(bytes.into())])));
    assert_eq!(world.run(&Operation::Seek { object: f, offset: 3, what: Seek::Hole }), Ok(Reply::Offset(200)));
}

#[test]
fn an_overwrite_cuts_what_it_covers() {
    let (mut world, f) = with_file();
    world.run(&write(f, 0, &[1; 30])).unwrap();
    world.run(&write(f, 10, &[2; 5])).unwrap();
    assert_eq!(extents_of(&world.records, f), [(0, 10), (10, 15), (15, 30)]);
    world.run(&write(f, 5, &[3; 12])).unwrap();
    assert_eq!(extents_of(&world.records, f), [(0, 5), (5, 17), (17, 30)]);
    assert_eq!(world.read(f), [vec![1; 5], vec![3; 12], vec![1; 13]].concat());
    assert_eq!(world.run(&append(f, b"end")), Ok(Reply::Written { len: 3, offset: 30 }));
    assert_eq!(world.attr(f).size, 33);
}

#[test]
fn content_that_is_not_what_it_says_is_refused() {
    let (mut world, f) = with_file();
    let blob = world.blob(&[1; 100]);
    let bad = [
        written(f, 0, 3, Content::Inline(b"four"[..].into())),
        written(f, 0, INLINE_BYTES_MAX as u32 + 1, Content::Inline(vec![0; INLINE_BYTES_MAX + 1].into())),
        written(f, 0, 105, blob),
        written(f, 0, 2 << 20, Content::Zeros),
    ];
    for operation in &bad {
        assert_eq!(world.run(operation), Err(FsError::Invalid), "{operation:?}");
    }
    assert_eq!(world.run(&write(f, FILE_BYTES_MAX - 1, b"ab")), Err(FsError::TooLarge));
    assert_eq!(world.run(&write(f, u64::MAX, b"ab")), Err(FsError::TooLarge));
    assert_eq!(
        world.run(&write(f, FILE_BYTES_MAX - 2, b"ab")),
        Ok(Reply::Written { len: 2, offset: FILE_BYTES_MAX - 2 })
    );
    assert_eq!(world.run(&append(f, b"c")), Err(FsError::TooLarge));
    assert_eq!(world.run(&truncate(f, FILE_BYTES_MAX + 1)), Err(FsError::TooLarge));
    assert_eq!(world.run(&write(f, 0, b"")), Ok(Reply::Written { len: 0, offset: 0 }));
}

#[test]
fn truncated_bytes_never_come_back() {
    let (mut world, f) = with_file();
    world.run(&write(f, 0, &[1; 100])).unwrap();
    world.run(&truncate(f, 10)).unwrap();
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (10, 10));
    world.run(&truncate(f, 50)).unwrap();
    world.run(&write(f, 80, b"x")).unwrap();
    assert_eq!(world.read(f), [vec![1; 10], vec![0; 70], vec![b'x']].concat());
    let open = Operation::Open { object: f, truncate: true, kill_suidgid: false };
    assert_eq!(world.run(&open), Ok(Reply::Object(f)));
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (0, 0));
    assert_eq!(world.run(&truncate(ROOT, 0)), Err(FsError::IsDirectory));
    let open = Operation::Open { object: ROOT, truncate: false, kill_suidgid: false };
    assert_eq!(world.run(&open), Err(FsError::IsDirectory));
}

#[test]
fn reserving_fills_holes_and_touches_no_data() {
    let (mut world, f) = with_file();
    world.run(&write(f, 10, b"data")).unwrap();
    world.run(&allocate(f, 5, 20, RESERVE_BEHIND)).unwrap();
    assert_eq!(extents_of(&world.records, f), [(5, 10), (10, 14), (14, 25)]);
    assert_eq!(world.attr(f).size, 14);
    world.run(&allocate(f, 0, 30, RESERVE)).unwrap();
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (30, 30));
    assert_eq!(world.read(f), [&[0; 10][..], b"data", &[0; 16]].concat());
    // The room behind the end goes with a truncation, even one that leaves the size.
    world.run(&allocate(f, 0, 100, RESERVE_BEHIND)).unwrap();
    world.run(&truncate(f, 30)).unwrap();
    assert_eq!(world.attr(f).allocated, 30);
    assert_eq!(world.run(&allocate(f, 0, 0, RESERVE)), Err(FsError::Invalid));
    assert_eq!(world.run(&allocate(f, FILE_BYTES_MAX, 1, RESERVE)), Err(FsError::TooLarge));
    assert_eq!(world.run(&allocate(f, 1, u64::MAX, Allocate::PunchHole)), Err(FsError::TooLarge));
}

#[test]
fn a_file_with_too_many_holes_is_reserved_in_parts() {
    let (mut world, f) = with_file();
    let teeth = RESERVE_HOLES_MAX as u64 + 1;
    comb(&mut world, f, teeth, &Content::Inline([5].into()));
    assert_eq!(world.prepare(&allocate(f, 0, 2 * teeth, RESERVE)), Err(FsError::TooLarge));
    let part = world.prepare(&allocate(f, 0, teeth, RESERVE)).unwrap();
    world.finish(part).unwrap();
    let rest = world.prepare(&allocate(f, 0, 2 * teeth, RESERVE)).unwrap();
    world.finish(rest).unwrap();
    assert_eq!(world.attr(f).allocated, 2 * teeth);
}

/// Runs an operation until it is done, and says in how many parts.
fn in_parts(world: &mut World, operation: &Operation) -> u32 {
    for parts in 1.. {
        let done = world.prepare(operation).unwrap();
        if world.finish(done).unwrap() != Reply::Partly {
            return parts;
        }
    }
    unreachable!()
}

#[test]
fn a_file_with_many_extents_is_cut_and_punched_in_parts() {
    let (mut world, f) = with_file();
    let (teeth, one) = (10_000, Content::Inline([5].into()));
    comb(&mut world, f, teeth, &one);
    assert!(in_parts(&mut world, &allocate(f, 2_000, u64::MAX / 4, Allocate::PunchHole)) > 2);
    assert_eq!(world.attr(f).allocated, 1_000);
    world.run(&truncate(f, 0)).unwrap();
    comb(&mut world, f, teeth, &one);
    let zeroed = allocate(f, 0, 2 * teeth, Allocate::ZeroRange { keep_size: false });
    assert!(in_parts(&mut world, &zeroed) > 2);
    assert_eq!(world.attr(f).allocated, 2 * teeth);
    world.run(&truncate(f, 0)).unwrap();
    comb(&mut world, f, teeth, &one);
    assert!(in_parts(&mut world, &truncate(f, 501)) > 2);
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (501, 250));
    world.run(&truncate(f, 0)).unwrap();
    comb(&mut world, f, teeth, &one);
    assert!(in_parts(&mut world, &Operation::Open { object: f, truncate: true, kill_suidgid: false }) > 2);
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (0, 0));
}

#[test]
fn holes_and_zeros_keep_or_set_the_size() {
    let (mut world, f) = with_file();
    world.run(&write(f, 0, &[1; 30])).unwrap();
    world.run(&allocate(f, 10, 100, Allocate::PunchHole)).unwrap();
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (30, 10));
    world.run(&allocate(f, 5, 10, Allocate::ZeroRange { keep_size: true })).unwrap();
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (30, 15));
    world.run(&allocate(f, 20, 20, Allocate::ZeroRange { keep_size: false })).unwrap();
    assert_eq!((world.attr(f).size, world.attr(f).allocated), (40, 35));
    assert_eq!(world.read(f), [vec![1; 5], vec![0; 35]].concat());
}

#[test]
fn seeking_tells_what_was_written_from_what_was_not() {
    let (mut world, f) = with_file();
    world.run(&write(f, 10, &[1; 10])).unwrap();
    world.run(&write(f, 20, &[1; 10])).unwrap();
    world.run(&allocate(f, 40, 10, RESERVE)).unwrap();
    world.run(&truncate(f, 60)).unwrap();
    let mut seek = |offset, what| world.run(&Operation::Seek { object: f, offset, what });
    for (offset, data, hole) in
        [(0, Some(10), 0), (10, Some(10), 30), (15, Some(15), 30), (30, None, 30), (45, None, 45)]
    {
        assert_eq!(seek(offset, Seek::Data), data.map(Reply::Offset).ok_or(FsError::NoData), "data from {offset}");
        assert_eq!(seek(offset, Seek::Hole), Ok(Reply::Offset(hole)), "hole from {offset}");
    }
    assert_eq!(seek(60, Seek::Hole), Err(FsError::NoData));
    world.run(&truncate(f, 25)).unwrap();
    assert_eq!(world.run(&Operation::Seek { object: f, offset: 12, what: Seek::Hole }), Ok(Reply::Offset(25)));
}

fn copy(from: (ObjectId, u64), to: (ObjectId, u64), len: u64) -> Operation {
    Operation::CopyRange { from: from.0, from_offset: from.1, to: to.0, to_offset: to.1, len }
}

#[test]
fn a_copy_shares_blobs_and_keeps_holes() {
    let (mut world, f) = with_file();
    let g = world.made(&file(ROOT, "g"));
    let blob = world.blob(&[9; 20]);
    world.run(&written(f, 10, 20, blob)).unwrap();
    world.run(&write(f, 40, b"tail")).unwrap();
    world.run(&write(g, 0, &[1; 60])).unwrap();
    assert_eq!(world.run(&copy((f, 15), (g, 5), 1000)), Ok(Reply::Written { len: 29, offset: 5 }));
    assert_eq!(extents_of(&world.records, g), [(0, 5), (5, 20), (30, 34), (34, 60)]);
    assert_eq!(world.read(g), [vec![1; 5], vec![9; 15], vec![0; 10], b"tail".to_vec(), vec![1; 26]].concat());
    // A hole at the end still makes the target longer.
    world.run(&truncate(f, 100)).unwrap();
    world.run(&copy((f, 90), (g, 200), 10)).unwrap();
    assert_eq!(world.attr(g).size, 210);
    world.run(&truncate(f, 8 * COPY_BYTES_MAX)).unwrap();
    let most = Ok(Reply::Written { len: COPY_BYTES_MAX, offset: 300 });
    assert_eq!(world.run(&copy((f, 50), (g, 300), 4 * COPY_BYTES_MAX)), most);
    world.run(&truncate(f, 100)).unwrap();
    world.run(&truncate(g, 300)).unwrap();
    assert_eq!(world.run(&copy((f, 100), (g, 0), 10)), Ok(Reply::Written { len: 0, offset: 0 }));
    assert_eq!(world.run(&copy((f, 0), (f, 5), 10)), Err(FsError::Invalid));
    assert_eq!(world.run(&copy((f, 0), (f, 10), 10)), Ok(Reply::Written { len: 10, offset: 10 }));
    assert_eq!(world.run(&copy((f, 0), (g, FILE_BYTES_MAX - 5), 10)), Err(FsError::TooLarge));
    assert_eq!(world.run(&copy((ROOT, 0), (g, 0), 10)), Err(FsError::IsDirectory));
}

#[test]
fn a_copy_of_many_extents_is_short_but_goes_on() {
    let (mut world, f) = with_file();
    let g = world.made(&file(ROOT, "g"));
    comb(&mut world, f, COPY_EXTENTS_MAX as u64 + 10, &Content::Inline([5].into()));
    let size = world.attr(f).size;
    let mut at = 0;
    let mut calls = 0;
    while at < size {
        let Ok(Reply::Written { len, .. }) = world.run(&copy((f, at), (g, at), size - at)) else { panic!() };
        assert!(len > 0);
        (at, calls) = (at + len, calls + 1);
    }
    assert_eq!(calls, 2);
    assert_eq!(world.read(f), world.read(g));
}

#[test]
fn a_copy_of_many_inline_bytes_is_short() {
    let (mut world, f) = with_file();
    let g = world.made(&file(ROOT, "g"));
    let extents = COPY_INLINE_BYTES_MAX / INLINE_BYTES_MAX as u64;
    for _ in 0..=extents {
        world.run(&append(f, &[7; INLINE_BYTES_MAX])).unwrap();
    }
    let done = world.prepare(&copy((f, 0), (g, 0), u64::MAX / 4)).unwrap();
    assert_eq!(done.reply, Reply::Written { len: COPY_INLINE_BYTES_MAX, offset: 0 });
    world.finish(done).unwrap();
}
