//! Storing blobs on a majority, fetching, repairing, and filling in what this replica lacks.
//!
//! A blob is stored by a majority of the replicas before the commit that names it is proposed. The others fill it in
//! later: each replica walks the change scan from where it last knew itself complete, and fetches what it misses.
//! A blob that is found damaged is fetched from a peer and replaced. What is collected is let go of by `collector`; docs/protocols/collection.md says why
//! nothing is lost by it.

mod lag;
mod writing;

use crate::host::node::NodeHandle;
use crate::net::{BulkFailure, Sender as Peers};
use bytes::Bytes;
use gavel_store::blob::{BlobError, BlobStore};
use gavel_store::engine::Engine;
use gavel_store::records::Records;
use gavel_types::{Blob, BlobId, KeyParts, NodeId, Tid};
use gavel_wire::past::{Past, Touched};
use gavel_wire::{BlobNews, ViewError};
use lag::Lag;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use writing::{Given, Writer};

/// Bulk request: store these bytes; the answer says that they are durable, and which transaction the replica had applied before it looked whether it has them
/// (8 bytes, big endian).
pub const PUT: u8 = 1;
/// Bulk request: the blob of this name; the answer is its bytes.
pub const GET: u8 = 2;
/// A peer that has not given a blob by then is left alone, and the next one is asked.
const GET_PATIENCE: Duration = Duration::from_secs(2);
/// Most changes looked at in one step of filling in.
const FILL_CHANGES: usize = 4096;
/// How often a replica looks for blobs that it lacks.
const FILL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the position up to which a replica is complete is written down.
const MARK_EVERY_STEPS: u32 = 64;
/// A replica that is behind the log is asked so often, with this pause.
pub(super) const BEHIND_TRIES: u32 = 50;
pub(super) const BEHIND_PAUSE: Duration = Duration::from_millis(100);
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
/// The part of it for blobs that were asked for again; the rest is for those that have come last. In what is left by default, 3 %, not even what is read ahead
/// would stay until it is asked for.
const CACHE_HOT: f64 = 0.5;

/// In one piece: blobs are so large that in one of many pieces some would displace each other while others are empty.
fn cache_options() -> quick_cache::Options {
    let mut options = quick_cache::OptionsBuilder::new();
    options.shards(1).hot_allocation(CACHE_HOT).estimated_items_capacity(CACHE_BLOBS).weight_capacity(CACHE_BYTES);
    options.build().expect("all that is needed is given")
}

/// A way of reading a blob that is stored here.
type How = fn(&BlobStore, BlobId) -> Result<Option<Bytes>, BlobError>;

/// Starts storing at all of these replicas, and gives the lowest Tid that a majority of them stored as of; the others go on.
///
/// # Errors
/// [`BlobsError::NoMajority`].
pub(super) async fn on_majority<F>(stores: impl Iterator<Item = F>) -> Result<Tid, BlobsError>
where
    F: Future<Output = Result<Tid, String>> + Send + 'static,
{
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut replicas = 0;
    for store in stores {
        replicas += 1;
        let tell = tell.clone();
        tokio::spawn(async move {
            // The majority may have been reached meanwhile: then nobody listens.
            let _ = tell.send(store.await);
        });
    }
    drop(tell);
    let needed = replicas / 2 + 1;
    let (mut stored, mut as_of, mut cause) = (0, Tid::MAX, String::new());
    while let Some(result) = heard.recv().await {
        match result {
            Ok(tid) => (stored, as_of) = (stored + 1, as_of.min(tid)),
            Err(error) => cause = error,
        }
        if stored == needed {
            return Ok(as_of);
        }
    }
    Err(BlobsError::NoMajority { stored, needed, cause })
}

/// A blob weighs as much as its bytes.
#[derive(Clone)]
pub(super) struct ByBytes;

