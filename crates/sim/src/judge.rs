//! What must hold all the time, over all nodes.

use crate::machine::Life;
use crate::models::History;
use crate::past_check::PastModel;
use crate::program::Purpose;
use crate::serial::Serial;
use crate::world::World;
use bytes::Bytes;
use gavel_client::{Answer, TreeError};
use gavel_fs::Reply;
use gavel_quorum::{Persist, Refused, Role, RoleChange};
use gavel_server::clocks::Verdict;
use gavel_types::{Key, NodeId, ObjectId, Seq, SessionId, Term, Tid, VolumeId};
use gavel_wire::{Entry, Item, Message, Record, RequestBody, View};
use std::collections::{BTreeMap, BTreeSet};

/// More leaders than this in one world are not explained by its faults.
const LEADERS_MAX: usize = 60;
/// A node's own invariants are checked behind every so many of its inputs: it costs as much as a few inputs.
const CHECK_EVERY: u64 = 8;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// Calls and answers, for the linearizability checkers.
    pub(crate) history: History,
    /// What transactions, and plain operations beside them, read and wrote.
    pub(crate) serial: Serial,
    /// Entries that some node has applied, by index.
    committed: BTreeMap<u64, (Term, Bytes)>,
    /// Digests of the state behind an entry.
    digests: BTreeMap<u64, [u8; 32]>,
    /// Who led each term.
    leaders: BTreeMap<Term, usize>,
    ids: BTreeSet<ObjectId>,
    /// Commits that programs know of.
    pub(crate) acknowledged: BTreeSet<Tid>,
    requests: BTreeSet<(SessionId, Seq)>,
    ended: BTreeSet<SessionId>,
    incarnations: BTreeMap<NodeId, u64>,
    applied_before_crash: BTreeMap<usize, u64>,
    /// What every past state has to show.
    pub(crate) past: PastModel,
    /// Whose sessions there were.
    sessions: BTreeMap<SessionId, NodeId>,
    /// The last transaction of the entries that were seen.
    tid: Tid,
}

impl Judge {
    /// All entries that were committed, by their index.
    pub(crate) fn committed(&self) -> &BTreeMap<u64, (Term, Bytes)> {
        &self.committed
    }

    pub(crate) fn committed_entries(&self) -> u64 {
        self.committed.len() as u64
    }
}

impl World {
    /// A node has come to the end of its inputs.
    pub(crate) fn judge_node(&mut self, machine: usize) {
        let Some(life) = &mut self.lives[machine] else { return };
        life.inputs += 1;
        if life.inputs.is_multiple_of(CHECK_EVERY) {
            life.node.check_invariants();
        }
        let catching_up = life.node.server.is_catching_up();
        let turned = catching_up != std::mem::replace(&mut life.catching_up, catching_up);
        if turned {
            self.cover.hit(if catching_up { "catch_up_began" } else { "catch_up_ended" });
        }
        if !catching_up && let Err(what) = self.judge.past.learn(&life.records, life.node.server.state()) {
            return self.wrong(what);
        }
        if turned {
            self.check_past_behind_a_break(machine);
        }
        let Some(life) = &mut self.lives[machine] else { return };
        let state = life.node.server.state();
        let (before, applied) = (life.seen.0, state.applied.0);
        if applied == before || catching_up {
            return;
        }
        if applied < before {
            return self.wrong(format!("n{machine} went back from entry {before} to {applied}"));
        }
        let digest = state.digest();
        life.seen = state.applied;
        for (index, entry) in life.entries(before, applied) {
            self.judge_committed(machine, index, entry);
        }
        let known = *self.judge.digests.entry(applied).or_insert(digest);
        if known != digest {
            self.wrong(format!("n{machine} has another state behind entry {applied} than others had"));
        }
    }

