//! The log in a directory of this machine.

use super::*;
use crate::disk::RealDisk;
use std::time::Instant;

#[test]
fn a_real_directory_keeps_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Log::open(RealDisk::open(directory.path()).unwrap(), LogOptions::new(WHO, true)).unwrap();
    let (mut log, _) = open();
    for index in 1..=300 {
        log.append(&entries(index..=index, 1, 100_000)).unwrap();
    }
    log.sync().unwrap();
    log.compact(LogIndex(250)).unwrap();
    assert_eq!(log.segments(), 1);
    drop(log);
    let (_, recovered) = open();
    assert_eq!(recovered.entries, entries(251..=300, 1, 100_000).entries);
}

/// `cargo test --release -p gavel-store -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure_append_and_sync() {
    for at_once in [1, 16, 256] {
        let directory = tempfile::tempdir_in(std::env::var("GAVEL_MEASURE_DIR").unwrap_or(".".into())).unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let (mut log, _) = Log::open(disk, LogOptions::new(WHO, true)).unwrap();
        let (rounds, mut index, start) = (2000 / at_once.min(8), 0, Instant::now());
        for _ in 0..rounds {
            for _ in 0..at_once {
                index += 1;
                log.append(&entries(index..=index, 1, 1024)).unwrap();
            }
            log.sync().unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{at_once} batches of 1 KiB a sync: {:.0} batches/s, {:.0} syncs/s",
            index as f64 / seconds,
            rounds as f64 / seconds
        );
    }
}
