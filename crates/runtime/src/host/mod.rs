//! One node in the real world: disks, threads, sockets and clocks around the deterministic `gavel-node`.
//!
//! Threads: one for the node itself and its connections ([`node`]: all inputs in one queue, effects carried out in order),
//! one that writes and syncs the log ([`journal`]: one sync for many writes), one that flushes and compacts records
//! ([`flusher`]), one that writes blobs ([`blobs`]: one sync for many writers), and tokio's for blobs and for operations on their way
//! ([`tree`]). Operations that have little to do but to wait for the node go on on its own thread.
//!
//! - [`daemon`]: brings it all up and down
//! - [`node`]: the queue and the thread of the node
//! - [`journal`], [`flusher`]: the disk threads
//! - [`blobs`]: storing on a majority, fetching, repairing, filling in what this replica lacks
//! - [`conflicts`]: changes that were answered and could not be committed
//! - [`client`]: a mount without a replica
//! - [`clients`]: what a node answers clients that have no replica
//! - [`opens`]: which files mounts have open
//! - [`wants`]: leases that would be useful
//! - [`tree`]: the door for mounts: operations on their way
//! - [`fronts`]: what mounts keep, and how they are told to forget it
//! - [`browse`]: what the console shows
//! - [`txn`]: transactions of users
//! - [`control`]: the socket that the command line talks to
//! - [`revert`]: undo and restore
//! - [`history`]: questions about the past, answered line by line
//! - `asked`: requests about the replicated state beside records, as people make them
//! - [`snapshots`]: names for states
//! - [`volumes`]: which volumes there are; making, cloning, destroying them
//! - [`retention`]: which past states stay, what would go, and states that mounts need
//! - [`mirror`]: streams to and from mirrors, and what mirrors show
//! - [`status`]: what a node says of itself

mod asked;
pub mod blobs;
pub mod browse;
pub mod client;
pub mod clients;
mod collector;
pub mod conflicts;
pub mod control;
pub mod daemon;
pub mod flusher;
pub mod fronts;
pub mod history;
pub mod journal;
mod memory;
pub mod mirror;
pub mod node;
pub mod opens;
pub mod retention;
pub mod revert;
pub mod snapshots;
pub mod space;
pub mod status;
pub mod tree;
pub mod txn;
pub mod volumes;
pub mod wants;

pub use daemon::{Daemon, DaemonError};
pub use node::{NodeHandle, NodeView};
pub use status::NodeStatus;
pub use tree::VolumeTree;
