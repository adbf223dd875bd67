//! Transactions that are written in parts before their commit, hosted as the runtime hosts them (`runtime/src/host/txn/staging.rs`): one part of each is on
//! its way, and a group that is not needed is abandoned, which is said until a quorum has heard it.

use crate::clock::MS;
use crate::rest::VOLUME;
use crate::transact::{Stage, Txn};
use crate::world::World;
use gavel_client::transaction::Folded;
use gavel_client::transaction::commit::{Next as AfterShipping, Shipped};
use gavel_client::transaction::split::{self, Split};
use gavel_client::transaction::staging::{Next, NotStaged, Staging, WAIT_MS};
use gavel_types::{BlobId, SessionId};
use gavel_wire::{Outcome, Refusal, RequestBody};
use std::collections::{BTreeMap, BTreeSet};

/// So often of a thousand a fault that waits for a commit of a transaction strikes behind one of its parts.
const AMBUSHED_PERMILLE: u32 = 250;
/// So often of a thousand a node takes its time before the next part, and how long at most: others' parts are on their way.
const LATER_PERMILLE: u32 = 200;
const LATER_MS: [u64; 4] = [20, 200, 1_000, 6_000];

/// Groups of which it is to be said that they are not needed.
#[derive(Debug, Default)]
pub(crate) struct Unstaging {
    /// By machine.
    waiting: Vec<(usize, u64)>,
    /// What was sent, by its token.
    sent: BTreeMap<u64, (usize, u64)>,
}

impl Txn {
    /// What it folds to, and what of that is staged before.
    pub(crate) fn fold_in_parts(&mut self, folded: Folded) {
        self.staging = None;
        let Some(part_bytes) = self.part_bytes else {
            self.folded = Some(folded);
            return;
        };
        let Split { parts, last } = split::split_into(part_bytes, VOLUME, folded, self.transaction.made());
        self.staging = (!parts.is_empty()).then(|| Staging::new(parts.into()));
        self.folded = Some(last);
    }

    /// All blobs that its parts and its commit name.
    pub(crate) fn named(&self) -> BTreeSet<BlobId> {
        let parts = self.staging.iter().flat_map(|staging| staging.parts().iter());
        let plans = parts.map(|part| &part.plan).chain(self.folded.iter().map(|folded| &folded.plan));
        plans.flat_map(|plan| plan.blobs()).collect()
    }
}

impl World {
    /// The group that a transaction's commit is to adopt, if it has one; none if it is not staged yet: what is next of it was begun.
    pub(crate) fn staged(&mut self, program: usize) -> Option<Option<u64>> {
        let fresh = self.fresh();
        let session = self.session_for(program);
        let Some(staging) = self.txn(program)?.staging.as_mut() else { return Some(None) };
        let next = staging.next(session, || fresh);
        let now = self.now;
        match next {
            Next::Adopt(group) => {
                self.cover.hit("txn_staged");
                return Some(Some(group));
            }
            Next::Ship { group, part } => self.ship_part(program, group, part),
            Next::Wait => {
                self.cover.hit("stage_waited");
                self.txn(program)?.stage = Stage::Waiting(now + WAIT_MS * MS);
            }
            Next::End(NotStaged::Collected) => self.go_on(program, AfterShipping::StoreAnew),
            Next::End(NotStaged::Ever(cause)) if cause.contains("report") => self.wrong(cause),
            Next::End(NotStaged::Ever(cause)) => {
                self.cover.hit("stage_failed");
                self.go_on(program, AfterShipping::End(Shipped::Not(cause)));
            }
        }
        self.unstage(program);
        None
    }

    fn session_for(&self, program: usize) -> Option<SessionId> {
        self.lives[self.programs[program].machine].as_ref().and_then(|life| life.node.session.id())
    }