    fn judge_committed(&mut self, machine: usize, index: u64, entry: (Term, Bytes)) {
        match self.judge.committed.get(&index) {
            Some(known) if *known == entry => {}
            Some(_) => self.wrong(format!("n{machine} applied another entry {index} than others did")),
            None => {
                if !entry.1.is_empty() {
                    self.judge_entry(machine, &entry.1);
                }
                self.judge.committed.insert(index, entry);
            }
        }
    }

    fn judge_entry(&mut self, machine: usize, data: &[u8]) {
        let entry = match Entry::decode(data) {
            Ok(entry) => entry,
            Err(error) => return self.wrong(format!("a committed entry: {error}")),
        };
        // An entry that is not behind all others is passed over, and its numbers are those of other transactions.
        let counts = entry.tid > self.judge.tid;
        for (tid, item) in (entry.tid.0..).map(Tid).zip(entry.items) {
            if counts {
                self.judge.tid = tid;
                self.judge_author(tid, &item);
            }
            match item {
                Item::Request(request) => {
                    if self.judge.ended.contains(&request.session) {
                        self.cover.hit("request_of_ended_session");
                    }
                    if matches!(request.body, RequestBody::Downgrade { .. }) {
                        self.cover.hit("downgraded");
                    }
                    self.judge_leases(machine, &request);
                    if !self.judge.requests.insert((request.session, request.seq)) {
                        self.cover.hit("request_repeated");
                    }
                }
                Item::SessionExpire { session } => {
                    self.judge.ended.insert(session);
                    self.cover.hit("session_expired");
                }
                Item::SessionOpen { node, incarnation, .. } => {
                    if self.judge.incarnations.insert(node, incarnation).is_some_and(|before| before != incarnation) {
                        self.cover.hit("session_replaced");
                    }
                }
                Item::Reap { .. } => self.cover.hit("reaped_in_steps"),
                Item::Checkpoint { .. } => self.cover.hit("checkpoint"),
                Item::Prune { .. } => self.cover.hit("pruned"),
                Item::NameScheduled { .. } => {}
                Item::Sweep { .. } => self.cover.hit("swept"),
                Item::Condemn { .. } | Item::Collect { .. } => {}
                Item::ReapStaged => self.cover.hit("staged_reaped"),
                Item::CreateVolume { .. } => {}
            }
        }
    }

    fn judge_author(&mut self, tid: Tid, item: &Item) {
        if let Item::SessionOpen { node, .. } = item {
            self.judge.sessions.insert(SessionId(tid.0), *node);
        }
        self.judge.past.see(tid, item);
        if let Err(what) = self.judge.past.check_author(tid, item, &self.judge.sessions) {
            self.wrong(what);
        }
    }

    /// A node writes to its log: what it has applied stays.
    pub(crate) fn judge_persist(&mut self, machine: usize, persist: &Persist) {
        let Some(life) = &self.lives[machine] else { return };
        let applied = life.node.server.state().applied;
        let first = persist.append.first().map(|entry| entry.index);
        if first.is_some_and(|first| first <= applied && life.shadow.contains_key(&first.0)) {
            let first = first.unwrap_or_default();
            self.wrong(format!("n{machine} overwrites entry {first}, which it has applied (up to {applied})"));
        }
    }

    pub(crate) fn judge_role(&mut self, machine: usize, role: &RoleChange) {
        self.note(|| format!("n{machine} is {:?} in term {}, led by {:?}", role.role, role.term, role.leader));
        let leads = role.role == Role::Leader;
        if let Some(life) = &mut self.lives[machine] {
            life.leads = leads;
        }
        if leads {
            let known = *self.judge.leaders.entry(role.term).or_insert(machine);
            if known != machine {
                self.wrong(format!("n{machine} and n{known} both lead term {}", role.term));
            }
            match self.judge.leaders.len() {
                1 => {}
                2..10 => self.cover.hit("leader_changed"),
                10..LEADERS_MAX => self.cover.hit("leadership_bounced"),
                many => self.wrong(format!("{many} leaders: nobody keeps leadership")),
            }
        }
    }

