//! What the runtime does for a node: effects are carried out, their ends reported, in the order and with the freedom
//! that the real world has.

use crate::clock::MS;
use crate::locks::Lockers;
use crate::machine::{LogWork, hash};
use crate::network::Packet;
use crate::script::When;
use crate::snapshots::Namers;
use crate::world::{Event, World};
use gavel_node::NodeEffect;
use gavel_quorum::Role;
use gavel_server::Failure;
use gavel_types::NodeId;
use gavel_wire::Message;

/// Inputs that may follow each other without the world's time passing, before something must be wrong.
const ROUNDS_MAX: usize = 10_000;

impl World {
    /// Works through everything that an input to a machine's node started.
    pub(crate) fn pump(&mut self, machine: usize) {
        for _ in 0..ROUNDS_MAX {
            let clock = self.machines[machine].clock(self.now);
            let Some(life) = &mut self.lives[machine] else { return };
            let mut effects = life.node.take_effects(clock);
            let quiet = effects.is_empty();
            // What was accepted must not hide what is newer.
            effects.sort_by_key(|effect| !matches!(effect, NodeEffect::Landed { .. }));
            let ship = effects.iter().any(|effect| matches!(effect, NodeEffect::ShipPending(_)));
            for effect in effects {
                self.carry_out(machine, effect);
            }
            let shipped = ship && self.ship(machine);
            let resumed = self.resume_jobs(machine);
            if quiet && !resumed && !shipped {
                self.write_log(machine);
                return self.judge_node(machine);
            }
        }
        self.wrong(format!("n{machine} does not come to an end"));
    }

    fn carry_out(&mut self, machine: usize, effect: NodeEffect) {
        self.tempt_with_effect(machine);
        if self.lives[machine].is_none() {
            return;
        }
        match effect {
            NodeEffect::Send { to, message } => self.post(machine, to, message),
            NodeEffect::Persist(persist) => {
                self.judge_persist(machine, &persist);
                if let Some(life) = &mut self.lives[machine] {
                    life.note(&persist);
                    life.line.push_back(LogWork::Persist(persist));
                }
            }
            NodeEffect::TrimLog(index) => {
                if let Some(life) = &mut self.lives[machine] {
                    life.line.push_back(LogWork::Trim(index));
                }
            }
            NodeEffect::Flush => self.begin_flush(machine),
            NodeEffect::Blobs(news) => self.blob_news(machine, &news),
            NodeEffect::BlobsSkipped(tid) => self.blobs_skipped(machine, tid),
            NodeEffect::Published { tid, index } => {
                self.blobs_applied(machine, tid);
                self.note(|| format!("n{machine} has applied {index} ({tid})"));
            }
            NodeEffect::Role(role) => {
                self.judge_role(machine, &role);
                if role.role == Role::Leader {
                    self.tempt(machine, When::Elected);
                }
            }
            NodeEffect::Failed(failure) => match failure {
                Failure::Flush { .. } => self.fail(machine, &failure.to_string()),
                other => self.wrong(format!("n{machine} failed: {other}")),
            },
            NodeEffect::Outcome { token, outcome: None } | NodeEffect::NoQuorum { token }
                if Namers::is_token(token) =>
            {
                self.namer_refused(machine, token);
            }
            NodeEffect::Outcome { token, outcome } if Namers::is_token(token) => {
                self.namer_answered(machine, token, outcome);
            }
            NodeEffect::Unknown { token } if Namers::is_token(token) => self.namer_answered(machine, token, None),
            NodeEffect::Outcome { token, outcome } => self.job_outcome(token, outcome),
            NodeEffect::Unknown { token } => self.job_unknown(token),
            NodeEffect::Confirmed { token, index } => self.job_confirmed(token, index),
            NodeEffect::Id { token, object } => self.job_id(token, object),
            NodeEffect::NoQuorum { token } if Lockers::is_token(token) => self.lock_answered(machine, token, None),
            NodeEffect::NoQuorum { token } => self.job_no_quorum(token),
            NodeEffect::Usable(usable) => self.put_in_force(machine, usable),
            NodeEffect::Forget(to_forget) => self.forget(machine, to_forget),
            NodeEffect::ShipPending(id) => {
                if let Some(life) = &mut self.lives[machine] {
                    life.pending.mark(id);
                }
            }
            NodeEffect::Landed { last, tid } => self.landed(machine, last, tid),
            NodeEffect::Lost { cause } => self.lost(machine, cause),
            NodeEffect::Lock { token, answer } => self.lock_answered(machine, token, Some(answer)),
            NodeEffect::Offer(effect) => self.offer_effect(machine, effect),
            // No client without a replica lives here.
            NodeEffect::Watched { .. } => {}
        }
    }

