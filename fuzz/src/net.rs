//! Frames, envelopes, greetings, refusals: what strangers can send as well.

use bytes::{Bytes, BytesMut};
use gavel_runtime::net::frame::{self, Frame, FrameKind, GREETING_BYTES_MAX, Taken};
use gavel_runtime::net::hello::{Hello, Purpose, REFUSAL_TEXT_BYTES_MAX, Reason, Refusal};
use gavel_types::{ClusterId, NodeId};

/// Takes frames off `bytes` until there is none, whole and byte by byte, and reads each payload as everything.
///
/// # Panics
/// If a decoder panics, or what was taken is not what the bytes say.
pub fn run(bytes: &[u8]) -> bool {
    let frames = take_all(bytes, bytes.len().max(1));
    // Another way for them to arrive gives the same frames. Short ones only: this is quadratic.
    if bytes.len() <= 4096 {
        assert_eq!(take_all(bytes, 7), frames);
    }
    let mut start = 0;
    for frame in &frames {
        let header = frame::header(frame.kind, frame.payload.len());
        let end = start + header.len() + frame.payload.len();
        assert_eq!([&header, &frame.payload[..]].concat(), bytes[start..end]);
        start = end;
        payload(&frame.payload);
    }
    payload(bytes) || !frames.is_empty()
}

fn take_all(bytes: &[u8], piece_bytes: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::take(&mut buffer) {
                Ok(Taken::Frame(frame)) => frames.push(frame),
                Ok(Taken::Missing(missing)) => {
                    assert!(missing > 0, "a frame without bytes");
                    break;
                }
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn payload(bytes: &[u8]) -> bool {
    if let Some((id, tag, body)) = frame::open_envelope(Bytes::copy_from_slice(bytes)) {
        assert_eq!([&frame::envelope(id, tag), &body[..]].concat(), bytes);
    }
    let refusal = Refusal::decode(bytes);
    assert!(!refusal.text.contains(char::is_control), "{:?} could reach a terminal", refusal.text);
    let encoded = refusal.encode();
    assert!(encoded.len() <= GREETING_BYTES_MAX.min(1 + REFUSAL_TEXT_BYTES_MAX));
    Hello::decode(bytes).is_ok_and(|hello| {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        true
    })
}

/// A frame of each kind, two frames in a row, a greeting, an envelope and a refusal.
pub fn seeds() -> Vec<Vec<u8>> {
    let hello = Hello { purpose: Purpose::Log, cluster: ClusterId([7; 16]), node: NodeId(2), incarnation: 300 };
    let refusal = Refusal::new(Reason::Cluster, "this is another cluster").encode();
    let request = [&frame::envelope(9, 1), &b"body"[..]].concat();
    let payloads: [(FrameKind, &[u8]); 8] = [
        (FrameKind::Hello, &hello.encode()),
        (FrameKind::Welcome, &hello.encode()),
        (FrameKind::Refused, &refusal),
        (FrameKind::Message, b"message"),
        (FrameKind::Request, &request),
        (FrameKind::Response, &request),
        (FrameKind::Ping, &[1; 8]),
        (FrameKind::Pong, &[1; 8]),
    ];
    let framed = |kind, payload: &[u8]| [&frame::header(kind, payload.len()), payload].concat();
    let mut seeds: Vec<Vec<u8>> = payloads.iter().map(|(kind, payload)| framed(*kind, payload)).collect();
    seeds.push([&seeds[0][..], &seeds[3][..]].concat());
    seeds.push(hello.encode().to_vec());
    seeds
}
