//! A world as data: what runs, and what goes wrong when. A script decides everything; two runs of one script are the same.
//!
//! Faults are drawn up front, so that a failing script can be cut down to the few that matter (see [`crate::shrink`]).

use crate::dice::Dice;
use std::fmt;

/// Everything that decides a world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// Decides every roll of the dice.
    pub seed: u64,
    /// Nodes: 1, 3 or 5.
    pub nodes: usize,
    /// Programs, spread over the nodes.
    pub programs: usize,
    /// Operations that each program runs at most.
    pub operations: u32,
    /// How long faults happen and programs begin operations, in milliseconds. Then all must come to rest.
    pub busy_ms: u64,
    /// What programs do.
    pub mix: Mix,
    /// Programs on each node that lock files.
    pub lockers: usize,
    /// Does a program on each node make, rename and delete snapshots, and make, clone and destroy volumes?
    pub snapshots: bool,
    /// Programs on each node that run transactions on the tree that they share with plain programs.
    pub transactions: usize,
    /// So little log is kept that a node that is away for a moment must catch up by a change scan.
    pub short_log: bool,
    /// How much faster or slower clocks run at most, in millionths.
    pub drift_ppm: u32,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// How often programs do what, relative to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Names that are made, removed and looked up.
    pub names: u32,
    /// Files that are written and read as a whole, some of them large.
    pub registers: u32,
    /// Files that are appended to.
    pub journals: u32,
    /// Renames, links, directories, listings on few directories.
    pub churn: u32,
    /// Overlapping writes, truncations, holes and copies in few files.
    pub bytes: u32,
    /// Files that stay open when their last name goes.
    pub open_files: u32,
    /// Extended attributes.
    pub xattrs: u32,
    /// What plain programs do to the tree that they share with transactions.
    pub shared: u32,
}

impl Mix {
    /// A bit of everything.
    pub const ALL: Mix =
        Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 0 };

    /// The same, and most of it on the tree that is shared with transactions.
    pub const SHARED: Mix = Mix { shared: 40, ..Mix::ALL };

    /// The weights, in the order of the fields.
    pub fn weights(&self) -> [u32; 8] {
        [self.names, self.registers, self.journals, self.churn, self.bytes, self.open_files, self.xattrs, self.shared]
    }
}

/// Something goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// When, in milliseconds after the programs have begun.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// Stands for the node that leads when the fault strikes (node 0 if none does).
pub const LEADER: usize = 1000;

/// What can go wrong. Nodes are counted from 0, modulo the number of nodes, or are [`LEADER`]; times are in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields say it
pub enum What {
    /// The power of a node fails, and comes back.
    Crash { node: usize, down_ms: u64 },
    /// The power of a node fails as soon as it is at this.
    CrashWhen { node: usize, when: When, down_ms: u64 },
    /// The power of all nodes fails at once.
    Blackout { down_ms: u64 },
    /// A node stands still. What is sent to it piles up, or is lost.
    Pause { node: usize, for_ms: u64, lossy: bool },
    /// The next node that answers a change before it is committed stands still at once, or is cut off from all others, for so long.
    CaughtBehind { paused: bool, for_ms: u64 },
    /// The next node that ships a transaction's commit stands still within milliseconds, or is cut off from all others, for so long.
    CaughtCommitting { paused: bool, for_ms: u64 },
    /// Nothing gets from one node to another.
    Cut { from: usize, to: usize, for_ms: u64 },
    /// Nothing gets from a node to any other, or back.
    Alone { node: usize, for_ms: u64 },
    /// Nothing gets from a node of the set (bit by bit) to one outside, or back.
    Split { side: u32, for_ms: u64 },
    /// So many of a thousand messages are lost, doubled, or late by up to so long.
    Weather { lost: u32, doubled: u32, late: u32, late_ms: u64, for_ms: u64 },
    /// What one node sends to another takes longer.
    SlowLink { from: usize, to: usize, delay_ms: u64, for_ms: u64 },
    /// A node's wall clock jumps.
    ClockJump { node: usize, by_ms: i64 },
    /// A node's wall clock is wrong for a while.
    ClockWrong { node: usize, by_ms: i64, for_ms: u64 },
    /// The log's disk of a node takes no more.
    DiskFull { node: usize, for_ms: u64 },
    /// The call of this kind behind `skip` others fails on the log's disk of a node.
    DiskFails { node: usize, call: DiskCall, skip: u64 },
    /// The next flush of a node's records fails, and was durable nevertheless, or not.
    FlushFails { node: usize, kept: bool },
    /// Everything that a node's disks do takes so many times as long.
    SlowDisk { node: usize, times: u64, for_ms: u64 },
    /// The power of a node fails, and a bit of its log turns over before it comes back.
    BitFlip { node: usize, place: u64, down_ms: u64 },
    /// The power of a node fails, and its records are taken away before it comes back: it is to make them anew.
    Wiped { node: usize, down_ms: u64 },
    /// The next node that takes in changes which it had missed is at once, or within milliseconds, without the one that it copies from,
    /// which is gone for good; and its own power fails, or not (0).
    Bereft { down_ms: u64 },
    /// From now on, everything is kept for so long, and the last state of each period (0: of none) for so long; sweeps look at so many rows.
    Retain { node: usize, whole_ms: u64, every_ms: u64, for_ms: u64, rows: u32 },
    /// Some object that there is keeps everything for so long from now on (0: as long as the volume), and so does what is made in it.
    Less { node: usize, place: u64, whole_ms: u64 },
    /// A node names a state of so long ago, or takes such a name away.
    Name { node: usize, number: u8, ago_ms: u64, away: bool },
    /// From now on, a state gets a name every so many seconds, and so many of these names stay; and one every three times as many.
    Schedule { node: usize, every_s: u64, keep: u32 },
    /// A node's session needs a state of so long ago, for so long.
    Pin { node: usize, ago_ms: u64, for_ms: u64 },
}

