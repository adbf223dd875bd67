//! Bytes from a disk or a network that are not what they should be: refused, whatever they are, and at no great cost.

#![allow(clippy::unwrap_used)]

use gavel_types::limits::{ENTRY_BYTES_MAX, ENTRY_ITEMS_MAX};
use gavel_types::{Key, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId};
use gavel_wire::Author;
use gavel_wire::codec::{DecodeError, ENTRY_FORMAT, MESSAGE_BYTES_MAX, MESSAGE_FORMAT, decode, encode};
use gavel_wire::{
    ChangeRow, Content, Entry, Extent, Guard, Item, Message, Mutation, Plan, Record, Request, RequestBody, Version,
};
use proptest::prelude::*;

const V: VolumeId = VolumeId(1);

fn version(end: u64) -> Version {
    let content = Content::Inline(vec![7; end as usize].into());
    Version { create: Tid(9), firm: Tid(8), record: Record::Extent(Extent { len: end, content }) }
}

fn entry(items: usize) -> Entry {
    let key = Key::extent(V, ObjectId(5), 3);
    let guards = vec![Guard::Unchanged { key: key.clone(), at: Tid(1 << 60) }];
    let plan = Plan { mutations: vec![Mutation::Put { key, record: version(3).record }] };
    let body = RequestBody::Commit { guards, plan, author: Author::default(), stored_as_of: Tid::MAX };
    let request = Request { session: SessionId(1 << 60), seq: Seq(300), seen: Seq(299), body };
    let items = (0..items).map(|_| Item::Request(request.clone())).collect();
    Entry { tid: Tid(1 << 60), items }
}

fn rows() -> Message {
    let row = |object| ChangeRow { tid: Tid(3), key: Key::extent(V, ObjectId(object), 3), version: Some(version(3)) };
    Message::Changes { ticket: 1, changes: (0..5).map(row).collect(), done: false }
}

#[test]
fn a_cut_or_longer_text_is_refused() {
    let (entry, message, version) = (entry(3).encode(), rows().encode(), version(30).encode());
    assert!(Entry::decode(&entry).is_ok() && Message::decode(&message).is_ok() && Version::decode(&version).is_ok());
    for len in 0..entry.len() {
        assert!(Entry::decode(&entry[..len]).is_err(), "{len}");
    }
    for len in 0..message.len() {
        assert!(Message::decode(&message[..len]).is_err(), "{len}");
    }
    for len in 0..version.len() {
        assert!(Version::decode(&version[..len]).is_err(), "{len}");
    }
    assert!(Entry::decode(&[&entry[..], &[0]].concat()).is_err());
    assert!(Message::decode(&[&message[..], &[0]].concat()).is_err());
    assert!(Version::decode(&[&version[..], &[0]].concat()).is_err());
}

#[test]
fn another_format_is_named() {
    let mut bytes = entry(1).encode();
    bytes[0] = 77;
    let error = DecodeError::UnknownFormat { what: "log entry", found: 77, known: ENTRY_FORMAT };
    assert_eq!(Entry::decode(&bytes), Err(error.clone()));
    assert!(error.to_string().contains("format 77"));
}

#[test]
fn what_is_too_long_is_refused_unread() {
    let error = DecodeError::TooLarge { what: "log entry", len: ENTRY_BYTES_MAX + 1, max: ENTRY_BYTES_MAX };
    assert_eq!(Entry::decode(&vec![ENTRY_FORMAT; ENTRY_BYTES_MAX + 1]), Err(error));
    assert!(Message::decode(&vec![MESSAGE_FORMAT; MESSAGE_BYTES_MAX + 1]).is_err());
}

#[test]
fn an_entry_has_so_many_items_at_most_and_room_for_their_tids() {
    assert!(Entry::decode(&entry(ENTRY_ITEMS_MAX).encode()).is_ok());
    assert!(Entry::decode(&entry(ENTRY_ITEMS_MAX + 1).encode()).is_err());
    let last = u64::MAX - ENTRY_ITEMS_MAX as u64;
    let at = |tid| Entry { tid: Tid(tid), items: Vec::new() }.encode();
    assert!(Entry::decode(&at(last)).is_ok());
    assert!(Entry::decode(&at(last + 1)).is_err());
}

/// A length of 2^60 elements, behind which nothing comes: room is made for what is there, not for what is claimed.
#[test]
fn a_length_that_nothing_backs_is_refused() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let submit = Message::Submit(Vec::new()).encode();
    assert!(Message::decode(&[&submit[..submit.len() - 1], &huge].concat()).is_err());
    let log = Message::Log(Vec::new().into()).encode();
    assert!(Message::decode(&[&log[..log.len() - 1], &huge].concat()).is_err());
    let entry = Entry { tid: Tid(1), items: Vec::new() }.encode();
    assert!(Entry::decode(&[&entry[..entry.len() - 1], &huge].concat()).is_err());
}

#[test]
fn a_key_that_is_none_is_refused_inside_an_entry() {
    let good = entry(1).encode();
    let key = Key::extent(V, ObjectId(5), 3);
    let at = good.windows(key.as_bytes().len()).position(|window| window == key.as_bytes()).unwrap();
    let mut bad = good;
    bad[at + 12] = 99;
    assert!(Entry::decode(&bad).is_err(), "there is no such domain");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_come_back_as_they_were(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(first) = bytes.first_mut() {
            *first = ENTRY_FORMAT;
        }
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
        if let Ok(version) = Version::decode(&bytes) {
            prop_assert_eq!(Version::decode(&version.encode()), Ok(version));
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_is_another_entry(items in 1usize..4, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let entry = entry(items);
        let mut bytes = entry.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Entry::decode(&bytes) {
            prop_assert_ne!(other, entry);
        }
    }

    #[test]
    fn numbers_come_back(tid in any::<u64>(), node in any::<u64>(), index in any::<u64>(), digest in any::<[u8; 32]>()) {
        let items = vec![
            Item::SessionOpen { node: NodeId(node), incarnation: index, term_ms: 5_000, instead_of: None },
            Item::Checkpoint { index: LogIndex(index), digest },
        ];
        let value = (Tid(tid), items);
        let bytes = encode(3, &value);
        prop_assert_eq!(decode("value", 3, 1000, &bytes), Ok(value));
    }
}

#[test]
fn a_message_of_the_log_is_read_where_it_lies() {
    let log = Message::Log(vec![7; 100_000].into());
    let bytes = bytes::Bytes::from(log.encode());
    let read = Message::decode_shared(&bytes).unwrap();
    assert_eq!(read, log);
    let Message::Log(inner) = read else { panic!("another message") };
    assert!(bytes.as_ptr_range().contains(&inner.as_ptr()), "it was copied");
    // Of all else it says what the other way says.
    let clock = Message::Clock { wall_ns: 5 }.encode();
    let longer = [&bytes[..], &[0]].concat();
    let too_large = [&bytes[..2], &vec![0; MESSAGE_BYTES_MAX]].concat();
    let cut = (0..40).map(|len| bytes[..len].to_vec());
    for bytes in [clock, longer, too_large].into_iter().chain(cut) {
        let other = Message::decode(&bytes);
        assert_eq!(Message::decode_shared(&bytes.into()), other);
    }
}
