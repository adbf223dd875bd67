//! A world: machines, network, programs, and time that passes from one event to the next.

use crate::blobs::Storing;
use crate::clock::MS;
use crate::cover::Cover;
use crate::dice::{Dice, mix};
use crate::jobs::{Job, Program};
use crate::judge::Judge;
use crate::locks::Lockers;
use crate::machine::{Life, Machine, Refusal};
use crate::network::{Network, Packet};
use crate::program::Pool;
use crate::pruning::sweep_rows;
use crate::script::{Script, What, When};
use crate::shared::Shared;
use crate::snapshots::Namers;
use crate::staging::Unstaging;
use crate::volumes::Volumers;
use gavel_client::ToForget;
use gavel_client::session::SessionConfig;
use gavel_server::Config;
use gavel_types::NodeId;
use gavel_types::limits::ENTRY_BYTES_MAX;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A node is told the time so often, more or less: at least and at most.
const TICK_NS: (u64, u64) = (20 * MS, 70 * MS);
/// What a trace remembers.
const TRACE_LINES_MAX: usize = 100_000;
/// A node that failed is started again after this.
const RESTART_NS: u64 = 1_500 * MS;
/// The programs must have been able to begin by then.
pub(crate) const SETUP_NS_MAX: u64 = 30_000 * MS;
/// Behind the last fault, everything has come to rest within this.
pub(crate) const REST_NS_MAX: u64 = 60_000 * MS;

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Event {
    Tick { machine: usize, life: u64 },
    Deliver { from: usize, to: usize, packet: Box<Packet> },
    LogDone { machine: usize, life: u64 },
    FlushDone { machine: usize, life: u64 },
    BlobsDone { machine: usize, life: u64 },
    Forgotten { machine: usize, life: u64, to_forget: ToForget },
    Next { program: usize, life: u64 },
    Strike { fault: usize },
    Ambush { what: What },
    Mend { what: What },
    Start { machine: usize },
    Fall { machine: usize, life: u64, down_ms: u64 },
    Calm,
    Look,
}

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What.
    pub what: String,
    /// The last things that happened, if they were traced.
    pub trace: Vec<String>,
}

/// What a world came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Of everything that happened.
    pub digest: u64,
    /// How long it lasted, in virtual nanoseconds.
    pub lasted_ns: u64,
    /// How long it took to come to rest behind the last fault, in virtual nanoseconds.
    pub rest_ns: u64,
    /// Operations that programs had an answer to.
    pub answered: u64,
    /// Entries that were committed.
    pub entries: u64,
    /// Histories that could not be decided.
    pub undecided: u64,
    /// Rare situations.
    pub cover: Cover,
}

/// The last things that happened, in words. Shared, so that it survives a panic of its world.
pub type Trace = Option<Rc<RefCell<VecDeque<String>>>>;

/// An empty trace, or none.
pub(crate) fn shared_trace(traced: bool) -> Trace {
    traced.then(Rc::default)
}

/// What a trace holds.
pub(crate) fn lines(trace: &Trace) -> Vec<String> {
    trace.as_ref().map_or_else(Vec::new, |trace| trace.borrow().iter().cloned().collect())
}

/// Everything. See [`World::run`].
pub struct World {
    pub(crate) script: Script,
    pub(crate) now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) lives: Vec<Option<Life>>,
    /// Who stands still: what happens to it meanwhile, and whether messages are lost.
    frozen: Vec<Option<(Vec<Event>, bool)>>,
    /// Who will crash at which moment, for how many milliseconds.
    pub(crate) dooms: Vec<Option<(When, u64)>>,
    /// Faults that wait for a node which answers before it commits: whether it stands still, or is cut off; for how many milliseconds.
    pub(crate) surprises: VecDeque<(bool, u64)>,
    /// The same for a node that ships the commit of a transaction.
    pub(crate) ambushes: VecDeque<(bool, u64)>,
    /// Waits for a node that copies: whether it falls when its source is gone for good, and for how many milliseconds.
    pub(crate) bereaved: Option<u64>,
    pub(crate) network: Network,
    pub(crate) programs: Vec<Program>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Blobs of accepted plans on their way to a majority.
    pub(crate) storing: BTreeMap<u64, Storing>,
    pub(crate) pool: Pool,
    /// What programs know of the tree that they share with transactions.
    pub(crate) shared: Shared,
    /// What transactions of programs wait for.
    pub(crate) txn_tokens: BTreeMap<u64, usize>,
    pub(crate) unstaging: Unstaging,
    pub(crate) setup_step: usize,
    pub(crate) setup_done: Option<u64>,
    pub(crate) calm: Option<u64>,
    pub(crate) next_token: u64,
    pub(crate) stamp: u64,
    pub(crate) delays: Dice,
    pub(crate) judge: Judge,
    pub(crate) cover: Cover,
    pub(crate) lockers: Lockers,
    pub(crate) namers: Namers,
    pub(crate) volumers: Volumers,
    /// Draws which past states are looked at.
    pub(crate) past_dice: Dice,
    pub(crate) answered: u64,
    digest: u64,
    trace: Trace,
    pub(crate) violation: Option<String>,
}

