//! Errors, one enum per door.

use gavel_types::{LogIndex, NodeId, Term};

/// A state machine that cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A configured value is outside its range.
    #[error("quorum configuration: {key} is {value}, must be {range}")]
    Config {
        /// The field of [`crate::Config`].
        key: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// The members are not a group that this node belongs to.
    #[error("quorum configuration: {0}")]
    Members(&'static str),
    /// The recovered log contradicts itself. Not to be repaired by guessing.
    #[error("recovered log of this replica, entry {index}: {what}; rebuild this replica from the others")]
    Log {
        /// Where.
        index: LogIndex,
        /// The contradiction.
        what: &'static str,
    },
    /// The store has lost what the log had already let go of.
    #[error(
        "the store has applied entries up to {applied} only, but the log starts after {compacted}: \
         the store went back in time; rebuild this replica from the others"
    )]
    StoreBehindLog {
        /// What the store holds.
        applied: LogIndex,
        /// Where the log starts.
        compacted: LogIndex,
    },
}

/// A message that was not let in. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Larger than any message.
    #[error("message of {bytes} bytes exceeds {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Written by another version of the protocol.
    #[error("message of protocol version {0}, this node speaks version {v}", v = crate::codec::VERSION)]
    Version(u8),
    /// Not the bytes of a message.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The sender is not a member.
    #[error("message from node {0}, which is not a member of this group")]
    Stranger(NodeId),
    /// The message names another sender than the connection that it came by.
    #[error("message on the connection of node {from} claims to be of node {claimed}")]
    WrongSender {
        /// Who sent it.
        from: NodeId,
        /// Who is named in it.
        claimed: NodeId,
    },
    /// Meant for somebody else.
    #[error("message for node {0} arrived here")]
    WrongRecipient(NodeId),
    /// A number in it cannot be, given what this replica knows for certain.
    #[error("impossible message: {what} {value}, bound {bound}")]
    Impossible {
        /// The number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it cannot exceed.
        bound: u64,
    },
    /// The leader counts on entries that this replica does not have: it acknowledged them and lost them.
    #[error(
        "the leader knows that this replica stored its log up to {commit}, but it ends at {last}: \
         acknowledged entries were lost; rebuild this replica from the others"
    )]
    LogLost {
        /// What the leader counts on.
        commit: LogIndex,
        /// What is here.
        last: LogIndex,
    },
    /// Two leaders of one term: somebody forgot a vote, or a node id is used twice.
    #[error("node {from} claims to lead term {term}, which node {leader} leads")]
    SecondLeader {
        /// The claimant.
        from: NodeId,
        /// The leader already known.
        leader: NodeId,
        /// The term of both.
        term: Term,
    },
    /// The owner applies more slowly than entries come; the sender will try again.
    #[error("{bytes} bytes of log wait to be applied, more are not taken; the sender will try again")]
    WindowFull {
        /// Bytes that wait.
        bytes: u64,
    },
}

/// A proposal that was not taken. Nothing has happened; it may be made again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader takes proposals.
    #[error("this node does not lead{}", leader.map(|id| format!("; node {id} does")).unwrap_or_default())]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// Too much is under way, or leadership is being handed over: try again soon.
    #[error("the log is busy; try again")]
    Busy,
    /// Larger than an entry may be.
    #[error("proposal of {bytes} bytes, an entry holds 1 to {max}")]
    Size {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// A read that cannot be confirmed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Only the leader confirms reads.
    #[error("this node does not lead{}", leader.map(|id| format!("; node {id} does")).unwrap_or_default())]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// Too many reads wait already.
    #[error("{waiting} reads wait to be confirmed already; try again")]
    Busy {
        /// How many.
        waiting: usize,
    },
}

/// Leadership cannot be handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// It is not here.
    #[error("this node does not lead{}", leader.map(|id| format!("; node {id} does")).unwrap_or_default())]
    NotLeader {
        /// Where it is, as far as is known.
        leader: Option<NodeId>,
    },
    /// Only another voter can lead.
    #[error("node {0} is not another voter of this group")]
    NotAVoter(NodeId),
}

/// A snapshot that is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Its position is not one that is applied and still known to the log.
    #[error("snapshot offered at {index}, must be between {first} (start of the log) and {applied} (applied)")]
    Position {
        /// The position offered.
        index: LogIndex,
        /// The lowest possible.
        first: LogIndex,
        /// The highest possible.
        applied: LogIndex,
    },
    /// It is too large to travel.
    #[error("snapshot of {bytes} bytes exceeds {max}")]
    Size {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}
