//! Bytes that changed after they were durable: recovered exactly, or refused with the place.

use super::*;
use crate::disk::{Chance, SECTOR_BYTES};
use proptest::prelude::*;

/// A log of a few segments, all of it synced in several steps, and what it holds.
fn synced_log() -> (Vec<(String, Vec<u8>)>, Recovered) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=24 {
        log.append(&entries(index..=index, 1, 100 * (index as usize % 17))).unwrap();
        if index % 4 == 0 {
            log.append(&LogBatch { hard_state: Some(hard_state(1, 2, index)), ..LogBatch::default() }).unwrap();
            log.sync().unwrap();
        }
    }
    log.compact(LogIndex(3)).unwrap();
    assert!(log.segments() >= 3);
    drop(log);
    let files = disk.names().into_iter().map(|name| (name.clone(), disk.contents(&name).unwrap())).collect();
    let recovered = open(&disk).unwrap().1;
    (files, recovered)
}

fn disk_of(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(2);
    for (name, bytes) in files {
        disk.tamper(name, Some(bytes));
    }
    disk
}

#[test]
fn one_bit_flipped_anywhere_is_recovered_exactly_or_refused() {
    let (files, expected) = synced_log();
    let mut chance = Chance::new(3);
    let (mut exact, mut refused) = (0, 0);
    for (name, bytes) in &files {
        for byte in 0..bytes.len() as u64 {
            if !chance.one_in(8) {
                continue;
            }
            let disk = disk_of(&files);
            assert!(disk.flip_bit(name, byte * 8 + chance.below(8)));
            match open(&disk) {
                Ok((_, recovered)) => {
                    assert_eq!(Recovered { cut: None, ..recovered }, expected, "{name} byte {byte}");
                    exact += 1;
                }
                Err(LogError::Damaged { .. } | LogError::Version { .. }) => refused += 1,
                Err(error) => panic!("{name} byte {byte}: {error}"),
            }
        }
    }
    assert!(exact > 200 && refused > 1000, "{exact} exact, {refused} refused");
}

/// A good checksum does not make a number possible.
#[test]
fn a_header_with_an_impossible_length_is_refused() {
    let (files, _) = synced_log();
    for length in [0, 128, SEGMENT_BYTES_MAX + 1, u64::MAX] {
        let mut files = files.clone();
        let (_, bytes) = files.last_mut().unwrap();
        let (header, _) = format::SegmentHeader::decode(bytes).unwrap();
        bytes[..HEADER_BYTES].copy_from_slice(&format::SegmentHeader { length, ..header }.encode().0);
        assert!(matches!(open(&disk_of(&files)), Err(LogError::Damaged { offset: 0, .. })), "{length}");
    }
}

#[test]
fn a_lost_sector_that_later_records_say_was_durable_is_refused() {
    let (files, _) = synced_log();
    let (name, bytes) = files.last().unwrap();
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let mut refused = 0;
    // All but the last sync's sectors: those cannot be told from ones that a crash tore.
    for sector in 0..used / SECTOR_BYTES - 2 {
        let mut bytes = bytes.clone();
        bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
        let disk = disk_of(&files);
        disk.tamper(name, Some(&bytes));
        match open(&disk) {
            Err(LogError::Damaged { .. }) => refused += 1,
            other => panic!("sector {sector}: {:?}", other.map(|(_, recovered)| recovered)),
        }
    }
    assert!(refused >= 3, "{refused}");
}

#[test]
fn a_damaged_last_record_is_not_taken_for_a_torn_one_though_it_carries_zeros() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&entries(3..=3, 1, 4000)).unwrap_err();
    log.append(&LogBatch { snapshot_mark: Some(id(2, 1)), ..entries(3..=3, 1, 4000) }).unwrap();
    log.sync().unwrap();
    drop(log);
    assert!(disk.flip_bit("0000000000000001.log", 8 * 700));
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Damaged { offset: 512, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("0000000000000001.log") && text.contains("Hint: ") && text.contains("rebuild"), "{text}");
}

