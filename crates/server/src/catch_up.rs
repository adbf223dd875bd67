//! A replica that is behind the log fetches the commits that it missed, by a change scan.
//!
//! A leader that has let go of what this replica would need sends a snapshot instead: a position and the replicated
//! state there. The records are then fetched as the commits (Tid by Tid) behind the last one that this replica holds, up
//! to the state's; the past never changes, so any replica that is as far can answer. Only then is the position
//! taken over. A crash on the way resumes: what is sealed meanwhile is marked as catching up.
//!
//! Rows that were gone over by different sweeps do not fit together: the holder's versions and the source's rows of the change
//! index would imply each other no more. So each side counts the sweeps that have changed its records. If the state to be
//! reached has seen others than the records here, these are wiped, and copied from the beginning; a source that has swept on
//! meanwhile refuses, and a newer snapshot is asked for.
//!
//! A crash in the middle of a copy may leave records that are ahead of all that can be had: whoever sent the snapshot is gone
//! for good, and the leader of now does not know yet that what was copied is committed, for it needs this replica to commit
//! anything. So a snapshot that is older than the records is taken as well: they are wiped.
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
    /// How many sweeps have changed the records.
    sweeps: u64,
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
    pub fn resumed(after: Tid, skip: u64, records: Digest, sweeps: u64) -> CatchUp {
        let (ticket, asked_at) = (0, Moment(0));
        CatchUp { target: None, sealing: false, after, skip, records, sweeps, ticket, asked_at, unsealed: 0 }
    }

    fn holds_nothing(&self) -> bool {
        self.after == Tid::ZERO && self.skip == 0
    }
}

/// The name of a question. Only the same question has the same name, whenever it was asked: one that was asked before a
/// crash, with another end, must not be answered to the one that is asked after it. The same question may: the past
/// never changes, but by sweeps.
fn ticket_of(after: Tid, skip: u64, upto: Tid, sweeps: u64) -> u64 {
    let mut question = [0; 32];
    for (bytes, number) in question.chunks_exact_mut(8).zip([after.0, skip, upto.0, sweeps]) {
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
        let sweeps = state.past.sweeps();
        if self.catch_up.as_ref().is_some_and(|catch_up| catch_up.after > state.tid) {
            self.begin_again();
        }
        let target = Target { mark: snapshot.mark, state, source: snapshot.from };
        match &mut self.catch_up {
            Some(catch_up) => {
                catch_up.target = Some(target);
                catch_up.sealing = false;
            }
            None => {
                let resumed = CatchUp::resumed(self.state.tid, 0, self.state.records, self.state.past.sweeps());
                self.catch_up = Some(CatchUp { target: Some(target), ..resumed });
            }
        }
        self.begin_again_if_swept(sweeps);
        self.ask_for_changes();
    }

    /// The records are to become those that `sweeps` sweeps have changed: if others have changed what is here, all of it goes.
    fn begin_again_if_swept(&mut self, sweeps: u64) {
        let Some(catch_up) = self.catch_up.as_mut().filter(|catch_up| catch_up.sweeps != sweeps) else { return };
        catch_up.sweeps = sweeps;
        if !catch_up.holds_nothing() {
            self.begin_again();
        }
    }

    /// All that was copied goes: no scan leads back from it.
    ///
    /// A crash behind the wipe finds no records: what the log has is applied from its beginning, or all is copied.
    fn begin_again(&mut self) {
        let Some(catch_up) = &mut self.catch_up else { return };
        (catch_up.after, catch_up.skip, catch_up.records) = (Tid::ZERO, 0, Digest::default());
        catch_up.unsealed = 0;
        if let Err(error) = self.records.clear_all() {
            self.fail(Failure::Records { cause: error.to_string() });
        }
    }

    /// Nobody has the records of this snapshot's state any more. A newer one is asked for in a moment.
    fn give_up_snapshot(&mut self) {
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
        let sweeps = catch_up.sweeps;
        catch_up.ticket = ticket_of(after, skip, upto, sweeps);
        let ticket = catch_up.ticket;
        let LogMark { index, term } = target.mark;
        let message = Message::ScanChanges { ticket, after, upto, skip, index, term, sweeps };
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
        let CatchUp { after, skip, records, sweeps, .. } = *catch_up;
        let sealed = Sealed::CatchingUp { index: self.mark.index, term: self.mark.term, after, skip, records, sweeps };
        self.seal(&sealed);
    }

    /// The peer can't answer: perhaps the next one can. If sweeps have gone on there, they will have everywhere soon.
    pub(crate) fn on_scan_refused(&mut self, ticket: u64, sweeps: u64) {
        let Some(catch_up) = self.catch_up.as_ref().filter(|catch_up| catch_up.ticket == ticket) else { return };
        match &catch_up.target {
            Some(_) if catch_up.sealing => {}
            Some(_) if sweeps > catch_up.sweeps => self.give_up_snapshot(),
            _ => self.ask_next_peer(),
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
        // A log may be whole where the records are not: then this node can be elected, and has nobody to ask for a snapshot. Whoever has
        // records can lead meanwhile, even if its clock is wrong.
        if self.leading.is_some() && self.catch_up.is_some() {
            self.hand_over(|_, _| true);
        }
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
        self.tell_whole();
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
    pub(crate) fn serve_scan(&mut self, from: NodeId, ticket: u64, (after, skip, upto): (Tid, u64, Tid), sweeps: u64) {
        let swept = self.state.past.sweeps();
        let can = self.catch_up.is_none() && upto <= self.state.tid && sweeps == swept;
        let rows = can.then(|| self.records.changes(after, upto, skip, self.config.scan_bytes_max));
        let answer = match rows {
            Some(Ok((changes, done))) => Message::Changes { ticket, changes, done },
            _ => Message::ScanRefused { ticket, sweeps: swept },
        };
        self.answer(from, answer);
    }
}
