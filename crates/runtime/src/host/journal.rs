//! The thread that writes and syncs the log: everything that waits is written, then one sync makes it durable.

use crate::host::node::{Inbox, Input};
use gavel_quorum::{EntryKind, Persist};
use gavel_store::log::{EntryId, HardState, Log, LogBatch, LogEntry, LogError, Spare};
use gavel_types::LogIndex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What the journal is asked to do.
pub enum Order {
    /// Write this, and tell when it is durable.
    Write(Persist),
    /// Forget entries up to and with this one.
    Trim(LogIndex),
}

/// Starts the thread. It ends when the returned sender is dropped, or when the log fails.
pub fn start(log: Log, inbox: Inbox) -> std::io::Result<(Sender<Order>, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("gavel-journal".into()).spawn(move || run(log, &receiver, &inbox))?;
    Ok((sender, thread))
}

fn run(mut log: Log, orders: &Receiver<Order>, inbox: &Inbox) {
    let mut ahead = None;
    while let Ok(first) = orders.recv() {
        ahead = make_ahead(&mut log, ahead);
        let batch = std::iter::once(first).chain(orders.try_iter());
        match carry_out(&mut log, batch) {
            Ok(None) => {}
            Ok(Some(ticket)) => inbox.push(Input::Persisted(ticket)),
            Err(error) => {
                let full = matches!(&error, LogError::Disk(error) if error.is_full());
                inbox.push(Input::StorageFailed { cause: format!("the log: {error}"), full });
                break;
            }
        }
    }
    if let Some(making) = ahead {
        // Nobody needs it any more, but the directory is held until then.
        let _ = making.join();
    }
}

type Making = JoinHandle<Result<Spare, String>>;

/// Has the next segment made beside the log, and takes what was made.
fn make_ahead(log: &mut Log, making: Option<Making>) -> Option<Making> {
    match making {
        Some(making) if !making.is_finished() => return Some(making),
        Some(making) => {
            let made = making.join().unwrap_or_else(|_| Err("the thread has panicked".into()));
            if let Err(cause) = &made {
                tracing::warn!(%cause, "the log's next segment could not be made ahead");
            }
            log.take_spare(made.ok());
        }
        None => {}
    }
    let order = log.order_spare()?;
    let make = move || order.make().map_err(|error| error.to_string());
    match std::thread::Builder::new().name("gavel-segment".into()).spawn(make) {
        Ok(making) => Some(making),
        Err(error) => {
            tracing::warn!(%error, "no thread to make the log's next segment ahead");
            log.take_spare(None);
            None
        }
    }
}

/// Writes all orders, syncs once if one of them needs it, and gives the last ticket that is durable now.
fn carry_out(log: &mut Log, orders: impl Iterator<Item = Order>) -> Result<Option<u64>, LogError> {
    let mut durable = None;
    let mut must_sync = false;
    for order in orders {
        match order {
            Order::Write(persist) => {
                log.append(&batch_of(&persist))?;
                must_sync |= persist.must_sync;
                durable = Some(persist.ticket);
            }
            Order::Trim(index) => log.compact(index)?,
        }
    }
    if must_sync {
        log.sync()?;
    }
    Ok(durable.filter(|_| must_sync))
}

fn batch_of(persist: &Persist) -> LogBatch {
    LogBatch {
        hard_state: persist.hard_state.map(|state| HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        }),
        entries: persist
            .append
            .iter()
            .map(|entry| LogEntry { index: entry.index, term: entry.term, data: entry_bytes(entry) })
            .collect(),
        snapshot_mark: persist.snapshot.map(|mark| EntryId { index: mark.index, term: mark.term }),
    }
}

/// On disk an entry's data begins with its kind.
fn entry_bytes(entry: &gavel_quorum::LogEntry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entry.data.len() + 1);
    bytes.push(entry.kind.to_byte());
    bytes.extend_from_slice(&entry.data);
    bytes
}

/// Turns what the log held into what the quorum starts from.
///
/// # Errors
/// The index of an entry that is not one.
pub fn recovered(log: gavel_store::log::Recovered) -> Result<gavel_quorum::Recovered, LogIndex> {
    let mut entries = Vec::with_capacity(log.entries.len());
    for entry in log.entries {
        let (&kind, data) = entry.data.split_first().ok_or(entry.index)?;
        let kind = EntryKind::from_byte(kind).ok_or(entry.index)?;
        let data = bytes::Bytes::copy_from_slice(data);
        entries.push(gavel_quorum::LogEntry { index: entry.index, term: entry.term, kind, data });
    }
    Ok(gavel_quorum::Recovered {
        hard_state: gavel_quorum::HardState {
            term: log.hard_state.term,
            vote: log.hard_state.vote,
            commit: log.hard_state.commit,
        },
        compacted: gavel_quorum::LogMark { index: log.compacted.index, term: log.compacted.term },
        entries,
        applied: gavel_quorum::LogMark::default(),
    })
}
