//! What a mirror follows, and with what right.

use gavel_types::{BlobId, NodeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most peers of a source.
pub const FOLLOW_PEERS_MAX: usize = 31;
/// Longest address of a peer, in bytes.
pub const FOLLOW_ADDRESS_BYTES_MAX: usize = 255;
/// Longest certificates of a source's authority, in bytes.
pub const FOLLOW_AUTHORITY_BYTES_MAX: usize = 16 * 1024;

/// 32 random bytes: who has them may read the stream of one volume. It is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowKey(pub [u8; 32]);

impl FollowKey {
    /// What the source keeps of it: its BLAKE3 hash, which tells whether a key is the one, and not what it is.
    pub fn hash(&self) -> [u8; 32] {
        BlobId::of(&self.0).0
    }
}

impl fmt::Debug for FollowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FollowKey(..)")
    }
}

/// Where a mirror's stream comes from, by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Follow {
    /// The source's peers, and where each is reached: `host:port`.
    pub peers: Vec<(NodeId, Box<str>)>,
    /// The certificates of the source's authority, as PEM: no other cluster's peer is listened to.
    pub authority: Box<str>,
    /// What the source calls this mirror.
    pub name: Box<str>,
    /// What proves to the source that this is that mirror.
    pub key: FollowKey,
    /// Nothing is asked for until somebody resumes it.
    pub paused: bool,
}

impl Follow {
    /// Is it within its bounds?
    pub fn is_bounded(&self) -> bool {
        (1..=FOLLOW_PEERS_MAX).contains(&self.peers.len())
            && self.peers.iter().all(|(_, address)| address.len() <= FOLLOW_ADDRESS_BYTES_MAX)
            && self.authority.len() <= FOLLOW_AUTHORITY_BYTES_MAX
    }
}
