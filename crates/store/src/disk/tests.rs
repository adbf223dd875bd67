use super::*;
use std::collections::BTreeSet;

fn full(disk: &Arc<dyn Disk>, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.length().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// What both disks must do when nothing fails.
fn behaves_as_a_disk(disk: &Arc<dyn Disk>) {
    let file = disk.create("a").unwrap();
    assert!(matches!(disk.create("a").unwrap_err().cause.kind(), io::ErrorKind::AlreadyExists));
    file.write_at(700, b"hello").unwrap();
    assert_eq!(file.length().unwrap(), 705);
    let mut bytes = [9; 10];
    assert_eq!(file.read_at(698, &mut bytes).unwrap(), 7);
    assert_eq!(&bytes[..7], b"\0\0hello");
    assert_eq!(file.read_at(705, &mut bytes).unwrap(), 0);
    file.allocate(4096).unwrap();
    file.allocate(100).unwrap();
    assert_eq!(file.length().unwrap(), 4096);
    file.truncate(702).unwrap();
    file.truncate(1024).unwrap();
    assert_eq!(&full(disk, "a")[698..710], b"\0\0he\0\0\0\0\0\0\0\0");
    passes_the_cache_by(&file);
    file.truncate(1024).unwrap();
    file.sync_data().unwrap();
    disk.create("b").unwrap();
    disk.rename("a", "b").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.list().unwrap(), ["b"]);
    assert!(disk.open("a").unwrap_err().is_missing());
    disk.remove("b").unwrap();
    assert!(disk.remove("b").unwrap_err().is_missing());
    assert_eq!(file.length().unwrap(), 1024);
    for name in ["", "x/y", "..", ".x", "LOCK", "a b", &"x".repeat(FILE_NAME_BYTES_MAX + 1)] {
        assert_eq!(disk.create(name).unwrap_err().cause.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}

/// Both ways of writing and both of reading, in turn over the same bytes.
fn passes_the_cache_by(file: &Arc<dyn DiskFile>) {
    let mut buffer = AlignedBuffer::new(2 * DIRECT_ALIGN - 1);
    assert_eq!(buffer.as_slice().len(), 2 * DIRECT_ALIGN);
    buffer.as_mut_slice().fill(7);
    let align = DIRECT_ALIGN as u64;
    file.write_at(0, &[1; 100]).unwrap();
    file.write_past_cache(align, buffer.as_slice()).unwrap();
    file.write_at(align + 10, b"after").unwrap();
    file.write_past_cache(5, b"anywhere").unwrap();
    file.truncate(2 * align + 5).unwrap();
    let mut all = AlignedBuffer::new(4 * DIRECT_ALIGN);
    assert_eq!(file.read_past_cache(0, all.as_mut_slice()).unwrap(), 2 * DIRECT_ALIGN + 5);
    let mut cached = vec![0; 2 * DIRECT_ALIGN + 5];
    assert_eq!(file.read_at(0, &mut cached).unwrap(), cached.len());
    assert_eq!(all.as_slice()[..cached.len()], cached);
    assert_eq!(&cached[..14], b"\x01\x01\x01\x01\x01anywhere\x01");
    assert_eq!(&cached[DIRECT_ALIGN + 9..DIRECT_ALIGN + 16], b"\x07after\x07");
    assert_eq!(cached[2 * DIRECT_ALIGN..], [7; 5]);
    assert_eq!(file.read_past_cache(3 * align, all.as_mut_slice()).unwrap(), 0);
}

#[test]
fn a_real_directory_behaves_as_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = RealDisk::open(directory.path().join("deep/er")).unwrap();
    behaves_as_a_disk(&disk);
}

/// A filesystem that may have no direct I/O (tmpfs has it since Linux 6.6).
#[test]
fn a_directory_in_memory_behaves_as_a_disk() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let disk: Arc<dyn Disk> = RealDisk::open(directory.path()).unwrap();
    behaves_as_a_disk(&disk);
}

#[test]
fn a_simulated_directory_behaves_as_a_disk() {
    behaves_as_a_disk(&SimDisk::new(1).mount().unwrap());
}

#[test]
fn a_directory_is_held_by_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = RealDisk::open(directory.path()).unwrap();
    assert!(RealDisk::open(directory.path()).unwrap_err().is_locked());
    drop(first);
    RealDisk::open(directory.path()).unwrap();

    let disk = SimDisk::new(1);
    let first = disk.mount().unwrap();
    assert!(disk.mount().unwrap_err().is_locked());
    drop(first);
    disk.mount().unwrap();
}

