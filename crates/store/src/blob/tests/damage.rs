//! Bytes that changed after they were durable: never served, and never in the way of the others.

use super::*;
use crate::disk::Chance;

const COUNT: u64 = 40;

/// A store of two sealed segments and an active one, and its files.
fn synced_store() -> Vec<(String, Vec<u8>)> {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for number in 0..COUNT {
        put(&store, number..number + 1);
        store.sync().unwrap();
    }
    drop(store);
    let names = disk.names();
    assert!(names.len() >= 5, "{names:?}");
    names.into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

fn disk_of(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(2);
    for (name, bytes) in files {
        disk.tamper(name, Some(bytes));
    }
    disk
}

/// The blobs that do not come back; none comes back wrong.
fn bad_blobs(store: &BlobStore) -> Vec<u64> {
    let good = |number: &u64| match store.get(blob(*number).0) {
        Ok(Some(bytes)) => bytes == blob(*number).1 || panic!("blob {number} came back wrong"),
        Ok(None) | Err(BlobError::Damaged { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    (0..COUNT).filter(|number| !good(number)).collect()
}

#[test]
fn one_bit_flipped_anywhere_costs_at_most_one_blob_which_is_reported_and_can_be_replaced() {
    let files = synced_store();
    let mut chance = Chance::new(3);
    let mut hit = 0;
    for (name, bytes) in &files {
        for byte in 0..bytes.len() as u64 {
            if !chance.one_in(40) {
                continue;
            }
            let disk = disk_of(&files);
            disk.flip_bit(name, byte * 8 + chance.below(8));
            let store = open(&disk);
            let bad = bad_blobs(&store);
            assert!(bad.len() <= 1, "{name} byte {byte}: {bad:?}");
            assert!(bad.is_empty() || name.ends_with(".blob"), "{name} byte {byte}");
            let Some(number) = bad.first().copied() else { continue };
            hit += 1;
            let (id, good) = blob(number);
            let report = store.scrub(|_| true).unwrap();
            let listed: Vec<BlobId> = report.damaged.iter().map(|blob| blob.id).collect();
            if is_damaged(&store, number) {
                assert_eq!(listed, [id]);
            }
            store.put_many(&[Blob::of(good)]).unwrap();
            store.sync().unwrap();
            assert_eq!(bad_blobs(&store), []);
            assert_eq!(store.scrub(|_| true).unwrap().damaged, []);
            drop(store);
            assert_eq!(bad_blobs(&open(&disk)), [], "{name} byte {byte}");
        }
    }
    assert!(hit > 100, "{hit}");
}

#[test]
fn damage_is_reported_with_the_place_and_what_to_do() {
    let disk = disk_of(&synced_store());
    let store = open(&disk);
    let first = Arc::clone(&store.catalog.read().sealed[0]);
    let offset = store.find_in(&first, blob(5).0).unwrap().unwrap().offset;
    disk.flip_bit(&segment_name(1), 8 * (offset + 64));
    let error = store.get(blob(5).0).unwrap_err();
    assert!(matches!(&error, BlobError::Damaged { id, offset: at, .. } if *id == blob(5).0 && *at == offset));
    let text = error.to_string();
    assert!(text.contains("0000000000000001.blob") && text.contains("Hint: fetch it"), "{text}");
    store.replace(&named(5)).unwrap();
    assert!(has(&store, 5));
}

#[test]
fn an_index_that_is_missing_is_made_anew() {
    let files = synced_store();
    let disk = disk_of(&files);
    disk.tamper(&index_name(1), None);
    assert_eq!(bad_blobs(&open(&disk)), []);
    let original = files.iter().find(|(name, _)| *name == index_name(1)).map(|(_, bytes)| bytes.clone());
    assert_eq!(disk.contents(&index_name(1)), original);
}

#[test]
fn an_index_damaged_while_running_is_made_anew() {
    let disk = disk_of(&synced_store());
    let store = open(&disk);
    let length = disk.contents(&index_name(1)).unwrap().len() as u64;
    for byte in (4096..length).step_by(256) {
        disk.flip_bit(&index_name(1), byte * 8);
    }
    assert_eq!(bad_blobs(&store), []);
    disk.tamper(&index_name(2), None);
    assert_eq!(bad_blobs(&store), []);
}

#[test]
fn a_missing_segment_costs_its_blobs_and_they_are_reported() {
    let disk = disk_of(&synced_store());
    disk.tamper(&segment_name(1), None);
    let store = open(&disk);
    let bad = bad_blobs(&store);
    assert!(!bad.is_empty() && bad.len() < COUNT as usize / 2, "{bad:?}");
    assert!(bad.iter().all(|number| is_damaged(&store, *number)));
    let report = store.scrub(|_| true).unwrap();
    assert_eq!((report.damaged.len(), report.checked, report.complete), (bad.len(), COUNT, true));
    for number in bad {
        put(&store, number..number + 1);
    }
    store.sync().unwrap();
    drop(store);
    assert_eq!(bad_blobs(&open(&disk)), []);
}

#[test]
fn a_segment_and_its_index_both_damaged_keep_the_other_blobs() {
    let disk = disk_of(&synced_store());
    disk.tamper(&index_name(1), Some(b"nonsense"));
    let bytes = disk.contents(&segment_name(1)).unwrap();
    let half = bytes.len() / 2 / 64 * 64;
    for byte in half..half + 128 {
        disk.flip_bit(&segment_name(1), 8 * byte as u64);
    }
    let store = open(&disk);
    assert!(bad_blobs(&store).len() <= 2);
}

#[test]
fn a_scrub_can_be_stopped() {
    let disk = disk_of(&synced_store());
    let report = open(&disk).scrub(|report| report.checked < 7).unwrap();
    assert_eq!((report.checked, report.complete), (7, false));
}

/// Bytes that changed in memory, before their checksum was made.
#[test]
fn a_scrub_finds_bytes_that_are_not_what_their_name_says() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 1..2);
    store.sync().unwrap();
    let (name, (id, mut bytes)) = (segment_name(1), blob(1));
    let spot = store.catalog.read().fresh[&id];
    bytes[0] ^= 1;
    let mut file = disk.contents(&name).unwrap();
    let record = &mut file[spot.offset as usize..];
    let header = RecordHeader::decode(record, 1, spot.offset).unwrap();
    let header = RecordHeader { body_sum: segment::body_sum(&bytes), ..header };
    record[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode(1, spot.offset));
    record[RECORD_HEADER_BYTES..][..bytes.len()].copy_from_slice(&bytes);
    disk.tamper(&name, Some(&file));
    drop(store);
    let report = open(&disk).scrub(|_| true).unwrap();
    let found: Vec<(BlobId, u64)> = report.damaged.iter().map(|blob| (blob.id, blob.offset)).collect();
    assert_eq!(found, [(id, spot.offset)]);
}

#[test]
fn segments_of_another_version_are_refused() {
    let mut header = segment::encode_header(1);
    header[8] += 1;
    let sum = crc_fast::crc64_nvme(&header[..504]);
    header[504..].copy_from_slice(&sum.to_le_bytes());
    let disk = SimDisk::new(1);
    disk.tamper(&segment_name(1), Some(&header));
    let error = BlobStore::open(disk.mount().unwrap()).unwrap_err();
    assert!(matches!(error, BlobError::Version { found: 5, known: 4, .. }), "{error}");
}

#[test]
fn a_newer_good_copy_or_an_older_one_stands_in_for_a_damaged_one() {
    let disk = disk_of(&synced_store());
    let store = open(&disk);
    store.replace(&named(3)).unwrap();
    store.sync().unwrap();
    let active = store.catalog.read();
    let (sequence, spot) = (active.active_sequence, active.fresh[&blob(3).0]);
    drop(active);
    disk.flip_bit(&segment_name(sequence), 8 * (spot.offset + 80));
    assert!(has(&store, 3), "the older copy");
}
