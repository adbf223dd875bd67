//! The bytes of a stream, as `docs/formats/mirror-stream.md` has them.

use gavel_mirror::{Decoder, Encoder, Frame, Header, Row, StepHead, Totals};
use gavel_types::{ClusterId, Key, MirrorSource, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{Author, Record};

const V: VolumeId = VolumeId(3);

fn frames() -> Vec<Frame> {
    let source = MirrorSource { cluster: ClusterId([0xab; 16]), volume: V, made: Tid(5) };
    let selection = Selection::new(&["a/b"], &["*.o"]).unwrap();
    let header = Header { source, name: "work".into(), from: Tid(7), partial: None, to: Some(Tid(300)), selection };
    let author = Some(Author { uid: 1000, note: "n".into() });
    let attr = gavel_wire::Attr {
        firm: gavel_wire::Firm {
            kind: gavel_wire::Kind::Symlink,
            mode: 0o777,
            uid: 1,
            gid: 2,
            rdev: 0,
            parent: ObjectId::VOLUME,
            birth: Default::default(),
            class: Default::default(),
        },
        nlink: 1,
        size: 1,
        allocated: 0,
        atime: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
    };
    let object = ObjectId(20);
    let rows = vec![
        Row { key: Key::attr(V, object), record: Some(Record::Attr(attr)) },
        Row { key: Key::target(V, object), record: Some(Record::Target(b"t"[..].into())) },
        Row { key: Key::xattr(V, object, b"user.a"), record: None },
    ];
    vec![
        Frame::Header(header),
        Frame::Step(StepHead { from: Tid(7), to: Tid(200), single: true, author }),
        Frame::Blob(b"bytes".to_vec()),
        Frame::Rows(rows),
        Frame::StepEnd(Totals { rows: 3, blobs: 1 }),
        Frame::Reached(Tid(250)),
        Frame::End(Tid(300)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// If this fails, other bytes mean a stream: that is another version.
#[test]
fn the_bytes_are_what_they_were() {
    let mut encoder = Encoder::new();
    let written: Vec<String> = frames().iter().map(|frame| hex(&encoder.write(frame))).collect();
    assert_eq!(written, GOLDEN);
}

#[test]
fn what_was_written_is_read() {
    let mut encoder = Encoder::new();
    let bytes: Vec<u8> = frames().iter().flat_map(|frame| encoder.write(frame)).collect();
    for piece in [1, 10, bytes.len()] {
        let (mut decoder, mut read) = (Decoder::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(frame) = decoder.read().unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read, frames());
        decoder.finish().unwrap();
    }
}

#[test]
fn a_frame_of_what_is_as_it_was() {
    let mut encoder = Encoder::new();
    encoder.write(&frames()[0]);
    let bytes = encoder.write(&Frame::Same(vec![(ObjectId(5), ObjectId(300)), (ObjectId(302), ObjectId(302))]));
    assert_eq!(hex(&bytes[..bytes.len() - 16]), "07000000000000000100000008".to_owned() + "0205ac02ae02ae02");
}

const GOLDEN: [&str; 7] = [
    "474156454c4d49520300000000000000000000000027abababababababababababababababab030504776f726b070001ac0201042f612f6201032a2e6f23b569a2c903546690b527b8002eb63e",
    "0100000000000000010000000907c8010101e807016eb8ae68b04725bb48ebc7a2206d2b10ae",
    "03000000000000000200000025df19b1f105ff929191ce49d0bbfdc5b4edc2a71a40f502dc955359eb33649e24627974657301758d6176598f01cb9f42e23896ecd2",
    "020000000000000003000000400309000000000000001401010002ff0301020000000000010100000000000000090000000000000014050104017410000000000000001404757365722e6100008fe7a2ba7ef0f4456d9ca58f5d4088ac",
    "04000000000000000400000002030123c83239bffbdb4305296ef0bce781b6",
    "05000000000000000500000002fa0184849202474ec287db7fa80de527f840",
    "06000000000000000600000002ac0270287823c841b239557f8ef41ecde71a",
];
