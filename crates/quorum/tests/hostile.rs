//! Members that send anything. Whatever bytes a replica is sent, in whatever state, it does not panic and
//! its own invariants hold; that a lying member can make it lose its place is beyond Raft.

mod harness;

use bytes::Bytes;
use gavel_quorum::{Config, Confirmation, MESSAGE_BYTES_MAX, Quorum, Recovered, Refused, Role};
use gavel_types::{LogIndex, Moment, NodeId};
use harness::{MS, ROUGH, Rng, World};
use proptest::prelude::*;
use std::sync::OnceLock;

const ME: u64 = 1;

/// Messages of every type, as a group under faults sends them.
fn captured() -> &'static [Vec<u8>] {
    static CAPTURED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    CAPTURED.get_or_init(|| {
        let mut world = World::new(77, 3, 0, 2 << 10);
        world.captured = Some(Vec::new());
        world.faults = ROUGH;
        for round in 0..40 {
            for id in 1..=3 {
                world.propose(id);
                world.ask(id);
                world.run(10 * MS);
            }
            match round % 10 {
                3 => world.crash(1 + round % 3),
                6 => world.heal(),
                8 => world.transfer(1 + round % 3),
                _ => {}
            }
        }
        world.heal();
        world.assert_recovers();
        // One that was away long, for a snapshot.
        let leader = world.leader().expect("a leader");
        let away = 1 + leader % 3;
        world.crash(away);
        for _ in 0..60 {
            world.propose(leader);
            world.run(5 * MS);
        }
        world.run(100 * MS);
        world.start(away);
        world.assert_recovers();
        let all = world.captured.take().expect("captured");
        (1..=10).for_each(|kind| assert!(all.iter().any(|(_, _, bytes)| bytes[1] == kind), "no message {kind}"));
        // As many of the rare types as of the frequent ones.
        (1..=10)
            .flat_map(|kind| all.iter().filter(move |(_, _, bytes)| bytes[1] == kind).take(30))
            .map(|(_, _, bytes)| bytes.clone())
            .collect()
    })
}

struct Victim {
    quorum: Quorum,
    rng: Rng,
    now: u64,
    writes: Vec<u64>,
    handed: LogIndex,
    lazy: bool,
    /// Hears little of other leaders, so that it becomes one.
    ambitious: bool,
}

impl Victim {
    fn new(seed: u64) -> Victim {
        let mut rng = Rng(seed);
        let voters = match rng.below(5) {
            0 => vec![NodeId(ME)],
            1 => vec![NodeId(ME), NodeId(2)],
            _ => vec![NodeId(ME), NodeId(2), NodeId(3)],
        };
        let mut config = Config::new(NodeId(ME), voters, seed);
        config.learners = [2, 3].map(NodeId).into_iter().filter(|id| !config.voters.contains(id)).collect();
        config.retained_bytes_max = 2 << 10;
        (config.election_timeout_ns, config.heartbeat_ns) = (300 * MS, 50 * MS);
        let quorum = Quorum::new(config, Recovered::default(), Moment(0)).expect("a fresh replica");
        let (lazy, ambitious) = (rng.chance(50), rng.chance(50));
        Victim { quorum, rng, now: 0, writes: Vec::new(), handed: LogIndex(0), lazy, ambitious }
    }

    fn act(&mut self) {
        if self.ambitious && self.quorum.status().role.role == Role::Candidate && self.rng.chance(60) {
            return self.elect();
        }
        match self.rng.below(20) {
            0 | 1 => {
                self.now += self.rng.below(400 * MS);
                self.quorum.on_tick(Moment(self.now));
            }
            2 => drop(self.quorum.propose(Bytes::from(vec![1; 1 + self.rng.below(3000) as usize]))),
            3 => {
                let by = if self.rng.chance(50) { Confirmation::Lease } else { Confirmation::Round };
                drop(self.quorum.confirm_read(Moment(self.now), self.rng.0, by));
            }
            4 => self.persist(),
            5 => {
                self.quorum.on_applied(LogIndex(self.rng.below(self.handed.0 + 1)));
                self.quorum.compact(self.handed);
            }
            6 => drop(self.quorum.offer_snapshot(LogIndex(self.rng.below(30)), Bytes::from_static(b"x"))),
            7 => match self.rng.below(5) {
                0 => drop(self.quorum.request_snapshot()),
                1 => drop(self.quorum.transfer_leader(NodeId(1 + self.rng.below(4)))),
                2 => self.quorum.report_unreachable(NodeId(self.rng.below(5))),
                3 => self.quorum.report_snapshot(NodeId(self.rng.below(5)), self.rng.0.is_multiple_of(2)),
                _ => self.quorum.drop_snapshot(),
            },
            8 => {
                if let Some(mark) = self.quorum.install_snapshot() {
                    self.handed = self.handed.max(mark.index);
                }
            }
            _ => self.inject(),
        }
        self.follow_up();
    }

