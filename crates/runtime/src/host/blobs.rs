//! Storing blobs on a majority, fetching, repairing, and filling in what this replica lacks.
//!
//! A blob is stored by a majority of the replicas before the commit that names it is proposed. The others fill it in
//! later: each replica walks the change scan from where it last knew itself complete, and fetches what it misses.
//! A blob that is found damaged is fetched from a peer and replaced.

use crate::host::node::NodeHandle;
use crate::net::{BulkFailure, Sender as Peers};
use bytes::Bytes;
use gavel_store::blob::{BlobError, BlobStore};
use gavel_types::{BlobId, NodeId, Tid};
use gavel_wire::{Content, Record};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Bulk request: store these bytes; the answer is empty and says that they are durable.
pub const PUT: u8 = 1;
/// Bulk request: the blob of this name; the answer is its bytes.
pub const GET: u8 = 2;
/// A peer that has not given a blob by then is left alone, and the next one is asked.
const GET_PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of changes looked at in one step of filling in.
const FILL_SCAN_BYTES: usize = 256 * 1024;
/// How often a replica looks for blobs that it lacks.
const FILL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the position up to which a replica is complete is written down.
const MARK_EVERY_STEPS: u32 = 64;
/// The file that holds this position.
const MARK_FILE: &str = "filled";

/// Why a blob could not be stored or fetched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlobsError {
    /// Too few replicas have stored it.
    #[error("only {stored} of {needed} replicas needed could store the bytes: {cause}")]
    NoMajority {
        /// How many did.
        stored: usize,
        /// How many must.
        needed: usize,
        /// What the last one that did not said.
        cause: String,
    },
    /// No replica that can be reached has it whole.
    #[error("blob {id} can't be had from any replica that answers: {cause}")]
    Unavailable {
        /// The blob.
        id: BlobId,
        /// What the last one said.
        cause: String,
    },
}

/// Bytes of blobs that are kept in memory after they were read and verified: a large read-ahead of a few files.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// A guess at how many blobs that will be.
const CACHE_BLOBS: usize = 256;

