//! Starting from what the disks hold.

use super::invariants::HighWater;
use super::snapshots::Transfers;
use super::{Outbox, Quorum};
use crate::acknowledged::Acknowledged;
use crate::codec::NUMBER_MAX;
use crate::config::{Config, HEARTBEAT_TICKS};
use crate::entry::{LogMark, Recovered};
use crate::error::StartError;
use crate::leader_lease::LeaderLease;
use crate::pace::{Jitter, Pace};
use crate::reads::Reads;
use crate::ready::Persist;
use crate::window::Window;
use gavel_types::limits::ENTRY_BYTES_MAX;
use gavel_types::{LogIndex, Moment, Term};
use raft::eraftpb::ConfState;
use raft::{RawNode, ReadOnlyOption};

/// Entries that raft-rs releases at a time, in bytes; the rest follows with the next `take_ready`.
const RELEASED_BYTES_MAX: u64 = 16 << 20;

impl Quorum {
    /// Starts a replica from what its disks hold. Refuses a configuration outside of its ranges, and a log
    /// that contradicts itself or the store.
    pub fn new(config: Config, recovered: Recovered, now: Moment) -> Result<Quorum, StartError> {
        config.validate()?;
        check(&recovered)?;
        let (recovered, restarted) = reconcile(recovered);
        let applied = recovered.applied.index;
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks(),
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: applied.0,
            max_size_per_msg: config.max_message_bytes,
            max_inflight_msgs: config.max_inflight,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: config.uncommitted_bytes_max,
            max_committed_size_per_ready: RELEASED_BYTES_MAX,
            ..raft::Config::default()
        };
        let mut outbox = Outbox::default();
        let opening = restarted.then(|| Persist {
            ticket: outbox.issue(Some(0)),
            hard_state: Some(recovered.hard_state),
            snapshot: Some(recovered.applied),
            append: Vec::new(),
            must_sync: true,
        });
        let hard_state = recovered.hard_state;
        let window = Window::new(recovered, conf_state(&config));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&raft_config, window, &logger)
            .map_err(|_| StartError::Members("raft-rs refuses this configuration"))?;
        let mut quorum = Quorum {
            raft,
            pace: Pace::new(config.tick_ns(), now),
            jitter: Jitter::new(config.seed, config.election_ticks()),
            outbox,
            acknowledged: Acknowledged::new(config.heartbeat_ns / 2),
            lease: LeaderLease::new(config.promise_ns(), now),
            reads: Reads::default(),
            transfers: Transfers::default(),
            held: None,
            lacking: false,
            opening,
            available: applied,
            delivered: applied,
            applied,
            reported: None,
            high: HighWater::new(hard_state.term.0, hard_state.commit.0),
            config,
        };
        quorum.settle();
        Ok(quorum)
    }
}

fn conf_state(config: &Config) -> ConfState {
    let mut conf = ConfState::default();
    conf.set_voters(config.voters.iter().map(|id| id.0).collect());
    conf.set_learners(config.learners.iter().map(|id| id.0).collect());
    conf
}

fn check(recovered: &Recovered) -> Result<(), StartError> {
    let Recovered { hard_state, compacted, entries, applied } = recovered;
    let contradiction = |index, what| Err(StartError::Log { index, what });
    for mark in [compacted, applied] {
        if (mark.index.0 == 0) != (mark.term.0 == 0) {
            return contradiction(mark.index, "a position without a term");
        }
        if mark.index.0 > NUMBER_MAX || mark.term.0 > NUMBER_MAX {
            return contradiction(mark.index, "term or index beyond 2^62");
        }
    }
    let mut last = *compacted;
    for entry in entries {
        if entry.index.0 != last.index.0 + 1 {
            return contradiction(entry.index, "does not continue the entry before it");
        }
        if entry.term < last.term.max(Term(1)) {
            return contradiction(entry.index, "is of an older term than the entry before it");
        }
        if entry.data.len() > ENTRY_BYTES_MAX {
            return contradiction(entry.index, "is larger than an entry may be");
        }
        last = entry.mark();
    }
    if hard_state.term < last.term || hard_state.term.0 > NUMBER_MAX {
        return contradiction(last.index, "is of a newer term than this replica has seen");
    }
    if applied.index < compacted.index {
        return Err(StartError::StoreBehindLog { applied: applied.index, compacted: compacted.index });
    }
    Ok(())
}

/// Brings log and store together; true if the log has to restart after the store's position.
///
/// The store is ahead when a snapshot was installed and the log did not hear of it before a crash. What the
/// store holds is committed. If the log does not contain that position with that term, then nothing in it
/// from there on was ever committed (a log that holds a committed entry holds everything committed before
/// it), and what it has before that position the store has, too: no promise is broken by letting it all go.
fn reconcile(mut recovered: Recovered) -> (Recovered, bool) {
    let applied = recovered.applied;
    let restart = term_at(&recovered, applied.index) != Some(applied.term);
    if restart {
        recovered.compacted = applied;
        recovered.entries.clear();
        if recovered.hard_state.term < applied.term {
            recovered.hard_state.term = applied.term;
            recovered.hard_state.vote = None;
        }
    }
    let last = recovered.entries.last().map_or(recovered.compacted.index, |entry| entry.index);
    recovered.hard_state.commit = recovered.hard_state.commit.min(last).max(applied.index);
    (recovered, restart)
}

fn term_at(recovered: &Recovered, index: LogIndex) -> Option<Term> {
    let LogMark { index: start, term } = recovered.compacted;
    match index.0.checked_sub(start.0)? {
        0 => Some(term),
        offset => recovered.entries.get(usize::try_from(offset - 1).ok()?).map(|entry| entry.term),
    }
}
