//! Changes that a node answers under exclusive leases, and what becomes of them.

use crate::jobs::{StandsOn, Wait};
use crate::machine::{Engine, Life};
use crate::program::Purpose;
use crate::world::World;
use gavel_client::{Behind, LostBecause, LostPlan, OfferEffect, Taken};
use gavel_lease::range::whole_objects;
use gavel_store::engine;
use gavel_store::records::Replica;
use gavel_txn::Layered;
use gavel_types::{KeyRange, Tid};
use gavel_wire::Mode;

/// Of a thousand changes, so many ask for the quorum at once, as on a mount that does nothing behind.
const SYNC_PERMILLE: u32 = 150;

impl Life {
    /// What operations of this node see: its replica, and what it has answered over it.
    pub(crate) fn view(&self) -> Layered<Replica<<Engine as engine::Engine>::Snapshot>> {
        Layered::new(self.records.live(self.node.server.state().tid), self.pending.layer().clone())
    }
}

impl World {
    /// Tries to answer a change at once. True if it has its answer.
    pub(crate) fn try_behind(&mut self, token: u64) -> bool {
        let sync = self.delays.permille(SYNC_PERMILLE);
        let Some(job) = self.jobs.get_mut(&token) else { return false };
        let machine = job.machine;
        let now = self.machines[machine].clock(self.now).now;
        let Some(life) = &mut self.lives[machine] else { return false };
        // What the programs begin with stays.
        if sync || matches!(job.task.purpose, Purpose::Setup(_)) {
            return false;
        }
        // What is answered must not be refused.
        if job.run.blob().is_some_and(|blob| life.condemned.contains(&blob)) {
            return false;
        }
        let base = life.records.live(life.node.server.state().tid);
        let had_id = job.run.id();
        match job.run.step_behind(&base, &mut life.pending, &life.usable, now) {
            Behind::Done { result, accepted } => {
                if let Some(Taken { number, made, store }) = accepted {
                    job.stands_on = StandsOn::Plan(number);
                    // As a kernel does with what it changes itself.
                    let written = life.pending.written_by(number);
                    let objects = written.iter().filter_map(whole_objects);
                    let objects: Vec<KeyRange> =
                        objects.map(|(v, first, last)| KeyRange::objects(v, first, last)).collect();
                    life.kernel.forget(&objects);
                    self.cover.hit("answered_behind");
                    self.stamp += 1;
                    let stamp = self.stamp;
                    life.accepted_at.insert(number, stamp);
                    life.unreported.insert(number);
                    self.surprise(machine);
                    if let Some(blob) = store {
                        self.store_behind(machine, number, blob.bytes().clone());
                    }
                    if let Some(made) = made.filter(|_| had_id.is_none()) {
                        self.judge_fresh_id(made);
                    }
                }
                self.job_done(token, result);
                true
            }
            Behind::Lacks { reads, writes } => {
                life.node.session.want(now, &reads, Mode::Shared);
                life.node.session.want(now, &writes, Mode::Exclusive);
                false
            }
            Behind::Full | Behind::No => false,
        }
    }

    /// Ships what can be shipped. True if there was something.
    pub(crate) fn ship(&mut self, machine: usize) -> bool {
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = &mut self.lives[machine] else { return false };
        life.pending.check_invariants();
        life.node.ship_pending(clock, &mut life.pending)
    }

    pub(crate) fn landed(&mut self, machine: usize, last: u64, tid: Tid) {
        let Some(life) = &mut self.lives[machine] else { return };
        if last > life.pending.landed() + 1 {
            self.cover.hit("landed_together");
        }
        life.pending.on_landed(last, tid);
        // What an earlier session lost is not in there any more.
        let later = life.accepted_at.split_off(&(last + 1));
        for number in std::mem::replace(&mut life.accepted_at, later).into_keys() {
            life.unreported.remove(&number);
            self.judge.serial.landed(machine, life.number, number, tid);
        }
        self.judge_acknowledged(Some(tid));
    }

    pub(crate) fn lost(&mut self, machine: usize, cause: LostBecause) {
        if cause == LostBecause::Refused {
            return self.wrong(format!("the log refused what n{machine} had answered"));
        }
        let Some(mut life) = self.lives[machine].take() else { return };
        self.lose_answers(machine, &life);
        let lost = life.pending.lose();
        let bytes: Vec<_> = lost.iter().filter_map(|one| Some((one.number, one.blob.clone()?.1))).collect();
        life.lost.push_back((cause, lost));
        life.accepted_at.clear();
        self.lives[machine] = Some(life);
        for (number, bytes) in bytes {
            self.store_behind(machine, number, bytes);
        }
        self.offer_again(machine);
        // They have seen it, and are only waiting for its bytes.
        let fetching =
            self.jobs.iter().filter(|(_, job)| job.machine == machine && matches!(job.wait, Wait::Fetch { .. }));
        for token in fetching.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.job_unknown(token);
        }
    }

    /// Lost plans are offered again once their blobs are on a majority: these are still on their way there.
    pub(crate) fn offer_again(&mut self, machine: usize) {
        let Some(life) = &mut self.lives[machine] else { return };
        while let Some((cause, lost)) = life.lost.pop_front_if(|(_, lost)| !lost.iter().any(LostPlan::is_to_be_stored))
        {
            if !lost.is_empty() {
                self.cover.hit("offered_again");
            }
            life.node.offer_again(cause, lost);
        }
    }

    /// The blob of a plan is on a majority, and the plan is lost meanwhile.
    pub(crate) fn stored_lost(&mut self, machine: usize, number: u64, as_of: Tid) {
        let Some(life) = &mut self.lives[machine] else { return };
        let all = life.lost.iter_mut().flat_map(|(_, lost)| lost);
        all.filter(|lost| lost.number == number).for_each(|lost| lost.stored_as_of = Some(as_of));
        life.node.offer_stored(number, as_of);
        self.offer_again(machine);
    }

    /// What has become of a plan that was offered again.
    pub(crate) fn offer_effect(&mut self, machine: usize, effect: OfferEffect) {
        self.note(|| format!("n{machine}: {effect:?}"));
        let number = match effect {
            OfferEffect::Done => return,
            OfferEffect::Store { number, bytes } => {
                self.cover.hit("stored_for_an_offer");
                return self.store_behind(machine, number, bytes);
            }
            OfferEffect::Committed { number, tid } => {
                self.cover.hit("offer_committed");
                self.judge_acknowledged(Some(tid));
                let life = self.lives[machine].as_ref().map_or(0, |life| life.number);
                self.judge.serial.offered(machine, life, number, tid);
                number
            }
            OfferEffect::Conflict { lost, .. } => {
                self.cover.hit("offer_conflict");
                lost.number
            }
        };
        let known = self.lives[machine].as_mut().is_some_and(|life| life.unreported.remove(&number));
        if !known {
            self.wrong(format!("n{machine} says twice what has become of plan {number}, or it was never lost"));
        }
    }

    /// What a life of a machine has answered, and was not committed, may be gone.
    pub(crate) fn lose_answers(&mut self, machine: usize, life: &Life) {
        if let Some((first, since)) = life.accepted_at.first_key_value() {
            self.cover.hit("pending_lost");
            self.note(|| format!("n{machine} loses its plans from {first} on"));
            self.judge.history.lose(machine, life.number, *first, *since);
            self.judge.serial.lose(machine, life.number, *first, *since);
        }
    }
}
