//! Blobs on a disk that loses, tears and flips. `crash` runs whole lives of a node; here are the single faults.

mod collect;
mod crash;
mod damage;
mod real;

use super::*;
use crate::disk::{DiskError, DiskFile, DiskOp, SimDisk};
use proptest::prelude::*;
use segment::{HEADER_BYTES, Spot, index_name, segment_name};
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};

pub(super) const SMALL: u64 = 16 * 1024;
/// From here on blobs count as large: about half of them.
const LARGE: usize = 2000;

/// Opens a store with small segments, in which blobs are large early.
pub(super) fn try_open(disk: Arc<dyn Disk>) -> Result<BlobStore, BlobError> {
    writer::open(disk, SMALL, LARGE)
}

pub(super) fn open(disk: &SimDisk) -> BlobStore {
    try_open(disk.mount().unwrap()).unwrap()
}

/// A blob's name and bytes: of each number another one; some are all zeros but for a word.
pub(super) fn blob(number: u64) -> (BlobId, Vec<u8>) {
    let fill = if number.is_multiple_of(4) { 0 } else { number as u8 };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + (number as usize * 797) % 4000, fill);
    (BlobId::of(&bytes), bytes)
}

pub(super) fn put(store: &BlobStore, numbers: std::ops::Range<u64>) {
    store.put_many(&numbers.map(named).collect::<Vec<_>>()).unwrap();
}

pub(super) fn named(number: u64) -> Blob<Vec<u8>> {
    Blob::of(blob(number).1)
}

pub(super) fn has(store: &BlobStore, number: u64) -> bool {
    let (id, bytes) = blob(number);
    let found = store.get(id).unwrap();
    assert_eq!(store.contains(id).unwrap(), found.is_some());
    found.inspect(|found| assert_eq!(found, &bytes)).is_some()
}

fn is_damaged(store: &BlobStore, number: u64) -> bool {
    matches!(store.get(blob(number).0), Err(BlobError::Damaged { .. }))
}

/// If this fails, the format has changed: give it a new `VERSION`, and say what becomes of blobs of the old one.
#[test]
fn golden_bytes_of_a_segment() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let bytes = b"gavel".to_vec();
    store.applied(Tid(0x0102));
    store.put_many(&[Blob::of(bytes)]).unwrap();
    store.sync().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = disk.contents("0000000000000001.blob").unwrap();
    assert_eq!(file.len(), HEADER_BYTES + RECORD_HEADER_BYTES + 5);
    assert_eq!(hex(&file[..24]), "474156454c424c4204000000000200000100000000000000");
    assert!(file[24..504].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&file[504..512]), "8736f037d71d9e26");
    let golden_record = "47424c31050000000201000000000000\
                         2008726219768ed20754e3f9e748eddc\
                         0cf3b711c1b8e48ff245855de6307b42\
                         00020000000000006a5611ad242d94e1\
                         2126c87e309117a6\
                         676176656c";
    assert_eq!(hex(&file[512..]), golden_record);
    assert_eq!(segment::VERSION, 4);
}

#[test]
fn blobs_come_back_from_memory_from_segments_and_after_opening_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..60);
    assert!((0..60).all(|number| has(&store, number)));
    assert!(!has(&store, 60));
    store.sync().unwrap();
    let stats = store.stats();
    let bytes: u64 = (0..60).map(|number| blob(number).1.len() as u64).sum();
    assert_eq!((stats.blobs, stats.bytes), (60, bytes));
    drop(store);
    disk.crash(0);
    let store = open(&disk);
    assert!((0..60).all(|number| has(&store, number)));
    assert!(!has(&store, 60));
    assert_eq!(store.stats(), stats);
    let on_disk: usize = disk.names().iter().map(|name| disk.contents(name).unwrap().len()).sum();
    // What fills a segment up behind its last blob is not counted.
    let fill = DIRECT_ALIGN * disk.names().len();
    assert!(stats.disk_bytes.abs_diff(on_disk as u64) < fill as u64, "{stats:?} {on_disk}");
    put(&store, 60..70);
    assert!(has(&store, 65) && has(&store, 5));
}

#[test]
fn the_empty_blob_and_the_largest_are_kept() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let max = gavel_types::limits::BLOB_BYTES_MAX;
    for bytes in [Vec::new(), vec![7; max]] {
        let id = BlobId::of(&bytes);
        store.put_many(&[Blob::of(&bytes)]).unwrap();
        assert_eq!(store.get(id).unwrap().unwrap(), bytes);
    }
    let large = vec![7; max + 1];
    let error = store.put_many(&[Blob::of(&large)]).unwrap_err();
    assert!(matches!(error, BlobError::TooLarge { .. }));
}

#[test]
fn a_blob_that_is_here_is_not_written_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..40);
    let before = (store.stats(), disk.used().writes);
    put(&store, 0..40);
    assert_eq!((store.stats(), disk.used().writes), before);
}

