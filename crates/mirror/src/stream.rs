//! Frames and their bytes. `docs/formats/mirror-stream.md` has the tables.

use crate::compare::Partial;
use crate::order::Order;
use gavel_types::limits::BLOB_BYTES_MAX;
use gavel_types::{BlobId, ClusterId, Key, MirrorSource, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{Author, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a stream begins with.
pub const MAGIC: [u8; 8] = *b"GAVELMIR";
/// The version behind it.
pub const VERSION: u8 = 3;
/// Longest payload of a frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = BLOB_BYTES_MAX + 64 * 1024;
/// Rows of a frame have so many bytes, about.
pub const ROWS_BYTES_MAX: usize = 256 * 1024;
/// Most runs of a frame.
pub const RUNS_MAX: usize = 8192;

const HEAD_BYTES: usize = 13;
const TAG_BYTES: usize = 16;
const BLOB_ID_BYTES: usize = 32;
type Tag = [u8; TAG_BYTES];

const HEADER: u8 = 0;
const STEP: u8 = 1;
const ROWS: u8 = 2;
const BLOB: u8 = 3;
const STEP_END: u8 = 4;
const REACHED: u8 = 5;
const END: u8 = 6;
const SAME: u8 = 7;

/// What a stream is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The volume that it was made from.
    pub source: MirrorSource,
    /// What that was called.
    pub name: Box<str>,
    /// The state of it that the mirror must have had; [`Tid::ZERO`]: nothing is needed.
    pub from: Tid,
    /// What of a whole copy must be there; then `from` is nothing, and the first step compares with that.
    pub partial: Option<Partial>,
    /// The state that the stream leads to; none if it goes on.
    pub to: Option<Tid>,
    /// Which part of the volume it has.
    pub selection: Selection,
}

/// The beginning of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepHead {
    /// From this state of the source.
    pub from: Tid,
    /// To this one.
    pub to: Tid,
    /// It is one transaction of the source.
    pub single: bool,
    /// Who made that.
    pub author: Option<Author>,
}

/// A record of the copy that is put, or ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its key in the source.
    pub key: Key,
    /// Its value; none if it ends.
    pub record: Option<Record>,
}

/// What a step has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// So many rows.
    pub rows: u64,
    /// So many blobs.
    pub blobs: u64,
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// What the stream is about.
    Header(Header),
    /// A step begins.
    Step(StepHead),
    /// Rows of it.
    Rows(Vec<Row>),
    /// Bytes that rows name, or will.
    Blob(Vec<u8>),
    /// The step is complete.
    StepEnd(Totals),
    /// Nothing has changed up to this state of the source.
    Reached(Tid),
    /// The copy is this state of the source, and the stream is over.
    End(Tid),
    /// All objects with these ids are as they were: runs, the first and the last of each. If a step begins with one, it compares: it says of each object
    /// that there is whether it is as it was, or has all rows of it; what it does not speak of is not there.
    Same(Vec<(ObjectId, ObjectId)>),
}

/// Why a stream is not read on. Nothing of the frame that is meant was used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// It is something else.
    #[error("this is no stream of `gavel mirror send`")]
    NotAStream,
    /// Another version wrote it.
    #[error("the stream has version {found}; this version of Gavel knows version {VERSION} (upgrade it?)")]
    UnknownVersion {
        /// The version.
        found: u8,
    },
    /// Frames are not there.
    #[error("frames are missing in the stream: frame {found} follows frame {}", next.wrapping_sub(1))]
    Missing {
        /// The number that should come.
        next: u64,
        /// The number that came.
        found: u64,
    },
    /// A frame comes again, or too late.
    #[error("frames of the stream are repeated or out of order: frame {found} comes where frame {next} should")]
    Again {
        /// The number that should come.
        next: u64,
        /// The number that came.
        found: u64,
    },
    /// Its bytes are not what was written.
    #[error("frame {frame} of the stream is damaged, or of another stream")]
    Damaged {
        /// Its number.
        frame: u64,
    },
    /// Its bytes are what was written, and make no sense.
    #[error("frame {frame} of the stream makes no sense: {what}")]
    Malformed {
        /// Its number.
        frame: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It has no end.
    #[error("the stream is truncated: it ends within or before frame {frame}")]
    Truncated {
        /// The number of the frame that was not complete.
        frame: u64,
    },
    /// Something comes behind its end.
    #[error("there is something behind the end of the stream")]
    More,
}

