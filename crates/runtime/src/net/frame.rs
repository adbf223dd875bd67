//! Frames: the bytes on a connection, inside TLS. Pure functions; integrity is TLS's business.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | [`FRAME_MARK`]: format and its version |
//! | 1 | 1 | kind |
//! | 2 | 2 | flags, little-endian, 0 in this version |
//! | 4 | 4 | length of the payload, little-endian, bounded by kind |
//! | 8 | length | payload |

use bytes::{Buf, Bytes, BytesMut};
use gavel_types::limits::{BLOB_BYTES_MAX, ENTRY_BYTES_MAX};

/// The first byte of every frame of format version 1.
pub const FRAME_MARK: u8 = 0xA1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;
/// Largest payload of a log message: the largest log entry, and as much again for what comes with it.
pub const MESSAGE_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX;
/// Largest payload of a bulk request or response, without its envelope.
pub const BULK_BYTES_MAX: usize = 2 * BLOB_BYTES_MAX;
/// Largest frame of a greeting.
pub const GREETING_BYTES_MAX: usize = 1024;
/// Request: id u64, kind u8. Response: id u64, status u8. Both before the body.
pub const ENVELOPE_BYTES: usize = 9;

const _: () = assert!(ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(BLOB_BYTES_MAX < BULK_BYTES_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(BULK_BYTES_MAX + ENVELOPE_BYTES <= u32::MAX as usize);

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The dialler says who it is; the first frame of a connection.
    Hello = 1,
    /// The acceptor's answer: who it is. The connection is open.
    Welcome = 2,
    /// Either side's last frame: why it will not talk.
    Refused = 3,
    /// One way, dialler to acceptor, on log connections.
    Message = 4,
    /// Dialler to acceptor, on bulk connections.
    Request = 5,
    /// Acceptor to dialler, on bulk connections.
    Response = 6,
    /// Dialler to acceptor: are you there? Eight bytes of its own.
    Ping = 7,
    /// Acceptor to dialler: a ping's bytes, sent back.
    Pong = 8,
}

impl FrameKind {
    /// Largest payload of a frame of this kind, in bytes.
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            FrameKind::Hello | FrameKind::Welcome | FrameKind::Refused => GREETING_BYTES_MAX,
            FrameKind::Message => MESSAGE_BYTES_MAX,
            FrameKind::Request | FrameKind::Response => BULK_BYTES_MAX + ENVELOPE_BYTES,
            FrameKind::Ping | FrameKind::Pong => 8,
        }
    }

    fn of(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [Hello, Welcome, Refused, Message, Request, Response, Ping, Pong].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that arrived. The payload may share its buffer with its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// What it carries.
    pub payload: Bytes,
}

/// Bytes that are not a frame. The connection cannot go on: where the next frame starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not this format, or another version of it.
    #[error("a frame starts with byte {0:#04x}, {FRAME_MARK:#04x} was expected")]
    Mark(u8),
    /// No such kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Flags of a later version.
    #[error("unknown frame flags {0:#06x}")]
    Flags(u16),
    /// More than any frame of that kind may carry.
    #[error("a {kind:?} frame of {length} bytes is announced, {} are allowed", kind.payload_bytes_max())]
    TooLong {
        /// The kind announced.
        kind: FrameKind,
        /// The length announced, in bytes.
        length: usize,
    },
}

/// The header of a frame whose payload, all its parts together, has `length` bytes.
pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
    assert!(length <= kind.payload_bytes_max(), "a {kind:?} frame of {length} bytes was about to be sent");
    let length = (length as u32).to_le_bytes();
    [FRAME_MARK, kind as u8, 0, 0, length[0], length[1], length[2], length[3]]
}

/// What [`take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// A whole frame.
    Frame(Frame),
    /// This many more bytes are needed at least before a frame is whole.
    Missing(usize),
}