#[test]
fn errors_name_the_file_and_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path()).unwrap();
    let text = disk.open("nothing").unwrap_err().to_string();
    assert!(text.contains("nothing: cannot open: No such file"), "{text}");
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let life = disk.mount().unwrap();
        let file = life.create("f").unwrap();
        file.write_at(0, &[1; 4 * SECTOR_BYTES]).unwrap();
        file.sync_data().unwrap();
        life.sync_dir().unwrap();
        file.write_at(SECTOR_BYTES as u64, &[2; 3 * SECTOR_BYTES]).unwrap();
        disk.crash(seed);
        assert!(file.sync_data().is_err(), "a handle of an earlier life");
        let bytes = disk.contents("f").unwrap();
        assert_eq!(bytes.len(), 4 * SECTOR_BYTES);
        let sectors: Vec<u8> = bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert_eq!(sectors[0], 1);
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8, "every mix of old and new sectors comes up");
}

#[test]
fn a_crash_keeps_any_of_the_unsynced_names_and_lengths() {
    let (mut names, mut lengths) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let life = disk.mount().unwrap();
        let file = life.create("kept").unwrap();
        life.create("removed").unwrap();
        life.sync_dir().unwrap();
        file.allocate(1000).unwrap();
        life.create("created").unwrap();
        life.remove("removed").unwrap();
        life.rename("created", "renamed").unwrap();
        disk.crash(seed);
        lengths.insert(disk.contents("kept").unwrap().len());
        names.insert(disk.names());
    }
    assert_eq!(lengths, BTreeSet::from([0, 1000]));
    assert_eq!(names.len(), 6, "{names:?}");
}

#[test]
fn the_same_seed_crashes_the_same_way() {
    let run = |seed| {
        let disk = SimDisk::new(7);
        let life = disk.mount().unwrap();
        let file = life.create("f").unwrap();
        life.sync_dir().unwrap();
        file.write_at(3, &[5; 9000]).unwrap();
        disk.crash(seed);
        disk.contents("f").unwrap()
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    assert!((0..20).any(|seed| run(seed) != run(seed + 1)));
}

#[test]
fn after_a_failed_sync_what_reads_back_may_be_lost_whatever_later_syncs_say() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let life = disk.mount().unwrap();
        let file = life.create("f").unwrap();
        file.allocate(SECTOR_BYTES as u64).unwrap();
        file.sync_data().unwrap();
        life.sync_dir().unwrap();
        file.write_at(0, &[1; SECTOR_BYTES]).unwrap();
        disk.fail_next(DiskOp::SyncData, io::ErrorKind::Other);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(disk.contents("f").unwrap()[0], 1);
        disk.crash(seed);
        lost += u32::from(disk.contents("f").unwrap()[0] == 0);
    }
    assert!((1..20).contains(&lost), "{lost}");
}

#[test]
fn a_full_disk_says_so_and_takes_writes_again_when_there_is_space() {
    let disk = SimDisk::new(1);
    let life = disk.mount().unwrap();
    let file = life.create("f").unwrap();
    let other = life.create("g").unwrap();
    other.write_at(0, &[1; 4096]).unwrap();
    disk.set_capacity(Some(8192));
    assert!(file.write_at(0, &[1; 5000]).unwrap_err().is_full());
    assert!(file.allocate(5000).unwrap_err().is_full());
    file.write_at(0, &[2; 4096]).unwrap();
    life.remove("g").unwrap();
    file.write_at(0, &[3; 8192]).unwrap();
}

#[test]
fn faults_hit_the_call_that_they_were_meant_for() {
    let disk = SimDisk::new(1);
    let life = disk.mount().unwrap();
    let file = life.create("f").unwrap();
    disk.fail_after(1, DiskOp::Write, io::ErrorKind::Other);
    file.write_at(0, b"x").unwrap();
    file.sync_data().unwrap();
    file.write_at(0, b"y").unwrap_err();
    file.write_at(0, b"z").unwrap();
    assert!(disk.flip_bit("f", 1));
    assert_eq!(disk.contents("f").unwrap(), [b'z' ^ 2]);
    assert!(!disk.flip_bit("f", 8) && !disk.flip_bit("g", 0));
}