#[derive(Serialize, Deserialize)]
struct HeaderBytes {
    cluster: ClusterId,
    volume: VolumeId,
    made: Tid,
    name: Box<str>,
    from: Tid,
    partial: Option<Partial>,
    to: Option<Tid>,
    selection: Selection,
}

#[derive(Serialize, Deserialize)]
struct RowBytes {
    key: Box<[u8]>,
    record: Option<Record>,
}

/// Without its volume.
fn key_bytes(key: &Key) -> &[u8] {
    &key.as_bytes()[size_of::<VolumeId>()..]
}

fn tag(before: &Tag, head: &[u8], payload: &[u8]) -> Tag {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(head).update(payload);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).expect("postcard writes every value of our types to a growing buffer")
}

/// Writes frames.
#[derive(Debug, Default)]
pub struct Encoder {
    next: u64,
    tag: Tag,
}

impl Encoder {
    /// Nothing is written yet.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// How many frames were written.
    pub fn frames(&self) -> u64 {
        self.next
    }

    /// The bytes of the next frame, behind what was written before.
    ///
    /// # Panics
    /// If its payload is longer than [`PAYLOAD_BYTES_MAX`]: a programming error.
    pub fn write(&mut self, frame: &Frame) -> Vec<u8> {
        let (kind, payload) = match frame {
            Frame::Header(header) => (HEADER, header_bytes(header)),
            Frame::Step(head) => (STEP, to_bytes(head)),
            Frame::Rows(rows) => (ROWS, rows_bytes(rows)),
            Frame::Blob(bytes) => (BLOB, [&BlobId::of(bytes).0[..], bytes].concat()),
            Frame::StepEnd(totals) => (STEP_END, to_bytes(totals)),
            Frame::Reached(tid) => (REACHED, to_bytes(tid)),
            Frame::End(tid) => (END, to_bytes(tid)),
            Frame::Same(runs) => (SAME, to_bytes(runs)),
        };
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a frame of {} bytes", payload.len());
        let mut bytes = Vec::with_capacity(payload.len() + HEAD_BYTES + TAG_BYTES + MAGIC.len() + 1);
        if self.next == 0 {
            bytes.extend(MAGIC);
            bytes.push(VERSION);
        }
        let start = bytes.len();
        bytes.push(kind);
        bytes.extend(self.next.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        self.tag = tag(&self.tag, &bytes[start..], &payload);
        bytes.extend(payload);
        bytes.extend(self.tag);
        self.next += 1;
        bytes
    }
}

fn header_bytes(header: &Header) -> Vec<u8> {
    let Header { source, name, from, partial, to, selection } = header.clone();
    let MirrorSource { cluster, volume, made } = source;
    to_bytes(&HeaderBytes { cluster, volume, made, name, from, partial, to, selection })
}

fn rows_bytes(rows: &[Row]) -> Vec<u8> {
    let bytes = |row: &Row| RowBytes { key: key_bytes(&row.key).into(), record: row.record.clone() };
    to_bytes(&rows.iter().map(bytes).collect::<Vec<_>>())
}

/// About how many bytes of a frame a row takes.
pub fn row_bytes(row: &Row) -> usize {
    let record = row.record.as_ref().map_or(0, |record| to_bytes(record).len());
    row.key.as_bytes().len() + record + 4
}

/// Reads frames, whatever the pieces are in which their bytes come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// So many of them were used.
    used: usize,
    begun: bool,
    next: u64,
    tag: Tag,
    volume: VolumeId,
    order: Order,
}

