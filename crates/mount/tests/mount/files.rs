//! Bytes: reading, writing, holes, copies, and files without a name.

use crate::fixture::Fixture;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

fn read_write(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("opens")
}

#[test]
fn bytes_come_back_from_requests_of_every_size() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("file");
    for len in [0, 1, 4096, 16 * 1024, 16 * 1024 + 1, 1 << 20, (1 << 20) + 1, 5 * (1 << 20) + 77] {
        let data: Vec<u8> = (0..len).map(|i: usize| (i.wrapping_mul(31) >> 3) as u8).collect();
        fs::write(&path, &data).expect("writes");
        assert!(fs::read(&path).expect("reads") == data, "{len} bytes");
        assert_eq!(fs::metadata(&path).expect("is there").len(), len as u64);
    }
    fixture.finish();
}

#[test]
fn appends_go_to_the_end_wherever_the_writer_believes_it_to_be() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("log");
    let open = || OpenOptions::new().append(true).create(true).open(&path).expect("opens");
    let (mut one, mut two) = (open(), open());
    for i in 0..100u8 {
        one.write_all(&[b'a', i]).expect("appends");
        two.write_all(&[b'b', i]).expect("appends");
    }
    let expected: Vec<u8> = (0..100u8).flat_map(|i| [b'a', i, b'b', i]).collect();
    assert_eq!(fs::read(&path).expect("reads"), expected);
    drop((one, two));
    fixture.finish();
}

#[test]
fn parallel_writers_to_one_file_lose_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let file = read_write(&fixture.path("file"));
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                for i in 0..200 {
                    file.write_all_at(&[writer as u8 + 1; 512], (i * 4 + writer) * 512).expect("writes");
                }
            });
        }
    });
    let data = fs::read(fixture.path("file")).expect("reads");
    assert_eq!(data.len(), 4 * 200 * 512);
    assert!(data.chunks(512).enumerate().all(|(i, run)| run.iter().all(|byte| *byte as usize == i % 4 + 1)));
    drop(file);
    fixture.finish();
}

#[test]
fn offsets_reach_past_2_to_the_40_and_holes_are_free() {
    let Some(fixture) = Fixture::new() else { return };
    let file = read_write(&fixture.path("sparse"));
    let far = (1u64 << 40) + 12345;
    file.write_all_at(b"far", far).expect("writes");
    let metadata = file.metadata().expect("is there");
    assert_eq!(metadata.len(), far + 3);
    assert_eq!(metadata.blocks(), 1, "three bytes are one block");
    let mut bytes = [1; 8];
    file.read_exact_at(&mut bytes, far - 5).expect("reads");
    assert_eq!(&bytes, b"\0\0\0\0\0far");
    let end = i64::MAX as u64;
    file.write_all_at(b"x", end - 1).expect("the last byte that there can be");
    assert_eq!(file.metadata().expect("is there").len(), end);
    drop(file);
    fixture.finish();
}

#[test]
fn holes_are_punched_found_and_filled() {
    let Some(fixture) = Fixture::new() else { return };
    let file = read_write(&fixture.path("holes"));
    file.write_all_at(&[7; 300_000], 0).expect("writes");
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100_000, 50_000).expect("punches");
    assert_eq!(file.metadata().expect("is there").blocks(), 250_000u64.div_ceil(512));
    let mut bytes = [1; 4];
    file.read_exact_at(&mut bytes, 99_998).expect("reads");
    assert_eq!(bytes, [7, 7, 0, 0]);
    assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(100_000));
    assert_eq!(seek(&file, SeekFrom::Data(100_000)), Ok(150_000));
    assert_eq!(seek(&file, SeekFrom::Hole(150_000)), Ok(300_000), "the end counts as a hole");
    assert_eq!(seek(&file, SeekFrom::Data(300_000)), Err(Errno::NXIO));
    fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 10).expect("zeroes");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 300_000, 4096).expect("reserves");
    assert_eq!(file.metadata().expect("is there").len(), 300_000);
    fallocate(&file, FallocateFlags::empty(), 300_000, 4096).expect("grows");
    assert_eq!(file.metadata().expect("is there").len(), 304_096);
    assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    file.read_exact_at(&mut bytes, 8).expect("reads");
    assert_eq!(bytes, [0, 0, 7, 7]);
    drop(file);
    fixture.finish();
}

#[test]
fn copies_share_what_they_copy() {
    let Some(fixture) = Fixture::new() else { return };
    let data: Vec<u8> = (0..1_500_000u32).map(|i| (i >> 5) as u8).collect();
    fs::write(fixture.path("from"), &data).expect("writes");
    let (from, to) = (File::open(fixture.path("from")).expect("opens"), read_write(&fixture.path("to")));
    let (mut at, mut behind) = (100, 50);
    while at < data.len() as u64 {
        let copied = copy_file_range(&from, Some(&mut at), &to, Some(&mut behind), 1 << 30).expect("copies");
        assert_ne!(copied, 0, "stopped at {at}");
    }
    let copied = fs::read(fixture.path("to")).expect("reads");
    assert!(copied[..50] == [0; 50] && copied[50..] == data[100..]);
    drop((from, to));
    fixture.finish();
}

#[test]
fn a_file_without_a_name_lives_until_it_is_closed() {
    let Some(fixture) = Fixture::new() else { return };
    let before = fixture.tree.objects();
    let mut file = read_write(&fixture.path("gone"));
    file.write_all(b"still here").expect("writes");
    fs::remove_file(fixture.path("gone")).expect("unlinks");
    assert_eq!(fs::metadata(fixture.path("gone")).expect_err("it is gone").kind(), std::io::ErrorKind::NotFound);
    assert_eq!(file.metadata().expect("fstat").nlink(), 0);
    file.write_all_at(b"S", 0).expect("writes");
    let mut text = [0; 10];
    file.read_exact_at(&mut text, 0).expect("reads");
    assert_eq!(&text, b"Still here");
    assert_eq!(fixture.tree.objects(), before + 1);
    drop(file);
    crate::fixture::eventually("its records ended", || fixture.tree.objects() == before);
    fixture.finish();
}

#[test]
fn open_truncates_at_once_and_makes_exclusively() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("file");
    fs::write(&path, b"old").expect("writes");
    let again = OpenOptions::new().write(true).create_new(true).open(&path).expect_err("it is there");
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    let mut file = File::create(&path).expect("truncates");
    assert_eq!(fs::metadata(&path).expect("is there").len(), 0);
    file.write_all(b"new").expect("writes");
    let mut text = String::new();
    let flags = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    flags.expect("opens for direct I/O").read_to_string(&mut text).expect("reads");
    assert_eq!(text, "new");
    file.sync_all().expect("fsync");
    file.sync_data().expect("fdatasync");
    let directory = File::open(fixture.dir.path()).expect("opens");
    directory.sync_all().expect("fsync of a directory");
    drop((file, directory));
    fixture.finish();
}