    /// Forges a vote, whether or not one was asked for.
    fn elect(&mut self) {
        let pre = self.rng.chance(50);
        let term = self.quorum.status().role.term.0 + u64::from(pre);
        let mut bytes = vec![1, if pre { 10 } else { 4 }, 0, 0];
        [ME, 2, term, 0, 0, 0, 0, 0, 0].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        let _ = self.quorum.on_message(Moment(self.now), NodeId(2), &bytes.into());
        self.persist();
        self.follow_up();
    }

    fn persist(&mut self) {
        if !self.writes.is_empty() {
            let upto = self.rng.below(self.writes.len() as u64) as usize;
            let ticket = self.writes.drain(..=upto).next_back().expect("one at least");
            self.quorum.on_persisted(ticket);
        }
    }

    fn follow_up(&mut self) {
        self.quorum.check_invariants().expect("invariants hold");
        for _ in 0..100 {
            if !self.quorum.has_ready() {
                return;
            }
            let ready = self.quorum.take_ready();
            self.writes.extend(ready.persist.map(|write| write.ticket));
            for entry in ready.committed {
                assert_eq!(entry.index.0, self.handed.0 + 1);
                self.handed = entry.index;
            }
            if !self.lazy {
                self.persist();
            }
            self.quorum.check_invariants().expect("invariants hold");
        }
        panic!("ready for ever");
    }

    fn inject(&mut self) {
        let messages = captured();
        let mut bytes = messages[self.rng.below(messages.len() as u64) as usize].clone();
        if self.ambitious && [1, 5, 6].contains(&bytes[1]) && self.rng.chance(95) {
            return;
        }
        let from = 2 + self.rng.below(2);
        bytes[4..12].copy_from_slice(&ME.to_le_bytes());
        bytes[12..20].copy_from_slice(&from.to_le_bytes());
        let status = self.quorum.status();
        if self.rng.chance(80) {
            // A term that counts.
            let term = status.role.term.0 + self.rng.below(2);
            bytes[20..28].copy_from_slice(&term.to_le_bytes());
        }
        for _ in 0..self.rng.below(4) {
            let field = 20 + 8 * self.rng.below(7) as usize;
            let (last, commit, term) = (status.last.0, status.commit.0, status.role.term.0);
            let values =
                [0, 1, self.rng.below(30), last, last + 1, commit, commit + 1, term, term + 1, 1 << 62, u64::MAX];
            let value = values[self.rng.below(values.len() as u64) as usize];
            // A term that large ends all elections, so it comes rarely.
            if field != 20 || value < 1 << 62 || self.rng.chance(3) {
                bytes[field..field + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        if self.rng.chance(10) {
            let place = self.rng.below(bytes.len() as u64) as usize;
            bytes[place] = self.rng.draw() as u8;
        }
        if self.rng.chance(3) {
            bytes.truncate(self.rng.below(bytes.len() as u64) as usize);
        }
        let _ = self.quorum.on_message(Moment(self.now), NodeId(from), &bytes.into());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forged_messages_in_any_state_never_panic(seed: u64) {
        let mut victim = Victim::new(seed);
        (0..300).for_each(|_| victim.act());
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), from in 0u64..5) {
        let mut victim = Victim::new(1);
        prop_assert!(victim.quorum.on_message(Moment(0), NodeId(from), &bytes.into()).is_err());
        victim.follow_up();
    }
}

/// What forgeries bring about over some seeds: if they never get anywhere, the test above tests nothing.
#[test]
fn forgeries_reach_every_state() {
    let (mut led, mut installed, mut handed, mut accepted) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut victim = Victim::new(seed);
        for _ in 0..300 {
            let before = victim.quorum.status();
            victim.act();
            let after = victim.quorum.status();
            led += u64::from(after.role.role == Role::Leader && before.role.role != Role::Leader);
            installed += u64::from(after.compacted.index > before.last);
            accepted += u64::from(after.last > before.last);
        }
        handed += victim.handed.0;
    }
    let reached = format!("led {led}, installed {installed}, appended {accepted}, handed out {handed}");
    assert!(led > 100 && installed > 20 && accepted > 300 && handed > 500, "{reached}");
}

#[test]
fn a_refused_message_changes_nothing_and_says_why() {
    let mut victim = Victim::new(9);
    victim.follow_up();
    let before = victim.quorum.status();
    let refuse = |victim: &mut Victim, from: u64, bytes: &[u8]| {
        victim.quorum.on_message(Moment(0), NodeId(from), &Bytes::copy_from_slice(bytes)).expect_err("refused")
    };
    let good = captured()[0].clone();
    assert_eq!(refuse(&mut victim, 9, &good), Refused::Stranger(NodeId(9)));
    assert!(matches!(refuse(&mut victim, 2, &vec![0; MESSAGE_BYTES_MAX + 1]), Refused::TooLarge { .. }));
    assert_eq!(
        refuse(&mut victim, 2, &[9; 80]).to_string(),
        "message of protocol version 9, this node speaks version 1"
    );
    assert_eq!(refuse(&mut victim, 2, b""), Refused::Malformed("ends too early"));
    assert_eq!(victim.quorum.status(), before);
    assert!(!victim.quorum.has_ready());
}
