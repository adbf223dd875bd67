//! Programs that run transactions, hosted as the runtime hosts them (`runtime/src/host/txn`): the start is the last transaction of the cluster, confirmed, and pinned;
//! operations run over that state with the transaction's own changes; a commit stores, folds, packs and ships.
//!
//! ```text
//!   Beginning ──> Open ──commit──> Storing ──> Shipped ──> (ended)
//!                  │ ^ └─rebase─> Rebasing        │ ^ └─> Looking, Storing: as `gavel_client::transaction::commit` says
//!                  │ └──────────────────┘         │ └──────────┘
//!                  └─> (given up)                 └─> Open again, if there is no quorum
//! ```
//!
//! Some are staged before they are shipped, in parts that are much smaller than real ones: [`crate::staging`].
//!
//! A crash of its node ends a transaction wherever it is. What each has read and written is for [`crate::serial`].

use crate::clock::MS;
use crate::jobs::{Job, Wait};
use crate::program::{Purpose, Task};
use crate::rest::VOLUME;
use crate::serial::{End, Ended};
use crate::shared::{Access, Cell, Op, Renamed, Seen};
use crate::world::{Event, World};
use bytes::Bytes;
use gavel_client::transaction::commit::{self, Next, Shipped, Shipping};
use gavel_client::transaction::staging::Staging;
use gavel_client::transaction::{Folded, pack};
use gavel_client::{Answer, NoState, Step, Stepped, Transaction, TreeError};
use gavel_fs::Reply;
use gavel_txn::Layered;
use gavel_types::{BlobId, Key, ObjectId, Tid};
use gavel_wire::{Author, Outcome, Record, RequestBody, View};
use std::collections::{BTreeMap, BTreeSet};

/// Operations of a transaction, at most: most have few.
const OPERATIONS_MAX: [u64; 8] = [2, 2, 4, 4, 6, 8, 12, 40];
/// How long a program thinks within a transaction, at most.
const THINKS_MS: [u64; 6] = [2, 2, 2, 10, 30, 200];
/// Of a thousand that have done what they wanted, so many are given up, and so many moved to the present first.
const GIVEN_UP_PERMILLE: u32 = 100;
const REBASED_PERMILLE: u32 = 150;
/// So many times of a thousand ticks it is looked at whether the start is pinned.
const PIN_PERMILLE: u32 = 30;
/// So many of a thousand are staged before they are committed, if they make anything, in parts of so many bytes.
const STAGED_PERMILLE: u32 = 600;
const PART_BYTES: [usize; 4] = [1, 1, 150, 400];

/// Waits for the present: what this node had answered is committed, then the quorum is asked, and whoever else has answered something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present {
    /// Plans up to this one have landed before the quorum is asked.
    accepted: u64,
    /// The quorum was asked.
    asked: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Beginning(Present),
    Open,
    Rebasing(Present),
    /// Bytes are on their way to a majority.
    Storing,
    /// A part of it is on its way.
    Staging,
    /// The next part is shipped then: what was staged of it before is still being reaped, or its node takes its time.
    Waiting(u64),
    Shipped,
    Looking(Present),
}

/// A transaction of a program.
#[derive(Debug)]
pub(crate) struct Txn {
    id: String,
    called: u64,
    /// The last commit that anybody was told of before.
    known: Tid,
    /// The last plan that its node had accepted, in which life.
    behind: (u64, u64),
    began: Tid,
    left: u64,
    pub(crate) stage: Stage,
    pub(crate) transaction: Transaction,
    pub(crate) shipping: Shipping,
    /// How large parts of it are, if it is staged, and what is staged of it.
    pub(crate) part_bytes: Option<usize>,
    pub(crate) staging: Option<Staging>,
    /// A part of it was shipped.
    pub(crate) was_staged: bool,
    /// It was shipped at least once.
    was_shipped: bool,
    pub(crate) folded: Option<Folded>,
    /// Its bytes are being stored once more.
    anew: bool,
    /// What it has stored, and how much of that is on its way.
    held: BTreeMap<BlobId, Bytes>,
    storing: usize,
    stored_as_of: Tid,
    reads: Vec<(Cell, Seen, Tid)>,
    writes: BTreeMap<Cell, u64>,
    pub(crate) made: BTreeSet<ObjectId>,
}

