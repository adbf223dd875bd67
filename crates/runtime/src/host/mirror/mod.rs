//! Streams to and from mirrors, and what mirrors show. `docs/protocols/mirroring.md` has the whole of it.
//!
//! - [`send`](mod@send): a stream of a volume
//! - [`receive`](mod@receive): a stream into a mirror
//! - [`states`]: which state of its source a mirror is, and was
//! - `steps`: steps of copies that have all of a volume, or a part of it
//! - `tree`: a mirror, as a mount sees it
//! - `chunks`: streams on the control socket
//! - `serve`: streams to mirrors that follow, from this peer
//! - [`follow`]: mirrors that follow their source by themselves
//! - `invite`: who may follow, and invitations
//! - `list`: which mirrors there are, and how far each is
//! - `promote`: what is asked about mirrors; and that one is none any more
//! - `demote`: a volume becomes a mirror of one that was its mirror

mod chunks;
mod demote;
pub mod follow;
mod invite;
mod list;
mod promote;
pub mod receive;
pub mod send;
mod serve;
pub mod states;
mod steps;
mod tree;

pub use chunks::{copy_in, copy_out};
pub(super) use follow::{Following, carry};
pub(super) use list::{CARRIED, carried, followers, mirrors};
pub use promote::ask;
pub(super) use receive::receive;
pub(super) use send::{Sending, send};
pub(super) use serve::{Followers, serve};
pub use tree::MirrorTree;
pub(super) use tree::submit;

use gavel_mirror::Read;
use gavel_types::{Selection, VolumeRef};
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
    /// A mirror in another cluster may follow a volume.
    Admit {
        /// The volume.
        volume: VolumeRef,
        /// What the mirror is called here.
        name: String,
        /// History waits for it so long, in nanoseconds; none: for ever.
        keep_for_ns: Option<u64>,
        /// Which part of the volume it may read.
        #[serde(default)]
        selection: Selection,
    },
    /// It may not any more.
    Dismiss {
        /// The volume.
        volume: VolumeRef,
        /// What the mirror is called here.
        name: String,
    },
    /// A mirror is to follow its source by itself.
    Follow {
        /// The text of the invitation.
        invitation: String,
        /// The mirror; it is made if it is not there.
        into: VolumeRef,
    },
    /// A mirror that follows stands still, or goes on.
    Pause {
        /// Which.
        volume: VolumeRef,
        /// It stands still.
        paused: bool,
    },
    /// A mirror follows nobody any more.
    Remove {
        /// Which.
        volume: VolumeRef,
    },
    /// A volume is to be a mirror of one that was its mirror.
    Demote(DemoteAsk),
}

/// Which volume is to be a mirror of which other one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoteAsk {
    /// The volume.
    pub volume: VolumeRef,
    /// The text of the invitation to the other one.
    pub invitation: String,
    /// What the clone is called that has what the other one has not; none: a name is made.
    pub save_as: Option<String>,
    /// It is to follow the other one.
    pub follow: bool,
    /// Nothing is done: only what would be.
    pub dry_run: bool,
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
    /// One step from the state that is there to the one that is wanted, whatever lies between.
    #[serde(default)]
    pub at_once: bool,
    /// Which part of the volume.
    #[serde(default)]
    pub selection: Selection,
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
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorAnswer {
    /// The mirrors that it was about.
    Mirrors(Vec<MirrorLine>),
    /// All mirrors: those in this cluster, and those that volumes of this one have in others.
    Listed {
        /// In this cluster.
        mirrors: Vec<MirrorLine>,
        /// In others.
        followers: Vec<FollowerLine>,
    },
    /// A mirror may follow: its invitation, as it is given to the mirror's cluster.
    Invitation(String),
    /// A volume was demoted, or would be.
    Demoted(DemotedLine),
    /// A stream was sent.
    Sent(Sent),
    /// A mirror has moved; there is more.
    Moved(Received),
    /// A stream was received.
    Received(Received),
}