impl quick_cache::Weighter<BlobId, Bytes> for ByBytes {
    fn weight(&self, _id: &BlobId, bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

/// Bytes that could not be stored on a majority are stored again after this.
const STORE_AGAIN: Duration = Duration::from_millis(200);

/// The blobs of this node and its peers.
pub struct Blobs {
    store: Arc<BlobStore>,
    peers: Peers,
    others: Vec<NodeId>,
    writer: Writer,
    /// For each peer, room for what it was sent and has not stored yet.
    lags: BTreeMap<NodeId, Lag>,
    /// What this node needs, and nothing names.
    pub in_use: InUse,
    /// Blobs that are about to be collected, unless a commit names them.
    condemned: RwLock<BTreeSet<BlobId>>,
    /// Verified blobs: a file is often read in smaller pieces than it was written in.
    cache: quick_cache::sync::Cache<BlobId, Bytes, ByBytes>,
}

impl Blobs {
    /// Starts the thread that writes blobs. It ends when the last `Blobs` is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(store: Arc<BlobStore>, peers: Peers, others: Vec<NodeId>) -> std::io::Result<Arc<Blobs>> {
        let writer = Writer::start(store.clone())?;
        let cache =
            quick_cache::sync::Cache::with_options(cache_options(), ByBytes, Default::default(), Default::default());
        let (in_use, condemned) = (InUse::default(), RwLock::default());
        let lags = others.iter().map(|peer| (*peer, Lag::new())).collect();
        Ok(Arc::new(Blobs { store, peers, others, writer, lags, in_use, condemned, cache }))
    }

    /// A life of the node begins behind this state: what it collects up to there was, or never will be, carried out here.
    ///
    /// # Errors
    /// If that can't be written down.
    pub(super) fn begin(&self, state: &gavel_txn::State) -> Result<(), BlobError> {
        self.skip(state.tid, state.collection.condemned())?;
        self.store.applied(state.tid);
        Ok(())
    }

    /// The replica has skipped what the log has up to `tid`. To be called before anybody is told of that.
    ///
    /// # Errors
    /// If it can't be written down.
    pub(super) fn skip(&self, tid: Tid, condemned: &BTreeMap<BlobId, Tid>) -> Result<(), BlobError> {
        *self.condemned.write() = condemned.keys().copied().collect();
        self.store.pass_over(tid)
    }

    /// What an entry has made of blobs. To be called before [`Blobs::applied`].
    pub(super) fn on_news(&self, news: &BlobNews) {
        if !news.condemned.is_empty() || !news.released.is_empty() {
            let mut condemned = self.condemned.write();
            condemned.extend(&news.condemned);
            for blob in &news.released {
                condemned.remove(blob);
            }
        }
        self.store.collect(&news.collected);
    }

    /// Views see everything up to this transaction from now on.
    pub(super) fn applied(&self, tid: Tid) {
        self.store.applied(tid);
    }

    /// Is the blob about to be collected, unless a commit names it?
    pub fn is_condemned(&self, blob: BlobId) -> bool {
        self.condemned.read().contains(&blob)
    }

    /// How many blobs are about to be collected, and how many were, and are not let go of yet.
    pub(super) fn leaving(&self) -> (u64, u64) {
        (self.condemned.read().len() as u64, self.store.unburied() as u64)
    }

    /// The blobs that are stored here.
    pub(super) fn store(&self) -> &BlobStore {
        &self.store
    }

    /// Stores bytes here, durably. Gives the transaction that this replica had applied before it looked whether it has them.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn store_here(&self, bytes: Bytes) -> Result<Tid, String> {
        self.writer.store(bytes.into()).await
    }

    /// Stores bytes on a majority of the replicas; the rest goes on in the background. Gives a transaction that each of this majority had applied before it
    /// looked whether it has them.
    ///
    /// # Errors
    /// [`BlobsError::NoMajority`].
    pub async fn store_on_majority(self: &Arc<Self>, bytes: Bytes) -> Result<Tid, BlobsError> {
        self.store_on_majority_since(bytes, Tid::ZERO).await
    }

    /// The same, for as long as it takes. None if it was given up, which is asked before each time. `whose` is told to who reads the log.
    pub(super) async fn store_until(
        self: &Arc<Self>,
        bytes: impl Into<Given>,
        whose: &str,
        given_up: impl Fn() -> bool,
    ) -> Option<Tid> {
        let given = bytes.into();
        while !given_up() {
            match self.store_given(given.clone(), Tid::ZERO).await {
                Ok(as_of) => return Some(as_of),
                Err(error) => tracing::warn!(%error, "bytes {whose} are not on a majority yet"),
            }
            tokio::time::sleep(STORE_AGAIN).await;
        }
        None
    }