impl Txn {
    /// The bytes of a blob that it has stored.
    pub(crate) fn held(&self, id: &BlobId) -> Option<Bytes> {
        self.held.get(id).cloned()
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Takes in what an operation has read and written. What it had written itself it must read again.
    fn take(&mut self, access: Access) -> Result<(), String> {
        for (cell, seen) in access.reads {
            match self.writes.get(&cell) {
                Some(value) if seen.fits(*value) => {}
                Some(value) => {
                    return Err(format!("transaction {} wrote {value} to {cell:?}, and read {seen:?}", self.id));
                }
                None => self.reads.push((cell, seen, self.transaction.at())),
            }
        }
        let writes = access.writes.into_iter().map(|(cell, value)| (cell, value.unwrap_or_default()));
        self.writes.extend(writes);
        Ok(())
    }
}

impl World {
    pub(crate) fn txn(&mut self, program: usize) -> Option<&mut Txn> {
        self.programs[program].txn.as_deref_mut()
    }

    /// A program that runs transactions does something.
    pub(crate) fn transact(&mut self, program: usize) {
        let calm = self.calm.is_some();
        match self.txn(program).map(|txn| (txn.stage.clone(), txn.left)) {
            None if calm || self.setup_done.is_none() || !self.may_go_on(program) => {}
            None => self.begin_txn(program),
            Some((Stage::Open, 1..)) if !calm && self.may_go_on(program) => {
                self.next_token += 1;
                let value = self.next_token;
                let made: Vec<ObjectId> =
                    self.txn(program).map_or(Vec::new(), |txn| txn.made.iter().copied().collect());
                let op = self.shared.draw(&mut self.programs[program].dice, &made, value);
                if let Some(txn) = self.txn(program) {
                    txn.left -= 1;
                }
                self.wrote_large(&op);
                self.begin_job(program, Task { request: op.request(), purpose: Purpose::Within(op) });
            }
            Some((Stage::Open, _)) => self.finish_txn(program),
            Some(_) => {}
        }
    }

    /// Remembers which value a blob stands for.
    pub(crate) fn wrote_large(&mut self, op: &Op) {
        if let Op::Write { object, large: true, value } = *op {
            self.judge.serial.wrote_large(object, &crate::shared::bytes_of(value, true), value);
        }
    }

    /// One operation less is left for the program. False if there was none.
    fn may_go_on(&mut self, program: usize) -> bool {
        let operations = self.script.operations;
        let left = self.programs[program].left.get_or_insert(operations);
        let more = left.checked_sub(1);
        *left = more.unwrap_or(0);
        more.is_some()
    }

    fn present(&self, program: usize) -> Present {
        let life = self.lives[self.programs[program].machine].as_ref();
        Present { accepted: life.map_or(0, |life| life.pending.accepted()), asked: false }
    }

    fn begin_txn(&mut self, program: usize) {
        let (called, present) = (self.fresh(), self.present(program));
        let known = self.judge.acknowledged.last().copied().unwrap_or_default();
        let life = self.lives[self.programs[program].machine].as_ref().map_or(0, |life| life.number);
        let me = &mut self.programs[program];
        let most = *me.dice.pick(&OPERATIONS_MAX);
        let left = me.dice.between(1, most);
        let part_bytes = me.dice.permille(STAGED_PERMILLE).then(|| *me.dice.pick(&PART_BYTES));
        me.txn = Some(Box::new(Txn {
            id: format!("{}-{called}", me.machine),
            called,
            known,
            behind: (life, present.accepted),
            began: Tid::ZERO,
            left,
            stage: Stage::Beginning(present),
            transaction: Transaction::new(VOLUME, Tid::ZERO),
            shipping: Shipping::new(Tid::ZERO),
            part_bytes,
            staging: None,
            was_staged: false,
            was_shipped: false,
            folded: None,
            anew: false,
            held: BTreeMap::new(),
            storing: 0,
            stored_as_of: Tid::MAX,
            reads: Vec::new(),
            writes: BTreeMap::new(),
            made: BTreeSet::new(),
        }));
        self.await_present(program);
    }

