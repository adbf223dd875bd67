//! What a mirror and a peer of its source say to each other.

use gavel_mirror::follow::{FOLLOW_END_BYTES_MAX, FOLLOW_PIECE_BYTES_MAX};
use gavel_mirror::{Ahead, FollowError, Greeting, Hearing, Said};
use gavel_types::{ClusterId, Tid, VolumeId};
use gavel_wire::FollowKey;
use proptest::prelude::*;

fn greeting() -> Greeting {
    Greeting {
        cluster: ClusterId([7; 16]),
        volume: VolumeId(3),
        made: Tid(300),
        name: "copy".into(),
        key: FollowKey([8; 32]),
        from: Tid(5),
        partial: None,
        only_asks: false,
    }
}

fn all_said() -> Vec<Said> {
    vec![
        Said::Bytes(b"abc".to_vec()),
        Said::Ahead(Ahead { now: Tid(300), transactions: 2, more: true, bytes: 5 }),
        Said::End("no".into()),
        Said::Reached(Tid(0x0102)),
    ]
}

#[test]
fn golden_bytes() {
    let mut expected = b"GVLF\x00\x02".to_vec();
    expected.extend_from_slice(&[7; 16]);
    expected.extend_from_slice(b"\x03\xac\x02\x04copy");
    expected.extend_from_slice(&[8; 32]);
    expected.extend_from_slice(&[5, 0, 0]);
    assert_eq!(greeting().encode(), expected);
    assert_eq!(Greeting::decode(&expected), Ok(greeting()));
    let bytes: [&[u8]; 4] = [
        b"\x00\x00\x00\x00\x03abc",
        b"\x01\x00\x00\x00\x05\xac\x02\x02\x01\x05",
        b"\x02\x00\x00\x00\x02no",
        b"\x03\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x01\x02",
    ];
    for (said, bytes) in all_said().iter().zip(bytes) {
        assert_eq!(said.encode(), bytes, "{said:?}");
    }
}

#[test]
fn what_is_said_is_heard_however_it_is_cut() {
    let bytes: Vec<u8> = all_said().iter().flat_map(Said::encode).collect();
    let (mut hearing, mut heard) = (Hearing::default(), Vec::new());
    for byte in bytes {
        hearing.push(&[byte]);
        heard.extend(hearing.take().unwrap());
    }
    assert_eq!(heard, all_said());
}

#[test]
fn what_nobody_says_is_refused_before_it_has_come() {
    let refused = |bytes: &[u8]| {
        let mut hearing = Hearing::default();
        hearing.push(bytes);
        hearing.take().unwrap_err()
    };
    let (len, max) = (u32::MAX as usize, FOLLOW_PIECE_BYTES_MAX);
    assert_eq!(refused(b"\x00\xff\xff\xff\xff"), FollowError::TooLong { len, max });
    assert_eq!(refused(b"\x04\x00\x00\x00\x00"), FollowError::Malformed(4));
    assert_eq!(refused(b"\x03\x00\x00\x00\x01\x00"), FollowError::Malformed(3));
    assert_eq!(Greeting::decode(b"GVLF\x00\x03anything"), Err(FollowError::Version(3)));
    assert_eq!(Greeting::decode(b"GVLH\x00\x02"), Err(FollowError::NotAGreeting));
    let mut long = greeting().encode();
    long.push(0);
    assert_eq!(Greeting::decode(&long), Err(FollowError::NotAGreeting), "bytes behind the greeting");
}

#[test]
fn a_key_is_not_shown_and_a_reason_is_cut() {
    assert!(!format!("{:?}", greeting()).contains("8, 8"));
    let Said::End(text) = Said::end(&"é".repeat(FOLLOW_END_BYTES_MAX)) else { panic!() };
    assert!(text.len() <= FOLLOW_END_BYTES_MAX && text.len() > FOLLOW_END_BYTES_MAX - 2);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, kind in 0u8..5) {
        let _ = Greeting::decode(&bytes);
        let _ = Greeting::decode(&[b"GVLF\x00\x01", &bytes[..]].concat());
        let mut hearing = Hearing::default();
        hearing.push(&[kind, 0, 0, 0, bytes.len().min(8) as u8]);
        hearing.push(&bytes);
        while let Ok(Some(_)) = hearing.take() {}
    }
}