/// A moment at which a crash hurts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Its log is being written.
    Writing,
    /// Its records are being flushed.
    Flushing,
    /// Changes that it had missed have just come in.
    CatchingUp,
    /// It has just been elected.
    Elected,
    /// It has carried out so many effects more: the rest of them is lost.
    Effects(u64),
}

/// A call that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum DiskCall {
    Write,
    Sync,
    Create,
    SyncNames,
}

/// Kinds of faults, as scenarios name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Crash,
    Blackout,
    Pause,
    /// A node is taken by surprise, with changes that it has answered and not shipped.
    Caught,
    /// A node is taken by surprise while it commits a transaction.
    CaughtCommitting,
    Cut,
    Split,
    Weather,
    SlowLink,
    Clock,
    Disk,
    Flush,
    SlowDisk,
    BitFlip,
    /// A node has to make its records anew.
    Wiped,
    /// A node is gone for good from which another copies.
    Bereft,
    /// Many messages come twice, and long after they were sent.
    Storm,
    /// A node is cut off for a moment.
    Blink,
    /// A node crashes in the middle of a catch-up, and is back before what was sent to it has arrived.
    Relapse,
    /// A node is gone for so long that the log is trimmed behind it.
    Away,
    /// Past states go from now on.
    Retain,
    /// An object keeps less than the volume.
    Less,
    /// A snapshot is made or deleted.
    Name,
    /// States get names by themselves from now on.
    Schedule,
    /// A state is needed for a while.
    Pin,
}

/// A named family of scripts.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    nodes: &'static [usize],
    mix: Mix,
    short_log: bool,
    drift_ppm: u32,
    /// Kinds of faults, and how many of each at most.
    faults: &'static [(Kind, u64)],
}

/// The scenario in which programs lock files, and how many of them on each node. The others have none, so that their seeds stay what they are.
const LOCKS: &str = "locks";
const LOCKERS: usize = 4;

/// The scenarios in which programs run transactions, and how many of these on each node.
const TRANSACTIONS: &str = "transactions";
const EVERYTHING: &str = "everything";
const TRANSACTORS: usize = 2;