impl World {
    /// The world of a script. What happens is put into words in `trace`, if there is one.
    pub fn new(script: Script, trace: Trace) -> World {
        let (seed, nodes) = (script.seed, script.nodes);
        let machines: Vec<Machine> = (0..nodes).map(|number| Machine::new(seed, number, script.drift_ppm)).collect();
        let plain = (0..script.programs.max(1)).map(|number| Program::new(seed, number, nodes));
        let transactors = (0..script.transactions * nodes).map(|number| Program::transactor(seed, number, nodes));
        let programs = plain.chain(transactors).collect();
        World {
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            lives: machines.iter().map(|_| None).collect(),
            frozen: machines.iter().map(|_| None).collect(),
            dooms: vec![None; nodes],
            surprises: VecDeque::new(),
            ambushes: VecDeque::new(),
            bereaved: None,
            machines,
            network: Network::new(seed, nodes),
            programs,
            jobs: BTreeMap::new(),
            storing: BTreeMap::new(),
            pool: Pool::default(),
            shared: Shared::default(),
            txn_tokens: BTreeMap::new(),
            unstaging: Unstaging::default(),
            setup_step: 0,
            setup_done: None,
            calm: None,
            next_token: 1,
            stamp: 0,
            delays: Dice::new(seed, "delays", 0),
            judge: Judge::default(),
            cover: Cover::default(),
            lockers: Lockers::new(seed, nodes, script.lockers),
            namers: Namers::new(seed, nodes, script.snapshots),
            volumers: Volumers::new(seed, script.snapshots),
            past_dice: Dice::new(seed, "past", 0),
            answered: 0,
            digest: seed,
            trace,
            violation: None,
            script,
        }
    }

