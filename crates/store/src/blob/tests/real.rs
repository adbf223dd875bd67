//! Blobs in a directory of this machine.

use super::*;
use crate::disk::RealDisk;
use std::time::Instant;

#[test]
fn many_threads_put_sync_and_read_in_a_real_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open_with(RealDisk::open(directory.path()).unwrap(), 256 * 1024).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..100 {
                    // Neighbours put the same blobs.
                    let number = thread / 2 * 100 + number;
                    put(store, number..number + 1);
                    if number.is_multiple_of(10) {
                        store.sync().unwrap();
                    }
                    assert!(has(store, number));
                }
            });
        }
    });
    store.sync().unwrap();
    drop(store);
    let store = BlobStore::open_with(RealDisk::open(directory.path()).unwrap(), 256 * 1024).unwrap();
    assert!((0..200).all(|number| has(&store, number)));
    assert_eq!(store.scrub(|_| true).unwrap().damaged, []);
}

#[test]
fn blobs_of_all_sizes_are_read_through_the_cache_and_past_it() {
    let directory = tempfile::tempdir().unwrap();
    let open = || BlobStore::open(RealDisk::open(directory.path()).unwrap()).unwrap();
    let store = open();
    let mut chance = crate::disk::Chance::new(1);
    let mut size = |_| {
        let bits = 10 + chance.below(12);
        1 + chance.below(1 << bits)
    };
    let sizes = (0..60).map(&mut size).chain([1 << 20, 4 << 20]);
    let blobs: Vec<_> = sizes.enumerate().map(|(seed, bytes)| random_blob(seed as u64, bytes as usize)).collect();
    let check = |store: &BlobStore, blob: &Blob<Vec<u8>>| {
        assert_eq!(store.get_past_cache(blob.id()).unwrap().unwrap(), blob.bytes());
        assert_eq!(store.get(blob.id()).unwrap().unwrap(), blob.bytes());
    };
    for some in blobs.chunks(7) {
        store.put_many(some).unwrap();
        some.iter().for_each(|blob| check(&store, blob));
        store.sync().unwrap();
    }
    drop(store);
    let store = open();
    blobs.iter().for_each(|blob| check(&store, blob));
    let report = store.scrub(|_| true).unwrap();
    assert_eq!((report.lost_bytes, report.checked), (0, blobs.len() as u64));
}

fn random_blob(seed: u64, bytes: usize) -> Blob<Vec<u8>> {
    let mut chance = crate::disk::Chance::new(seed);
    let bytes: Vec<u8> = (0..bytes / 8).flat_map(|_| chance.draw().to_le_bytes()).collect();
    Blob::of(bytes)
}

/// `cargo test --release -p gavel-store -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure_put_and_get() {
    let directory = tempfile::tempdir_in(std::env::var("GAVEL_MEASURE_DIR").unwrap_or(".".into())).unwrap();
    let store = BlobStore::open(RealDisk::open(directory.path()).unwrap()).unwrap();
    let large: Vec<_> = (0..300).map(|seed| random_blob(seed, 1 << 20)).collect();
    let start = Instant::now();
    for blob in &large {
        store.put_many(std::slice::from_ref(blob)).unwrap();
        store.sync().unwrap();
    }
    println!("put of 1 MiB with sync: {:.0}/s", large.len() as f64 / start.elapsed().as_secs_f64());
    let small: Vec<_> = (1000..5000).map(|seed| random_blob(seed, 64 << 10)).collect();
    let start = Instant::now();
    for blobs in small.chunks(16) {
        store.put_many(blobs).unwrap();
        store.sync().unwrap();
    }
    println!("put of 16 x 64 KiB with a sync: {:.0} blobs/s", small.len() as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    for blob in &small {
        assert!(store.get(blob.id()).unwrap().is_some());
    }
    println!("get of 64 KiB (cached): {:.1} microseconds", start.elapsed().as_secs_f64() * 1e6 / small.len() as f64);
    let segments = store.catalog.read().sealed.len();
    let start = Instant::now();
    for seed in 0..100_000u64 {
        assert!(!store.contains(BlobId::of(&seed.to_le_bytes())).unwrap());
    }
    println!("miss over {segments} segments: {:.2} microseconds", start.elapsed().as_secs_f64() * 10.0);
    drop(store);
    let start = Instant::now();
    BlobStore::open(RealDisk::open(directory.path()).unwrap()).unwrap();
    println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
}