/// A mirror, for people and programs. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
    /// What is there of a whole copy that broke off: what `gavel mirror send --from` is to be told.
    #[serde(default)]
    pub partial: Option<String>,
    /// Since which transaction it is a volume as any other.
    pub promoted: Option<String>,
    /// Since which transaction it is a mirror, if it was a volume as any other before.
    #[serde(default)]
    pub demoted: Option<String>,
    /// How it follows its source by itself, if it does.
    #[serde(default)]
    pub follow: Option<FollowLine>,
    /// Which part of the source it has; none is said: all.
    #[serde(default)]
    pub selection: Selection,
}

/// What demoting a volume has done, or would do. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DemotedLine {
    /// The volume's number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// The other volume's cluster.
    pub source_cluster: String,
    /// Its number there.
    pub source_volume: u32,
    /// What it was called when the invitation was made.
    pub source_name: String,
    /// The last state of this volume that the other one has had: what the volume shows when it is demoted.
    pub departed: String,
    /// The same as a time, to the second.
    pub departed_time: String,
    /// The same as a transaction of the other one.
    pub state: String,
    /// Transactions that have changed this volume behind that state.
    pub transactions: u32,
    /// There are more than that.
    pub more: bool,
    /// The clone that has what the volume was before; none if there was nothing behind that state.
    pub saved: Option<String>,
    /// It was done.
    pub demoted: bool,
    /// It follows the other one.
    pub follows: bool,
}

/// How a mirror follows. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FollowLine {
    /// What the source calls it.
    pub name: String,
    /// The source's peers: `id=address`.
    pub peers: Vec<String>,
    /// It stands still until somebody resumes it.
    pub paused: bool,
    /// The node of this cluster that carries it, if this node knows.
    pub carrier: Option<u64>,
    /// The peer of the source that it is connected to, if it is.
    pub peer: Option<u64>,
    /// How often a connection has begun since that node carries it.
    pub connections: u64,
    /// Bytes of streams that have come since.
    pub bytes: u64,
    /// Why the last connection ended, or was not made; none while one is open.
    pub error: Option<String>,
    /// How far it is behind its source; none before its first whole copy.
    pub lag: Option<Lag>,
}

/// How far a mirror is behind its source. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lag {
    /// The difference of Tids: nanoseconds of the source's clock, or, while the source can't be heard, of this one's.
    pub tids: u64,
    /// The same in seconds.
    pub seconds: f64,
    /// Transactions of the volume, if the source can be heard.
    pub transactions: Option<u32>,
    /// There may be more than that.
    pub more: bool,
    /// Bytes of the stream that the source has sent behind what the mirror had told of, if the source can be heard.
    pub bytes: Option<u64>,
}

/// A mirror in another cluster that may follow a volume. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FollowerLine {
    /// The volume's number.
    pub volume: u32,
    /// Its name.
    pub volume_name: String,
    /// What the mirror is called here.
    pub name: String,
    /// Since which transaction it is admitted.
    pub admitted: String,
    /// The state that it has told of last; none: none yet.
    pub state: Option<String>,
    /// The same as a time, to the second.
    pub state_time: Option<String>,
    /// How old that state is, in seconds.
    pub age_s: Option<u64>,
    /// How long ago that was written down, in seconds.
    pub seen_s: Option<u64>,
    /// It follows through the node that was asked.
    pub connected: bool,
    /// History waits for it so long, in seconds; none: for ever.
    pub keep_for_s: Option<u64>,
    /// History waits for it: it has told of a state, and is not away for longer than that.
    pub is_waited_for: bool,
    /// How many seconds of history are kept for it that the volume's policy alone would not keep whole.
    pub held_s: u64,
    /// Transactions of the volume behind its state.
    pub transactions: u32,
    /// There may be more than that.
    pub more: bool,
    /// Bytes of the stream that were sent behind its state, if it follows through the node that was asked.
    pub bytes: Option<u64>,
    /// All bytes that this connection has sent.
    pub sent: Option<u64>,
    /// Which part of the volume it may read; none is said: all.
    #[serde(default)]
    pub selection: Selection,
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
