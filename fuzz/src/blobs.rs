//! A directory of blob segments and indexes with arbitrary contents.
//!
//! An input is a first byte and a sequence of parts (see [`crate::parts`]), in turn the segment and the index of each
//! number; an empty part is no file. If the first byte is odd, the checksums are made good first.

use crate::{parts, seal};
use gavel_store::blob::{BlobError, BlobStore};
use gavel_store::disk::SimDisk;
use gavel_types::Blob;

/// Small, so that a seed has several segments.
const SEGMENT_BYTES: u64 = 4096;
/// Files of an input that are looked at.
const FILES_MAX: usize = 8;
/// Blobs of the seeds.
const BLOBS: u64 = 12;

fn blob(number: u64) -> Blob<Vec<u8>> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + (number as usize * 397) % 1500, number as u8);
    Blob::of(bytes)
}

/// Opens the store, reads what it may have, verifies it all, adds a blob, and opens it again.
///
/// # Panics
/// If that panics, the store gives bytes that are not those of their name, or does not keep what it took.
pub fn run(bytes: &[u8]) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return false };
    let disk = SimDisk::new(1);
    for (number, part) in parts::split(rest).take(FILES_MAX).enumerate() {
        place(&disk, number as u64, part, first % 2 == 1);
    }
    let Some(store) = open(&disk) else { return false };
    let found = (0..BLOBS).filter(|number| read(&store, *number)).count();
    expect_known(store.scrub(|_| true).map(drop));
    let added = blob(BLOBS);
    store.put_many(std::slice::from_ref(&added)).expect("the disk is not full");
    store.sync().expect("the disk does not fail");
    drop(store);
    let store = open(&disk).expect("what was opened opens again");
    assert!(read(&store, BLOBS), "a blob that was synced is gone");
    let again = (0..BLOBS).filter(|number| read(&store, *number)).count();
    assert!(again >= found, "{found} blobs before it was opened again, {again} after");
    found > 0
}

fn place(disk: &SimDisk, number: u64, part: &[u8], good_sums: bool) {
    if part.is_empty() {
        return;
    }
    let mut file = part.to_vec();
    let sequence = 1 + number / 2;
    let (suffix, seal): (&str, fn(&mut [u8], u64)) =
        if number.is_multiple_of(2) { ("blob", seal::blob_segment) } else { ("idx", seal::blob_index) };
    if good_sums {
        seal(&mut file, sequence);
    }
    disk.tamper(&format!("{sequence:016x}.{suffix}"), Some(&file));
}

fn open(disk: &SimDisk) -> Option<BlobStore> {
    match BlobStore::open_with(disk.mount().expect("nobody else has it"), SEGMENT_BYTES) {
        Ok(store) => Some(store),
        Err(BlobError::Version { .. } | BlobError::IndexDamaged { .. }) => None,
        Err(error) => panic!("damage must not keep the store from opening: {error}"),
    }
}

/// Whether the blob is there and good.
fn read(store: &BlobStore, number: u64) -> bool {
    let blob = blob(number);
    let (id, bytes) = (blob.id(), blob.bytes());
    expect_known(store.contains(id).map(drop));
    match store.get(id) {
        Ok(Some(found)) => {
            assert_eq!(found, bytes, "bytes of another name");
            true
        }
        Ok(None) => false,
        other => {
            expect_known(other.map(drop));
            false
        }
    }
}

fn expect_known(result: Result<(), BlobError>) {
    match result {
        Ok(()) | Err(BlobError::Damaged { .. } | BlobError::IndexDamaged { .. } | BlobError::Version { .. }) => {}
        Err(error) => panic!("nothing is wrong with the disk: {error}"),
    }
}

/// Some segments with their indexes, with checksums as they are, and with checksums that are made good.
pub fn seeds() -> Vec<Vec<u8>> {
    let disk = SimDisk::new(1);
    let store = BlobStore::open_with(disk.mount().expect("a new disk"), SEGMENT_BYTES).expect("an empty directory");
    for number in 0..BLOBS {
        store.put_many(&[blob(number)]).expect("the disk is not full");
        store.sync().expect("the disk does not fail");
    }
    let mut files = Vec::new();
    for sequence in 1..=FILES_MAX / 2 {
        for suffix in ["blob", "idx"] {
            files.push(disk.contents(&format!("{sequence:016x}.{suffix}")).unwrap_or_default());
        }
    }
    let seed = |first: u8| {
        let mut seed = vec![first];
        seed.extend(parts::join(files.iter().map(Vec::as_slice)));
        seed
    };
    vec![seed(0), seed(1)]
}
