//! The log against a disk that loses, tears and flips. `crash` runs whole lives of a node; here are the single faults.

mod crash;
mod damage;
mod real;

use super::*;
use crate::disk::{DiskOp, SimDisk};
use std::io::ErrorKind;

pub(super) const WHO: LogIdentity = LogIdentity { cluster: ClusterId([7; 16]), node: NodeId(3) };

pub(super) fn small(create: bool) -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES_MIN, buffer_bytes: 1500, ..LogOptions::new(WHO, create) }
}

pub(super) fn open(disk: &SimDisk) -> Result<(Log, Recovered), LogError> {
    Log::open(disk.mount().unwrap(), small(true))
}

pub(super) fn entry(index: u64, term: u64, bytes: usize) -> LogEntry {
    // Every third one is all zeros, as the pages of a sparse file are.
    let fill = if index.is_multiple_of(3) { 0 } else { (index * 31 + term) as u8 };
    LogEntry { index: LogIndex(index), term: Term(term), data: vec![fill; bytes] }
}

pub(super) fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64, bytes: usize) -> LogBatch {
    LogBatch { entries: indexes.map(|index| entry(index, term, bytes)).collect(), ..LogBatch::default() }
}

pub(super) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: (vote != 0).then_some(NodeId(vote)), commit: LogIndex(commit) }
}

pub(super) fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: LogIndex(index), term: Term(term) }
}

fn reopen(disk: &SimDisk, log: Log) -> (Log, Recovered) {
    drop(log);
    open(disk).unwrap()
}

#[test]
fn what_was_synced_comes_back() {
    let disk = SimDisk::new(1);
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered, Recovered::default());
    log.append(&entries(1..=5, 1, 100)).unwrap();
    log.append(&LogBatch { hard_state: Some(hard_state(2, 3, 4)), ..entries(5..=6, 2, 10) }).unwrap();
    log.sync().unwrap();
    disk.crash(0);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.hard_state, hard_state(2, 3, 4));
    let mut expected = entries(1..=4, 1, 100).entries;
    expected.extend(entries(5..=6, 2, 10).entries);
    assert_eq!(recovered.entries, expected);
    assert_eq!(recovered.cut, None);
}

#[test]
fn many_batches_cost_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut log, _) = Log::open(disk.mount().unwrap(), LogOptions::new(WHO, true)).unwrap();
    let before = disk.used();
    for index in 1..=100 {
        log.append(&entries(index..=index, 1, 1000)).unwrap();
    }
    log.sync().unwrap();
    log.sync().unwrap();
    let after = disk.used();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    assert_eq!(after.dir_syncs, before.dir_syncs);
}

#[test]
fn compaction_removes_segments_and_keeps_the_rest() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&LogBatch { hard_state: Some(hard_state(4, 2, 0)), ..LogBatch::default() }).unwrap();
    for index in 1..=40 {
        log.append(&entries(index..=index, 1 + index / 10, 1000)).unwrap();
    }
    let segments = log.segments();
    log.compact(LogIndex(30)).unwrap();
    assert!(log.segments() < segments - 2, "{} of {segments}", log.segments());
    assert_eq!(disk.names().len(), log.segments());
    log.compact(LogIndex(29)).unwrap();
    assert_eq!(log.ends().1, id(30, 4));
    disk.crash(0);
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.compacted, id(30, 4));
    assert_eq!(recovered.hard_state, hard_state(4, 2, 30), "what is compacted was committed");
    assert_eq!(recovered.entries.first(), Some(&entry(31, 4, 1000)));
    assert_eq!(recovered.entries.last(), Some(&entry(40, 5, 1000)));
    log.compact(LogIndex(40)).unwrap();
    let (log, recovered) = reopen(&disk, log);
    assert_eq!((recovered.compacted, recovered.entries.len()), (id(40, 5), 0));
    assert_eq!(log.ends().2, id(40, 5));
}

#[test]
fn a_snapshot_mark_empties_the_log() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&entries(1..=20, 1, 1000)).unwrap();
    let installed = LogBatch {
        snapshot_mark: Some(id(100, 2)),
        hard_state: Some(hard_state(3, 0, 100)),
        ..entries(101..=102, 3, 10)
    };
    log.append(&installed).unwrap();
    log.sync().unwrap();
    let (mut log, recovered) = reopen(&disk, log);
    assert_eq!(recovered.compacted, id(100, 2));
    assert_eq!(recovered.entries, entries(101..=102, 3, 10).entries);
    log.append(&entries(103..=110, 3, 1000)).unwrap();
    log.compact(LogIndex(101)).unwrap();
    let (_, recovered) = reopen(&disk, log);
    assert_eq!(recovered.entries.len(), 9);
}

#[test]
fn a_large_batch_gets_a_segment_that_holds_it() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let batch = LogBatch { entries: vec![entry(1, 1, ENTRY_BYTES_MAX), entry(2, 1, 3)], ..LogBatch::default() };
    log.append(&batch).unwrap();
    log.append(&entries(3..=3, 1, 10)).unwrap();
    log.sync().unwrap();
    let (_, recovered) = reopen(&disk, log);
    assert_eq!(recovered.entries[..2], batch.entries);
    assert_eq!(recovered.entries.len(), 3);
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let large = LogBatch { entries: vec![entry(1, 1, ENTRY_BYTES_MAX + 1)], ..LogBatch::default() };
    assert!(matches!(log.append(&large), Err(LogError::TooLarge { what: "a log entry", .. })));
    let large = entries(1..=8, 1, ENTRY_BYTES_MAX);
    assert!(matches!(log.append(&large), Err(LogError::TooLarge { what: "a batch for the log", .. })));
    log.append(&entries(1..=1, 1, 10)).unwrap();
    log.sync().unwrap();
    assert_eq!(reopen(&disk, log).1.entries.len(), 1);
}