#[test]
fn missing_and_misplaced_segments_are_refused() {
    let (files, _) = synced_log();
    for (at, (name, _)) in files.iter().enumerate() {
        let disk = disk_of(&files);
        disk.tamper(name, None);
        let opened = open(&disk);
        if at + 1 < files.len() {
            assert!(matches!(opened, Err(LogError::Missing { .. })), "{name}: {:?}", opened.map(|found| found.1));
        }
    }
    let disk = disk_of(&files);
    disk.tamper(&files[1].0, Some(&files[0].1));
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })), "a copy of another segment");
    let disk = disk_of(&files[..1]);
    disk.tamper("0000000000000003.log", Some(&files[1].1));
    assert!(matches!(open(&disk), Err(LogError::Missing { .. })), "a gap in the numbers");
    let disk = disk_of(&files);
    disk.tamper(&files[0].0, Some(&files[0].1[..4096]));
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })), "a file that was cut");
}

#[test]
fn a_segment_of_another_history_of_the_same_log_is_refused() {
    let history = |term| {
        let disk = SimDisk::new(1);
        let (mut log, _) = open(&disk).unwrap();
        for index in 1..=20 {
            log.append(&entries(index..=index, term, 1000)).unwrap();
        }
        log.sync().unwrap();
        disk
    };
    let (one, other) = (history(1), history(2));
    let name = "0000000000000002.log";
    one.crash(0);
    one.tamper(name, other.contents(name).as_deref());
    assert!(matches!(open(&one), Err(LogError::Damaged { .. })));
}

#[test]
fn logs_of_others_and_of_other_versions_are_refused() {
    let (files, _) = synced_log();
    let disk = disk_of(&files);
    let as_node = |cluster, node| {
        let identity = LogIdentity { cluster: ClusterId([cluster; 16]), node: NodeId(node) };
        Log::open(disk.mount().unwrap(), LogOptions { identity, ..small(true) })
    };
    assert!(matches!(as_node(8, 3), Err(LogError::WrongOwner { .. })));
    assert!(matches!(as_node(7, 4), Err(LogError::WrongOwner { .. })));
    drop(as_node(7, 3).unwrap());
    disk.flip_bit(&files[0].0, 8 * 8 + 1);
    assert!(matches!(as_node(7, 3), Err(LogError::Version { found: 3, known: 1, .. })));
}

#[test]
fn refusing_changes_nothing() {
    let (mut files, _) = synced_log();
    let at = files[0].1.len() / 2;
    files[0].1[at] ^= 1;
    let disk = disk_of(&files);
    open(&disk).unwrap_err();
    for (name, bytes) in &files {
        assert_eq!(disk.contents(name).as_ref(), Some(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_in_place_of_segments_are_refused(
        first in prop::collection::vec(any::<u8>(), 1..2000),
        second in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let disk = SimDisk::new(1);
        disk.tamper("0000000000000001.log", Some(&first));
        disk.tamper("0000000000000002.log", Some(&second));
        if first.iter().any(|byte| *byte != 0) {
            prop_assert!(open(&disk).is_err());
        }
    }

    #[test]
    fn a_run_of_other_bytes_never_gives_another_history(
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..1500),
    ) {
        let (mut files, expected) = synced_log();
        let file = file.index(files.len());
        let bytes = &mut files[file].1;
        let at = at.index(bytes.len());
        let count = with.len().min(bytes.len() - at);
        bytes[at..at + count].copy_from_slice(&with[..count]);
        if let Ok((_, recovered)) = open(&disk_of(&files)) {
            // Only the end of the last segment can look like a tear.
            let kept: Vec<LogEntry> =
                recovered.entries.into_iter().filter(|entry| entry.index > expected.compacted.index).collect();
            prop_assert!(expected.entries.starts_with(&kept));
            prop_assert!(recovered.hard_state.commit <= expected.hard_state.commit);
            if kept != expected.entries {
                prop_assert_eq!(file, files.len() - 1);
            }
        }
    }
}
