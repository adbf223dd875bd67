//! The task that stands between what a session lost and its end: stores the bytes of lost plans before they are offered again, and writes down those that
//! could not be committed. In the order in which it is told; the node's thread waits for none of it.

use crate::host::blobs::Blobs;
use crate::host::conflicts::{Conflict, Conflicts};
use crate::host::node::{Inbox, Input, NodeHandle};
use gavel_client::{Collision, LostBecause, LostPlan};
use gavel_types::Tid;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What the node's thread tells the keeper. As many wait as plans can be lost.
#[derive(Debug)]
pub enum Order {
    /// A session lost these: store what has to be stored before they can be offered, then give them back with [`Input::Offer`].
    Prepare(LostBecause, Vec<LostPlan>),
    /// Write it down.
    Keep(Box<LostPlan>, Collision),
    /// Say [`Input::Kept`] when all that was told before is done.
    Say,
    /// The bytes of the lost plan of this number may have been collected: store them once more, then say so with [`Input::OfferStored`].
    Store(u64, bytes::Bytes),
}

/// Starts the task on the runtime of the caller. It ends when its sender is dropped.
pub fn start(node: &NodeHandle, blobs: Arc<Blobs>) -> UnboundedSender<Order> {
    let (sender, orders) = unbounded_channel();
    let (stopped, inbox, conflicts) = (node.stopped.subscribe(), node.inbox.clone(), node.conflicts.clone());
    tokio::spawn(run(orders, stopped, inbox, blobs, conflicts));
    sender
}

type Stopped = tokio::sync::watch::Receiver<Option<String>>;

async fn run(
    mut orders: UnboundedReceiver<Order>,
    stopped: Stopped,
    inbox: Inbox,
    blobs: Arc<Blobs>,
    conflicts: Arc<Conflicts>,
) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Prepare(cause, mut lost) => {
                if cause != LostBecause::Refused {
                    store(&stopped, &blobs, &mut lost).await;
                }
                inbox.push(Input::Offer(cause, lost));
            }
            Order::Store(number, bytes) => {
                if let Some(as_of) = store_one(&stopped, &blobs, &bytes).await {
                    inbox.push(Input::OfferStored(number, as_of));
                }
            }
            Order::Keep(lost, why) => keep(&blobs, &conflicts, *lost, why).await,
            Order::Say => inbox.push(Input::Kept),
        }
    }
}

/// Stores the bytes of plans on a majority, for as long as it takes.
async fn store(stopped: &Stopped, blobs: &Arc<Blobs>, lost: &mut [LostPlan]) {
    for plan in lost {
        if let Some((_, bytes)) = &plan.blob {
            plan.stored_as_of = store_one(stopped, blobs, bytes).await;
        }
    }
}

/// As of when they are stored; none if the node has stopped.
async fn store_one(stopped: &Stopped, blobs: &Arc<Blobs>, bytes: &bytes::Bytes) -> Option<Tid> {
    blobs.store_until(bytes.clone(), "that were answered and lost", || stopped.borrow().is_some()).await
}

async fn keep(blobs: &Blobs, conflicts: &Arc<Conflicts>, lost: LostPlan, why: Collision) {
    if let Some((id, bytes)) = &lost.blob {
        blobs.in_use.hold(*id);
        if let Err(error) = blobs.store_here(bytes.clone()).await {
            tracing::error!(%id, %error, "the bytes of a change that collided could not be stored");
        }
    }
    let conflict = Conflict::new(lost, why);
    let conflicts = conflicts.clone();
    let kept = tokio::task::spawn_blocking(move || (conflicts.keep(&conflict), conflict)).await;
    match kept {
        Ok((Ok(id), conflict)) => {
            tracing::error!(id, why = ?conflict.why, "a change that was answered could not be committed; `gavel conflict show` shows it");
        }
        Ok((Err(error), conflict)) => tracing::error!(%error, ?conflict, "a change that was answered is lost"),
        Err(error) => tracing::error!(%error, "a change that was answered is lost"),
    }
}
