//! How far a replica may lag behind what is stored.
//!
//! A majority is enough; the replicas that it does not need go on in the background, and what they are still to be given is held in memory. So there is a bound:
//! a blob that finds no room for a replica waits for it only as long as the replica is needed for a majority. What is left out the replica fetches by itself,
//! as it does with all that it lacks.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Most bytes that one peer was sent, or is about to be sent, and has not stored yet. Twice what is answered before it is committed (32 MiB): a replica that is as
/// fast as the others is never that far behind.
const LAG_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(LAG_BYTES_MAX >= 2 * gavel_client::pending::PENDING_BYTES_MAX);

/// The room for one peer.
pub(super) struct Lag(Arc<Semaphore>);

impl Lag {
    pub(super) fn new() -> Lag {
        Lag(Arc::new(Semaphore::new(LAG_BYTES_MAX)))
    }

    /// Waits for room for so many bytes, until the sender of `needed` is dropped.
    ///
    /// # Errors
    /// In words, that the peer is not given the bytes.
    pub(super) async fn room(
        &self,
        bytes: usize,
        mut needed: watch::Receiver<()>,
    ) -> Result<OwnedSemaphorePermit, String> {
        let room = self.0.clone().acquire_many_owned(bytes.min(LAG_BYTES_MAX) as u32);
        tokio::select! {
            biased;
            room = room => Ok(room.expect("this semaphore is never closed")),
            // Nothing is ever sent: only the end is waited for.
            _ = needed.changed() => Err("it is too far behind, and fetches them later".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_waits_for_as_long_as_the_peer_is_needed() {
        let lag = Lag::new();
        let (needed, until) = watch::channel(());
        let first = lag.room(LAG_BYTES_MAX - 1, until.clone()).await.unwrap();
        let (second, third) = (lag.room(2, until.clone()), lag.room(2, until.clone()));
        tokio::pin!(second, third);
        assert!(is_pending(&mut second).await);
        drop(first);
        let second = second.await.unwrap();
        let all = lag.room(LAG_BYTES_MAX - 2, until.clone()).await.unwrap();
        assert!(is_pending(&mut third).await);
        drop(needed);
        assert!(third.await.is_err());
        drop((second, all));
        assert!(
            lag.room(usize::MAX, until).await.is_ok(),
            "whoever is given up leaves no trace, and nothing is too large"
        );
    }

    async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), future).await.is_err()
    }
}