    /// Lives through it.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        for machine in 0..self.machines.len() {
            self.start(machine);
        }
        self.at(100 * MS, Event::Look);
        while self.violation.is_none() {
            let Some(((at, number), event)) = self.events.pop_first() else { break };
            self.now = at;
            self.fold(at ^ number.rotate_left(32));
            if self.happen(event) {
                break;
            }
        }
        let rest_ns = self.calm.map_or(0, |calm| self.now - calm);
        let undecided = if self.violation.is_none() { self.final_checks() } else { 0 };
        match self.violation {
            Some(what) => Err(Violation { what, trace: lines(&self.trace) }),
            None => Ok(Outcome {
                digest: self.digest,
                lasted_ns: self.now,
                rest_ns,
                answered: self.answered,
                entries: self.judge.committed_entries(),
                undecided,
                cover: self.cover,
            }),
        }
    }

    pub(crate) fn fold(&mut self, word: u64) {
        self.digest = mix(self.digest ^ word);
    }

    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.events.insert((self.now + delay, self.next_event), event);
        self.next_event += 1;
    }

    /// Remembers what happens, if somebody wants to know.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &self.trace {
            let mut trace = trace.borrow_mut();
            if trace.len() == TRACE_LINES_MAX {
                trace.pop_front();
            }
            trace.push_back(format!("{:>10.3} ms  {}", now as f64 / MS as f64, what()));
        }
    }

    /// Is what happens put into words?
    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Something is that must not be: the first such thing counts.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        if self.violation.is_none() {
            let what = what.into();
            self.note(|| format!("WRONG: {what}"));
            self.violation = Some(what);
        }
    }

    /// True if the world has come to rest.
    fn happen(&mut self, event: Event) -> bool {
        let target = match &event {
            Event::Tick { machine, .. }
            | Event::LogDone { machine, .. }
            | Event::FlushDone { machine, .. }
            | Event::BlobsDone { machine, .. }
            | Event::Forgotten { machine, .. } => Some(*machine),
            Event::Deliver { to, .. } => Some(*to),
            Event::Next { program, .. } => Some(self.programs[*program].machine),
            _ => None,
        };
        if let Some(frozen) = target.and_then(|machine| self.frozen[machine].as_mut()) {
            if !(frozen.1 && matches!(event, Event::Deliver { .. })) {
                frozen.0.push(event);
            }
            return false;
        }
        match event {
            Event::Tick { machine, life } => self.tick(machine, life),
            Event::Deliver { from, to, packet } => self.deliver(from, to, *packet),
            Event::LogDone { machine, life } => self.log_done(machine, life),
            Event::FlushDone { machine, life } => self.flush_done(machine, life),
            Event::BlobsDone { machine, life } => self.blobs_done(machine, life),
            Event::Forgotten { machine, life, to_forget } => self.forgotten(machine, life, &to_forget),
            Event::Next { program, life } => self.next_of(program, life),
            Event::Strike { fault } => self.strike(self.script.faults[fault].what),
            Event::Ambush { what } => {
                if self.calm.is_none() {
                    self.strike(what);
                }
            }
            Event::Mend { what } => self.mend(what),
            Event::Start { machine } => self.start(machine),
            Event::Fall { machine, life, down_ms } => {
                if self.life(machine, life).is_some() {
                    self.crash(machine, down_ms * MS);
                }
            }
            Event::Calm => self.become_calm(),
            Event::Look => return self.look(),
        }
        false
    }

    /// The life of this number on a machine, if it is still the one.
    pub(crate) fn life(&mut self, machine: usize, number: u64) -> Option<&mut Life> {
        self.lives[machine].as_mut().filter(|life| life.number == number)
    }

    pub(crate) fn config(&mut self, machine: usize) -> (Config, SessionConfig) {
        let voters: Vec<NodeId> = self.machines.iter().map(Machine::id).collect();
        let id = self.machines[machine].id();
        let seed = self.machines[machine].dice.roll();
        let mut quorum = gavel_quorum::Config::new(id, voters, seed);
        if self.script.short_log {
            quorum.retained_bytes_max = 2 * 1024;
        }
        quorum.max_message_bytes = 64 * 1024;
        quorum.window_bytes_max = quorum.retained_bytes_max + 4 * ENTRY_BYTES_MAX as u64;
        let mut config = Config::new(quorum);
        config.flush_log_bytes = if self.script.short_log { 6 * 1024 } else { 64 * 1024 };
        config.flush_interval_ns = 2_000 * MS;
        config.scan_bytes_max = 2 * 1024;
        config.catch_up_seal_changes = 40;
        config.prune_look_ns = 400 * MS;
        config.collect_grace_ns = 100 * MS;
        config.sweep_rows = self.script.faults.iter().find_map(sweep_rows).unwrap_or(config.sweep_rows);
        let session = SessionConfig { term_ns: 5_000 * MS, patience_ns: 4_000 * MS };
        (config, session)
    }

    pub(crate) fn start(&mut self, machine: usize) {
        if self.lives[machine].is_some() || self.machines[machine].ruined.is_some() {
            return;
        }
        let (config, session) = self.config(machine);
        match self.machines[machine].start(self.now, config, session) {
            Ok((life, torn)) => {
                let number = life.number;
                self.note(|| format!("n{machine} starts its life {number} at {}", life.seen));
                if torn {
                    self.cover.hit("log_torn");
                }
                if life.node.server.is_catching_up() {
                    self.cover.hit("catch_up_resumed");
                }
                self.judge_start(machine, &life);
                self.lives[machine] = Some(life);
                let offset = self.delays.below(TICK_NS.0);
                self.at(offset, Event::Tick { machine, life: number });
                for program in 0..self.programs.len() {
                    if self.programs[program].machine == machine {
                        self.at(offset + MS, Event::Next { program, life: number });
                    }
                }
                self.pump(machine);
                self.check_past_behind_a_break(machine);
            }
            Err(Refusal::Disk(cause)) => {
                self.note(|| format!("n{machine} cannot start: {cause}"));
                self.machines[machine].crash(None);
                self.at(RESTART_NS, Event::Start { machine });
            }
            Err(Refusal::Damaged(cause)) if self.machines[machine].flipped => {
                self.note(|| format!("n{machine} is ruined: {cause}"));
                self.cover.hit("log_refused");
                self.machines[machine].ruined = Some(cause);
            }
            Err(Refusal::Damaged(cause) | Refusal::Wrong(cause)) => {
                self.wrong(format!("n{machine} could not start: {cause}"));
            }
        }
    }

    fn tick(&mut self, machine: usize, number: u64) {
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = self.life(machine, number) else { return };
        life.node.on_tick(clock);
        self.ship(machine);
        self.judge_clock(machine);
        self.step_lockers(machine);
        self.step_namer(machine);
        self.step_volumer(machine);
        self.step_transactions(machine);
        self.say_unneeded(machine);
        let next = self.delays.between(TICK_NS.0, TICK_NS.1);
        self.at(next, Event::Tick { machine, life: number });
        self.pump(machine);
        self.retry_blobs(machine);
        self.collect_blobs(machine);
    }

    /// The power of a machine fails.
    pub(crate) fn crash(&mut self, machine: usize, down_ns: u64) {
        let life = self.lives[machine].take();
        self.note(|| format!("n{machine} crashes for {} ms", down_ns / MS));
        if let Some(life) = &life {
            self.judge_crash(life);
            self.lose_answers(machine, life);
        }
        self.machines[machine].crash(life);
        self.frozen[machine] = None;
        self.dooms[machine] = None;
        self.forget_programs(machine);
        self.lockers.crash(machine);
        self.namers.crash(machine);
        self.at(down_ns, Event::Start { machine });
    }

    /// The node stops for a reason that it gives.
    pub(crate) fn fail(&mut self, machine: usize, cause: &str) {
        if !self.machines[machine].may_fail {
            return self.wrong(format!("n{machine} failed, though its disks are good: {cause}"));
        }
        self.note(|| format!("n{machine} failed: {cause}"));
        self.crash(machine, RESTART_NS);
    }

    pub(crate) fn freeze(&mut self, machine: usize, lossy: bool) {
        if self.frozen[machine].is_none() && self.lives[machine].is_some() {
            self.cover.hit("paused");
            self.frozen[machine] = Some((Vec::new(), lossy));
        }
    }

    pub(crate) fn thaw(&mut self, machine: usize) {
        let Some((events, _)) = self.frozen[machine].take() else { return };
        for event in events {
            self.at(0, event);
        }
    }

    pub(crate) fn is_frozen(&self, machine: usize) -> bool {
        self.frozen[machine].is_some()
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        for delay in self.network.send(from, to) {
            self.at(delay, Event::Deliver { from, to, packet: Box::new(packet.clone()) });
        }
    }

    /// What is still on its way and would arrive after `delay` is lost. (Heartbeats of a leader that is gone would keep
    /// the others from electing a new one for as long as they arrive.)
    pub(crate) fn lose_messages_after(&mut self, delay: u64) {
        let after = self.now + delay;
        self.events.retain(|(at, _), event| *at <= after || !matches!(event, Event::Deliver { .. }));
    }

    /// What a machine has sent, and has not arrived, is lost.
    pub(crate) fn lose_messages_of(&mut self, machine: usize) {
        self.events.retain(|_, event| !matches!(event, Event::Deliver { from, .. } if *from == machine));
    }

    /// The programs may begin: faults strike from here on.
    pub(crate) fn begin(&mut self) {
        self.setup_done = Some(self.now);
        self.note(|| "the programs begin".into());
        for fault in 0..self.script.faults.len() {
            self.at(self.script.faults[fault].at_ms * MS, Event::Strike { fault });
        }
        self.at(self.script.busy_ms * MS, Event::Calm);
        for program in 0..self.programs.len() {
            let life = self.lives[self.programs[program].machine].as_ref().map(|life| life.number);
            let delay = self.delays.below(50 * MS);
            if let Some(life) = life {
                self.at(delay, Event::Next { program, life });
            }
        }
    }
}
