//! The thread that writes and syncs the log: everything that waits is written, then one sync makes it durable.

use crate::host::node::{Inbox, Input};
use gavel_quorum::{EntryKind, Persist};
use gavel_store::log::{EntryId, HardState, Log, LogBatch, LogEntry, LogError, Spare};
use gavel_types::{LogIndex, Moment};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What the journal is asked to do.
pub enum Order {
    /// Write this, and tell when it is durable.
    Write(Persist),
    /// Forget entries up to and with this one.
    Trim(LogIndex),
}

/// How far the log is committed is written with what has to be synced, or after this: nobody waits for it.
const COMMIT_WRITTEN_NS: u64 = 100_000_000;

/// How far the log is committed, if that is not written yet, and since when.
#[derive(Default)]
pub struct Unwritten(Option<(Moment, Persist)>);

impl Unwritten {
    /// Gives what is to be written now: nothing, if only the commit index has moved.
    pub fn join(&mut self, now: Moment, mut persist: Persist) -> Option<Persist> {
        if !persist.must_sync && persist.append.is_empty() && persist.snapshot.is_none() {
            let since = self.0.take().map_or(now, |(since, _)| since);
            self.0 = Some((since, persist));
            return None;
        }
        // A later state has all that an earlier one says.
        persist.hard_state = persist.hard_state.or(self.take().and_then(|earlier| earlier.hard_state));
        self.0 = None;
        Some(persist)
    }

    /// Has it waited for long enough?
    pub fn is_due(&self, now: Moment) -> bool {
        self.0.as_ref().is_some_and(|(since, _)| now.since_ns(*since) >= COMMIT_WRITTEN_NS)
    }

    /// What waits, to be written.
    pub fn take(&mut self) -> Option<Persist> {
        self.0.take().map(|(_, persist)| persist)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_quorum::HardState;
    use gavel_types::Term;

    fn persist(ticket: u64, commit: Option<u64>, must_sync: bool) -> Persist {
        let hard_state = commit.map(|commit| HardState { term: Term(3), vote: None, commit: LogIndex(commit) });
        Persist { ticket, hard_state, snapshot: None, append: Vec::new(), must_sync }
    }

    #[test]
    fn a_commit_index_is_written_with_the_next_sync() {
        let mut unwritten = Unwritten::default();
        assert!(unwritten.join(Moment(5), persist(1, Some(7), false)).is_none());
        assert!(unwritten.join(Moment(6), persist(2, Some(8), false)).is_none());
        let written = unwritten.join(Moment(7), persist(3, None, true)).unwrap();
        assert_eq!((written.ticket, written.hard_state.map(|state| state.commit)), (3, Some(LogIndex(8))));
        assert!(unwritten.take().is_none(), "it is written once");
        assert!(unwritten.join(Moment(8), persist(4, Some(9), false)).is_none());
        let written = unwritten.join(Moment(9), persist(5, Some(10), true)).unwrap();
        assert_eq!(written.hard_state.map(|state| state.commit), Some(LogIndex(10)), "the later one");
        assert!(unwritten.take().is_none());
    }

    #[test]
    fn a_commit_index_does_not_wait_for_ever() {
        let mut unwritten = Unwritten::default();
        assert!(unwritten.join(Moment(5), persist(1, Some(7), false)).is_none());
        assert!(unwritten.join(Moment(90_000_000), persist(2, Some(8), false)).is_none());
        assert!(!unwritten.is_due(Moment(4 + COMMIT_WRITTEN_NS)));
        assert!(unwritten.is_due(Moment(5 + COMMIT_WRITTEN_NS)), "it counts from the first");
        assert_eq!(unwritten.take().map(|persist| persist.ticket), Some(2));
    }
}
