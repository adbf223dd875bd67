//! What a mirror and a peer of its source say to each other while the one follows the other. Pure functions; the connection is the host's.
//!
//! `docs/formats/mirror-stream.md` has the bytes. The mirror greets once, and is welcomed or refused. Then each side sends what it has to say, as it likes.

use crate::compare::Partial;
use gavel_types::{ClusterId, MirrorSource, Tid, VolumeId};
use gavel_wire::FollowKey;
use serde::{Deserialize, Serialize};

/// The version of all of it.
pub const FOLLOW_VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"GVLF";
/// Longest greeting, in bytes.
pub const FOLLOW_GREETING_BYTES_MAX: usize = 512;
/// Most bytes of a stream in one [`Said::Bytes`].
pub const FOLLOW_PIECE_BYTES_MAX: usize = 256 * 1024;
/// Longest reason for an end, in bytes.
pub const FOLLOW_END_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 5;

/// Who wants which stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// The source's cluster.
    pub cluster: ClusterId,
    /// The volume there.
    pub volume: VolumeId,
    /// When that was made.
    pub made: Tid,
    /// What the mirror is called there.
    pub name: Box<str>,
    /// What proves that it is that mirror.
    pub key: FollowKey,
    /// The state that the mirror shows; [`Tid::ZERO`]: none.
    pub from: Tid,
    /// What is there of a whole copy that was broken off.
    pub partial: Option<Partial>,
    /// No stream is wanted: only whether there would be one.
    pub only_asks: bool,
}

/// How far the source is ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ahead {
    /// The last transaction of the source's cluster that the peer knows.
    pub now: Tid,
    /// Transactions of the volume behind the state that the mirror has told of last.
    pub transactions: u32,
    /// There are more than that.
    pub more: bool,
    /// Bytes of the stream that were sent behind that state.
    pub bytes: u64,
}

/// What either side says behind the greeting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The source: so many bytes of the stream come next.
    Bytes(Vec<u8>),
    /// The source, every second: it is there, and so far ahead.
    Ahead(Ahead),
    /// The source: there is no more, because of this.
    End(String),
    /// The mirror: it has come to this state.
    Reached(Tid),
}

/// Bytes that are none of these. The connection cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FollowError {
    /// Not the greeting of a mirror.
    #[error("the greeting is not one of a Gavel mirror")]
    NotAGreeting,
    /// Another version.
    #[error(
        "one side follows by version {0}, the other by version {FOLLOW_VERSION}: run the same release of gavel on both"
    )]
    Version(u16),
    /// Something that neither side says.
    #[error("what the other side says is malformed (kind {0})")]
    Malformed(u8),
    /// More than may be said at a time.
    #[error("{len} bytes are announced, and at most {max} may be")]
    TooLong {
        /// The length announced.
        len: usize,
        /// The bound.
        max: usize,
    },
}

impl Greeting {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let begin = [&MAGIC[..], &FOLLOW_VERSION.to_be_bytes()].concat();
        postcard::to_extend(self, begin).expect("postcard writes every value of our types to a growing buffer")
    }

    /// # Errors
    /// [`FollowError`] for anything that is not a greeting of this version. The version is looked at before anything that another one may change.
    pub fn decode(bytes: &[u8]) -> Result<Greeting, FollowError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(FollowError::NotAGreeting)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(FollowError::NotAGreeting)?;
        let version = u16::from_be_bytes(*version);
        if version != FOLLOW_VERSION {
            return Err(FollowError::Version(version));
        }
        if bytes.len() > FOLLOW_GREETING_BYTES_MAX {
            return Err(FollowError::TooLong { len: bytes.len(), max: FOLLOW_GREETING_BYTES_MAX });
        }
        match postcard::take_from_bytes(rest) {
            Ok((greeting, [])) => Ok(greeting),
            _ => Err(FollowError::NotAGreeting),
        }
    }

    /// The volume that is wanted.
    pub fn source(&self) -> MirrorSource {
        MirrorSource { cluster: self.cluster, volume: self.volume, made: self.made }
    }
}

impl Said {
    /// Its bytes: kind (1), length (4, big endian), payload.
    ///
    /// # Panics
    /// If it is longer than it may be: whoever says it has cut it.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Said::Bytes(bytes) => (0, bytes.clone()),
            Said::Ahead(ahead) => (1, postcard::to_extend(ahead, Vec::new()).expect("numbers can be written")),
            Said::End(text) => (2, text.as_bytes().to_vec()),
            Said::Reached(tid) => (3, tid.0.to_be_bytes().to_vec()),
        };
        assert!(payload.len() <= longest(kind), "{} bytes of kind {kind} were about to be said", payload.len());
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Why a stream ends, cut to what may be said.
    pub fn end(text: &str) -> Said {
        let mut end = text.len().min(FOLLOW_END_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Said::End(text[..end].to_owned())
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Said, FollowError> {
        let malformed = || FollowError::Malformed(kind);
        Ok(match kind {
            0 => Said::Bytes(payload.to_vec()),
            1 => match postcard::take_from_bytes(payload) {
                Ok((ahead, [])) => Said::Ahead(ahead),
                _ => return Err(malformed()),
            },
            2 => Said::End(String::from_utf8_lossy(payload).replace(|c: char| c.is_control() && c != '\n', " ")),
            3 => Said::Reached(Tid(u64::from_be_bytes(payload.try_into().map_err(|_| malformed())?))),
            _ => return Err(malformed()),
        })
    }
}

fn longest(kind: u8) -> usize {
    match kind {
        0 => FOLLOW_PIECE_BYTES_MAX,
        1 => 64,
        2 => FOLLOW_END_BYTES_MAX,
        _ => 8,
    }
}

/// What has come, and was not taken yet. It holds what has arrived, not what a header announces.
#[derive(Debug, Default)]
pub struct Hearing {
    unread: Vec<u8>,
}

impl Hearing {
    /// Bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next thing that was said, if all of it is here.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn take(&mut self) -> Result<Option<Said>, FollowError> {
        let Some((header, rest)) = self.unread.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, len @ ..] = *header;
        let (len, max) = (u32::from_be_bytes(len) as usize, longest(kind));
        if kind > 3 {
            return Err(FollowError::Malformed(kind));
        }
        if len > max {
            return Err(FollowError::TooLong { len, max });
        }
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let said = Said::decode(kind, payload)?;
        self.unread.drain(..HEADER_BYTES + len);
        Ok(Some(said))
    }
}