    /// Asks the quorum, if what had been answered before has landed.
    fn await_present(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        let Some(life) = &mut self.lives[machine] else { return };
        let Some(txn) = &mut self.programs[program].txn else { return };
        let (Stage::Beginning(present) | Stage::Rebasing(present) | Stage::Looking(present)) = &mut txn.stage else {
            return;
        };
        if present.asked || life.pending.landed() < present.accepted {
            return;
        }
        present.asked = true;
        self.stamp += 1;
        let token = self.stamp;
        let clock = self.machines[machine].clock(self.now);
        life.node.confirm_landed(clock, token, VOLUME);
        self.txn_tokens.insert(token, program);
    }

    /// Time passes for the transactions of a machine.
    pub(crate) fn step_transactions(&mut self, machine: usize) {
        for program in 0..self.programs.len() {
            if self.programs[program].machine != machine || self.programs[program].txn.is_none() {
                continue;
            }
            self.await_present(program);
            self.stage_later(program);
            if self.delays.permille(PIN_PERMILLE) {
                self.pin(program);
            }
        }
    }

    /// Keeps the start, if nothing does.
    fn pin(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        let (Some(txn), Some(life)) = (&self.programs[program].txn, &self.lives[machine]) else { return };
        let at = txn.transaction.at();
        let session = life.node.session.id().unwrap_or_default();
        let pins = life.node.server.state().past.of(VOLUME).and_then(|past| past.pins.get(&at));
        if at > Tid::ZERO && !pins.is_some_and(|sessions| sessions.contains(&session)) {
            self.request(machine, RequestBody::Pin { volume: VOLUME, at });
        }
    }

    fn request(&mut self, machine: usize, body: RequestBody) {
        let clock = self.machines[machine].clock(self.now);
        let token = self.fresh();
        if let Some(life) = &mut self.lives[machine] {
            life.node.request(clock, token, body);
        }
    }

    /// The present that a transaction waits for is here.
    pub(crate) fn txn_confirmed(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        let Some(life) = &self.lives[machine] else { return };
        let last = life.node.server.state().tid;
        let Some(txn) = &mut self.programs[program].txn else { return };
        match txn.stage {
            Stage::Beginning(_) => {
                txn.stage = Stage::Open;
                txn.began = last;
                txn.transaction = Transaction::new(VOLUME, last);
                let id = txn.id.clone();
                self.note(|| format!("n{machine} p{program} begins transaction {id} at {last}"));
                self.pin(program);
                self.think_within(program);
            }
            Stage::Rebasing(_) => self.rebase(program, last),
            Stage::Looking(_) => {
                let start = txn.transaction.at();
                let found = commit::find(&life.records.live(last), VOLUME, (start, last), &commit::note("", &txn.id));
                let whole = life.records.is_whole_from(VOLUME, start);
                match found {
                    Ok(found) => {
                        let next = txn.shipping.on_looked(found, whole);
                        self.cover.hit(if found.is_some() { "txn_found" } else { "txn_not_found" });
                        self.go_on(program, next);
                    }
                    Err(error) => self.wrong(format!("n{machine}: {error}")),
                }
            }
            Stage::Open | Stage::Storing | Stage::Staging | Stage::Waiting(_) | Stage::Shipped => {}
        }
    }

    /// There was no quorum for what a transaction waits for: nothing was sent.
    pub(crate) fn txn_no_quorum(&mut self, program: usize) {
        self.cover.hit("txn_no_quorum");
        let present = self.present(program);
        let Some(txn) = self.txn(program) else { return };
        match txn.stage {
            Stage::Beginning(_) => {
                self.programs[program].txn = None;
                self.think(program);
            }
            Stage::Looking(_) => txn.stage = Stage::Looking(present),
            // It goes on as it was.
            _ => {
                (txn.stage, txn.folded) = (Stage::Open, None);
                self.give_up_staged(program);
                self.think_within(program);
            }
        }
    }

