//! Measures the engine on the shapes of our rows. Run it by hand, on an otherwise quiet machine:
//! `cargo test --release -p gavel-store --test records_measure -- --ignored --nocapture`.
//! Its numbers of November 2026 are in `docs/decisions/0003-record-engine.md`.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{Batch, Engine, LsmConfig, LsmEngine, Snapshot};
use records_support::Dice;
use std::time::Instant;

const KEYS: u64 = 1_000_000;
const BATCH: u64 = 1000;
/// Batches in a cut: about 64 MiB of memtable.
const CUT: u64 = 300;

fn mix(number: u64) -> u64 {
    Dice::new(number).next()
}

/// 40 bytes, shaped as a live row of a directory entry.
fn key(number: u64) -> Vec<u8> {
    let mut key = vec![b'L', 0, 0, 0, 1];
    key.extend((number / 500).to_be_bytes());
    key.push(2);
    key.extend(mix(number).to_be_bytes());
    key.extend(format!("file-{number:012}\0").bytes());
    key
}

/// 150 bytes, half of them zeros.
fn value(number: u64) -> Vec<u8> {
    let mut value = vec![0; 150];
    for (at, chunk) in value.chunks_exact_mut(8).enumerate().filter(|(at, _)| at % 2 == 0) {
        chunk.copy_from_slice(&mix(number * 31 + at as u64).to_le_bytes());
    }
    value
}

fn timed<T>(what: &str, times: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what:30} {:10.2} us each", start.elapsed().as_secs_f64() * 1e6 / times as f64);
    result
}

#[test]
#[ignore = "a measurement, not a test"]
fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let engine = LsmEngine::open(dir.path(), LsmConfig::default()).unwrap();
    let cut = || {
        engine.seal().unwrap();
        engine.flush().unwrap();
        while engine.maintain().unwrap() {}
    };
    timed("load, flush, compact", KEYS, || {
        for batch in 0..KEYS / BATCH {
            let mut rows = Batch::new();
            (batch * BATCH..(batch + 1) * BATCH).map(|i| mix(i) % KEYS).for_each(|i| rows.put(&key(i), &value(i)));
            engine.write(&rows).unwrap();
            if batch % CUT == CUT - 1 {
                cut();
            }
        }
        cut();
    });
    println!("{:?}", engine.stats());
    let snapshot = engine.snapshot();
    let chosen = |times: u64| (0..times).map(|i| mix(i + 77) % KEYS);
    timed("get (63% present)", 200_000, || chosen(200_000).for_each(|i| drop(snapshot.get(&key(i)).unwrap())));
    timed("get, absent", 200_000, || {
        chosen(200_000).for_each(|i| assert!(snapshot.get(&[&key(i)[..], b"x"].concat()).unwrap().is_none()));
    });
    timed("scan of 100", 10_000, || {
        chosen(10_000).for_each(|i| snapshot.range(&key(i), b"M").take(100).for_each(|row| drop(row.unwrap())));
    });
    drop((snapshot, engine));
    timed("open again", 1, || LsmEngine::open(dir.path(), LsmConfig::default()).unwrap());
}
