//! What a server wants done outside.

use gavel_quorum::{Persist, RoleChange};
use gavel_types::{LogIndex, NodeId, Tid};
use gavel_wire::{Message, News};

/// Something to do. In the order in which they are given; sending need not wait for persisting.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send it; it may be lost.
    Send {
        /// To whom: another node.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Hand it to this node's own session.
    Local(Message),
    /// Make it durable in the log, then call `on_persisted` with its ticket.
    Persist(Persist),
    /// An entry was applied: views are newer now.
    Applied(News),
    /// A catch-up is complete: views are newer now, and what became of this node's requests is in the state.
    Installed {
        /// The last Tid that views see.
        tid: Tid,
        /// The last entry that views see.
        index: LogIndex,
    },
    /// Flush the records (from any thread), then call `on_flushed`.
    Flush,
    /// The log may be forgotten up to and with this entry.
    TrimLog(LogIndex),
    /// Who leads has changed.
    Role(RoleChange),
    /// This server has stopped for good; the node must stop serving and say why.
    Failed(Failure),
}

/// Why a server has stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// Its state is not the cluster's.
    #[error("this replica's state differs from the cluster's at entry {index}; rebuild it from the others")]
    Diverged {
        /// Where it was found out.
        index: LogIndex,
    },
    /// The records can't be read.
    #[error("the records of this replica cannot be read: {cause}")]
    Records {
        /// What is wrong.
        cause: String,
    },
    /// The records can't be written.
    #[error("the records of this replica cannot be written: {cause}")]
    Flush {
        /// What is wrong.
        cause: String,
    },
    /// A committed entry can't be understood.
    #[error("log entry {index} cannot be applied: {cause}")]
    Entry {
        /// Which.
        index: LogIndex,
        /// Why.
        cause: String,
    },
    /// The others count on log entries that this replica does not have any more.
    #[error("{cause}")]
    LogLost {
        /// What the log says.
        cause: String,
    },
}
