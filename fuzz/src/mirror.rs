//! Streams to mirrors. Their tags are made good again, so that what lies behind must stand arbitrary values as well.

use gavel_mirror::{Act, Broken, Decoder, Encoder, Frame, Header, Receiver, Row, Standing, StepHead, Totals};
use gavel_types::{ClusterId, Key, MirrorSource, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Author, Firm, Kind, Record, UnderWay};

const VOLUME: VolumeId = VolumeId(3);
const PREFIX_BYTES: usize = 9;
const HEAD_BYTES: usize = 13;
const TAG_BYTES: usize = 16;

/// Reads `bytes` as a stream, as they are and with good tags, and asks what is to be done about each frame.
///
/// # Panics
/// If something panics, or a frame that was accepted is not written as it was read.
pub fn run(bytes: &[u8]) -> bool {
    let as_it_is = read(bytes);
    let mut tagged = bytes.to_vec();
    tag_all(&mut tagged);
    read(&tagged) || as_it_is
}

/// True if the stream was read to its end.
fn read(bytes: &[u8]) -> bool {
    let standing = Standing {
        volume: VolumeId(9),
        source: source(),
        selection: gavel_types::Selection::default(),
        at: Tid(7),
        step: Some(Broken { at: UnderWay { to: Tid(50), parts: 2 }, since: Tid(40), last: Some(ObjectId(9)) }),
    };
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut receiver = Some(Receiver::new(standing));
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    for piece in [half, rest] {
        decoder.push(piece);
        loop {
            match decoder.read() {
                Ok(Some(frame)) => {
                    // What was accepted can be written: no payload is too long.
                    let _ = encoder.write(&frame);
                    let acts = receiver.take().and_then(|mut receiver| {
                        let acts = receiver.take(frame).ok()?;
                        Some((receiver, acts))
                    });
                    if let Some((left, acts)) = acts {
                        receiver = Some(left);
                        acts.iter().for_each(check);
                    }
                }
                Ok(None) => break,
                Err(_) => return false,
            }
        }
    }
    decoder.finish().is_ok()
}

fn check(act: &Act) {
    if let Act::Part(step) = act {
        assert!(step.to >= step.from && step.rows.iter().all(|(key, _)| key.volume() == VolumeId(9)));
    }
}

/// As docs/formats/mirror-stream.md has it.
fn tag_all(bytes: &mut [u8]) {
    let (mut at, mut before) = (PREFIX_BYTES, [0; TAG_BYTES]);
    while let Some(head) = bytes.get(at..at + HEAD_BYTES) {
        let len = head[9..].iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
        let Some(end) = at.checked_add(HEAD_BYTES + len).filter(|end| end + TAG_BYTES <= bytes.len()) else { return };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&before).update(&bytes[at..end]);
        before.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_BYTES]);
        bytes[end..end + TAG_BYTES].copy_from_slice(&before);
        at = end + TAG_BYTES;
    }
}

fn source() -> MirrorSource {
    MirrorSource { cluster: ClusterId([1; 16]), volume: VOLUME, made: Tid(5) }
}

/// Streams with all kinds of frames.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |from, to| Header {
        source: source(),
        name: "work".into(),
        from: Tid(from),
        to,
        partial: None,
        selection: gavel_types::Selection::default(),
    };
    let head = |from, to, author| StepHead { from: Tid(from), to: Tid(to), single: true, author };
    let now = Default::default();
    let firm = Firm {
        kind: Kind::Symlink,
        mode: 0o777,
        uid: 0,
        gid: 0,
        rdev: 0,
        parent: ObjectId::VOLUME,
        birth: now,
        class: Default::default(),
    };
    let attr = Attr { firm, nlink: 1, size: 1, allocated: 0, atime: now, mtime: now, ctime: now };
    let object = ObjectId(300);
    let rows = || {
        vec![
            Row { key: Key::attr(VOLUME, object), record: Some(Record::Attr(attr)) },
            Row { key: Key::target(VOLUME, object), record: Some(Record::Target(b"t"[..].into())) },
            Row { key: Key::xattr(VOLUME, object, b"user.a"), record: None },
        ]
    };
    let author = Some(Author { uid: 1000, note: "n".into() });
    let streams = [
        vec![Frame::Header(header(7, None)), Frame::Reached(Tid(8)), Frame::End(Tid(9))],
        vec![
            Frame::Header(header(0, Some(Tid(300)))),
            Frame::Step(head(0, 200, author)),
            Frame::Blob(b"bytes".to_vec()),
            Frame::Rows(rows()),
            Frame::StepEnd(Totals { rows: 3, blobs: 1 }),
            Frame::Step(head(200, 300, None)),
            Frame::StepEnd(Totals::default()),
            Frame::End(Tid(300)),
        ],
    ];
    let written = |frames: &Vec<Frame>| {
        let mut encoder = Encoder::new();
        frames.iter().flat_map(|frame| encoder.write(frame)).collect()
    };
    streams.iter().map(written).collect()
}