#[test]
fn many_writers_share_a_sync() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let before = disk.used().syncs;
    for number in 0..5 {
        put(&store, number..number + 1);
    }
    for _ in 0..5 {
        store.sync().unwrap();
    }
    assert_eq!(disk.used().syncs, before + 1);
}

#[test]
fn after_a_failed_sync_nothing_is_taken_but_reading_goes_on() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..3);
    disk.fail_next(DiskOp::SyncData, ErrorKind::Other);
    assert!(matches!(store.sync(), Err(BlobError::Disk(_))));
    assert!(matches!(store.sync(), Err(BlobError::Stopped { .. })));
    assert!(matches!(store.put_many(&[named(9)]), Err(BlobError::Stopped { .. })));
    assert!((0..3).all(|number| has(&store, number)));
}

#[test]
fn what_is_read_after_a_failed_sync_is_durable_once_it_was_opened_again() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let store = open(&disk);
        put(&store, 0..6);
        disk.fail_next(DiskOp::SyncData, ErrorKind::Other);
        store.sync().unwrap_err();
        drop(store);
        let store = open(&disk);
        assert!((0..6).all(|number| has(&store, number)), "the cache still has them");
        drop(store);
        disk.crash(seed);
        let store = open(&disk);
        assert!((0..6).all(|number| has(&store, number)));
    }
}

#[test]
fn a_full_disk_refuses_blobs_until_there_is_space() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    disk.set_capacity(Some(3 * SMALL));
    let mut number = 0;
    let error = loop {
        match store.put_many(&[named(number)]) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, BlobError::Disk(disk) if disk.is_full()), "{error}");
    assert!((0..number).all(|number| has(&store, number)) && !has(&store, number));
    store.sync().unwrap();
    disk.set_capacity(None);
    put(&store, number..number + 30);
    store.sync().unwrap();
    drop(store);
    disk.crash(3);
    let store = open(&disk);
    assert!((0..number + 30).all(|number| has(&store, number)));
}

#[test]
fn a_disk_that_fills_up_between_the_index_and_the_next_segment_loses_nothing() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let mut number = 4;
    let fits = |number: u64| {
        let (end, bytes) = (store.tip.lock().end, blob(number).1.len());
        let start = if bytes < LARGE { end } else { end.next_multiple_of(DIRECT_ALIGN as u64) };
        Spot { offset: start, length: bytes as u32 }.end() <= SMALL
    };
    while fits(number) {
        put(&store, number..number + 1);
        number += 1;
    }
    // The index is the first file that sealing makes, the next segment the second.
    disk.fail_after(1, DiskOp::Create, ErrorKind::StorageFull);
    let error = store.put_many(&[named(number)]).unwrap_err();
    assert!(matches!(&error, BlobError::Disk(disk) if disk.is_full()), "{error}");
    assert!(store.tip.lock().end + 128 <= SMALL, "this one would fit behind what the index lists");
    put(&store, 0..1);
    store.sync().unwrap();
    drop(store);
    disk.crash(1);
    let store = open(&disk);
    assert!(has(&store, 0) && (4..number).all(|number| has(&store, number)));
}

/// What a segment's file has, in order: the numbers of blobs, each with where its record begins and ends.
fn records_of(disk: &SimDisk, numbers: std::ops::Range<u64>) -> Vec<(u64, u64, u64)> {
    let scan = segment::scan(&disk.contents(&segment_name(1)).unwrap(), 1);
    let spot = |number| scan.spots.get(&blob(number).0).map(|spot| (number, spot.offset, spot.end()));
    let mut records: Vec<_> = numbers.filter_map(spot).collect();
    records.sort_by_key(|(_, offset, _)| *offset);
    records
}

#[test]
fn runs_of_large_blobs_begin_and_end_at_whole_pages_and_small_ones_are_packed() {
    let align = DIRECT_ALIGN as u64;
    let disk = SimDisk::new(1);
    let store = writer::open(disk.mount().unwrap(), SEGMENT_BYTES, LARGE).unwrap();
    let (small, large): (Vec<u64>, Vec<u64>) = (0..40).partition(|number| blob(*number).1.len() < LARGE);
    let put = |numbers: &[u64]| store.put_many(&numbers.iter().map(|number| named(*number)).collect::<Vec<_>>());
    put(&[small[0], large[0], small[1], large[1]]).unwrap();
    put(&large[2..3]).unwrap();
    put(&[small[2]]).unwrap();
    let records = records_of(&disk, 0..40);
    let order: Vec<u64> = records.iter().map(|(number, ..)| *number).collect();
    assert_eq!(order, [small[0], small[1], large[0], large[1], large[2], small[2]]);
    let starts: Vec<u64> = records.iter().map(|(_, start, _)| *start).collect();
    let ends: Vec<u64> = records.iter().map(|(.., end)| *end).collect();
    assert_eq!((starts[0], starts[1], starts[5]), (HEADER_BYTES as u64, ends[0], ends[4]));
    assert!(starts[2].is_multiple_of(align) && starts[3] == ends[2] && starts[4] == ends[3].next_multiple_of(align));
    let scan = segment::scan(&disk.contents(&segment_name(1)).unwrap(), 1);
    let fill = starts[2] - ends[1] + starts[4] - ends[3];
    assert_eq!((scan.lost_bytes, scan.fill_bytes, store.writer.lock().fill_bytes), (0, fill, fill));
    drop(store);
    assert!(order.iter().all(|number| has(&open(&disk), *number)));
}

