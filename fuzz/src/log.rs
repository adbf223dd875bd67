//! A directory of log segments with arbitrary contents.
//!
//! An input is a first byte and a sequence of parts (see [`crate::parts`]), the contents of segments 1, 2, ... . If the
//! first byte is odd, the checksums are made good first.

use crate::{parts, seal};
use gavel_store::disk::SimDisk;
use gavel_store::log::{EntryId, HardState, Log, LogBatch, LogEntry, LogError, LogIdentity, LogOptions, Recovered};
use gavel_types::{ClusterId, LogIndex, NodeId, Term};

const WHO: LogIdentity = LogIdentity { cluster: ClusterId([7; 16]), node: NodeId(1) };
const SEGMENT_BYTES: u64 = gavel_store::log::SEGMENT_BYTES_MIN;
/// Segments of an input that are looked at.
const SEGMENTS_MAX: usize = 6;

fn open(disk: &SimDisk) -> Result<(Log, Recovered), LogError> {
    let mut options = LogOptions::new(WHO, false);
    options.segment_bytes = SEGMENT_BYTES;
    Log::open(disk.mount().expect("nobody else has it"), options)
}

fn name(sequence: usize) -> String {
    format!("{sequence:016x}.log")
}

/// Opens the log, appends to it, and opens it again.
///
/// # Panics
/// If that panics, a refused log was changed, or an opened one does not come back as it was.
pub fn run(bytes: &[u8]) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return false };
    let disk = SimDisk::new(1);
    for (number, part) in parts::split(rest).take(SEGMENTS_MAX).enumerate() {
        let mut file = part.to_vec();
        if first % 2 == 1 {
            seal::log_segment(&mut file);
        }
        disk.tamper(&name(number + 1), Some(&file));
    }
    let before = contents(&disk);
    match open(&disk) {
        Ok((log, recovered)) => {
            go_on(&disk, log, &recovered);
            true
        }
        Err(LogError::Disk(error)) => panic!("nothing is wrong with the disk: {error}"),
        Err(_) => {
            assert_eq!(contents(&disk), before, "a log that was refused was changed");
            false
        }
    }
}

fn contents(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    disk.names().into_iter().map(|name| (name.clone(), disk.contents(&name))).collect()
}

fn go_on(disk: &SimDisk, log: Log, recovered: &Recovered) {
    drop(log);
    let (mut log, again) = open(disk).expect("what was opened opens again");
    let same = |a: &Recovered, b: &Recovered| {
        (a.hard_state, a.compacted, &a.entries) == (b.hard_state, b.compacted, &b.entries)
    };
    assert!(same(recovered, &again), "opened as {recovered:?}, then as {again:?}");
    let (hard_state, _, last) = log.ends();
    let (Some(index), Some(term)) = (last.index.0.checked_add(1), hard_state.term.0.max(last.term.0).checked_add(1))
    else {
        return;
    };
    let entry = LogEntry { index: LogIndex(index), term: Term(term), data: vec![5; 100] };
    let next = HardState { term: Term(term), vote: None, commit: hard_state.commit };
    let batch = LogBatch { hard_state: Some(next), entries: vec![entry.clone()], snapshot_mark: None };
    // A log may have numbers after which it takes no more; then it says so, and is as it was.
    let appended = log.append(&batch).and_then(|()| log.sync()).is_ok();
    drop(log);
    let (_, last) = open(disk).expect("what was appended to opens again");
    assert_eq!(last.entries.last() == Some(&entry), appended, "{:?}", last.entries.last());
}

/// A log of one segment, and one of several with compaction, truncation and a snapshot.
pub fn seeds() -> Vec<Vec<u8>> {
    let short = SimDisk::new(1);
    fill(&short, 3, 40);
    let long = SimDisk::new(1);
    fill(&long, 40, 900);
    let files = |disk: &SimDisk| {
        let all: Vec<Vec<u8>> = disk.names().iter().filter_map(|name| disk.contents(name)).collect();
        [1u8, 0].map(|first| {
            let mut seed = vec![first];
            seed.extend(parts::join(all.iter().map(Vec::as_slice)));
            seed
        })
    };
    [files(&short), files(&long)].concat()
}

fn fill(disk: &SimDisk, entries: u64, bytes: usize) {
    let mut options = LogOptions::new(WHO, true);
    options.segment_bytes = SEGMENT_BYTES;
    let (mut log, _) = Log::open(disk.mount().expect("a new disk"), options).expect("an empty directory");
    let batch = |index: u64, term: u64| LogBatch {
        hard_state: Some(HardState { term: Term(term), vote: Some(NodeId(2)), commit: LogIndex(index / 2) }),
        entries: vec![LogEntry { index: LogIndex(index), term: Term(term), data: vec![index as u8; bytes] }],
        snapshot_mark: None,
    };
    for index in 1..=entries {
        log.append(&batch(index, 1)).and_then(|()| log.sync()).expect("a batch in order");
    }
    log.append(&batch(entries, 2)).expect("another entry in place of the last");
    let mark = EntryId { index: LogIndex(entries + 9), term: Term(2) };
    if entries < 10 {
        log.append(&LogBatch { snapshot_mark: Some(mark), ..LogBatch::default() }).expect("a snapshot");
    }
    log.sync().expect("the disk does not fail");
}
