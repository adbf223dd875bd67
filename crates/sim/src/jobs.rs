//! Operations on their way: each is a [`Run`] that is stepped with views of its own node's replica, as a mount's would be.

use crate::blobs::Placing;
use crate::clock::MS;
use crate::dice::Dice;
use crate::linear::Interval;
use crate::models::Told;
use crate::program::{self, Meaning, Purpose, Task, understand};
use crate::serial::Plain;
use crate::shared::{Op, Renamed};
use crate::transact::{Txn, renamed};
use crate::world::{Event, World};
use gavel_client::run::Blobs;
use gavel_client::{Answer, LookUp, Run, Step, TreeError};
use gavel_fs::operation::Caller;
use gavel_fs::{Operation, Reply};
use gavel_types::{BlobId, LogIndex, ObjectId, SessionId, Tid};
use gavel_wire::{Outcome, Refusal};
use std::collections::BTreeSet;

/// A program: one operation after the other.
#[derive(Debug)]
pub(crate) struct Program {
    /// Where it runs.
    pub(crate) machine: usize,
    pub(crate) dice: Dice,
    pub(crate) left: Option<u32>,
    /// Does it run transactions?
    transacts: bool,
    /// The one that it runs.
    pub(crate) txn: Option<Box<Txn>>,
    /// Its operation, if one is under way.
    job: Option<u64>,
    /// Files that it has open, and the session under which it opened them.
    held: Vec<(ObjectId, SessionId)>,
}

impl Program {
    pub(crate) fn new(seed: u64, number: usize, nodes: usize) -> Program {
        let dice = Dice::new(seed, "program", number as u64);
        let (left, txn, job) = (None, None, None);
        Program { machine: number % nodes, dice, left, transacts: false, txn, job, held: Vec::new() }
    }

    /// One that runs transactions.
    pub(crate) fn transactor(seed: u64, number: usize, nodes: usize) -> Program {
        let dice = Dice::new(seed, "transactor", number as u64);
        Program { dice, transacts: true, ..Program::new(seed, number, nodes) }
    }
}

/// What a job waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// A view that has applied this entry.
    View(LogIndex),
    /// The session's answer.
    Session,
    /// A majority that holds the bytes.
    Store(Placing),
    /// Blobs from others.
    Fetch { left: Vec<BlobId>, got: Blobs, asked: usize, asked_at: u64 },
}

/// An operation on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) machine: usize,
    pub(crate) program: usize,
    pub(crate) run: Run,
    pub(crate) task: Task,
    pub(crate) wait: Wait,
    called: u64,
    /// The commit that it came to.
    tid: Option<Tid>,
    /// The session under which it began.
    session: Option<SessionId>,
    /// What its answer stands on.
    pub(crate) stands_on: StandsOn,
    /// The name that it looks up, for lack of leases, by asking the leader.
    pub(crate) look_up: Option<LookUp>,
}

/// What an answer stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StandsOn {
    /// What the node's own replica and its pending plans showed, or nothing.
    View,
    /// This plan, which was accepted.
    Plan(u64),
    /// A commit.
    Commit,
}

/// What was not answered is asked again after this.
pub(crate) const ASK_AGAIN_NS: u64 = 300 * MS;

impl World {
    /// A program does something.
    pub(crate) fn next_of(&mut self, program: usize, life: u64) {
        let machine = self.programs[program].machine;
        if self.life(machine, life).is_none() || self.programs[program].job.is_some() {
            return;
        }
        if self.programs[program].transacts {
            self.transact(program);
            return self.pump(machine);
        }
        if self.calm.is_some() {
            return;
        }
        let task = match self.setup_done {
            None if program == 0 => program::setup(self.setup_step, self.script.transactions > 0),
            None => None,
            Some(_) => self.draw_task(program),
        };
        if let Some(task) = task {
            self.begin_job(program, task);
            self.pump(machine);
        }
    }

    fn draw_task(&mut self, program: usize) -> Option<Task> {
        let operations = self.script.operations;
        let me = &mut self.programs[program];
        let left = me.left.get_or_insert(operations);
        *left = left.checked_sub(1)?;
        if !me.held.is_empty() && me.dice.permille(100) {
            let (object, _) = me.held.remove(0);
            self.close(self.programs[program].machine, object);
        }
        self.next_token += 1;
        let me = &mut self.programs[program];
        let known = (&self.pool, &self.shared);
        let task = program::draw(&mut me.dice, &self.script.mix, known, &me.held, self.next_token);
        if let Purpose::Shared(op) = &task.purpose {
            self.wrote_large(op);
        }
        Some(task)
    }

    fn close(&mut self, machine: usize, object: ObjectId) {
        if let Some(life) = &mut self.lives[machine] {
            life.node.session.closed(object);
        }
    }