    /// One operation of a transaction.
    pub(crate) fn step_within(&mut self, token: u64) {
        let Some(job) = self.jobs.get_mut(&token) else { return };
        let (machine, program) = (job.machine, job.program);
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = &mut self.lives[machine] else { return };
        let Some(txn) = &mut self.programs[program].txn else { return };
        job.wait = Wait::Session;
        let at = txn.transaction.at();
        let base = life.records.at(at);
        let now_ns = if life.usable.time.1 == 0 { clock.wall_ns } else { life.usable.cluster_ns(clock.now) };
        let loses = job.run.loses_name(&Layered::new(&base, txn.transaction.layer().clone()));
        let mut stepped = job.run.step_transaction(&mut txn.transaction, &base, now_ns);
        let mut fresh = None;
        if matches!(stepped.step, Step::NeedObjectId) {
            let Some(id) = life.pending.take_id(|_| true) else {
                return life.node.session.object_id(clock.now, token);
            };
            fresh = Some(id);
            job.run.fresh_id(id);
            stepped = job.run.step_transaction(&mut txn.transaction, &base, now_ns);
        }
        if let Some(object) = loses {
            txn.transaction.forget_nameless(object);
        }
        let whole = life.records.is_whole(VOLUME, at);
        let Stepped { step, store } = stepped;
        if let Some(id) = fresh {
            self.judge_fresh_id(id);
        }
        if let Some((_, bytes)) = store {
            self.store_within(program, bytes);
        }
        if !whole {
            self.cover.hit("txn_start_pruned");
            return self.job_done(token, Err(NoState::Pruned.into()));
        }
        match step {
            Step::Done(result) => self.job_done(token, result),
            Step::Fetch(ids) => self.fetch_blobs(token, ids),
            other => self.wrong(format!("an operation of a transaction needs {other:?}")),
        }
    }

    /// An operation of a transaction has its answer.
    pub(crate) fn done_within(&mut self, job: &Job, op: &Op, result: &Result<Answer, TreeError>) {
        let (machine, program) = (job.machine, job.program);
        if matches!(result, Err(TreeError::NoState(NoState::Pruned))) {
            return self.end_txn(program, End::Not);
        }
        let (Some(life), Some(txn)) = (&self.lives[machine], &mut self.programs[program].txn) else { return };
        let view = Layered::new(life.records.at(txn.transaction.at()), txn.transaction.layer().clone());
        let taken = op.access(result, renamed(&view, op)).and_then(|access| match access {
            Some(access) => txn.take(access),
            None => Ok(()),
        });
        if let (Op::Create { .. }, Ok(Answer { reply: Reply::Created { object, created: true }, .. })) = (op, result) {
            txn.made.insert(*object);
        }
        let made = txn.made.clone();
        if let Ok(answer) = result {
            self.learn_shared(op, answer, &made);
        }
        if let Err(what) = taken {
            self.wrong(what);
        }
    }

    /// It has done what it wanted.
    fn finish_txn(&mut self, program: usize) {
        let present = self.present(program);
        let calm = self.calm.is_some();
        let dice = &mut self.programs[program].dice;
        let (given_up, rebased) = (dice.permille(GIVEN_UP_PERMILLE), dice.permille(REBASED_PERMILLE));
        let Some(txn) = self.txn(program) else { return };
        if given_up {
            self.cover.hit("txn_given_up");
            self.end_txn(program, End::Not);
        } else if rebased && !calm {
            txn.stage = Stage::Rebasing(present);
            self.await_present(program);
        } else {
            txn.stage = Stage::Storing;
            self.go_on_storing(program);
        }
    }