#[test]
fn batches_that_contradict_the_log_are_refused_and_change_nothing() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&LogBatch { hard_state: Some(hard_state(5, 1, 6)), ..entries(1..=10, 5, 10) }).unwrap();
    log.compact(LogIndex(4)).unwrap();
    let state = |state| LogBatch { hard_state: Some(state), ..LogBatch::default() };
    let snapshot = |mark| LogBatch { snapshot_mark: Some(mark), ..LogBatch::default() };
    let mut torn = entries(11..=13, 5, 1);
    torn.entries.remove(1);
    for (batch, what) in [
        (entries(12..=12, 5, 1), "gap"),
        (entries(4..=4, 5, 1), "below the compacted"),
        (entries(11..=11, 4, 1), "term is below"),
        (entries(6..=11, 6, 1), "in place of a committed"),
        (entries(5..=5, 5, 1), "cut off committed"),
        (torn, "do not follow"),
        (state(hard_state(4, 1, 6)), "goes back"),
        (state(hard_state(5, 1, 5)), "goes back"),
        (state(hard_state(5, 2, 6)), "second vote"),
        (state(hard_state(6, 2, 11)), "behind the last"),
        (snapshot(id(3, 5)), "older than the compacted"),
        (snapshot(id(9, 4)), "older than the compacted"),
    ] {
        let error = log.append(&batch).unwrap_err().to_string();
        assert!(error.contains(what), "{error}, not {what}");
    }
    assert!(matches!(log.compact(LogIndex(11)), Err(LogError::Contradiction(_))));
    let (_, recovered) = reopen(&disk, log);
    assert_eq!((recovered.hard_state, recovered.entries.len()), (hard_state(5, 1, 6), 6));
}

#[test]
fn after_a_failure_nothing_is_done_until_it_is_opened_again() {
    for op in [DiskOp::Write, DiskOp::SyncData] {
        let disk = SimDisk::new(1);
        let (mut log, _) = open(&disk).unwrap();
        log.append(&entries(1..=1, 1, 1000)).unwrap();
        disk.fail_next(op, ErrorKind::Other);
        assert!(matches!(log.sync(), Err(LogError::Disk(_))));
        assert!(matches!(log.sync(), Err(LogError::Stopped { .. })));
        assert!(matches!(log.append(&entries(2..=2, 1, 1)), Err(LogError::Stopped { .. })));
        assert!(matches!(log.compact(LogIndex(1)), Err(LogError::Stopped { .. })));
        let (mut log, recovered) = reopen(&disk, log);
        let next = recovered.entries.len() as u64 + 1;
        log.append(&entries(next..=next, 1, 1)).unwrap();
        log.sync().unwrap();
    }
}

#[test]
fn what_is_read_after_a_failed_sync_is_made_durable_before_it_is_told() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        log.append(&entries(1..=4, 1, 1500)).unwrap();
        disk.fail_next(DiskOp::SyncData, ErrorKind::Other);
        log.sync().unwrap_err();
        let (log, recovered) = reopen(&disk, log);
        assert_eq!(recovered.entries.len(), 4, "the cache still has them");
        drop(log);
        disk.crash(seed);
        assert_eq!(open(&disk).unwrap().1.entries, recovered.entries);
    }
}

#[test]
fn a_segment_that_was_made_ahead_is_the_next_one() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    assert!(log.order_spare().is_none(), "the first one is empty");
    log.append(&entries(1..=3, 1, 1500)).unwrap();
    log.sync().unwrap();
    let order = log.order_spare().unwrap();
    assert!(log.order_spare().is_none(), "one is enough");
    log.take_spare(Some(order.make().unwrap()));
    assert!(disk.names().contains(&SPARE_NAME.to_owned()));
    log.append(&entries(4..=6, 1, 1500)).unwrap();
    log.sync().unwrap();
    assert_eq!(log.segments(), 2);
    assert!(!disk.names().contains(&SPARE_NAME.to_owned()));
    let (mut log, recovered) = reopen(&disk, log);
    assert_eq!(recovered.entries, entries(1..=6, 1, 1500).entries);

    // One that a batch does not fit into is left, and removed when the log is opened.
    let order = log.order_spare().unwrap();
    log.take_spare(Some(order.make().unwrap()));
    log.append(&entries(7..=7, 1, 2 * SEGMENT_BYTES_MIN as usize)).unwrap();
    log.sync().unwrap();
    let (_, recovered) = reopen(&disk, log);
    assert_eq!(recovered.entries.len(), 7);
    assert!(!disk.names().contains(&SPARE_NAME.to_owned()));
}

#[test]
fn a_full_disk_can_still_be_compacted() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    disk.set_capacity(Some(3 * SEGMENT_BYTES_MIN));
    let mut last = 0;
    while log.segments() < 3 || log.active.end() + 1500 + MARK_RESERVE_BYTES <= log.active.length {
        last += 1;
        log.append(&entries(last..=last, 1, 1000)).unwrap();
    }
    log.sync().unwrap();
    log.compact(LogIndex(last)).unwrap();
    assert_eq!(log.segments(), 1);
    log.append(&entries(last + 1..=last + 3, 1, 1000)).unwrap();
    log.sync().unwrap();
}

#[test]
fn a_log_is_only_made_where_it_is_asked_for() {
    let disk = SimDisk::new(1);
    let error = Log::open(disk.mount().unwrap(), small(false)).unwrap_err();
    assert!(matches!(error, LogError::NoLog { .. }), "{error}");
    assert!(disk.names().is_empty());
    drop(open(&disk).unwrap());
    Log::open(disk.mount().unwrap(), small(false)).unwrap();
}
