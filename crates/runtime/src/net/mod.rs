//! How nodes talk: framed messages and bulk requests over mutually authenticated TLS.
//!
//! Every node dials every other node, so between two nodes each direction has its own connections:
//! one *log* connection (ordered one-way messages, lost rather than delayed) and a few *bulk* connections
//! (requests and responses of up to 8 MiB, multiplexed), so that a blob never delays a heartbeat.
//! What is inside a payload is not known here.
//!
//! ```text
//!   dialler                                                        acceptor
//!   Dialling --tcp--> Securing --tls--> Greeting --Hello--> ...    HalfOpen --tls, Hello--> Checking
//!   ... <--Welcome-- Open   or   <--Refused-- Waiting              Checking --Welcome--> Open
//!   Open --error, silence, close--> Waiting --backoff--> Dialling  Checking --Refused--> closed
//! ```
//!
//! - [`transport`]: [`Transport`], the door of this room: start, send, request, state, shutdown
//! - [`handler`]: what the owner implements to receive
//! - [`limits`]: every bound and time of this room
//! - [`state`]: what `gavel status` shows of links
//! - [`frame`], [`hello`]: the bytes, as pure functions ([the protocol](../../../../docs/protocols/transport.md))
//! - [`error`]: why a link ended, a request failed, a start was refused
//! - [`guest`]: mirrors in other clusters, who have no certificate of this one
//! - `queue`: frames that wait to be written, bounded by bytes
//! - `link`: one open connection: reading, writing, noticing silence
//! - `dial`: getting and keeping a connection; `bulk`: requests over such connections
//! - `accept`: the listening side: half-open handshakes, greeting, serving
//!
//! Invariants:
//! 1. No payload is read from, and no identity is told to, a party that has not proved to hold a key
//!    certified by the cluster's authority; but for a guest's greeting, which its owner judges.
//! 2. The sender of a payload is the node in its certificate, never one that it only claims to be.
//! 3. Messages to one peer arrive in the order in which they were sent; some may be missing, none is doubled.
//! 4. Memory is bounded, whatever peers or strangers do: queues by bytes, half-open handshakes and requests
//!    by number, buffers by what arrived (not by what a header announces).
//! 5. A request that failed says whether it may have been executed ([`BulkError::outcome_known`]).

pub mod error;
pub mod frame;
pub mod guest;
pub mod handler;
pub mod hello;
pub mod limits;
pub mod state;
pub mod transport;

mod accept;
mod bulk;
mod dial;
mod link;
mod queue;
mod socket;

pub use error::{BulkError, LinkError, SendError, StartError};
pub use guest::Guest;
pub use handler::{BulkFailure, Handler, LinkChange};
pub use limits::Limits;
pub use state::{DoorState, LaneState, LinkState};
pub use transport::{Listen, PeerAddress, Sender, Transport, TransportConfig};

#[cfg(test)]
mod tests;