    /// Moves it to the present, if all that it depends on is as it was.
    fn rebase(&mut self, program: usize, last: Tid) {
        let machine = self.programs[program].machine;
        let clock = self.machines[machine].clock(self.now);
        let (Some(life), Some(txn)) = (&self.lives[machine], &mut self.programs[program].txn) else { return };
        let at = txn.transaction.at();
        let guards = txn.transaction.guards().to_guards(at);
        txn.stage = Stage::Open;
        match commit::all_hold(&life.records.live(last), &guards) {
            Ok(true) => {
                let (base, later) = (life.records.at(at), life.records.at(last));
                let moved = txn.transaction.rebased(&base, &later, clock.wall_ns);
                match moved {
                    Ok(_) if !life.records.is_whole(VOLUME, at) => {
                        self.cover.hit("txn_start_pruned");
                        return self.end_txn(program, End::Not);
                    }
                    Ok(moved) => {
                        txn.transaction = moved;
                        txn.left += 3;
                        self.cover.hit("txn_rebased");
                        self.request(machine, RequestBody::Unpin { volume: VOLUME, at });
                        self.pin(program);
                    }
                    Err(error) => return self.wrong(format!("n{machine}: a rebase: {error}")),
                }
            }
            Ok(false) => self.cover.hit("txn_rebase_collided"),
            Err(error) => return self.wrong(format!("n{machine}: {error}")),
        }
        self.think_within(program);
    }

    fn store_within(&mut self, program: usize, bytes: Bytes) {
        let machine = self.programs[program].machine;
        let Some(txn) = &mut self.programs[program].txn else { return };
        txn.held.insert(BlobId::of(&bytes), bytes.clone());
        txn.storing += 1;
        let id = txn.id.clone();
        self.store_for_txn(machine, program, id, bytes);
    }

    /// Bytes of a transaction are on a majority.
    pub(crate) fn stored_within(&mut self, program: usize, id: &str, as_of: Tid) {
        let Some(txn) = self.txn(program).filter(|txn| txn.id == id) else { return };
        txn.storing -= 1;
        txn.stored_as_of = txn.stored_as_of.min(as_of);
        if matches!(txn.stage, Stage::Storing) {
            self.go_on_storing(program);
        }
    }

    /// Ships it, if all its bytes are on a majority.
    fn go_on_storing(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        let (Some(life), Some(txn)) = (&self.lives[machine], &mut self.programs[program].txn) else { return };
        if txn.storing > 0 {
            return;
        }
        if std::mem::take(&mut txn.anew) {
            let next = txn.shipping.on_stored_anew(txn.stored_as_of);
            return self.go_on(program, next);
        }
        if txn.folded.is_some() {
            return self.ship_first(program);
        }
        let at = txn.transaction.at();
        let base = life.records.at(at);
        let folded = txn.transaction.fold(&base);
        if !life.records.is_whole(VOLUME, at) {
            self.cover.hit("txn_start_pruned");
            return self.end_txn(program, End::Not);
        }
        let mut folded = match folded {
            Ok(folded) => folded,
            Err(error) => return self.wrong(format!("n{machine}: {error}")),
        };
        let view = Layered::new(&base, txn.transaction.layer().clone());
        // What was written to a file that it made and that has no name any more is nowhere. Of what was there, others may have it open.
        let made = &txn.made;
        txn.writes.retain(|cell, _| match cell {
            Cell::Name(..) => true,
            Cell::Bytes(object) | Cell::Xattr(object, _) => !made.contains(object) || has_name(&view, *object),
        });
        if folded.plan.mutations.is_empty() {
            self.cover.hit("txn_only_read");
            return self.end_txn(program, End::Committed(None));
        }
        let packed = pack::pack(&mut folded.plan);
        txn.fold_in_parts(folded);
        if packed.is_empty() {
            return self.ship_first(program);
        }
        packed.into_iter().for_each(|bytes| self.store_within(program, bytes));
    }

    fn ship_first(&mut self, program: usize) {
        if let Some(txn) = self.txn(program) {
            // What it has not stored itself it found named where it began.
            txn.shipping = Shipping::new(txn.stored_as_of.min(txn.transaction.at()));
        }
        self.ship_txn(program);
    }