    pub(crate) fn judge_message(&mut self, message: &Message) {
        match message {
            Message::SubmitGap { .. } => self.cover.hit("submit_gap"),
            Message::NotLeader { .. } => self.cover.hit("not_leader"),
            Message::ScanChanges { after: Tid(0), skip: 0, sweeps: 1.., .. } => self.cover.hit("copied_anew"),
            Message::ScanRefused { .. } => self.cover.hit("scan_refused"),
            Message::Changes { done: false, .. } => self.cover.hit("catch_up_in_parts"),
            _ => {}
        }
    }

    pub(crate) fn judge_refused(&mut self, machine: usize, refused: &Refused) {
        match refused {
            Refused::WindowFull { .. } => {}
            other => self.wrong(format!("n{machine} refused an honest message: {other}")),
        }
    }

    pub(crate) fn judge_start(&mut self, machine: usize, life: &Life) {
        let before = self.judge.applied_before_crash.get(&machine).copied().unwrap_or(0);
        if life.seen.0 < before {
            self.cover.hit("records_behind");
        }
        // It may have failed just behind applying them, before anybody looked. (A log that its records are ahead of begins behind them.)
        let start = life.node.server.quorum_status().compacted.index.0;
        for (index, entry) in life.entries(start, life.seen.0) {
            self.judge_committed(machine, index, entry);
        }
    }

    pub(crate) fn judge_crash(&mut self, life: &Life) {
        let machine = life.node.server.id().0 as usize - 1;
        self.judge.applied_before_crash.insert(machine, life.seen.0);
        if life.node.server.is_catching_up() {
            self.cover.hit("catch_up_crashed");
        }
        if !life.writing.is_empty() {
            self.cover.hit("crashed_while_writing");
        }
        if life.flushing.is_some() {
            self.cover.hit("crashed_while_flushing");
        }
    }

    pub(crate) fn judge_clock(&mut self, machine: usize) {
        let Some(life) = self.lives[machine].as_ref().filter(|life| life.leads) else { return };
        match life.node.server.clock_verdict() {
            Verdict::Trusted => {}
            Verdict::Unknown => self.cover.hit("clock_unknown"),
            Verdict::Far(_) => self.cover.hit("clock_far"),
        }
    }

    pub(crate) fn judge_fresh_id(&mut self, object: ObjectId) {
        if !self.judge.ids.insert(object) {
            self.wrong(format!("object id {object} was given out twice"));
        }
    }

    /// A program was told that its operation is done, at this commit if it wrote anything.
    pub(crate) fn judge_acknowledged(&mut self, tid: Option<Tid>) {
        self.judge.acknowledged.extend(tid);
    }

    /// A file that is open has to be there, unless the session under which it was opened has ended.
    pub(crate) fn judge_wrong_answer(
        &mut self,
        machine: usize,
        purpose: &Purpose,
        began: Option<SessionId>,
        what: String,
    ) {
        if let Purpose::Held(_, session) = purpose {
            let now = self.lives[machine].as_ref().and_then(|life| life.node.session.id());
            if now != Some(*session) || began != Some(*session) {
                return;
            }
        }
        self.wrong(what);
    }

    pub(crate) fn judge_end(&mut self, purpose: &Purpose, result: Option<&Result<Answer, TreeError>>) {
        if let (Purpose::Held(..), Some(Ok(Answer { reply: Reply::Attr(_, attr), .. }))) = (purpose, result)
            && attr.nlink == 0
        {
            self.cover.hit("orphan_used");
        }
    }

    /// The directory, if this node's replica knows that it was removed.
    pub(crate) fn judge_gone(&self, machine: usize, directory: ObjectId) -> Option<ObjectId> {
        let life = self.lives[machine].as_ref()?;
        let view = life.records.live(life.node.server.state().tid);
        let found = view.get(&Key::attr(VolumeId::FIRST, directory)).ok()?;
        let there = matches!(found.map(|version| version.record),
            Some(Record::Attr(attr)) if attr.firm.parent != ObjectId::VOLUME);
        (!there).then_some(directory)
    }
}