impl Decoder {
    /// Nothing was read yet.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// The next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if all of its bytes are there. After an error the rest of the stream is not to be read.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn read(&mut self) -> Result<Option<Frame>, StreamError> {
        if self.order.is_over() {
            return if self.bytes.len() > self.used { Err(StreamError::More) } else { Ok(None) };
        }
        if !self.begun && !self.begin()? {
            return Ok(None);
        }
        let Some((kind, payload)) = self.take()? else { return Ok(None) };
        let number = self.next - 1;
        let malformed = |what| StreamError::Malformed { frame: number, what };
        let frame = self.parse(kind, &payload).map_err(malformed)?;
        self.order.take(&frame).map_err(malformed)?;
        Ok(Some(frame))
    }

    /// The input is at its end.
    ///
    /// # Errors
    /// [`StreamError::Truncated`] if the stream is not; [`StreamError::NotAStream`] if there was nothing.
    pub fn finish(&self) -> Result<(), StreamError> {
        match (self.order.is_over(), self.begun) {
            (true, _) => Ok(()),
            (false, true) => Err(StreamError::Truncated { frame: self.next }),
            (false, false) => Err(StreamError::NotAStream),
        }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    fn begin(&mut self) -> Result<bool, StreamError> {
        let seen = self.rest().len().min(MAGIC.len());
        if self.rest()[..seen] != MAGIC[..seen] {
            return Err(StreamError::NotAStream);
        }
        match self.rest().get(MAGIC.len()) {
            None => Ok(false),
            Some(&VERSION) => {
                self.used += MAGIC.len() + 1;
                self.begun = true;
                Ok(true)
            }
            Some(&found) => Err(StreamError::UnknownVersion { found }),
        }
    }

    /// The next frame's kind and payload, if it is whole and the right one.
    fn take(&mut self) -> Result<Option<(u8, Vec<u8>)>, StreamError> {
        let rest = self.rest();
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let found = u64::from_be_bytes(*head[1..9].first_chunk().expect("8 bytes"));
        let len = u32::from_be_bytes(*head[9..].first_chunk().expect("4 bytes")) as usize;
        let damaged = Err(StreamError::Damaged { frame: self.next });
        if len > PAYLOAD_BYTES_MAX {
            return damaged;
        }
        let Some(framed) = rest.get(..HEAD_BYTES + len + TAG_BYTES) else { return Ok(None) };
        let (payload, wanted) = framed[HEAD_BYTES..].split_at(len);
        // What it was written behind is told by its tag, and so is its number: only that of a good frame means anything.
        let tag = tag(&self.tag, head, payload);
        match found.cmp(&self.next) {
            std::cmp::Ordering::Greater => return Err(StreamError::Missing { next: self.next, found }),
            std::cmp::Ordering::Less => return Err(StreamError::Again { next: self.next, found }),
            std::cmp::Ordering::Equal if tag != wanted => return damaged,
            std::cmp::Ordering::Equal => {}
        }
        let taken = (head[0], payload.to_vec());
        self.used += HEAD_BYTES + len + TAG_BYTES;
        self.next += 1;
        self.tag = tag;
        Ok(Some(taken))
    }

    fn parse(&mut self, kind: u8, payload: &[u8]) -> Result<Frame, &'static str> {
        Ok(match kind {
            HEADER => {
                let HeaderBytes { cluster, volume, made, name, from, partial, to, selection } = from_bytes(payload)?;
                self.volume = volume;
                let source = MirrorSource { cluster, volume, made };
                Frame::Header(Header { source, name, from, partial, to, selection })
            }
            STEP => Frame::Step(from_bytes(payload)?),
            ROWS => {
                let rows: Vec<RowBytes> = from_bytes(payload)?;
                let rows = rows.into_iter().map(|row| self.row(row));
                Frame::Rows(rows.collect::<Result<_, _>>()?)
            }
            BLOB => {
                let (id, bytes) = payload.split_at_checked(BLOB_ID_BYTES).ok_or("a blob without a name")?;
                if BlobId::of(bytes).0 != id {
                    return Err("a blob under another one's name");
                }
                Frame::Blob(bytes.to_vec())
            }
            STEP_END => Frame::StepEnd(from_bytes(payload)?),
            REACHED => Frame::Reached(from_bytes(payload)?),
            END => Frame::End(from_bytes(payload)?),
            SAME => Frame::Same(from_bytes(payload)?),
            _ => return Err("there is no such kind of frame"),
        })
    }

    fn row(&self, RowBytes { key, record }: RowBytes) -> Result<Row, &'static str> {
        let key = [&self.volume.0.to_be_bytes()[..], &key].concat();
        let key = Key::from_bytes(&key).map_err(|_| "a row without a key")?;
        Ok(Row { key, record })
    }
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, &'static str> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err("its payload is not what its kind says"),
    }
}
