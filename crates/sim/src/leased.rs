//! Reads under leases, and what a machine's kernel keeps of their answers.
//!
//! The kernel here is as forgetful as the real one is not: it keeps every answer that may be kept, for as long as it may, and gives it
//! again until it is told to forget. What it gives is judged like any other answer.

use crate::clock::MS;
use crate::jobs::Job;
use crate::world::{Event, World};
use gavel_client::{Answer, Leased, Step, ToForget, TreeError, Usable, What};
use gavel_lease::range::whole_objects;
use gavel_lease::{RangeSet, written};
use gavel_types::{KeyRange, Moment, ObjectId, VolumeId};
use gavel_wire::{Mode, Outcome, Request, RequestBody};
use std::collections::BTreeMap;

/// Answers that a kernel keeps.
#[derive(Debug, Default)]
pub struct Kernel {
    /// By the request's words: what it depends on, until when, what was answered.
    kept: BTreeMap<String, (RangeSet, Moment, Answer)>,
}

impl Kernel {
    fn answer(&self, request: &str, now: Moment) -> Option<&Answer> {
        self.kept.get(request).filter(|(_, until, _)| *until > now).map(|(_, _, answer)| answer)
    }

    pub(crate) fn forget(&mut self, ranges: &[KeyRange]) {
        self.kept.retain(|_, (of, _, _)| !ranges.iter().any(|range| of.touches(range)));
    }
}

impl World {
    /// Tries to answer a read from what the kernel keeps, or under leases. True if it has its answer, or goes on with no need to be confirmed.
    pub(crate) fn try_leased(&mut self, token: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&token) else { return false };
        let machine = job.machine;
        let now = self.machines[machine].clock(self.now).now;
        let Some(life) = &mut self.lives[machine] else { return false };
        let request = format!("{:?}", job.task.request);
        if job.run.is_fresh_read()
            && let Some(answer) = life.kernel.answer(&request, now)
        {
            let answer = answer.clone();
            self.cover.hit("kept_answer");
            self.job_done(token, Ok(answer));
            return true;
        }
        let view = life.view();
        match job.run.step_leased(&view, &life.usable, now) {
            Leased::Step(step) => {
                self.cover.hit("leased_read");
                self.keep(machine, request, now, &step);
                self.take_step(token, step);
                true
            }
            Leased::Lacks(ranges) => {
                life.node.session.want(now, &ranges, Mode::Shared);
                job.look_up = job.run.look_up();
                false
            }
            Leased::No => false,
        }
    }

    fn keep(&mut self, machine: usize, request: String, now: Moment, step: &Step) {
        let Some(life) = &mut self.lives[machine] else { return };
        let Step::Done(Ok(answer)) = step else { return };
        if answer.keep.attrs_ns == 0 {
            return;
        }
        // Everything it depends on is within what may be kept: the objects that the request and the answer name.
        let named = objects_named(&request).into_iter().chain(answer.object());
        let of = named.map(|object| KeyRange::object(VolumeId::FIRST, object)).collect();
        let until = Moment(now.0 + answer.keep.attrs_ns);
        life.kernel.kept.insert(request, (of, until, answer.clone()));
    }

    /// A name was looked up by asking the leader: it alone may be kept, whoever else writes to what it leads to.
    pub(crate) fn keep_name(&mut self, job: &Job, result: &Result<Answer, TreeError>) {
        let now = self.machines[job.machine].clock(self.now).now;
        let (Some(life), Some(look_up), Ok(answer)) = (&mut self.lives[job.machine], &job.look_up, result) else {
            return;
        };
        let keep = look_up.keep(answer, &life.view(), &life.usable, now);
        let request = format!("{:?}", job.task.request);
        let is_first = objects_named(&request)
            .first()
            .is_some_and(|directory| *look_up.directory() == KeyRange::object(VolumeId::FIRST, *directory));
        if keep.names_ns > 0 && is_first {
            self.cover.hit("kept_name");
            let of = [look_up.directory().clone()].into_iter().collect();
            let answer = Answer { attr: None, ..answer.clone() };
            life.kernel.kept.insert(request, (of, Moment(now.0 + keep.names_ns), answer));
        }
    }

    /// What a node may answer for is in force at once here: every answer is handed over before anything else happens.
    pub(crate) fn put_in_force(&mut self, machine: usize, usable: Usable) {
        if let Some(life) = &mut self.lives[machine] {
            life.usable = usable;
        }
    }

    /// A kernel is told to forget, and will have after a while.
    pub(crate) fn forget(&mut self, machine: usize, to_forget: ToForget) {
        self.cover.hit(if to_forget.what == What::Own { "forgot_for_own_write" } else { "recalled" });
        let delay = self.delays.below(5 * MS);
        if let Some(life) = self.lives[machine].as_ref().map(|life| life.number) {
            self.at(delay, Event::Forgotten { machine, life, to_forget });
        }
    }

    pub(crate) fn forgotten(&mut self, machine: usize, life: u64, to_forget: &ToForget) {
        let Some(life) = self.life(machine, life) else { return };
        life.kernel.forget(&to_forget.ranges);
        life.node.forgotten(to_forget.id);
        self.pump(machine);
    }

    /// A commit was applied for the first time anywhere: nobody else may be answering for what it wrote.
    pub(crate) fn judge_leases(&mut self, machine: usize, request: &Request) {
        let RequestBody::Commit { plan, .. } = &request.body else { return };
        if !self.is_committed(machine, request) {
            return;
        }
        let Some(applied) = &self.lives[machine] else { return };
        let mut writes = written(plan);
        // What is about a volume that has ended was passed over.
        let there = |range: &KeyRange| whole_objects(range).is_none_or(|(volume, ..)| applied.is_there(volume));
        writes.retain(there);
        // What `machine` answers for now, it may have been granted after that commit.
        for other in (0..self.lives.len()).filter(|other| *other != machine) {
            let now = self.machines[other].clock(self.now).now;
            let Some(life) = &self.lives[other] else { continue };
            let usable = &life.usable;
            if life.node.session.id() == Some(request.session) || usable.left_ns(now) == 0 {
                continue;
            }
            if let Some(range) = writes.iter().find(|range| usable.reads.touches(range)) {
                let objects = whole_objects(range);
                self.wrong(format!("n{other} answers for {objects:?}, which session {} has changed", request.session));
                return;
            }
        }
    }

    fn is_committed(&self, machine: usize, request: &Request) -> bool {
        let Some(life) = &self.lives[machine] else { return false };
        let session = life.node.server.state().sessions.get(&request.session);
        let outcome = session.and_then(|session| session.outcomes.get(&request.seq));
        matches!(outcome, Some(Outcome::Committed { .. }))
    }
}

/// The objects that a request names, out of its words: `ObjectId(17)`.
fn objects_named(request: &str) -> Vec<ObjectId> {
    let parts = request.split("ObjectId(").skip(1);
    parts.filter_map(|part| part.split(')').next()?.parse().ok()).map(ObjectId).collect()
}
