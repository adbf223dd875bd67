use super::*;
use proptest::prelude::*;

fn header() -> SegmentHeader {
    SegmentHeader {
        identity: LogIdentity { cluster: ClusterId([0xc1; 16]), node: NodeId(0x0102) },
        sequence: 7,
        length: 0x0100_0000,
        previous_end: 0x1234,
        previous_chain: 0x1122_3344_5566_7788,
        hard_state: HardState { term: Term(5), vote: Some(NodeId(3)), commit: LogIndex(40) },
        compacted: EntryId { index: LogIndex(30), term: Term(4) },
        last: EntryId { index: LogIndex(41), term: Term(5) },
    }
}

fn batch() -> LogBatch {
    let entry = |index, data: &[u8]| LogEntry { index: LogIndex(index), term: Term(9), data: data.to_vec() };
    LogBatch {
        hard_state: Some(HardState { term: Term(9), vote: None, commit: LogIndex(2) }),
        entries: vec![entry(0x0b, b"abc"), entry(0x0c, b"")],
        snapshot_mark: Some(EntryId { index: LogIndex(0x0a), term: Term(8) }),
    }
}

fn place() -> Place {
    Place { salt: 0xfeed, offset: 512, synced_to: 512, chain: 0xfeed }
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

/// If this fails, the format has changed: give it a new `VERSION`, and say what becomes of logs of the old one.
#[test]
fn golden_bytes_of_the_segment_header() {
    let (bytes, sum) = header().encode();
    let golden = "474156454c4c4f470100000000020000\n\
                  c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1\n\
                  02010000000000000700000000000000\n\
                  00000001000000003412000000000000\n\
                  88776655443322110500000000000000\n\
                  03000000000000002800000000000000\n\
                  1e000000000000000400000000000000\n\
                  29000000000000000500000000000000\n";
    assert_eq!(hex(&bytes[..128]), golden);
    assert!(bytes[128..504].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&bytes[504..]), "1192a6ad1960affc\n");
    assert_eq!(SegmentHeader::decode(&bytes), Ok((header(), sum)));
    assert_eq!(VERSION, 1);
}

#[test]
fn golden_bytes_of_a_batch_record() {
    let body = encode_batch(&batch());
    let golden_body = "03000000020000000900000000000000\n\
                       00000000000000000200000000000000\n\
                       0a000000000000000800000000000000\n\
                       0b000000000000000900000000000000\n\
                       03000000616263090000000000000000\n\
                       000000\n";
    assert_eq!(hex(&body), golden_body);
    let mut record = Vec::new();
    encode_record(&mut record, RecordKind::Batch, &body, place());
    assert_eq!(
        hex(&record),
        "474c5231010000005300000000020000\n\
                  edfe0000000000000e01a94f28e6e471\n\
                  7b2dc9b495e8dd53d01d3ad820177b48\n\
                  dbaefda7c192cffb214718e91a2e9d36\n\
                  37fc3d6bb661a0fbba4cee247488a1f3\n\
                  3fd1f4cd1b289712fe5ee97d0671b0f6\n\
                  69aad6b81540754454d441d20a0fee39\n\
                  82c86369b959caac75ff4b9f97745e47\n"
    );
}

#[test]
fn golden_bytes_of_a_mark_record() {
    let body = encode_mark(EntryId { index: LogIndex(0x1f), term: Term(6) });
    assert_eq!(hex(&body), "1f000000000000000600000000000000\n");
    let mut record = Vec::new();
    encode_record(&mut record, RecordKind::Mark, &body, place());
    assert_eq!(
        hex(&record),
        "474c5231020000001000000000020000\n\
                  edfe00000000000094ca0389e8bf61b8\n\
                  c10cd4b6f248ec27cc1d3ad822177b48\n\
                  d4aefda7c192cffb\n"
    );
}

#[test]
fn a_record_is_taken_only_where_it_was_written() {
    let body = encode_batch(&batch());
    let mut record = Vec::new();
    let chain = encode_record(&mut record, RecordKind::Batch, &body, place());
    let header = RecordHeader::decode(&record, 0xfeed, 512).unwrap();
    assert_eq!((header.sum, header.chain, header.synced_to), (chain, 0xfeed, 512));
    assert_eq!(header.body(&record[RECORD_HEADER_BYTES..], 0xfeed, 512), Some(body.clone()));
    assert_eq!(decode_batch(&body), Some(batch()));
    assert_eq!(RecordHeader::decode(&record, 0xfeed, 520), None, "moved within the segment");
    assert_eq!(RecordHeader::decode(&record, 0xbeef, 512), None, "of another segment");
}

#[test]
fn a_header_of_another_version_is_told_from_a_damaged_one() {
    let (mut bytes, _) = header().encode();
    assert_eq!(SegmentHeader::decode(&[0; HEADER_BYTES]), Err(HeaderFault::Blank));
    bytes[40] ^= 1;
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Damaged));
    bytes[8] = 2;
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Version(2)));
}

#[test]
fn no_word_of_a_stored_body_of_zeros_is_zero() {
    let mut record = Vec::new();
    encode_record(&mut record, RecordKind::Batch, &[0; 100_000], place());
    assert!(record[RECORD_HEADER_BYTES..].chunks(RECORD_ALIGN).all(|word| word != [0; RECORD_ALIGN]));
}

fn entries() -> impl Strategy<Value = Vec<LogEntry>> {
    let data = prop::collection::vec(any::<u8>(), 0..40);
    (1..u64::MAX / 2, prop::collection::vec((any::<u64>(), data), 0..8)).prop_map(|(first, list)| {
        let entry = |(number, (term, data)): (usize, (u64, Vec<u8>))| LogEntry {
            index: LogIndex(first + number as u64),
            term: Term(term),
            data,
        };
        list.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn batches_come_back_as_they_were(
        entries in entries(),
        state in prop::option::of(any::<(u64, u64, u64)>()),
        mark in prop::option::of(any::<(u64, u64)>()),
    ) {
        let batch = LogBatch {
            hard_state: state.map(|(term, vote, commit)| HardState {
                term: Term(term),
                vote: (vote != 0).then_some(NodeId(vote)),
                commit: LogIndex(commit),
            }),
            entries,
            snapshot_mark: mark.map(|(index, term)| EntryId { index: LogIndex(index), term: Term(term) }),
        };
        let body = encode_batch(&batch);
        prop_assert_eq!(body.len(), batch_body_bytes(&batch));
        // Put together in place, behind what is there.
        let (mut one, mut other) = (vec![7; 24], vec![7; 24]);
        let chain = encode_record(&mut one, RecordKind::Batch, &body, place());
        prop_assert_eq!(chain, encode_batch_record(&mut other, &batch, place()));
        prop_assert_eq!(one, other);
        prop_assert_eq!(decode_batch(&body), Some(batch));
    }

    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..700), salt: u64, offset: u64) {
        let _ = SegmentHeader::decode(&bytes);
        let _ = RecordHeader::decode(&bytes, salt, offset);
        let _ = decode_batch(&bytes);
        let _ = decode_mark(&bytes);
    }

    #[test]
    fn a_batch_with_other_bytes_is_another_batch_or_none(at: prop::sample::Index, value: u8) {
        let body = encode_batch(&batch());
        let mut other = body.clone();
        other[at.index(body.len())] = value;
        if let Some(read) = decode_batch(&other) {
            prop_assert_eq!(encode_batch(&read), other);
        }
    }
}