    pub(crate) fn begin_job(&mut self, program: usize, mut task: Task) {
        let machine = self.programs[program].machine;
        let volume = self.volume_for(machine, &mut task);
        let (token, called) = (self.fresh(), self.fresh());
        let session = self.lives[machine].as_ref().and_then(|life| life.node.session.id());
        let run = match Run::new(volume, Caller { uid: 0, gid: 0 }, task.request.clone()) {
            Ok(run) => run,
            Err(error) => return self.wrong(format!("{task:?} was refused at once: {error}")),
        };
        self.note(|| format!("n{machine} p{program} job {token}: {task:?}"));
        if let (Purpose::Open(object), Some(life)) = (&task.purpose, &mut self.lives[machine]) {
            life.node.session.opened(*object);
        }
        self.programs[program].job = Some(token);
        let wait = Wait::View(LogIndex(0));
        let stands_on = StandsOn::View;
        let (tid, look_up) = (None, None);
        let job = Job { machine, program, run, task, wait, called, tid, session, stands_on, look_up };
        self.jobs.insert(token, job);
    }

    /// A number that was never used before, greater than all before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Steps every job of a machine that has what it waited for. True if there was one.
    pub(crate) fn resume_jobs(&mut self, machine: usize) -> bool {
        let Some(life) = &self.lives[machine] else { return false };
        let applied = life.node.server.state().applied;
        // Until a catch-up has ended, the records are between two states.
        let readable = !life.node.server.is_catching_up();
        let waits = |job: &Job| matches!(job.wait, Wait::View(index) if index <= applied);
        let ready: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.machine == machine && waits(job)).map(|(token, _)| *token).collect();
        if !readable {
            if !ready.is_empty() {
                self.cover.hit("waited_for_catch_up");
            }
            return false;
        }
        for token in &ready {
            self.step_job(*token);
        }
        !ready.is_empty()
    }

    fn step_job(&mut self, token: u64) {
        if matches!(self.jobs.get(&token), Some(Job { task: Task { purpose: Purpose::Within(_), .. }, .. })) {
            return self.step_within(token);
        }
        if self.try_leased(token) || self.try_behind(token) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&token) else { return };
        let machine = job.machine;
        let Some(life) = &mut self.lives[machine] else { return };
        let view = life.view();
        job.wait = Wait::Session;
        if matches!(job.task.purpose, Purpose::Open(object) if life.node.session.holds(object)) {
            job.run.held();
        }
        let step = job.run.step(&view);
        self.take_step(token, step);
    }

    /// Does what an operation needs next.
    pub(crate) fn take_step(&mut self, token: u64, step: Step) {
        let Some(job) = self.jobs.get_mut(&token) else { return };
        job.wait = Wait::Session;
        let clock = self.machines[job.machine].clock(self.now);
        let Some(life) = &mut self.lives[job.machine] else { return };
        match step {
            Step::Confirm(reads) => life.node.confirm_read(clock, token, reads),
            Step::NeedObjectId => life.node.session.object_id(clock.now, token),
            Step::Commit { guards, plan, author, stored_as_of, made } => {
                made.into_iter().for_each(|object| life.node.session.will_make(object));
                life.node.commit(clock, token, guards, plan, author, stored_as_of);
            }
            Step::Store(bytes) => self.store_blob(token, bytes),
            Step::Fetch(ids) => self.fetch_blobs(token, ids),
            Step::Done(result) => self.job_done(token, result),
        }
    }

    pub(crate) fn job_outcome(&mut self, token: u64, outcome: Option<Outcome>) {
        if let Some(program) = self.txn_tokens.remove(&token) {
            return self.txn_outcome(program, outcome);
        }
        if self.is_unstaging(token, false) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&token) else { return };
        match &outcome {
            None => self.cover.hit("lost_with_session"),
            Some(Outcome::Refused { refusal: Refusal::Conflict { .. } }) => self.cover.hit("conflict"),
            Some(Outcome::Refused { refusal: Refusal::Leased }) => self.cover.hit("refused_for_a_lease"),
            Some(Outcome::Refused { refusal: Refusal::Collected }) => self.cover.hit("refused_as_collected"),
            Some(Outcome::Committed { tid }) => {
                job.tid = Some(*tid);
                job.stands_on = StandsOn::Commit;
            }
            _ => {}
        }
        job.wait = Wait::View(LogIndex(0));
        let told = job.run.outcome(outcome);
        if let Err(error) = told {
            self.job_done(token, Err(error));
        }
    }

    pub(crate) fn job_unknown(&mut self, token: u64) {
        if let Some(program) = self.txn_tokens.remove(&token) {
            return self.txn_unknown(program);
        }
        if self.is_unstaging(token, false) {
            return;
        }
        self.cover.hit("outcome_unknown");
        self.job_done(token, Err(TreeError::Unknown { cause: "the session ended".into() }));
    }

    pub(crate) fn job_confirmed(&mut self, token: u64, index: LogIndex) {
        if let Some(program) = self.txn_tokens.remove(&token) {
            return self.txn_confirmed(program);
        }
        if let Some(job) = self.jobs.get_mut(&token) {
            job.run.confirmed();
            job.wait = Wait::View(index);
        }
    }

    pub(crate) fn job_id(&mut self, token: u64, object: ObjectId) {
        self.judge_fresh_id(object);
        if let Some(job) = self.jobs.get_mut(&token) {
            job.run.fresh_id(object);
            job.wait = Wait::View(LogIndex(0));
        }
    }

    pub(crate) fn job_no_quorum(&mut self, token: u64) {
        if let Some(program) = self.txn_tokens.remove(&token) {
            return self.txn_no_quorum(program);
        }
        if self.is_unstaging(token, true) {
            return;
        }
        self.cover.hit("no_quorum");
        self.job_done(token, Err(TreeError::NoQuorum { cause: "nobody was heard of".into() }));
    }

    /// The programs of a machine are gone with its node: nobody will know what became of their operations.
    pub(crate) fn forget_programs(&mut self, machine: usize) {
        let gone: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.machine == machine).map(|(token, _)| *token).collect();
        for token in gone {
            if let Some(job) = self.jobs.remove(&token) {
                self.record(&job, None, None);
                self.judge_end(&job.task.purpose, None);
            }
        }
        self.lose_transactions(machine);
        for program in self.programs.iter_mut().filter(|program| program.machine == machine) {
            program.job = None;
            program.held.clear();
        }
    }

    /// An operation has its answer.
    pub(crate) fn job_done(&mut self, token: u64, result: Result<Answer, TreeError>) {
        let Some(job) = self.jobs.remove(&token) else { return };
        let (machine, program) = (job.machine, job.program);
        self.keep_name(&job, &result);
        self.programs[program].job = None;
        let meaning = understand(&job.task.purpose, &result);
        self.note(|| format!("n{machine} p{program} job {token} is done: {meaning:?} {}", shortly(&result)));
        self.answered += 1;
        match meaning {
            Meaning::Said(said) => {
                let returned = self.fresh();
                self.record(&job, Some(returned), Some(said));
            }
            Meaning::Unknown => self.record(&job, None, None),
            Meaning::Wrong(what) => self.judge_wrong_answer(machine, &job.task.purpose, job.session, what),
            Meaning::Whatever | Meaning::NotDone => {}
        }
        if result.is_ok() {
            self.judge_acknowledged(job.tid);
        }
        self.judge_end(&job.task.purpose, Some(&result));
        self.learn(&job, &result);
        match job.task.purpose {
            Purpose::Shared(op) => self.record_shared(&job, &op, &result),
            Purpose::Within(op) => {
                self.done_within(&job, &op, &result);
                if self.programs[program].txn.is_some() {
                    self.think_within(program);
                }
                return;
            }
            _ => {}
        }
        self.think(program);
    }

    /// What a plain operation beside transactions read and wrote.
    fn record_shared(&mut self, job: &Job, op: &Op, result: &Result<Answer, TreeError>) {
        let returned = self.fresh();
        let Some(life) = &self.lives[job.machine] else { return };
        let renamed = match job.stands_on {
            StandsOn::View => Renamed::Nothing,
            StandsOn::Plan(_) => renamed(&life.view(), op),
            StandsOn::Commit => Renamed::Something,
        };
        match op.access(result, renamed) {
            Err(what) => self.wrong(what),
            Ok(None) => {}
            Ok(Some(access)) => {
                let what = format!("p{} {op:?} -> {access:?}", job.program);
                let life = life.number;
                let (machine, stands_on, tid, called) = (job.machine, job.stands_on, job.tid, job.called);
                let returned = Some(returned);
                self.judge.serial.answered(Plain { what, machine, life, stands_on, tid, called, returned, access });
            }
        }
    }

    fn record(&mut self, job: &Job, returned: Option<u64>, said: Option<crate::models::Said>) {
        if let Purpose::Checked(subject, ask) = &job.task.purpose {
            let call = (*ask, said);
            let life = self.lives[job.machine].as_ref().map_or(0, |life| life.number);
            let told = Told { machine: job.machine, life, stands_on: job.stands_on };
            self.judge.history.add(*subject, Interval { called: job.called, returned, call }, Some(told));
        }
    }

    /// What a program knows after an answer.
    fn learn(&mut self, job: &Job, result: &Result<Answer, TreeError>) {
        match (&job.task.purpose, result) {
            (Purpose::Setup(step), Ok(answer)) => match answer.reply {
                Reply::Object(object) | Reply::Created { object, .. } => {
                    let shares = self.script.transactions > 0;
                    let name = program::setup_of(*step, shares).map_or("", |(name, _)| name);
                    match step.checked_sub(program::SETUP.len()) {
                        None => self.pool.made(name, object),
                        Some(_) => self.shared.made(name, object),
                    }
                    self.setup_step += 1;
                    if program::setup_of(self.setup_step, shares).is_none() {
                        self.begin();
                    }
                }
                _ => self.wrong("the setup was not answered with an object"),
            },
            (Purpose::Open(object), Ok(_)) => {
                let session = self.lives[job.machine].as_ref().and_then(|life| life.node.session.id());
                // If the session changed meanwhile, nobody can say under which one it was opened.
                match session.filter(|session| job.session == Some(*session)) {
                    Some(session) => self.programs[job.program].held.push((*object, session)),
                    None => self.close(job.machine, *object),
                }
            }
            (Purpose::Open(object), Err(_)) => self.close(job.machine, *object),
            (Purpose::Churn(directory), Err(TreeError::Fs(gavel_fs::FsError::NotFound | gavel_fs::FsError::Stale))) => {
                if let Some(gone) = self.judge_gone(job.machine, *directory) {
                    self.cover.hit("removed_directory");
                    self.pool.lost(gone);
                }
            }
            (Purpose::Churn(_), Ok(answer)) => self.learn_objects(job, answer),
            (Purpose::Shared(op), Ok(answer)) => self.learn_shared(op, answer, &BTreeSet::new()),
            _ => {}
        }
    }

    fn learn_objects(&mut self, job: &Job, answer: &Answer) {
        let gavel_client::TreeRequest::Operation(operation) = &job.task.request else { return };
        match (operation, &answer.reply) {
            (Operation::Readdir { .. }, Reply::Listing { names, .. }) => {
                let distinct: BTreeSet<_> = names.iter().map(|listed| &listed.name).collect();
                if distinct.len() != names.len() {
                    self.wrong(format!("a listing names something twice: {names:?}"));
                }
                for listed in names {
                    self.pool.found(listed.object, listed.kind);
                }
            }
            (Operation::Create { .. } | Operation::Mkdir { .. } | Operation::Lookup { .. }, _) => {
                if let (Reply::Object(object) | Reply::Created { object, .. }, Some(attr)) =
                    (&answer.reply, answer.attr)
                {
                    self.pool.found(*object, attr.firm.kind);
                }
            }
            _ => {}
        }
    }

    /// `made`: what only its transaction knows.
    pub(crate) fn learn_shared(&mut self, op: &Op, answer: &Answer, made: &BTreeSet<ObjectId>) {
        match (op, &answer.reply) {
            (Op::Lookup { .. }, Reply::Object(object)) | (_, Reply::Created { object, .. })
                if !made.contains(object) =>
            {
                self.shared.found(*object);
            }
            (Op::List { .. }, Reply::Listing { names, .. }) => {
                if let Some(listed) = names.iter().find(|listed| !made.contains(&listed.object)) {
                    self.shared.found(listed.object);
                }
            }
            _ => {}
        }
    }

    /// A program does its next operation in a moment.
    pub(crate) fn think(&mut self, program: usize) {
        let machine = self.programs[program].machine;
        if self.calm.is_some() {
            let held = std::mem::take(&mut self.programs[program].held);
            held.into_iter().for_each(|(object, _)| self.close(machine, object));
        }
        let thinks_ms = [2, 2, 2, 2, 2, 50, 200, 200, 500, 3_000];
        let most = *self.programs[program].dice.pick(&thinks_ms);
        let delay = self.delays.below(most * MS);
        let life = self.lives[machine].as_ref().map(|life| life.number);
        if let Some(life) = life {
            self.at(if self.setup_done.is_some() { delay } else { MS }, Event::Next { program, life });
        }
    }

    /// Everything that is open is closed.
    pub(crate) fn close_all(&mut self) {
        for program in 0..self.programs.len() {
            if self.programs[program].job.is_none() {
                let machine = self.programs[program].machine;
                let held = std::mem::take(&mut self.programs[program].held);
                held.into_iter().for_each(|(object, _)| self.close(machine, object));
            }
        }
    }
}

fn shortly(result: &Result<Answer, TreeError>) -> String {
    match result {
        Ok(answer) => format!("{:?}", answer.reply),
        Err(error) => error.to_string(),
    }
}