/// The scenario in which a node's records, or a node, are gone for good.
const REBUILDS: &str = "rebuilds";

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "calm", nodes: &[1, 3, 5], mix: Mix::ALL, short_log: false, drift_ppm: 0, faults: &[] },
    Scenario {
        name: "lossy",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 100,
        faults: &[(Kind::Weather, 4), (Kind::SlowLink, 2)],
    },
    Scenario {
        name: "partitions",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 100,
        faults: &[(Kind::Split, 4), (Kind::Cut, 4), (Kind::Weather, 1)],
    },
    Scenario {
        name: "crashes",
        nodes: &[1, 3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 100,
        faults: &[(Kind::Crash, 6), (Kind::Blackout, 1)],
    },
    Scenario {
        name: "pauses",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 100,
        faults: &[(Kind::Pause, 5), (Kind::SlowDisk, 2)],
    },
    Scenario {
        name: "lost-sessions",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: true,
        drift_ppm: 100,
        faults: &[(Kind::Caught, 8), (Kind::Weather, 1), (Kind::Crash, 1)],
    },
    Scenario {
        name: "clocks",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 10_000,
        faults: &[(Kind::Clock, 5), (Kind::Crash, 1)],
    },
    Scenario {
        name: "disk-faults",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: false,
        drift_ppm: 100,
        faults: &[(Kind::Disk, 3), (Kind::Flush, 2), (Kind::SlowDisk, 1), (Kind::BitFlip, 1), (Kind::Crash, 2)],
    },
    Scenario {
        name: "catch-up",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: true,
        drift_ppm: 100,
        faults: &[
            (Kind::Away, 4),
            (Kind::Crash, 3),
            (Kind::Split, 3),
            (Kind::Flush, 1),
            (Kind::Weather, 3),
            (Kind::SlowLink, 3),
        ],
    },
    Scenario {
        name: "old-messages",
        nodes: &[3, 5],
        mix: Mix::ALL,
        short_log: true,
        drift_ppm: 100,
        faults: &[(Kind::Storm, 3), (Kind::Blink, 8), (Kind::Relapse, 6), (Kind::Crash, 1)],
    },
    Scenario {
        name: REBUILDS,
        nodes: &[3, 3, 5],
        mix: Mix { shared: 6, ..Mix::ALL },
        short_log: true,
        drift_ppm: 1_000,
        faults: &[
            (Kind::Bereft, 1),
            (Kind::Wiped, 1),
            (Kind::Away, 3),
            (Kind::Relapse, 2),
            (Kind::Crash, 3),
            (Kind::Pause, 1),
            (Kind::Cut, 2),
            (Kind::Split, 1),
            (Kind::SlowLink, 3),
            (Kind::Clock, 1),
            (Kind::Flush, 1),
            (Kind::CaughtCommitting, 2),
            (Kind::Retain, 1),
            (Kind::Name, 1),
            (Kind::Pin, 1),
        ],
    },
    Scenario {
        name: LOCKS,
        nodes: &[3, 3, 5],
        mix: Mix::ALL,
        short_log: true,
        drift_ppm: 1_000,
        faults: &[
            (Kind::Crash, 3),
            (Kind::Pause, 3),
            (Kind::Split, 3),
            (Kind::Weather, 2),
            (Kind::Away, 2),
            (Kind::Blink, 2),
            (Kind::Relapse, 2),
        ],
    },
    Scenario {
        name: "pruning",
        nodes: &[3, 3, 5],
        mix: Mix::ALL,
        short_log: true,
        drift_ppm: 1_000,
        faults: &[
            (Kind::Crash, 3),
            (Kind::Pause, 1),
            (Kind::Split, 2),
            (Kind::Weather, 2),
            (Kind::SlowLink, 1),
            (Kind::Flush, 1),
            (Kind::Away, 3),
            (Kind::Blink, 2),
            (Kind::Relapse, 3),
            (Kind::Retain, 4),
            (Kind::Less, 6),
            (Kind::Name, 10),
            (Kind::Schedule, 3),
            (Kind::Pin, 5),
        ],
    },
    Scenario {
        name: TRANSACTIONS,
        nodes: &[3, 3, 5],
        mix: Mix::SHARED,
        short_log: true,
        drift_ppm: 1_000,
        faults: &[
            (Kind::CaughtCommitting, 8),
            (Kind::Crash, 4),
            (Kind::Blackout, 1),
            (Kind::Pause, 1),
            (Kind::Caught, 2),
            (Kind::Split, 2),
            (Kind::Weather, 1),
            (Kind::Clock, 1),
            (Kind::Away, 1),
            (Kind::Retain, 1),
            (Kind::Less, 2),
            (Kind::Pin, 1),
        ],
    },
    Scenario {
        name: EVERYTHING,
        nodes: &[3, 3, 5],
        mix: Mix { shared: 6, ..Mix::ALL },
        short_log: true,
        drift_ppm: 1_000,
        faults: &[
            (Kind::Crash, 2),
            (Kind::Blackout, 1),
            (Kind::Pause, 2),
            (Kind::Cut, 2),
            (Kind::Split, 2),
            (Kind::Weather, 2),
            (Kind::SlowLink, 1),
            (Kind::Clock, 2),
            (Kind::Disk, 1),
            (Kind::Flush, 1),
            (Kind::SlowDisk, 1),
            (Kind::BitFlip, 1),
            (Kind::Away, 1),
            (Kind::Retain, 1),
            (Kind::Less, 1),
            (Kind::Name, 2),
            (Kind::Schedule, 1),
            (Kind::Pin, 1),
            (Kind::CaughtCommitting, 1),
        ],
    },
];