#[test]
fn what_a_full_disk_left_behind_is_not_found_in_front_of_large_blobs() {
    let disk = SimDisk::new(1);
    let store = writer::open(disk.mount().unwrap(), SEGMENT_BYTES, LARGE).unwrap();
    put(&store, 0..1);
    // The header of a small one gets through, and not all of its bytes.
    disk.set_capacity(Some(2 * 512));
    assert!(store.put_many(&[Blob::of(vec![9; LARGE - 1])]).is_err());
    disk.set_capacity(None);
    let large = Blob::of(vec![8; LARGE]);
    store.put_many(std::slice::from_ref(&large)).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = open(&disk);
    assert!(has(&store, 0));
    assert_eq!(store.get(large.id()).unwrap().unwrap(), large.bytes());
    assert_eq!((store.stats().blobs, store.active_lost_bytes()), (2, 0));
}

#[test]
fn more_segments_than_files_may_be_open_are_read() {
    let disk = SimDisk::new(1);
    let store = BlobStore::open_with(disk.mount().unwrap(), 1).unwrap();
    put(&store, 0..FILES_OPEN_MAX as u64 + 50);
    for _ in 0..2 {
        assert!((0..FILES_OPEN_MAX as u64 + 50).all(|number| has(&store, number)));
    }
}

/// A disk whose syncs wait until they are let go.
#[derive(Debug)]
struct Gate {
    disk: Arc<dyn Disk>,
    doors: Arc<Doors>,
}

#[derive(Debug, Default)]
struct Doors(Mutex<Option<(Sender<()>, Receiver<()>)>>);

#[derive(Debug)]
struct GateFile(Arc<dyn DiskFile>, Arc<Doors>);

impl Disk for Gate {
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(Arc::new(GateFile(self.disk.create(name)?, Arc::clone(&self.doors))))
    }
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.open(name)
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }
    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }
    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }
}

impl DiskFile for GateFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.write_at(offset, bytes)
    }
    fn allocate(&self, length: u64) -> Result<(), DiskError> {
        self.0.allocate(length)
    }
    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.0.truncate(length)
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        if let Some((waiting, go)) = self.1.0.lock().take() {
            waiting.send(()).unwrap();
            go.recv().unwrap();
        }
        self.0.sync_data()
    }
    fn length(&self) -> Result<u64, DiskError> {
        self.0.length()
    }
}

#[test]
fn reading_and_putting_go_on_while_a_sync_waits_for_the_disk() {
    let doors = Arc::new(Doors::default());
    let disk = Gate { disk: SimDisk::new(1).mount().unwrap(), doors: Arc::clone(&doors) };
    let store = BlobStore::open(Arc::new(disk)).unwrap();
    put(&store, 0..3);
    let ((waiting, is_waiting), (go, may_go)) = (channel(), channel());
    *doors.0.lock() = Some((waiting, may_go));
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| store.sync());
        is_waiting.recv().unwrap();
        assert!((0..3).all(|number| has(&store, number)));
        put(&store, 3..5);
        assert!(has(&store, 4));
        go.send(()).unwrap();
        syncing.join().unwrap().unwrap();
    });
    assert!(
        store.durable.load(Ordering::Acquire) < store.tip.lock().appended,
        "the sync did not cover what came later"
    );
    store.sync().unwrap();
    assert_eq!(store.durable.load(Ordering::Acquire), store.tip.lock().appended);
}

proptest! {
    #[test]
    fn scanning_takes_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), at: prop::sample::Index, length: u32) {
        let _ = segment::scan(&bytes, 1);
        // A good header in front of anything.
        let offset = 512 + 64 * at.index(30);
        if offset + RECORD_HEADER_BYTES <= bytes.len() {
            let (id, synced_to) = (BlobId::of(b"x"), u64::from(length) << 20);
            let header = RecordHeader { id, length, synced_to, as_of: Tid(7), body_sum: 7 };
            bytes[offset..offset + RECORD_HEADER_BYTES].copy_from_slice(&header.encode(1, offset as u64));
            let scan = segment::scan(&bytes, 1);
            prop_assert!(scan.spots.len() <= 1);
        }
    }
}
