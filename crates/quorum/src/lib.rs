//! The replicated log: elections, replication, commitment, read confirmation.
//!
//! One [`Quorum`] is one replica's part in one group, as a pure state machine around raft-rs 0.7. Inputs
//! are messages, proposals, the passing of time and the completion of writes; [`Quorum::take_ready`] gives
//! the effects. The protocol, its messages and its failures are described in docs/protocols/quorum.md.
//!
//! What this room is not: it has no socket, disk, clock or thread, it does not know what an entry means,
//! and it keeps no state of the records: a snapshot here is a position and an opaque text of the owner.
//! No type of raft-rs leaves it.
//!
//! Invariants (mirrored by [`Quorum::check_invariants`]; numbers as in docs/protocols/quorum.md):
//! 1. Term and commit index never go back while the state machine lives.
//! 2. Committed entries are handed out once, in order and without gaps; an installed snapshot moves the
//!    cursor forward, and nothing at or below it is handed out after that.
//! 3. What is handed out is committed by a majority and durable here.
//! 4. applied <= handed out, and nothing that is not applied is compacted.
//! 5. The window of entries is contiguous, its terms never fall, its byte count is exact.
//! 6. A leader commits an entry of its own term only when a majority of voters has it durably.
//! 7. A message that promises something waits until what it promises is durable.
//! 8. Read tickets belong to the present leadership; the end of a leadership fails them all.
//!
//! Modules:
//! - `quorum`: the state machine: inputs, effects, snapshots, status, invariants
//! - `acknowledged`: acknowledgements that are not said twice
//! - `admission`: which decoded messages may reach raft-rs in the present state (it panics on some)
//! - `codec`: bytes of messages; every field bounded, every count checked
//! - `window`: the entries in memory, as raft-rs' storage
//! - `outbox`: messages that wait for durability
//! - `reads`: read tickets and the leadership rounds that confirm them
//! - `leader_lease`: for how long a leader leads for certain, without a round
//! - `pace`: ticks from injected time, election jitter from our own generator
//! - `config`, `entry`, `ready`, `error`: the nouns of the interface

mod acknowledged;
mod admission;
mod codec;
mod config;
mod entry;
mod error;
mod leader_lease;
mod outbox;
mod pace;
mod quorum;
mod reads;
mod ready;
mod window;

pub use codec::{CONTEXT_BYTES_MAX, MESSAGE_BYTES_MAX, SNAPSHOT_BYTES_MAX};
pub use config::{Config, NODES_MAX};
pub use entry::{EntryKind, HardState, LogEntry, LogMark, Recovered};
pub use error::{OfferError, ProposeError, ReadError, Refused, StartError, TransferError};
pub use quorum::status::{PeerState, PeerStatus, Status};
pub use quorum::{Confirmation, Quorum};
pub use ready::{PendingSnapshot, Persist, Ready, Role, RoleChange};
