//! Streams to and from mirrors, and what mirrors show. `docs/protocols/mirroring.md` has the whole of it.
//!
//! - [`send`](mod@send): a stream of a volume
//! - [`receive`](mod@receive): a stream into a mirror
//! - [`states`]: which state of its source a mirror is, and was
//! - `tree`: a mirror, as a mount sees it
//! - `chunks`: streams on the control socket
//! - `promote`: which mirrors there are, and that one is none any more

mod chunks;
mod promote;
pub mod receive;
pub mod send;
pub mod states;
mod tree;

pub use chunks::{copy_in, copy_out};
pub use promote::ask;
pub(super) use receive::receive;
pub(super) use send::{Sending, send};
pub use tree::MirrorTree;

use gavel_mirror::Read;
use gavel_types::VolumeRef;
use serde::{Deserialize, Serialize};

/// What is asked about mirrors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MirrorAsk {
    /// Which are there?
    List {
        /// Only this one; none: all.
        volume: Option<VolumeRef>,
    },
    /// One is a volume as any other from now on.
    Promote {
        /// Which.
        volume: VolumeRef,
    },
}

/// Which stream is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendAsk {
    /// Of which volume.
    pub volume: VolumeRef,
    /// What the mirror has, as it is written; none: nothing.
    pub from: Option<String>,
    /// The state that it is to have; none: what is now.
    pub to: Option<String>,
    /// Go on with what comes.
    pub follow: bool,
}

/// Where a stream is to go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveAsk {
    /// The mirror.
    pub volume: VolumeRef,
    /// Make it, if it is not there.
    pub create: bool,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorAnswer {
    /// The mirrors.
    Mirrors(Vec<MirrorLine>),
    /// A stream was sent.
    Sent(Sent),
    /// A mirror has moved; there is more.
    Moved(Received),
    /// A stream was received.
    Received(Received),
}

/// A mirror, for people and programs. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MirrorLine {
    /// The volume's number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// The source's cluster.
    pub source_cluster: String,
    /// The source's number there.
    pub source_volume: u32,
    /// The state of the source that is shown: a transaction of the source. `0x0`: nothing was received yet.
    pub state: String,
    /// The same as a time, to the second; none if nothing was received yet.
    pub state_time: Option<String>,
    /// The transaction of this cluster with which it was complete.
    pub local: String,
    /// How old the state is, in seconds, by this node's clock; none if nothing was received yet.
    pub age_s: Option<u64>,
    /// The state of the source to which a step is under way, or was when it broke off.
    pub step_to: Option<String>,
    /// Since which transaction it is a volume as any other.
    pub promoted: Option<String>,
}

/// What was sent. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sent {
    /// What the mirror must have.
    pub from: String,
    /// What it has behind the stream.
    pub to: String,
    /// Steps.
    pub steps: u64,
    /// Rows of them.
    pub rows: u64,
    /// Blobs that the mirror may have lacked.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// All bytes of the stream.
    pub bytes: u64,
    /// What was read for it.
    pub read: Read,
}

/// What was received. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// The mirror's number.
    pub volume: u32,
    /// Its name.
    pub name: String,
    /// The state of the source that it shows.
    pub state: String,
    /// Steps that were complete.
    pub steps: u64,
    /// Steps that it had already.
    pub passed_over: u64,
    /// Rows.
    pub rows: u64,
    /// Blobs.
    pub blobs: u64,
    /// All bytes of the stream.
    pub bytes: u64,
}
