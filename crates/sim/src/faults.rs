//! What goes wrong, as it goes wrong; and how it is mended.

use crate::clock::MS;
use crate::network::Weather;
use crate::script::{DiskCall, LEADER, What, When};
use crate::world::{Event, World};
use gavel_store::disk::DiskOp;
use gavel_store::engine::FlushFault;
use std::io::ErrorKind;

impl World {
    /// A fault strikes.
    pub(crate) fn strike(&mut self, what: What) {
        let what = self.resolve(what);
        self.note(|| format!("fault: {what:?}"));
        let nodes = self.machines.len();
        match what {
            What::Alone { node, for_ms } => {
                self.cover.hit("partitioned");
                self.split(1 << (node % nodes), true);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::Crash { node, down_ms } => self.crash_if_up(node % nodes, down_ms),
            What::CrashWhen { node, when, down_ms } => self.dooms[node % nodes] = Some((when, down_ms)),
            What::Blackout { down_ms } => (0..nodes).for_each(|node| self.crash_if_up(node, down_ms)),
            What::BitFlip { node, place, down_ms } => {
                self.crash_if_up(node % nodes, down_ms);
                self.machines[node % nodes].flip_bit(place);
            }
            What::Wiped { node, down_ms } => {
                self.crash_if_up(node % nodes, down_ms);
                if self.lives[node % nodes].is_none() {
                    self.cover.hit("records_wiped");
                    self.machines[node % nodes].wipe();
                }
            }
            What::Bereft { down_ms } => self.bereaved = Some(down_ms),
            What::Pause { node, for_ms, lossy } => {
                self.freeze(node % nodes, lossy);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::CaughtBehind { paused, for_ms } => self.surprises.push_back((paused, for_ms)),
            What::CaughtCommitting { paused, for_ms } => self.ambushes.push_back((paused, for_ms)),
            What::Cut { from, to, for_ms } => {
                self.cover.hit("partitioned");
                self.network.cut(from % nodes, to % nodes, true);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::Split { side, for_ms } => {
                self.cover.hit("partitioned");
                self.split(side, true);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::Weather { lost, doubled, late, late_ms, for_ms } => {
                self.network.set_weather(Weather { lost, doubled, late, late_ns: late_ms * MS });
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::SlowLink { from, to, delay_ms, for_ms } => {
                self.network.slow(from % nodes, to % nodes, delay_ms * MS);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::ClockJump { node, by_ms } => self.machines[node % nodes].clocks.jump(by_ms * MS as i64),
            What::ClockWrong { node, by_ms, for_ms } => {
                self.machines[node % nodes].clocks.set_wrong(by_ms * MS as i64);
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::DiskFull { node, for_ms } => {
                let machine = &mut self.machines[node % nodes];
                machine.log_disk.set_capacity(Some(0));
                machine.full = true;
                machine.may_fail = true;
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::DiskFails { node, call, skip } => {
                let op = match call {
                    DiskCall::Write => DiskOp::Write,
                    DiskCall::Sync => DiskOp::SyncData,
                    DiskCall::Create => DiskOp::Create,
                    DiskCall::SyncNames => DiskOp::SyncDir,
                };
                let machine = &mut self.machines[node % nodes];
                machine.log_disk.fail_after(skip, op, ErrorKind::Other);
                machine.may_fail = true;
            }
            What::FlushFails { node, kept } => {
                let machine = &mut self.machines[node % nodes];
                machine.engine.fail_next_flush(if kept { FlushFault::Kept } else { FlushFault::Lost });
                machine.may_fail = true;
            }
            What::SlowDisk { node, times, for_ms } => {
                self.machines[node % nodes].disk_times = times;
                self.at(for_ms * MS, Event::Mend { what });
            }
            What::Retain { .. } | What::Name { .. } | What::Schedule { .. } => self.ask_of_past(what),
            What::Less { node, place, whole_ms } => self.keep_less(node, place, whole_ms),
            What::Pin { for_ms, .. } => {
                self.ask_of_past(what);
                self.at(for_ms * MS, Event::Mend { what });
            }
        }
    }

    /// The same fault, with the leader by its number.
    fn resolve(&self, mut what: What) -> What {
        let leader = self.lives.iter().position(|life| life.as_ref().is_some_and(|life| life.leads)).unwrap_or(0);
        match &mut what {
            What::Crash { node, .. }
            | What::CrashWhen { node, .. }
            | What::Pause { node, .. }
            | What::Alone { node, .. }
            | What::ClockJump { node, .. }
            | What::ClockWrong { node, .. }
            | What::DiskFull { node, .. }
            | What::DiskFails { node, .. }
            | What::FlushFails { node, .. }
            | What::SlowDisk { node, .. }
            | What::BitFlip { node, .. }
            | What::Wiped { node, .. }
                if *node == LEADER =>
            {
                *node = leader;
            }
            _ => {}
        }
        what
    }

    /// What has a duration ends.
    pub(crate) fn mend(&mut self, what: What) {
        let nodes = self.machines.len();
        match what {
            What::Pause { node, .. } => self.thaw(node % nodes),
            What::Cut { from, to, .. } => self.network.cut(from % nodes, to % nodes, false),
            What::Alone { node, .. } => self.split(1 << (node % nodes), false),
            What::Split { side, .. } => self.split(side, false),
            What::Weather { .. } => self.network.set_weather(Weather::default()),
            What::SlowLink { from, to, .. } => self.network.slow(from % nodes, to % nodes, 0),
            What::ClockWrong { node, .. } => self.machines[node % nodes].clocks.set_wrong(0),
            What::DiskFull { node, .. } => self.machines[node % nodes].free(),
            What::SlowDisk { node, .. } => self.machines[node % nodes].disk_times = 1,
            What::Pin { node, .. } => self.unpin(node % nodes),
            _ => {}
        }
    }

    fn crash_if_up(&mut self, machine: usize, down_ms: u64) {
        if self.lives[machine].is_some() {
            self.crash(machine, down_ms * MS);
        }
    }

    /// A machine is at this moment: perhaps one that it does not survive.
    pub(crate) fn tempt(&mut self, machine: usize, at: When) {
        if let Some((when, down_ms)) = self.dooms[machine]
            && when == at
            && !(at == When::CatchingUp && self.delays.permille(600))
        {
            let number = self.lives[machine].as_ref().map_or(0, |life| life.number);
            match self.delays.below(2) {
                0 => self.crash_if_up(machine, down_ms),
                _ => {
                    self.dooms[machine] = None;
                    let delay = self.delays.below(20 * MS);
                    self.at(delay, Event::Fall { machine, life: number, down_ms });
                }
            }
        }
    }

    /// A machine has taken in a part of what it copies from another: perhaps that one is gone now.
    pub(crate) fn bereave(&mut self, machine: usize, source: usize) {
        let Some(down_ms) = self.bereaved else { return };
        let is_copying = self.lives[machine].as_ref().is_some_and(|life| life.node.server.is_catching_up());
        if is_copying && self.delays.permille(300) {
            self.bereaved = None;
            self.cover.hit("source_lost");
            self.machines[source].ruined = Some("gone for good".into());
            self.crash_if_up(source, 0);
            if self.delays.permille(500) {
                // What it had sent did not leave its machine.
                self.lose_messages_of(source);
            }
            if down_ms > 0 {
                let number = self.lives[machine].as_ref().map_or(0, |life| life.number);
                let delay = self.delays.below(20 * MS);
                self.at(delay, Event::Fall { machine, life: number, down_ms });
            }
        }
    }

    /// A machine has answered a change that is not committed.
    pub(crate) fn surprise(&mut self, machine: usize) {
        if let Some((paused, for_ms)) = self.surprises.pop_front() {
            let alone = What::Alone { node: machine, for_ms };
            self.strike(if paused { What::Pause { node: machine, for_ms, lossy: false } } else { alone });
        }
    }

    /// A machine has shipped the commit of a transaction: in a moment, when it may be anywhere.
    pub(crate) fn ambush(&mut self, machine: usize) {
        if let Some((paused, for_ms)) = self.ambushes.pop_front() {
            let alone = What::Alone { node: machine, for_ms };
            let what = if paused { What::Pause { node: machine, for_ms, lossy: false } } else { alone };
            let delay = self.delays.below(8 * MS);
            self.at(delay, Event::Ambush { what });
        }
    }

    /// A machine is about to carry out an effect.
    pub(crate) fn tempt_with_effect(&mut self, machine: usize) {
        if let Some((When::Effects(left), down_ms)) = self.dooms[machine] {
            match left.checked_sub(1) {
                Some(left) => self.dooms[machine] = Some((When::Effects(left), down_ms)),
                None => self.crash_if_up(machine, down_ms),
            }
        }
    }

    fn split(&mut self, side: u32, cut: bool) {
        let nodes = self.machines.len();
        let inside = |node: usize| side >> node & 1 == 1;
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| inside(from) != inside(*to)) {
                self.network.cut(from, to, cut);
            }
        }
    }

    /// No faults any more: everything is mended, every node that can runs.
    pub(crate) fn become_calm(&mut self) {
        self.calm = Some(self.now);
        self.note(|| "calm".into());
        self.network.heal();
        self.lose_messages_after(1_000 * MS);
        self.dooms.fill(None);
        self.surprises.clear();
        self.ambushes.clear();
        self.bereaved = None;
        for machine in 0..self.machines.len() {
            self.thaw(machine);
            self.machines[machine].mend();
            self.at(0, Event::Start { machine });
        }
    }
}
