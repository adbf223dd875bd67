//! What the owner of a transport implements to receive.

use super::guest::Guest;
use bytes::Bytes;
use gavel_types::NodeId;
use std::future::Future;

/// Receives what peers send. Called from the transport's tasks, from several threads.
pub trait Handler: Send + Sync + 'static {
    /// A message of `from` (as its certificate says), in the order in which it was sent.
    ///
    /// Must be quick and must not block: it holds up everything that `from` sends, so it puts the
    /// payload into the owner's queue. The payload may share a buffer of up to 256 KiB with its
    /// neighbours: decode or copy what is kept for long.
    fn on_message(&self, from: NodeId, payload: Bytes);

    /// A request of `from`. The answer, or the failure's text, is sent back.
    ///
    /// The future is dropped where it waits if the connection ends: nobody is left to hear the answer.
    fn on_bulk(
        &self,
        from: NodeId,
        kind: u8,
        payload: Bytes,
    ) -> impl Future<Output = Result<Bytes, BulkFailure>> + Send;

    /// A mirror in another cluster has greeted. Must be quick and must not block. Whoever does not say otherwise has no guests.
    fn on_guest(&self, guest: Guest) {
        drop(guest);
    }

    /// Messages to `peer` now reach it, or no longer do. Must be quick and must not block.
    fn on_link(&self, peer: NodeId, change: LinkChange) {
        let _ = (peer, change);
    }
}

/// What happened to the log connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It is open; the peer's incarnation as it told it.
    Up {
        /// Which run of the peer answers.
        incarnation: u64,
    },
    /// It ended; messages that were on their way may be lost.
    Down,
}

/// Why a peer did not do what a request asked for; its text is sent to the requester (cut at 512 bytes).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BulkFailure(pub String);