    pub(crate) fn ship_txn(&mut self, program: usize) {
        let Some(group) = self.staged(program) else { return };
        let machine = self.programs[program].machine;
        let (clock, token) = (self.machines[machine].clock(self.now), self.fresh());
        let (Some(life), Some(txn)) = (&mut self.lives[machine], &mut self.programs[program].txn) else { return };
        let Some(Folded { guards, plan }) = txn.folded.clone() else { return };
        (txn.stage, txn.was_shipped) = (Stage::Shipped, true);
        let author = Author { uid: 0, note: commit::note("", &txn.id).into() };
        let stored_as_of = txn.shipping.stored_as_of();
        let id = txn.id.clone();
        let body = match group {
            Some(group) => RequestBody::Adopt { group, guards, plan, author, stored_as_of },
            None => RequestBody::Commit { guards, plan, author, stored_as_of },
        };
        life.node.request(clock, token, body);
        self.txn_tokens.insert(token, program);
        self.note(|| format!("n{machine} p{program} ships transaction {id} ({token})"));
        self.ambush(machine);
    }

    /// What was shipped has its outcome; none: it was lost with its session.
    pub(crate) fn txn_outcome(&mut self, program: usize, outcome: Option<Outcome>) {
        self.note(|| format!("p{program}: the commit of its transaction has the outcome {outcome:?}"));
        if outcome.is_none() {
            self.cover.hit("txn_lost_with_session");
        }
        let Some(txn) = self.txn(program) else { return };
        if matches!(txn.stage, Stage::Staging) {
            return self.part_outcome(program, outcome.as_ref());
        }
        if let Some(staging) = &mut txn.staging {
            staging.on_adopted(outcome.as_ref());
        }
        let next = txn.shipping.on_outcome(outcome.as_ref());
        self.go_on(program, next);
    }

    /// Nobody can say what became of what was shipped.
    pub(crate) fn txn_unknown(&mut self, program: usize) {
        self.cover.hit("txn_looked_for");
        let Some(txn) = self.txn(program) else { return };
        if matches!(txn.stage, Stage::Staging) {
            return self.part_unknown(program);
        }
        if let Some(staging) = &mut txn.staging {
            staging.on_adopted(None);
        }
        let next = txn.shipping.on_unknown();
        self.go_on(program, next);
    }

    pub(crate) fn go_on(&mut self, program: usize, next: Next) {
        let (machine, present) = (self.programs[program].machine, self.present(program));
        let (Some(life), Some(txn)) = (&self.lives[machine], &mut self.programs[program].txn) else { return };
        match next {
            Next::Ship => self.ship_txn(program),
            Next::Judge => {
                let live = life.records.live(life.node.server.state().tid);
                let guards = txn.folded.as_ref().map_or(&[][..], |folded| &folded.guards);
                match commit::all_hold(&live, guards) {
                    Ok(hold) => {
                        let next = txn.shipping.on_judged(hold);
                        self.go_on(program, next);
                    }
                    Err(error) => self.wrong(format!("n{machine}: {error}")),
                }
            }
            Next::StoreAnew => {
                self.cover.hit("txn_stored_anew");
                (txn.stage, txn.anew) = (Stage::Storing, true);
                txn.stored_as_of = Tid::MAX;
                let named = txn.named();
                for blob in named {
                    match self.txn(program).and_then(|txn| txn.held(&blob)).or_else(|| self.own_blob(machine, blob)) {
                        Some(bytes) => self.store_within(program, bytes),
                        None => return self.wrong(format!("n{machine} has not kept {blob} for its transaction")),
                    }
                }
                self.go_on_storing(program);
            }
            Next::Look => {
                txn.stage = Stage::Looking(present);
                self.await_present(program);
            }
            Next::End(Shipped::Committed(tid)) => {
                self.cover.hit("txn_committed");
                if txn.was_staged {
                    self.cover.hit("txn_adopted");
                }
                self.judge_acknowledged(Some(tid));
                self.end_txn(program, End::Committed(Some(tid)));
            }
            Next::End(Shipped::Collided) => {
                self.cover.hit("txn_collided");
                self.end_txn(program, End::Not);
            }
            Next::End(Shipped::Not(cause)) if cause.contains("report") => self.wrong(cause),
            Next::End(Shipped::Not(cause)) => {
                self.note(|| format!("p{program}: its transaction is not committed: {cause}"));
                self.end_txn(program, End::Not);
            }
            Next::End(Shipped::Unknown(_)) => {
                self.cover.hit("txn_unknown");
                self.end_txn(program, End::Unknown);
            }
        }
    }