/// The scenario of this name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// The script that this scenario makes of a seed.
    pub fn script(&self, seed: u64) -> Script {
        let mut dice = Dice::new(seed, "script", 0);
        let nodes = *dice.pick(self.nodes);
        let busy_ms = dice.between(6_000, 18_000);
        let mut faults = Vec::new();
        let mut harmed = false;
        for (kind, most) in self.faults {
            for _ in 0..dice.between(0, *most) {
                let what = draw(*kind, nodes, &mut dice);
                // One node's disks can be done without; a majority of them cannot.
                let harms = matches!(what, What::BitFlip { .. } | What::Wiped { .. } | What::Bereft { .. });
                if !(harms && harmed) {
                    faults.push(Fault { at_ms: dice.below(busy_ms), what });
                }
                harmed |= harms;
            }
        }
        faults.sort_by_key(|fault| fault.at_ms);
        Script {
            seed,
            nodes,
            programs: nodes * dice.between(1, 3) as usize,
            operations: dice.between(10, 90) as u32,
            busy_ms,
            mix: self.mix,
            lockers: if self.name == LOCKS { LOCKERS } else { 0 },
            snapshots: true,
            transactions: match self.name {
                TRANSACTIONS => TRANSACTORS,
                EVERYTHING | REBUILDS => 1,
                _ => 0,
            },
            short_log: self.short_log && dice.permille(800),
            drift_ppm: self.drift_ppm,
            faults,
        }
    }
}

/// Mostly short, sometimes long.
fn while_ms(dice: &mut Dice, most: u64) -> u64 {
    let most = if dice.permille(600) { most / 8 } else { most };
    dice.between(1, most.max(1))
}

