//! The thread that writes blobs: it names what it is given, and makes it durable.

use bytes::Bytes;
use gavel_store::blob::BlobStore;
use gavel_types::{Blob, Tid};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Most orders that share a sync.
const BATCH_MAX: usize = 64;

/// What is to be stored.
#[derive(Clone)]
pub(in crate::host) enum Given {
    /// Bytes whose name is computed here: on this thread nobody waits for that who has something else to do.
    Bytes(Bytes),
    /// Bytes whose name is known.
    Blob(Blob<Bytes>),
}

impl From<Bytes> for Given {
    fn from(bytes: Bytes) -> Given {
        Given::Bytes(bytes)
    }
}

impl From<Blob<Bytes>> for Given {
    fn from(blob: Blob<Bytes>) -> Given {
        Given::Blob(blob)
    }
}

impl Given {
    pub(super) fn bytes(&self) -> &Bytes {
        match self {
            Given::Bytes(bytes) => bytes,
            Given::Blob(blob) => blob.bytes(),
        }
    }

    fn named(self) -> Blob<Bytes> {
        match self {
            Given::Bytes(bytes) => Blob::of(bytes),
            Given::Blob(blob) => blob,
        }
    }
}

struct Order {
    given: Given,
    durable: oneshot::Sender<Result<Tid, String>>,
}

/// Where orders are given. The thread ends when it is dropped.
pub(super) struct Writer(Sender<Order>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If none can be started.
    pub(super) fn start(store: Arc<BlobStore>) -> io::Result<Writer> {
        let (orders, given) = channel();
        std::thread::Builder::new().name("gavel-blobs".into()).spawn(move || write_blobs(&store, &given))?;
        Ok(Writer(orders))
    }

    /// Stores bytes, durably. Gives the transaction that this replica had applied before it looked whether it has them.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub(super) async fn store(&self, given: Given) -> Result<Tid, String> {
        let (durable, done) = oneshot::channel();
        let stopped = || "the blob store has stopped".to_owned();
        self.0.send(Order { given, durable }).map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
    }
}

/// Writes what waits, then one sync makes it durable.
fn write_blobs(store: &BlobStore, orders: &Receiver<Order>) {
    while let Ok(first) = orders.recv() {
        let batch = std::iter::once(first).chain(orders.try_iter().take(BATCH_MAX - 1));
        let (blobs, told): (Vec<Blob<Bytes>>, Vec<_>) = batch.map(|order| (order.given.named(), order.durable)).unzip();
        let written = store.put_many(&blobs).and_then(|as_of| store.sync().map(|()| as_of));
        drop(blobs);
        let result = written.map_err(|error| error.to_string());
        for durable in told {
            let _ = durable.send(result.clone());
        }
    }
}
