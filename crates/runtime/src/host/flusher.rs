//! The thread that makes sealed records durable, and compacts them when there is nothing else to do.

use crate::host::memory;
use crate::host::node::{Inbox, Input};
use gavel_store::engine::Engine;
use gavel_store::records::Records;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Starts the thread: each message asks for one flush. It ends when the returned sender is dropped.
pub fn start<E: Engine>(records: Arc<Records<E>>, inbox: Inbox) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let thread =
        std::thread::Builder::new().name("gavel-flusher".into()).spawn(move || run(&records, &receiver, &inbox))?;
    Ok((sender, thread))
}

fn run<E: Engine>(records: &Records<E>, orders: &Receiver<()>, inbox: &Inbox) {
    while let Ok(()) = orders.recv() {
        let flushed = records.flush().map_err(|error| error.to_string());
        let failed = flushed.is_err();
        inbox.push(Input::Flushed(flushed));
        if failed {
            return;
        }
        if let Err(error) = records.maintain() {
            inbox.push(Input::StorageFailed { cause: format!("compacting records: {error}"), full: false });
            return;
        }
        memory::give_back();
    }
}
