//! A replica that is behind the log fetches the commits that it missed, by a change scan.
//!
//! A leader that has let go of what this replica would need sends a snapshot instead: a position and the replicated
//! state there. The records are then fetched as the commits (Tid by Tid) behind the last one that this replica holds, up
//! to the state's; the past never changes, so any replica that is as far can answer. Only then is the position
//! taken over. A crash on the way resumes: what is sealed meanwhile is marked as catching up.
//!
//! States: none -> waiting (for the snapshot, after a restart) -> scanning -> sealing (the records are there, and become
//! durable) -> none. Another snapshot may come at any time; then scanning goes on to that one.

use crate::config::Sealed;
use crate::effect::{Effect, Failure};
use crate::server::Server;
use gavel_quorum::{LogMark, PendingSnapshot};
use gavel_store::engine::Engine;
use gavel_txn::{Digest, State};
use gavel_types::{BlobId, Moment, NodeId, Tid};
use gavel_wire::{ChangeRow, Message};

/// An answer that has not come by then is asked for again, of the next peer.
const SCAN_PATIENCE_NS: u64 = 1_000_000_000;
/// A snapshot that was asked for and has not come by then is asked for again.
const SNAPSHOT_PATIENCE_NS: u64 = 2_000_000_000;

/// Where the catch-up stands.
#[derive(Debug)]
pub struct CatchUp {
    /// What to reach; none while waiting for a snapshot.
    target: Option<Target>,
    /// The records and the state stand at the target, and are being made durable.
    sealing: bool,
    /// The last Tid held whole, and how many changes of the next commit are held.
    after: Tid,
    skip: u64,
    /// The running digest of the records as they are.
    records: Digest,
    ticket: u64,
    asked_at: Moment,
    unsealed: u64,
}

#[derive(Debug)]
struct Target {
    mark: LogMark,
    state: State,
    source: NodeId,
}

impl CatchUp {
    /// A catch-up that a crash has interrupted.
    pub fn resumed(after: Tid, skip: u64, records: Digest) -> CatchUp {
        CatchUp { target: None, sealing: false, after, skip, records, ticket: 0, asked_at: Moment(0), unsealed: 0 }
    }
}

/// The name of a question. Only the same question has the same name, whenever it was asked: one that was asked before a
/// crash, with another end, must not be answered to the one that is asked after it. The same question may: the past
/// never changes.
fn ticket_of(after: Tid, skip: u64, upto: Tid) -> u64 {
    let mut question = [0; 24];
    for (bytes, number) in question.chunks_exact_mut(8).zip([after.0, skip, upto.0]) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    let name = BlobId::of(&question).0;
    u64::from_be_bytes(*name.first_chunk().expect("a hash has 32 bytes"))
}

impl<E: Engine> Server<E> {
    /// A leader has sent a snapshot.
    pub(crate) fn begin_catch_up(&mut self, snapshot: PendingSnapshot) {
        let state = match State::decode(&snapshot.data) {
            Ok(state) if state.applied == snapshot.mark.index => state,
            _ => return self.quorum.drop_snapshot(),
        };
        self.leading = None;
        if self.catch_up.as_ref().is_some_and(|catch_up| state.tid < catch_up.after) {
            return self.refuse_old_snapshot();
        }
        let target = Target { mark: snapshot.mark, state, source: snapshot.from };
        match &mut self.catch_up {
            Some(catch_up) => {
                catch_up.target = Some(target);
                catch_up.sealing = false;
            }
            None => {
                let (after, records) = (self.state.tid, self.state.records);
                self.catch_up = Some(CatchUp { target: Some(target), ..CatchUp::resumed(after, 0, records) });
            }
        }
        self.ask_for_changes();
    }