    /// Nothing of it is left but what was committed.
    pub(crate) fn end_txn(&mut self, program: usize, end: End) {
        self.give_up_staged(program);
        let machine = self.programs[program].machine;
        let Some(txn) = self.programs[program].txn.take() else { return };
        self.note(|| format!("n{machine} p{program}: transaction {} has ended: {end:?}", txn.id));
        let returned = (end != End::Unknown).then(|| self.fresh());
        let at = txn.transaction.at();
        self.record_end(machine, *txn, end, returned);
        self.request(machine, RequestBody::Unpin { volume: VOLUME, at });
        self.think(program);
    }

    fn record_end(&mut self, machine: usize, txn: Txn, end: End, returned: Option<u64>) {
        self.judge.serial.ended(Ended {
            id: txn.id,
            machine,
            called: txn.called,
            returned,
            reads: txn.reads,
            writes: txn.writes,
            made: txn.made,
            staged: txn.was_staged,
            began: (txn.began, txn.known),
            behind: txn.behind,
            end,
        });
    }

    /// The machine of these programs has lost its power, and their transactions are gone.
    pub(crate) fn lose_transactions(&mut self, machine: usize) {
        for program in 0..self.programs.len() {
            if self.programs[program].machine != machine {
                continue;
            }
            let Some(txn) = self.programs[program].txn.take() else { continue };
            let shipped = txn.was_shipped;
            self.cover.hit(if shipped { "txn_crashed_committing" } else { "txn_crashed" });
            if !matches!(txn.stage, Stage::Beginning(_)) {
                self.record_end(machine, *txn, if shipped { End::Unknown } else { End::Not }, None);
            }
        }
        self.forget_unstaging(machine);
        let programs = &self.programs;
        self.txn_tokens.retain(|_, program| programs[*program].machine != machine);
    }

    /// Does no transaction wait for anything?
    pub(crate) fn transactions_rest(&self) -> Result<(), String> {
        match self.programs.iter().position(|program| program.txn.is_some()) {
            Some(program) => {
                let (id, stage) = self.programs[program].txn.as_ref().map(|txn| (txn.id(), &txn.stage)).unzip();
                Err(format!("transaction {id:?} of program {program} is at {stage:?}"))
            }
            None => Ok(()),
        }
    }

    /// A program goes on with its transaction in a moment.
    pub(crate) fn think_within(&mut self, program: usize) {
        let most = *self.programs[program].dice.pick(&THINKS_MS);
        let delay = self.delays.below(most * MS);
        if let Some(life) = self.lives[self.programs[program].machine].as_ref().map(|life| life.number) {
            self.at(delay, Event::Next { program, life });
        }
    }
}

/// What a rename that was just done has moved: its transaction, or node, shows it in this view.
pub(crate) fn renamed(view: &dyn View, op: &Op) -> Renamed {
    let Op::Rename { from, to, .. } = op else { return Renamed::Something };
    let named = |(dir, name): (ObjectId, u8)| {
        let found = view.get(&Cell::Name(dir, name).key(VOLUME, false)).ok()??;
        match found.record {
            Record::Dirent(dirent) => Some(dirent.object),
            _ => None,
        }
    };
    match (named(*from), named(*to)) {
        (Some(_), _) => Renamed::Nothing,
        (None, Some(object)) => Renamed::This(object),
        (None, None) => Renamed::Something,
    }
}

fn has_name(view: &dyn View, object: ObjectId) -> bool {
    let found = view.get(&Key::attr(VOLUME, object));
    matches!(found.ok().flatten().map(|version| version.record), Some(Record::Attr(attr)) if attr.nlink > 0)
}