    /// The same, by replicas that have applied `since`: those that have not are asked again for a while.
    ///
    /// # Errors
    /// [`BlobsError::NoMajority`].
    pub async fn store_on_majority_since(self: &Arc<Self>, bytes: Bytes, since: Tid) -> Result<Tid, BlobsError> {
        self.store_given(bytes.into(), since).await
    }

    async fn store_given(self: &Arc<Self>, given: Given, since: Tid) -> Result<Tid, BlobsError> {
        // Held for as long as there is no majority.
        let (needed, until) = watch::channel(());
        let peers = std::iter::once(None).chain(self.others.iter().copied().map(Some));
        let stores = peers.map(|peer| {
            let (blobs, given, until) = (self.clone(), given.clone(), until.clone());
            async move {
                let lag = peer.and_then(|peer| blobs.lags.get(&peer));
                let _room = match lag {
                    Some(lag) => Some(lag.room(given.bytes().len(), until).await?),
                    None => None,
                };
                blobs.store_at(peer, given, since).await
            }
        });
        let stored = on_majority(stores).await;
        drop(needed);
        stored
    }

    /// Stores bytes at a peer, or here.
    async fn store_at(&self, peer: Option<NodeId>, given: Given, since: Tid) -> Result<Tid, String> {
        for _ in 0..BEHIND_TRIES {
            let as_of = match peer {
                None => self.writer.store(given.clone()).await?,
                Some(peer) => {
                    let answer = self.peers.bulk_request(peer, PUT, given.bytes().clone()).await;
                    tid_of(&answer.map_err(|error| error.to_string())?)?
                }
            };
            if as_of >= since {
                return Ok(as_of);
            }
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
        Err("a replica that has stored them is too far behind the log".into())
    }

    /// A blob, from here or from a peer. What was missing or damaged here is stored again.
    ///
    /// # Errors
    /// [`BlobsError::Unavailable`].
    pub async fn fetch(&self, id: BlobId) -> Result<Bytes, BlobsError> {
        // Whoever asks for it while it is on its way waits for that.
        self.cache.get_or_insert_async(&id, self.fetch_uncached(id, BlobStore::get)).await
    }

    /// The same, for somebody who reads a file from front to back, and will ask for it soon.
    ///
    /// # Errors
    /// [`BlobsError::Unavailable`].
    pub(super) async fn fetch_ahead(&self, id: BlobId) -> Result<(), BlobsError> {
        self.cache.get_or_insert_async(&id, self.fetch_uncached(id, BlobStore::get_past_cache)).await.map(drop)
    }

    /// A blob, if it is in memory.
    pub fn in_memory(&self, id: &BlobId) -> Option<Bytes> {
        self.cache.get(id)
    }

    async fn fetch_uncached(&self, id: BlobId, how: How) -> Result<Bytes, BlobsError> {
        let damaged = match self.read_here(id, how).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%id, %error, "blob cannot be read here; fetching it from a peer");
                true
            }
        };
        let blob = self.fetch_from_peer(id).await?;
        let bytes = blob.bytes().clone();
        self.keep(blob, damaged).await;
        Ok(bytes)
    }

    async fn fetch_from_peer(&self, id: BlobId) -> Result<Blob<Bytes>, BlobsError> {
        let mut cause = "no peer".to_owned();
        for peer in &self.others {
            // One that has stopped must not hold up what another could give.
            let name = Bytes::copy_from_slice(&id.0);
            match self.peers.bulk_request_within(*peer, GET, name, GET_PATIENCE).await {
                Ok(bytes) => match Blob::of(bytes) {
                    blob if blob.id() == id => return Ok(blob),
                    _ => cause = format!("node {peer} sent other bytes"),
                },
                Err(error) => cause = format!("node {peer}: {error}"),
            }
        }
        Err(BlobsError::Unavailable { id, cause })
    }

    /// A blob that is not here, or does not count any more; it is stored.
    async fn fetch_missing(&self, id: BlobId) -> Result<(), BlobsError> {
        match self.read_here(id, BlobStore::get_past_cache).await {
            // It was found among what was collected and is still here.
            Ok(Some(bytes)) => self.keep(Blob::of(bytes), false).await,
            _ => drop(self.fetch_uncached(id, BlobStore::get).await?),
        }
        Ok(())
    }

    async fn read_here(&self, id: BlobId, how: How) -> Result<Option<Bytes>, String> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || how(&store, id)).await;
        read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Puts a good copy in place of one that cannot be read.
    ///
    /// # Errors
    /// If no replica that can be reached has one, or it can't be stored.
    pub(super) async fn repair(&self, id: BlobId) -> Result<(), String> {
        let here = self.read_here(id, BlobStore::get).await.ok().flatten().map(Blob::of);
        let blob = match here.filter(|blob| blob.id() == id) {
            Some(older) => older,
            None => self.fetch_from_peer(id).await.map_err(|error| error.to_string())?,
        };
        self.replace(blob).await
    }

    async fn replace(&self, blob: Blob<Bytes>) -> Result<(), String> {
        let store = self.store.clone();
        let replaced = tokio::task::spawn_blocking(move || store.replace(&blob).and_then(|()| store.sync())).await;
        replaced.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Stores what a peer gave; failing to is no reason not to use it.
    async fn keep(&self, blob: Blob<Bytes>, damaged: bool) {
        let id = blob.id();
        let kept = match damaged {
            true => self.replace(blob).await,
            false => self.writer.store(blob.into()).await.map(drop),
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
            PUT => {
                let as_of = self.store_here(payload).await.map_err(BulkFailure)?;
                Ok(Bytes::copy_from_slice(&as_of.0.to_be_bytes()))
            }
            GET => {
                let id: [u8; 32] = payload[..].try_into().map_err(|_| BulkFailure("not a blob's name".into()))?;
                match self.read_here(BlobId(id), BlobStore::get).await {
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
        let (blobs, upto) = blobs_made(&node.records, complete, upto).map_err(|error| error.to_string())?;
        if node.records.is_being_copied() {
            return Err("the records are being copied".into());
        }
        for id in blobs {
            if !self.store.contains(id).map_err(|error| error.to_string())?
                && let Err(error) = self.fetch_missing(id).await
                // What others have collected this replica may still have to let go of.
                && node.records.is_named(id).map_err(|error| error.to_string())?
            {
                return Err(error.to_string());
            }
        }
        Ok(upto.max(complete))
    }

    /// How much is stored here.
    pub fn stats(&self) -> gavel_store::blob::BlobStats {
        self.store.stats()
    }
}

/// The blobs in extents that the commits behind `after` made, and up to which Tid (`upto` at most) these were looked at. Of most changes only the key is read: it says
/// whether they made an extent.
fn blobs_made<E: Engine>(records: &Records<E>, after: Tid, upto: Tid) -> Result<(Vec<BlobId>, Tid), ViewError> {
    let past = records.past(upto);
    let (mut blobs, mut last) = (Vec::new(), after);
    for (looked_at, row) in past.touched(after, upto).enumerate() {
        let Touched { tid, key, made } = row?;
        // The next step begins behind a whole commit.
        if looked_at >= FILL_CHANGES && tid > last {
            return Ok((blobs, last));
        }
        last = tid;
        if !made || !matches!(key.parts(), KeyParts::Extent { .. }) {
            continue;
        }
        blobs.extend(past.at(tid).get(&key)?.and_then(|version| version.blob()));
    }
    Ok((blobs, upto))
}

pub(super) fn tid_of(answer: &[u8]) -> Result<Tid, String> {
    let bytes = answer.try_into().map_err(|_| "a peer did not say as of when it has stored them".to_owned())?;
    Ok(Tid(u64::from_be_bytes(bytes)))
}

/// Blobs that this node needs, and that no version names: its own store does not let go of them. Each use is counted.
#[derive(Debug, Default)]
pub struct InUse(Mutex<BTreeMap<BlobId, u32>>);

impl InUse {
    /// One more use.
    pub fn hold(&self, blob: BlobId) {
        *self.0.lock().entry(blob).or_default() += 1;
    }

    /// One use less.
    pub fn let_go(&self, blob: BlobId) {
        let mut held = self.0.lock();
        if let Some(uses) = held.get_mut(&blob) {
            *uses -= 1;
            if *uses == 0 {
                held.remove(&blob);
            }
        }
    }

    /// Is it used?
    pub fn has(&self, blob: BlobId) -> bool {
        self.0.lock().contains_key(&blob)
    }
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