/// Takes the next frame off the front of `buffer`. Refuses a bad header before its payload has arrived.
pub fn take(buffer: &mut BytesMut) -> Result<Taken, FrameError> {
    if let Some(&mark) = buffer.first()
        && mark != FRAME_MARK
    {
        return Err(FrameError::Mark(mark));
    }
    if buffer.len() < HEADER_BYTES {
        return Ok(Taken::Missing(HEADER_BYTES - buffer.len()));
    }
    let kind = FrameKind::of(buffer[1]).ok_or(FrameError::Kind(buffer[1]))?;
    let flags = u16::from_le_bytes([buffer[2], buffer[3]]);
    if flags != 0 {
        return Err(FrameError::Flags(flags));
    }
    let length = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]) as usize;
    if length > kind.payload_bytes_max() {
        return Err(FrameError::TooLong { kind, length });
    }
    let whole = HEADER_BYTES + length;
    if buffer.len() < whole {
        return Ok(Taken::Missing(whole - buffer.len()));
    }
    buffer.advance(HEADER_BYTES);
    Ok(Taken::Frame(Frame { kind, payload: buffer.split_to(length).freeze() }))
}

/// Splits the envelope of a request or response from its body: (request id, kind or status, body).
pub fn open_envelope(mut payload: Bytes) -> Option<(u64, u8, Bytes)> {
    if payload.len() < ENVELOPE_BYTES {
        return None;
    }
    let id = payload.get_u64_le();
    let tag = payload.get_u8();
    Some((id, tag, payload))
}

/// The envelope of a request or response.
pub fn envelope(id: u64, tag: u8) -> [u8; ENVELOPE_BYTES] {
    let mut bytes = [tag; ENVELOPE_BYTES];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(kind: FrameKind, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::from(&header(kind, payload.len())[..]);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(&bytes_of(FrameKind::Message, b"hi")[..], &[0xA1, 4, 0, 0, 2, 0, 0, 0, b'h', b'i']);
        assert_eq!(envelope(0x0102, 9), [2, 1, 0, 0, 0, 0, 0, 0, 9]);
        let kinds = [
            (FrameKind::Hello, 1),
            (FrameKind::Welcome, 2),
            (FrameKind::Refused, 3),
            (FrameKind::Message, 4),
            (FrameKind::Request, 5),
            (FrameKind::Response, 6),
            (FrameKind::Ping, 7),
            (FrameKind::Pong, 8),
        ];
        for (kind, byte) in kinds {
            assert_eq!((kind as u8, FrameKind::of(byte)), (byte, Some(kind)));
        }
    }

    #[test]
    fn a_frame_is_whole_at_its_last_byte_and_not_before() {
        let whole = bytes_of(FrameKind::Message, b"payload");
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            let Ok(Taken::Missing(missing)) = take(&mut part) else { panic!("a frame out of {cut} bytes") };
            assert!((1..=whole.len() - cut).contains(&missing));
            assert_eq!(part.len(), cut, "bytes were taken");
        }
        let mut two = whole.clone();
        two.extend_from_slice(&whole);
        for _ in 0..2 {
            let frame = Frame { kind: FrameKind::Message, payload: Bytes::from_static(b"payload") };
            assert_eq!(take(&mut two), Ok(Taken::Frame(frame)));
        }
        assert!(two.is_empty());
    }

    #[test]
    fn bad_headers_are_refused_by_name() {
        let refused = |bytes: [u8; 8]| take(&mut BytesMut::from(&bytes[..])).unwrap_err();
        assert_eq!(refused([0x16, 3, 1, 0, 0, 0, 0, 0]), FrameError::Mark(0x16));
        assert_eq!(refused([FRAME_MARK, 0, 0, 0, 0, 0, 0, 0]), FrameError::Kind(0));
        assert_eq!(refused([FRAME_MARK, 99, 0, 0, 0, 0, 0, 0]), FrameError::Kind(99));
        assert_eq!(refused([FRAME_MARK, 4, 1, 0, 0, 0, 0, 0]), FrameError::Flags(1));
        let length = u32::MAX as usize;
        let kind = FrameKind::Message;
        assert_eq!(refused([FRAME_MARK, 4, 0, 0, 255, 255, 255, 255]), FrameError::TooLong { kind, length });
        let over = ((FrameKind::Hello.payload_bytes_max() + 1) as u32).to_le_bytes();
        let error = refused([FRAME_MARK, 1, 0, 0, over[0], over[1], over[2], over[3]]);
        assert_eq!(error, FrameError::TooLong { kind: FrameKind::Hello, length: GREETING_BYTES_MAX + 1 });
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, marked: bool) {
            let mut buffer = BytesMut::from(&bytes[..]);
            if let (true, Some(first)) = (marked, buffer.first_mut()) {
                *first = FRAME_MARK;
            }
            while let Ok(Taken::Frame(frame)) = take(&mut buffer) {
                let _ = open_envelope(frame.payload);
            }
        }
    }
}