fn draw(kind: Kind, nodes: usize, dice: &mut Dice) -> What {
    let there = dice.below(nodes as u64) as usize;
    let other = (there + 1 + dice.below(nodes.max(2) as u64 - 1) as usize) % nodes;
    // Half of what strikes one node strikes the one where it hurts most.
    let node = if dice.permille(500) { LEADER } else { there };
    match kind {
        Kind::Crash if dice.permille(300) => What::Crash { node, down_ms: while_ms(dice, 8_000) },
        Kind::Crash => {
            let effects = When::Effects(dice.below(200));
            let when = [When::Writing, When::Flushing, When::CatchingUp, When::Elected, effects];
            What::CrashWhen { node, when: *dice.pick(&when), down_ms: while_ms(dice, 8_000) }
        }
        Kind::Blackout => What::Blackout { down_ms: while_ms(dice, 2_000) },
        Kind::Away if dice.permille(500) => What::Crash { node, down_ms: dice.between(3_000, 12_000) },
        Kind::Away => What::Alone { node, for_ms: dice.between(3_000, 12_000) },
        Kind::Pause => What::Pause { node, for_ms: while_ms(dice, 12_000), lossy: dice.permille(400) },
        Kind::Caught => What::CaughtBehind { paused: dice.permille(200), for_ms: dice.between(4_500, 9_000) },
        Kind::CaughtCommitting => {
            What::CaughtCommitting { paused: dice.permille(300), for_ms: dice.between(3_000, 10_000) }
        }
        Kind::Cut => What::Cut { from: there, to: other, for_ms: while_ms(dice, 12_000) },
        Kind::Split if dice.permille(500) => What::Alone { node, for_ms: while_ms(dice, 12_000) },
        Kind::Split => What::Split { side: 1 + dice.below((1 << nodes) - 2) as u32, for_ms: while_ms(dice, 12_000) },
        Kind::Weather => What::Weather {
            lost: dice.below(300) as u32,
            doubled: dice.below(200) as u32,
            late: dice.below(300) as u32,
            late_ms: while_ms(dice, 3_000),
            for_ms: while_ms(dice, 10_000),
        },
        Kind::Storm => What::Weather {
            lost: dice.below(100) as u32,
            doubled: dice.between(200, 600) as u32,
            late: dice.between(50, 300) as u32,
            late_ms: dice.between(300, 15_000),
            for_ms: dice.between(3_000, 12_000),
        },
        Kind::Relapse => What::CrashWhen { node: there, when: When::CatchingUp, down_ms: dice.between(1, 400) },
        Kind::Blink => What::Alone { node: there, for_ms: dice.between(200, 3_000) },
        Kind::SlowLink => {
            What::SlowLink { from: there, to: other, delay_ms: while_ms(dice, 1_000), for_ms: while_ms(dice, 8_000) }
        }
        Kind::Clock => {
            let by_ms = *dice.pick(&[-600_000, -20_000, -6_000, -900, 900, 4_000, 6_000, 20_000, 600_000]);
            match dice.below(2) {
                0 => What::ClockJump { node, by_ms: by_ms.clamp(-20_000, 20_000) },
                _ => What::ClockWrong { node, by_ms, for_ms: while_ms(dice, 10_000) },
            }
        }
        Kind::Disk => match dice.below(4) {
            0 => What::DiskFull { node, for_ms: while_ms(dice, 5_000) },
            _ => {
                let call = *dice.pick(&[DiskCall::Write, DiskCall::Sync, DiskCall::Create, DiskCall::SyncNames]);
                What::DiskFails { node, call, skip: dice.below(20) }
            }
        },
        Kind::Flush => What::FlushFails { node, kept: dice.permille(500) },
        Kind::SlowDisk => What::SlowDisk { node, times: dice.between(5, 200), for_ms: while_ms(dice, 8_000) },
        Kind::Retain => What::Retain {
            node: there,
            whole_ms: dice.between(300, 3_000),
            every_ms: dice.below(4) * dice.between(100, 1_000),
            for_ms: dice.between(1_000, 8_000),
            rows: *dice.pick(&[2, 20, 60, 200, 512]),
        },
        Kind::Less => What::Less { node: there, place: dice.roll(), whole_ms: *dice.pick(&[0, 300, 900]) },
        Kind::Name => {
            What::Name { node: there, number: dice.below(3) as u8, ago_ms: dice.below(3_000), away: dice.permille(300) }
        }
        Kind::Schedule => What::Schedule { node: there, every_s: dice.between(1, 4), keep: dice.between(1, 4) as u32 },
        Kind::Pin => What::Pin { node: there, ago_ms: dice.below(2_000), for_ms: while_ms(dice, 10_000) },
        Kind::Wiped => What::Wiped { node: there, down_ms: while_ms(dice, 3_000) },
        Kind::Bereft => What::Bereft { down_ms: dice.below(2) * dice.between(1, 2_000) },
        Kind::BitFlip => What::BitFlip { node, place: dice.roll(), down_ms: while_ms(dice, 3_000) },
    }
}

/// As Rust, to be pasted into a regression test.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Script {
            seed,
            nodes,
            programs,
            operations,
            busy_ms,
            mix,
            lockers,
            snapshots,
            transactions,
            short_log,
            drift_ppm,
            faults,
        } = self;
        writeln!(f, "Script {{")?;
        writeln!(f, "    seed: {seed},\n    nodes: {nodes},\n    programs: {programs},")?;
        writeln!(
            f,
            "    operations: {operations},\n    busy_ms: {busy_ms},\n    mix: {mix:?},\n    lockers: {lockers},"
        )?;
        writeln!(
            f,
            "    snapshots: {snapshots},\n    transactions: {transactions},\n    short_log: {short_log},\n    drift_ppm: {drift_ppm},\n    faults: vec!["
        )?;
        for Fault { at_ms, what } in faults {
            let what = format!("{what:?}")
                .replace("when: ", "when: When::")
                .replace("call: ", "call: DiskCall::")
                .replace("1000,", "LEADER,");
            writeln!(f, "        Fault {{ at_ms: {at_ms}, what: What::{what} }},")?;
        }
        write!(f, "    ],\n}}")
    }
}
