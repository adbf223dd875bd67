//! Blobs of a client: stored on a majority of the peers, fetched from one of them, cached in memory and on disk.

use super::cache::{Cache, CacheStatus};
use super::peers::Peers;
use crate::host::blobs::{BEHIND_PAUSE, BEHIND_TRIES, BlobsError, ByBytes, GET, PUT, on_majority, tid_of};
use bytes::Bytes;
use gavel_types::{BlobId, NodeId, Tid};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of blobs that are kept in memory after they were verified: a large read-ahead of a few files.
const MEMORY_BYTES: u64 = 64 << 20;
/// A guess at how many blobs that will be.
const MEMORY_BLOBS: usize = 256;
/// A peer is given so long to store a blob; then it does not count.
const PUT_PATIENCE: Duration = Duration::from_secs(4);

/// See the module's documentation.
pub struct ClientBlobs {
    peers: Arc<Peers>,
    memory: quick_cache::sync::Cache<BlobId, Bytes, ByBytes>,
    disk: Arc<Cache>,
    fetched: AtomicU64,
}

impl ClientBlobs {
    /// Over a cache on disk.
    pub fn new(peers: Arc<Peers>, disk: Cache) -> ClientBlobs {
        let memory = quick_cache::sync::Cache::with_weighter(MEMORY_BLOBS, MEMORY_BYTES, ByBytes);
        ClientBlobs { peers, memory, disk: Arc::new(disk), fetched: AtomicU64::new(0) }
    }

    /// How many were fetched from peers, and what the cache holds.
    pub fn status(&self) -> (u64, CacheStatus) {
        (self.fetched.load(Ordering::Relaxed), self.disk.status())
    }

    /// A blob: from memory, from the disk, or from a peer. Who asks for one that is being fetched waits for it.
    ///
    /// # Errors
    /// [`BlobsError::Unavailable`].
    pub async fn fetch(&self, id: BlobId) -> Result<Bytes, BlobsError> {
        self.memory.get_or_insert_async(&id, self.fetch_uncached(id)).await
    }

    async fn fetch_uncached(&self, id: BlobId) -> Result<Bytes, BlobsError> {
        let disk = self.disk.clone();
        let found = tokio::task::spawn_blocking(move || disk.get(id)).await.ok().flatten();
        if let Some(bytes) = found {
            return Ok(bytes);
        }
        let name = Bytes::copy_from_slice(&id.0);
        let asked = self.peers.ask_raw(GET, name, |bytes| BlobId::of(bytes) == id).await;
        let bytes = asked.map_err(|cause| BlobsError::Unavailable { id, cause })?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.keep(id, bytes.clone());
        Ok(bytes)
    }

    fn keep(&self, id: BlobId, bytes: Bytes) {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.put(id, &bytes));
    }

    /// Stores bytes on a majority of the peers, each of which had applied `since`. Gives a transaction that each of them had applied before it
    /// looked whether it has them.
    ///
    /// # Errors
    /// [`BlobsError::NoMajority`].
    pub async fn store(self: &Arc<Self>, bytes: Bytes, since: Tid) -> Result<Tid, BlobsError> {
        let stores = self.peers.ids().iter().copied().map(|peer| {
            let (blobs, bytes) = (self.clone(), bytes.clone());
            async move { blobs.store_at(peer, bytes, since).await }
        });
        let as_of = on_majority(stores).await?;
        let id = BlobId::of(&bytes);
        self.memory.insert(id, bytes.clone());
        self.keep(id, bytes);
        Ok(as_of)
    }

    async fn store_at(&self, peer: NodeId, bytes: Bytes, since: Tid) -> Result<Tid, String> {
        for _ in 0..BEHIND_TRIES {
            let answer = self.peers.sender().bulk_request_within(peer, PUT, bytes.clone(), PUT_PATIENCE).await;
            let as_of = tid_of(&answer.map_err(|error| error.to_string())?)?;
            if as_of >= since {
                return Ok(as_of);
            }
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
        Err(format!("node {peer} has stored them, and is too far behind the log"))
    }
}