    fn post(&mut self, machine: usize, to: NodeId, message: Message) {
        self.judge_message(&message);
        if matches!(message, Message::AllLanded { .. }) {
            self.cover.hit("landed_for_another");
        }
        let to = to.0 as usize - 1;
        if self.is_traced()
            && let Some(words) = in_words(&message)
        {
            self.note(|| format!("n{machine} -> n{to}: {words}"));
        }
        if let Message::Log(bytes) = &message {
            self.fold(hash(bytes));
        } else {
            let bytes = message.encode();
            self.fold(hash(&bytes));
            if Message::decode(&bytes).as_ref() != Ok(&message) {
                return self.wrong(format!("{message:?} does not survive its encoding"));
            }
        }
        self.send(machine, to, Packet::Node(message));
    }

    /// Something arrives.
    pub(crate) fn deliver(&mut self, from: usize, to: usize, packet: Packet) {
        let clock = self.machines[to].clock(self.now);
        let sender = self.machines[from].id();
        if self.lives[to].is_none() {
            return;
        }
        match packet {
            Packet::Node(message) => {
                if self.is_traced()
                    && let Some(words) = in_words(&message)
                {
                    self.note(|| format!("n{to} <- n{from}: {words}"));
                }
                let Some(life) = &mut self.lives[to] else { return };
                let catching_up = life.node.server.is_catching_up();
                let is_part = matches!(message, Message::Changes { .. });
                if let Err(refused) = life.node.on_message(clock, sender, message) {
                    self.judge_refused(to, &refused);
                }
                self.pump(to);
                if catching_up {
                    if is_part {
                        self.bereave(to, from);
                    }
                    self.tempt(to, When::CatchingUp);
                }
            }
            blob => self.deliver_blob(from, to, blob),
        }
    }

    /// Gives the log's disk what waits for it, if it is idle.
    fn write_log(&mut self, machine: usize) {
        let times = self.machines[machine].disk_times;
        let Some(life) = &mut self.lives[machine] else { return };
        if !life.writing.is_empty() || life.line.is_empty() {
            return;
        }
        life.writing = life.line.drain(..).collect();
        let number = life.number;
        let delay = self.delays.between(MS / 5, 3 * MS) * times;
        self.at(delay, Event::LogDone { machine, life: number });
        self.tempt(machine, When::Writing);
    }

    /// The log's disk is done.
    pub(crate) fn log_done(&mut self, machine: usize, number: u64) {
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = self.life(machine, number) else { return };
        let trims = life.writing.iter().any(|work| matches!(work, LogWork::Trim(index) if index.0 > 0));
        match life.carry_out_writing() {
            Ok(Some(ticket)) => life.node.server.on_persisted(clock, ticket),
            Ok(None) => {}
            Err(error) => {
                self.cover.hit(if self.machines[machine].full { "disk_full" } else { "log_failed" });
                return self.fail(machine, &error.to_string());
            }
        }
        if trims {
            self.cover.hit("log_trimmed");
        }
        self.pump(machine);
    }

    fn begin_flush(&mut self, machine: usize) {
        let times = self.machines[machine].disk_times;
        let early = self.delays.permille(500);
        let delay = self.delays.between(MS, 40 * MS) * times;
        let Some(life) = &mut self.lives[machine] else { return };
        if life.flushing.is_some() {
            return self.wrong(format!("n{machine} flushes twice at once"));
        }
        let number = life.number;
        if life.node.server.is_catching_up() {
            self.cover.hit("catch_up_sealed");
        }
        life.flushing = Some(early);
        // Durable at once and reported late, or the other way round: a crash in between finds either.
        if early && let Err(error) = life.records.flush() {
            return self.flush_failed(machine, &error.to_string());
        }
        self.at(delay, Event::FlushDone { machine, life: number });
        self.tempt(machine, When::Flushing);
    }

    /// A flush is done.
    pub(crate) fn flush_done(&mut self, machine: usize, number: u64) {
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = self.life(machine, number) else { return };
        if life.flushing.take() == Some(false)
            && let Err(error) = life.records.flush()
        {
            return self.flush_failed(machine, &error.to_string());
        }
        if let Some(life) = self.life(machine, number) {
            life.node.server.on_flushed(clock, Ok(()));
        }
        self.pump(machine);
    }

    fn flush_failed(&mut self, machine: usize, cause: &str) {
        self.cover.hit("flush_failed");
        let clock = self.machines[machine].clock(self.now);
        if let Some(life) = &mut self.lives[machine] {
            life.flushing = None;
            life.node.server.on_flushed(clock, Err(cause.into()));
        }
        self.pump(machine);
    }
}

/// A message in a few words; none for those that fill pages and say little.
fn in_words(message: &Message) -> Option<String> {
    Some(match message {
        Message::Log(_) | Message::Clock { .. } => return None,
        Message::Submit(requests) => {
            let (first, last) = (requests.first().map(|r| r.seq), requests.last().map(|r| r.seq));
            let session = requests.first().map(|r| r.session);
            format!("Submit {session:?} {first:?}..{last:?}")
        }
        Message::Changes { ticket, changes, done } => format!("Changes {ticket}: {} rows, done {done}", changes.len()),
        other => format!("{other:?}"),
    })
}
