use super::*;
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Result<Message, Refused> {
    super::decode(&Bytes::copy_from_slice(bytes))
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    let data = Bytes::copy_from_slice(data);
    LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Data, data }.to_raft()
}

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.to, message.from, message.term) = (2, 1, 7);
    message
}

fn append() -> Message {
    let mut append = message(MessageType::MsgAppend);
    (append.index, append.log_term, append.commit) = (3, 5, 4);
    append.set_entries(vec![entry(4, 6, b"abc"), entry(5, 7, b"")].into());
    append
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    heartbeat.commit = 9;
    heartbeat.set_context(raft_bytes(Bytes::from_static(&[8; 8])));
    let zeros = |count: usize| "0000000000000000".repeat(count);
    let ids = "020000000000000001000000000000000700000000000000";
    assert_eq!(
        hex(&encode(heartbeat, 1024)[0]),
        format!("01060000{ids}{}0900000000000000{}080808080808080808", zeros(2), zeros(3))
    );
    assert_eq!(
        hex(&encode(append(), 1024)[0]),
        format!(
            "01010000{ids}030000000000000005000000000000000400000000000000{}02000000\
             00060000000000000003000000616263\
             00070000000000000000000000",
            zeros(3)
        )
    );
}

#[test]
fn every_type_survives_the_way() {
    for (_, kind) in TYPES {
        let mut sent = if kind == MessageType::MsgAppend { append() } else { message(kind) };
        sent.reject = true;
        (sent.commit_term, sent.reject_hint, sent.request_snapshot) = (6, 8, 9);
        if kind == MessageType::MsgSnapshot {
            let mut snapshot = Snapshot::default();
            (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (44, 5);
            snapshot.mut_metadata().mut_conf_state().set_voters(vec![1, 2, 3]);
            snapshot.mut_metadata().mut_conf_state().set_learners(vec![9]);
            snapshot.data = raft_bytes(Bytes::from_static(b"state"));
            sent.set_snapshot(snapshot);
        }
        if kind == MessageType::MsgRequestVote {
            sent.set_context(raft_bytes(Bytes::from_static(TRANSFER_CONTEXT)));
        }
        let packets = encode(sent.clone(), 1 << 20);
        assert_eq!(packets.len(), 1);
        assert_eq!(decode(&packets[0]), Ok(sent));
    }
}

#[test]
fn a_large_append_becomes_several_that_continue_each_other() {
    let mut sent = append();
    let entries: Vec<Entry> = (4..=23).map(|index| entry(index, 6 + u64::from(index > 10), &[1; 300])).collect();
    sent.set_entries(entries.clone().into());
    let packets = encode(sent, 1024);
    assert!(packets.len() > 5);
    let (mut base, mut seen) = ((3, 5), Vec::new());
    for packet in packets {
        assert!(packet.len() <= 1024);
        let mut part = decode(&packet).unwrap();
        assert_eq!((part.index, part.log_term), base);
        seen.extend(part.take_entries());
        base = seen.last().map(|entry: &Entry| (entry.index, entry.term)).unwrap();
    }
    assert_eq!(seen, entries);
}

#[test]
fn what_makes_up_most_of_a_message_shares_its_memory() {
    let shared = |lens: &[usize]| -> Vec<bool> {
        let mut sent = append();
        let entries: Vec<Entry> = lens.iter().zip(4..).map(|(len, index)| entry(index, 6, &vec![7; *len])).collect();
        sent.set_entries(entries.clone().into());
        let packet = Bytes::from(encode(sent, 1 << 20).remove(0));
        let read: Vec<Entry> = super::decode(&packet).unwrap().take_entries().into_iter().collect();
        assert_eq!(read, entries);
        read.iter().map(|entry| packet.as_ptr_range().contains(&entry.get_data().as_ptr())).collect()
    };
    assert_eq!(shared(&[SHARED_BYTES_MIN, 100]), [true, false]);
    assert_eq!(shared(&[SHARED_BYTES_MIN - 1, 100]), [false, false], "it is small");
    assert_eq!(
        shared(&[SHARED_BYTES_MIN, 2 * SHARED_BYTES_MIN]),
        [false, true],
        "more than as much again would stay with it"
    );
}

#[test]
fn contradictions_are_refused() {
    let refuse = |change: &dyn Fn(&mut Message)| {
        let mut message = append();
        change(&mut message);
        assert!(decode(&encode(message, 1 << 20)[0]).is_err());
    };
    refuse(&|message| message.term = 0);
    refuse(&|message| message.index = u64::MAX);
    refuse(&|message| message.log_term = 0);
    refuse(&|message| message.log_term = 8);
    refuse(&|message| message.set_entries(vec![entry(4, 4, b"")].into()));
    refuse(&|message| message.set_entries(vec![entry(4, 8, b"")].into()));
    let good = encode(append(), 1 << 20).remove(0);
    for (place, value) in [(0, 2), (1, 0), (1, 11), (2, 4), (2, 2), (3, 1)] {
        let mut bad = good.clone();
        bad[place] = value;
        assert!(decode(&bad).is_err(), "byte {place} = {value}");
    }
    let mut long = good.clone();
    long.push(0);
    assert!(decode(&long).is_err());
    (0..good.len()).for_each(|end| assert!(decode(&good[..end]).is_err()));
    assert!(matches!(decode(&vec![1; MESSAGE_BYTES_MAX + 1]), Err(Refused::TooLarge { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), code in 0u8..12) {
        let _ = decode(&bytes);
        if bytes.len() > 4 {
            bytes[..4].copy_from_slice(&[VERSION, code, 0, 0]);
            let _ = decode(&bytes);
        }
    }
}
