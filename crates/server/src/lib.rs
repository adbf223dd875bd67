//! A peer: quorum, commit rule and store as one deterministic being.
//!
//! Inputs are method calls that carry the time; [`Server::take_effects`] works through everything they started and
//! gives what is to be done outside: messages to send, log writes to make durable, news for the node's own session.
//! The same code runs in the runtime (real disks, sockets, threads) and in the simulator (none of them).
//!
//! The way of a commit: `on_local(Submit)` or `on_message(Submit)` at the leader -> [`leading`] puts it in line and proposes
//! an entry with many -> quorum -> every replica applies it ([`server`]) -> [`Effect::Applied`] tells the session's node.
//!
//! - [`server`]: the state machine: what comes in, what goes out, applying, flushing
//! - [`leading`]: what only the leader does: line up requests, confirm reads, watch sessions, reap, checkpoint
//! - `line`: the items that wait for a place in an entry
//! - [`catch_up`]: a replica that is behind the log fetches the commits that it missed, by a change scan
//! - [`clocks`]: whether this node's wall clock can be trusted to number transactions
//! - [`config`], [`effect`]: the nouns of the interface
//!
//! Invariants (checked by [`Server::check_invariants`] and, over all replicas, by the simulator):
//! 1. Records and state are those behind one log index, `state.applied`, except while catching up; then nothing is applied.
//! 2. What is sealed as one cut is records and state of one index, or is marked as catching up.
//! 3. The log is trimmed only below what is durable in the records.
//! 4. A leader proposes only with a trusted clock, and only after it has applied everything before its own term.
//! 5. A server that has failed does nothing any more.

pub mod catch_up;
pub mod clocks;
pub mod collecting;
pub mod config;
pub mod effect;
pub mod leading;
mod line;
pub mod server;

pub use config::{Config, Sealed};
pub use effect::{Effect, Failure};
pub use server::{Clock, Server, StartError};