/// A blob weighs as much as its bytes.
#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<BlobId, Bytes> for ByBytes {
    fn weight(&self, _id: &BlobId, bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

type Durable = oneshot::Sender<Result<(), String>>;

/// The blobs of this node and its peers.
pub struct Blobs {
    store: Arc<BlobStore>,
    peers: Peers,
    others: Vec<NodeId>,
    writer: Sender<(BlobId, Bytes, Durable)>,
    /// Verified blobs: a file is often read in smaller pieces than it was written in.
    cache: quick_cache::sync::Cache<BlobId, Bytes, ByBytes>,
}

impl Blobs {
    /// Starts the thread that writes blobs. It ends when the last `Blobs` is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(store: Arc<BlobStore>, peers: Peers, others: Vec<NodeId>) -> std::io::Result<Arc<Blobs>> {
        let (writer, orders) = channel();
        let written = store.clone();
        std::thread::Builder::new().name("gavel-blobs".into()).spawn(move || write_blobs(&written, &orders))?;
        let cache = quick_cache::sync::Cache::with_weighter(CACHE_BLOBS, CACHE_BYTES, ByBytes);
        Ok(Arc::new(Blobs { store, peers, others, writer, cache }))
    }

    /// Stores bytes here, durably.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn store_here(&self, bytes: Bytes) -> Result<(), String> {
        let (durable, done) = oneshot::channel();
        let stopped = || "the blob store has stopped".to_owned();
        self.writer.send((BlobId::of(&bytes), bytes, durable)).map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
    }

    /// Stores bytes on a majority of the replicas; the rest goes on in the background.
    ///
    /// # Errors
    /// [`BlobsError::NoMajority`].
    pub async fn store_on_majority(self: &Arc<Self>, bytes: Bytes) -> Result<(), BlobsError> {
        let replicas = self.others.len() + 1;
        let needed = replicas / 2 + 1;
        let (tell, mut heard) = mpsc::unbounded_channel();
        for peer in std::iter::once(None).chain(self.others.iter().copied().map(Some)) {
            let (blobs, bytes, tell) = (self.clone(), bytes.clone(), tell.clone());
            tokio::spawn(async move {
                let stored = match peer {
                    None => blobs.store_here(bytes).await,
                    Some(peer) => {
                        let answer = blobs.peers.bulk_request(peer, PUT, bytes).await;
                        answer.map(drop).map_err(|error| error.to_string())
                    }
                };
                // The majority may have been reached meanwhile: then nobody listens.
                let _ = tell.send(stored);
            });
        }
        drop(tell);
        let (mut stored, mut cause) = (0, String::new());
        while let Some(result) = heard.recv().await {
            match result {
                Ok(()) => stored += 1,
                Err(error) => cause = error,
            }
            if stored == needed {
                return Ok(());
            }
        }
        Err(BlobsError::NoMajority { stored, needed, cause })
    }

    /// A blob, from here or from a peer. What was missing or damaged here is stored again.
    ///
    /// # Errors
    /// [`BlobsError::Unavailable`].
    pub async fn fetch(&self, id: BlobId) -> Result<Bytes, BlobsError> {
        if let Some(bytes) = self.cache.get(&id) {
            return Ok(bytes);
        }
        let bytes = self.fetch_uncached(id).await?;
        self.cache.insert(id, bytes.clone());
        Ok(bytes)
    }

    /// A blob, if it is in memory.
    pub fn in_memory(&self, id: &BlobId) -> Option<Bytes> {
        self.cache.get(id)
    }

    async fn fetch_uncached(&self, id: BlobId) -> Result<Bytes, BlobsError> {
        let damaged = match self.read_here(id).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%id, %error, "blob cannot be read here; fetching it from a peer");
                true
            }
        };
        let mut cause = "no peer".to_owned();
        for peer in &self.others {
            // One that has stopped must not hold up what another could give.
            let name = Bytes::copy_from_slice(&id.0);
            match self.peers.bulk_request_within(*peer, GET, name, GET_PATIENCE).await {
                Ok(bytes) if BlobId::of(&bytes) == id => {
                    self.keep(id, bytes.clone(), damaged).await;
                    return Ok(bytes);
                }
                Ok(_) => cause = format!("node {peer} sent other bytes"),
                Err(error) => cause = format!("node {peer}: {error}"),
            }
        }
        Err(BlobsError::Unavailable { id, cause })
    }

    async fn read_here(&self, id: BlobId) -> Result<Option<Bytes>, String> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.get(id)).await;
        read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Stores what a peer gave; failing to is no reason not to use it.
    async fn keep(&self, id: BlobId, bytes: Bytes, damaged: bool) {
        let kept = if damaged {
            let store = self.store.clone();
            let replaced =
                tokio::task::spawn_blocking(move || store.replace(id, &bytes).and_then(|()| store.sync())).await;
            replaced.map_err(|error| error.to_string()).and_then(|kept| kept.map_err(|error| error.to_string()))
        } else {
            self.store_here(bytes).await
        };
        if let Err(error) = kept {
            tracing::warn!(%id, %error, "a blob fetched from a peer could not be stored here");
        }
    }

    /// Answers a peer's bulk request.
    ///
    /// # Errors
    /// What the peer is told.
    pub async fn answer(&self, kind: u8, payload: Bytes) -> Result<Bytes, BulkFailure> {
        match kind {
            PUT => self.store_here(payload).await.map(|()| Bytes::new()).map_err(BulkFailure),
            GET => {
                let id: [u8; 32] = payload[..].try_into().map_err(|_| BulkFailure("not a blob's name".into()))?;
                match self.read_here(BlobId(id)).await {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => Err(BulkFailure("this node does not have the blob".into())),
                    Err(error) => Err(BulkFailure(error)),
                }
            }
            other => Err(BulkFailure(format!("no request has kind {other}"))),
        }
    }

    /// Fills in what this replica lacks, for ever: see the module's documentation.
    pub async fn fill(self: Arc<Self>, node: Arc<NodeHandle>, dir: PathBuf) {
        let mut complete = read_mark(&dir);
        let mut steps = 0;
        loop {
            match self.fill_step(&node, complete).await {
                Ok(upto) if upto > complete => {
                    complete = upto;
                    steps += 1;
                    if steps % MARK_EVERY_STEPS == 0 {
                        write_mark(&dir, complete);
                    }
                }
                Ok(_) => tokio::time::sleep(FILL_INTERVAL).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot fill in blobs now");
                    tokio::time::sleep(FILL_INTERVAL).await;
                }
            }
        }
    }

    /// Looks at some changes behind `complete`; gives the Tid up to which nothing lacks now.
    async fn fill_step(&self, node: &NodeHandle, complete: Tid) -> Result<Tid, String> {
        let upto = node.tid();
        if upto <= complete {
            return Ok(complete);
        }
        let (rows, done) =
            node.records.changes(complete, upto, 0, FILL_SCAN_BYTES).map_err(|error| error.to_string())?;
        if node.records.is_being_copied() {
            return Err("the records are being copied".into());
        }
        for row in &rows {
            let Some(Record::Extent(extent)) = row.version.as_ref().map(|version| &version.record) else { continue };
            let Content::Blob { id, .. } = &extent.content else { continue };
            if !self.store.contains(*id).map_err(|error| error.to_string())? {
                self.fetch_uncached(*id).await.map_err(|error| error.to_string())?;
            }
        }
        // The last commit may go on in the next step, so it does not count yet.
        let whole = rows.last().map_or(upto, |last| Tid(last.tid.0 - 1));
        Ok(if done { upto } else { whole.max(complete) })
    }

    /// How much is stored here.
    pub fn stats(&self) -> gavel_store::blob::BlobStats {
        self.store.stats()
    }
}

/// Writes what waits, then one sync makes it durable.
fn write_blobs(store: &BlobStore, orders: &Receiver<(BlobId, Bytes, Durable)>) {
    while let Ok(first) = orders.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(orders.try_iter().take(63)).collect();
        let blobs: Vec<(BlobId, Bytes)> = batch.iter().map(|(id, bytes, _)| (*id, bytes.clone())).collect();
        let result = write_all(store, &blobs);
        for (_, _, durable) in batch {
            let _ = durable.send(result.clone());
        }
    }
}

fn write_all(store: &BlobStore, blobs: &[(BlobId, Bytes)]) -> Result<(), String> {
    let written: Result<(), BlobError> = store.put_many(blobs).and_then(|()| store.sync());
    written.map_err(|error| error.to_string())
}

fn read_mark(dir: &Path) -> Tid {
    let text = std::fs::read_to_string(dir.join(MARK_FILE)).unwrap_or_default();
    // Whatever can't be read means: look at everything again.
    Tid(text.trim().parse().unwrap_or(0))
}

fn write_mark(dir: &Path, complete: Tid) {
    let new = dir.join("filled.new");
    let written =
        std::fs::write(&new, complete.0.to_string()).and_then(|()| std::fs::rename(&new, dir.join(MARK_FILE)));
    if let Err(error) = written {
        tracing::debug!(%error, "cannot write down how far blobs are filled in");
    }
}
