//! The cluster's own certificate authority, and what a node needs to prove who it is.
//!
//! `gavel init` makes a cluster: a random [`ClusterId`](gavel_types::ClusterId), an authority (a key and a self-signed
//! certificate), and for each node a key and a certificate that binds cluster and node id. Every
//! connection between nodes is TLS 1.3 with a certificate on both sides; no public authority, no
//! file of the operating system and no host name has a say in it.
//!
//! - [`authority`]: making a cluster, issuing (and later renewing) certificates of nodes
//! - [`identity`]: how cluster and node id are written into a certificate, and read back
//! - [`guest`]: what a mirror in another cluster needs to talk to a node
//! - [`node`]: loading and checking a node's files, and the TLS configurations made of them
//! - `files`: files that appear whole or not at all, keys readable by their owner only
//! - [`error`]: what can be wrong with all that, naming the file and the next step
//!
//! Invariants:
//! 1. A key is never in a file that group or others may read: none is written so, none so is loaded.
//! 2. Nothing here reads a clock: the caller says what time it is.
//! 3. What [`NodeTrust`] loads has passed the same verifiers that its peers will apply.
//!
//! Room is left for two things. *Renewal*: [`Authority::load`] and [`Authority::issue`] make a new
//! certificate for an old node, and `authority.crt` may hold several certificates, so that a new
//! authority can be trusted before the old one is retired. *Join tokens*: a token would carry the
//! cluster's id, an address and [`Authority::fingerprint`], and the joining node would send its
//! own public key; nothing in the certificates has to change for that.

pub mod authority;
pub mod error;
pub(crate) mod files;
pub mod guest;
pub mod identity;
pub mod node;

pub use authority::{Authority, Created, Issued, create_cluster};
pub use error::TrustError;
pub use guest::GuestTrust;
pub use identity::Identity;
pub use node::{NodeTrust, TrustPaths};

#[cfg(test)]
mod tests;
