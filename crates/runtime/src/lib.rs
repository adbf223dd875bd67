//! The real world: tokio, sockets, TLS, threads, disks, clocks.
//!
//! Hosts a `gavel-node` the way the simulator does, but for real. Nothing here decides anything about the protocol or the
//! filesystem: it carries bytes and time in, and effects out.
//!
//! - [`config`]: a node's configuration file
//! - [`trust`]: the cluster's own certificate authority, and what nodes accept from each other
//! - [`net`]: connections between nodes
//! - [`host`]: one node: disks, threads, operations on their way, the control socket

pub mod config;
pub mod host;
pub mod net;
pub mod trust;