    /// A snapshot that was sent long ago has come in place of the one under way, and the records are past it already: no
    /// scan leads back. A new one is asked for in a moment.
    fn refuse_old_snapshot(&mut self) {
        let now = self.clock.now;
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.target = None;
            catch_up.sealing = false;
            catch_up.asked_at = now;
        }
        self.quorum.drop_snapshot();
    }

    fn ask_for_changes(&mut self) {
        let now = self.clock.now;
        let Some(catch_up) = &mut self.catch_up else { return };
        catch_up.asked_at = now;
        let Some(target) = &catch_up.target else { return };
        if catch_up.after >= target.state.tid {
            return self.seal_caught_up();
        }
        let (after, skip, upto) = (catch_up.after, catch_up.skip, target.state.tid);
        catch_up.ticket = ticket_of(after, skip, upto);
        let ticket = catch_up.ticket;
        let LogMark { index, term } = target.mark;
        let message = Message::ScanChanges { ticket, after, upto, skip, index, term };
        self.effects.push_back(Effect::Send { to: target.source, message });
    }

    /// Part of the changes has come.
    pub(crate) fn on_changes(&mut self, ticket: u64, changes: &[ChangeRow], done: bool) {
        let asked = |catch_up: &&mut CatchUp| catch_up.ticket == ticket && !catch_up.sealing;
        let Some(catch_up) = self.catch_up.as_mut().filter(asked) else { return };
        let Some(target) = &catch_up.target else { return };
        let upto = target.state.tid;
        if changes.iter().any(|row| row.tid <= catch_up.after || row.tid > upto) {
            return self.ask_next_peer();
        }
        if let Err(error) = self.records.install(changes) {
            return self.fail(Failure::Records { cause: error.to_string() });
        }
        for row in changes {
            catch_up.records.add(row.tid, &row.key, row.version.as_ref());
        }
        if let Some(last) = changes.last() {
            let of_last = changes.iter().filter(|row| row.tid == last.tid).count() as u64;
            let same_as_before = last.tid.0 == catch_up.after.0 + 1;
            catch_up.skip = if same_as_before { catch_up.skip + of_last } else { of_last };
            catch_up.after = Tid(last.tid.0 - 1);
        }
        catch_up.unsealed += changes.len() as u64;
        if done {
            catch_up.after = upto;
            catch_up.skip = 0;
        } else if catch_up.unsealed >= self.config.catch_up_seal_changes {
            self.seal_catching_up();
        }
        self.ask_for_changes();
    }

    fn seal_catching_up(&mut self) {
        let Some(catch_up) = &mut self.catch_up else { return };
        catch_up.unsealed = 0;
        let (after, skip, records) = (catch_up.after, catch_up.skip, catch_up.records);
        let sealed = Sealed::CatchingUp { index: self.mark.index, term: self.mark.term, after, skip, records };
        self.seal(&sealed);
    }

    /// The peer can't answer: perhaps the next one can.
    pub(crate) fn on_scan_refused(&mut self, ticket: u64) {
        if self.catch_up.as_ref().is_some_and(|catch_up| catch_up.ticket == ticket) {
            self.ask_next_peer();
        }
    }

    fn ask_next_peer(&mut self) {
        let me = self.id();
        let others: Vec<NodeId> = self.members().filter(|node| *node != me).collect();
        let target = self.catch_up.as_mut().and_then(|catch_up| catch_up.target.as_mut());
        if let (Some(target), false) = (target, others.is_empty()) {
            let here = others.iter().position(|node| *node == target.source);
            target.source = others[here.map_or(0, |here| (here + 1) % others.len())];
        }
        self.ask_for_changes();
    }

    pub(crate) fn tick_catch_up(&mut self) {
        let now = self.clock.now;
        let Some(catch_up) = &mut self.catch_up else { return };
        let waited = now.since_ns(catch_up.asked_at);
        match catch_up.target {
            Some(_) if catch_up.sealing => {}
            Some(_) if waited >= SCAN_PATIENCE_NS => self.ask_next_peer(),
            None if waited >= SNAPSHOT_PATIENCE_NS => {
                catch_up.asked_at = now;
                self.quorum.request_snapshot();
            }
            _ => {}
        }
    }

    /// The records hold everything up to the target: take its state over and make both durable.
    fn seal_caught_up(&mut self) {
        let Some(catch_up) = &mut self.catch_up else { return };
        let Some(target) = &catch_up.target else { return };
        if catch_up.records != target.state.records {
            let index = target.mark.index;
            return self.fail(Failure::Diverged { index });
        }
        catch_up.sealing = true;
        self.state = target.state.clone();
        self.mark = target.mark;
        self.seal(&Sealed::At { term: self.mark.term, state: self.state.clone() });
    }

    /// The records are durable up to `durable`: if that is where the catch-up was going, the log restarts there.
    pub(crate) fn finish_catch_up(&mut self, durable: LogMark) {
        let caught_up = |catch_up: &CatchUp| {
            catch_up.sealing && catch_up.target.as_ref().is_some_and(|target| target.mark == durable)
        };
        if self.catch_up.as_ref().is_some_and(caught_up) {
            self.catch_up = None;
            self.quorum.install_snapshot();
            self.effects.push_back(Effect::Installed { tid: self.state.tid, index: self.state.applied });
        }
    }

    /// Answers another replica's scan.
    pub(crate) fn serve_scan(&mut self, from: NodeId, ticket: u64, after: Tid, upto: Tid, skip: u64) {
        let answer = match self.records.changes(after, upto, skip, self.config.scan_bytes_max) {
            Ok((changes, done)) if self.catch_up.is_none() && upto <= self.state.tid => {
                Message::Changes { ticket, changes, done }
            }
            _ => Message::ScanRefused { ticket },
        };
        self.answer(from, answer);
    }
}