    fn ship_part(&mut self, program: usize, group: u64, part: usize) {
        let machine = self.programs[program].machine;
        let (clock, token) = (self.machines[machine].clock(self.now), self.fresh());
        let (Some(life), Some(txn)) = (&mut self.lives[machine], &mut self.programs[program].txn) else { return };
        let Some(staging) = &txn.staging else { return };
        let (runs, plan) = (staging.parts()[part].runs.clone(), staging.parts()[part].plan.clone());
        let stored_as_of = txn.shipping.stored_as_of();
        (txn.stage, txn.was_staged) = (Stage::Staging, true);
        let id = txn.id().to_owned();
        life.node.request(clock, token, RequestBody::Stage { group, volume: VOLUME, runs, plan, stored_as_of });
        self.txn_tokens.insert(token, program);
        self.note(|| {
            format!("n{machine} p{program} stages part {part} of transaction {id} as group {group} ({token})")
        });
        if self.delays.permille(AMBUSHED_PERMILLE) {
            self.ambush(machine);
        }
    }

    /// A part that was shipped has its outcome.
    pub(crate) fn part_outcome(&mut self, program: usize, outcome: Option<&Outcome>) {
        let session = self.session_for(program);
        match outcome {
            Some(Outcome::Refused { refusal: Refusal::Exists }) => self.cover.hit("stage_met_what_is_reaped"),
            Some(Outcome::Refused { refusal: Refusal::Collected }) => self.cover.hit("stage_collected"),
            None => self.cover.hit("stage_lost_with_session"),
            _ => {}
        }
        if let Some(staging) = self.txn(program).and_then(|txn| txn.staging.as_mut()) {
            staging.on_outcome(session, outcome);
        }
        if self.calm.is_some() || !self.delays.permille(LATER_PERMILLE) {
            return self.ship_txn(program);
        }
        let most = *self.delays.pick(&LATER_MS);
        let until = self.now + self.delays.below(most * MS);
        if let Some(txn) = self.txn(program) {
            txn.stage = Stage::Waiting(until);
        }
    }

    /// Nobody can say what became of a part.
    pub(crate) fn part_unknown(&mut self, program: usize) {
        self.cover.hit("stage_lost_with_session");
        if let Some(staging) = self.txn(program).and_then(|txn| txn.staging.as_mut()) {
            staging.on_unknown();
        }
        self.ship_txn(program);
    }

    /// A transaction that waits goes on, if it has waited so long.
    pub(crate) fn stage_later(&mut self, program: usize) {
        let now = self.now;
        if matches!(self.txn(program).map(|txn| &txn.stage), Some(Stage::Waiting(until)) if *until <= now) {
            self.ship_txn(program);
        }
    }

    /// What is staged of a transaction is not needed.
    pub(crate) fn give_up_staged(&mut self, program: usize) {
        if let Some(staging) = self.txn(program).and_then(|txn| txn.staging.as_mut()) {
            staging.give_up();
        }
        self.unstage(program);
        if let Some(txn) = self.txn(program) {
            txn.staging = None;
        }
    }

    fn unstage(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        let Some(staging) = self.txn(program).and_then(|txn| txn.staging.as_mut()) else { return };
        let unneeded = staging.take_unneeded();
        self.unstaging.waiting.extend(unneeded.into_iter().map(|group| (machine, group)));
        self.say_unneeded(machine);
    }

    /// Says which groups are not needed.
    pub(crate) fn say_unneeded(&mut self, machine: usize) {
        let clock = self.machines[machine].clock(self.now);
        let (now, later) = self.unstaging.waiting.drain(..).partition(|(of, _)| *of == machine);
        self.unstaging.waiting = later;
        let now: Vec<(usize, u64)> = now;
        for (machine, group) in now {
            let token = self.fresh();
            self.unstaging.sent.insert(token, (machine, group));
            self.cover.hit("unstaged");
            if let Some(life) = &mut self.lives[machine] {
                life.node.request(clock, token, RequestBody::Unstage { group });
            }
        }
    }

    /// What was said of a group was heard, or never will be; `again`: nobody was there to hear it.
    pub(crate) fn is_unstaging(&mut self, token: u64, again: bool) -> bool {
        let Some(said) = self.unstaging.sent.remove(&token) else { return false };
        if again {
            self.unstaging.waiting.push(said);
        }
        true
    }

    /// The sessions of a machine end with it, and their groups.
    pub(crate) fn forget_unstaging(&mut self, machine: usize) {
        self.unstaging.waiting.retain(|(of, _)| *of != machine);
        self.unstaging.sent.retain(|_, (of, _)| *of != machine);
    }
}
