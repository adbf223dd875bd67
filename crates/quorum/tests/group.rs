//! Groups under faults. Every step of every run passes the checks of the harness: one leader a term,
//! committed logs agree and are handed out in order, confirmed reads see what was committed before them,
//! no read hangs, invariants hold.

mod harness;

use gavel_quorum::{Config, Confirmation, EntryKind, HardState, LogEntry, LogMark, Quorum, Recovered, Role};
use gavel_types::{LogIndex, Moment, NodeId, Term};
use harness::{ELECTION_NS, MS, ROUGH, World};

const PLENTY: u64 = 1 << 20;
/// So little that a follower that was away for a moment needs a snapshot.
const SCARCE: u64 = 2 << 10;

fn led(seed: u64, voters: u64) -> (World, u64) {
    led_with(seed, voters, PLENTY)
}

fn led_with(seed: u64, voters: u64, retained: u64) -> (World, u64) {
    let mut world = World::new(seed, voters, 0, retained);
    assert!(world.run_until(10 * ELECTION_NS, |world| world.leader().is_some()));
    world.run(ELECTION_NS);
    let leader = world.leader().expect("a leader");
    (world, leader)
}

fn chaos(seed: u64, voters: u64, learners: u64, retained: u64) -> World {
    let mut world = World::new(seed, voters, learners, retained);
    world.faults = ROUGH;
    for _ in 0..60 {
        for _ in 0..6 {
            let id = 1 + world.rng.below(voters);
            if world.rng.chance(70) {
                world.propose(id);
            } else {
                world.ask(id);
            }
            let pause = 1 + world.rng.below(20 * MS);
            world.run(pause);
        }
        strike(&mut world);
    }
    world.heal();
    world.assert_recovers();
    world
}

fn strike(world: &mut World) {
    let nodes = world.nodes.len() as u64;
    let id = 1 + world.rng.below(nodes);
    match world.rng.below(12) {
        0 => world.crash(id),
        1 | 2 => world.start(id),
        3 => {
            world.crash(id);
            world.start(id);
        }
        4 => world.isolate(id),
        5 => {
            let other = 1 + world.rng.below(nodes);
            world.cuts.insert((id, other));
        }
        6 | 7 => world.cuts.clear(),
        8 => world.transfer(id),
        9 => world.faults.sync_ms_max = 1 + world.rng.below(400),
        10 => world.faults = ROUGH,
        _ => world.ids().into_iter().for_each(|id| world.start(id)),
    }
}

#[test]
fn three_nodes_under_random_faults() {
    let mut snapshots = 0;
    let mut reads = 0;
    for seed in 0..400 {
        let world = chaos(seed, 3, 0, if seed % 2 == 0 { PLENTY } else { SCARCE });
        snapshots += world.snapshots_installed;
        reads += world.reads_confirmed;
    }
    assert!(snapshots > 50 && reads > 1000, "the faults are too mild: {snapshots} snapshots, {reads} reads");
}

#[test]
fn five_nodes_under_random_faults() {
    for seed in 1000..1200 {
        chaos(seed, 5, 0, if seed % 2 == 0 { PLENTY } else { SCARCE });
    }
}

#[test]
fn odd_groups_under_random_faults() {
    for seed in 2000..2060 {
        chaos(seed, 1, 0, SCARCE);
        chaos(seed, 1, 1, SCARCE);
        chaos(seed, 2, 0, SCARCE);
        chaos(seed, 3, 2, SCARCE);
    }
}

#[test]
fn one_seed_is_one_history() {
    let digest = |seed| chaos(seed, 3, 0, SCARCE).digest;
    assert_eq!(digest(42), digest(42));
    assert_ne!(digest(42), digest(43));
}

#[test]
fn leader_crashes_with_unpersisted_entries_and_what_was_committed_survives() {
    for seed in 0..20 {
        let (mut world, leader) = led(seed, 3);
        (0..20).for_each(|_| assert!(world.propose(leader)));
        world.run(3 * MS);
        let committed = world.last_committed();
        world.crash(leader);
        assert!(world.run_until(10 * ELECTION_NS, |world| world.leader().is_some_and(|id| id != leader)));
        assert!(world.last_committed() >= committed);
        world.heal();
        world.assert_recovers();
    }
}

#[test]
fn a_leader_cut_off_confirms_no_read_and_commits_nothing() {
    let (mut world, leader) = led(5, 5);
    world.isolate(leader);
    let (committed, confirmed) = (world.last_committed(), world.reads_confirmed);
    assert!(world.propose(leader) && world.ask(leader));
    world.run(ELECTION_NS / 2);
    assert_eq!((world.last_committed(), world.reads_confirmed), (committed, confirmed));
    let new = |world: &World| world.leader().is_some_and(|id| id != leader);
    assert!(world.run_until(10 * ELECTION_NS, new));
    let next = world.leader().expect("a new leader");
    assert!(world.run_until(ELECTION_NS, |world| world.last_committed() > committed));
    assert!(world.ask(next));
    world.run(ELECTION_NS);
    assert_eq!(world.reads_confirmed, confirmed + 1, "the new leader confirms");
    world.heal();
    world.assert_recovers();
}

#[test]
fn a_leader_that_was_confirmed_needs_no_round_until_others_may_lead() {
    let mut last = 0;
    for seed in 0..200 {
        let (mut world, leader) = led(seed, 3);
        world.ask_by(leader, Confirmation::Round);
        world.run(20 * MS);
        world.captured = Some(Vec::new());
        let confirmed = world.reads_confirmed;
        for _ in 0..20 {
            assert!(world.ask_by(leader, Confirmation::Lease));
        }
        assert_eq!(world.reads_confirmed, confirmed + 20, "at once");
        assert!(world.captured.take().expect("captured").is_empty(), "nobody was asked");

        // Cut off, it goes on for a while. What it says meanwhile, the harness checks: it has all that anybody has committed.
        world.isolate(leader);
        let cut_off = world.now;
        let other = |world: &World| world.leader().filter(|id| *id != leader);
        while world.now < cut_off + 6 * ELECTION_NS {
            let confirmed = world.reads_confirmed;
            world.ask_by(leader, Confirmation::Lease);
            if world.reads_confirmed > confirmed {
                last = last.max(world.now - cut_off);
                assert_eq!(other(&world), None);
            }
            if let Some(other) = other(&world) {
                world.propose(other);
            }
            world.run(MS);
        }
        assert!(other(&world).is_some());
    }
    assert!(last > ELECTION_NS / 3, "{last}: there is something to check");
}

#[test]
fn a_replica_that_starts_anew_keeps_what_it_may_have_promised() {
    let (mut certain, mut deposed) = (0, 0);
    for seed in 0..600 {
        let (mut world, leader) = led(seed, 3);
        let (follower, rival) = (1 + leader % 3, 1 + (leader + 1) % 3);
        // The rival hears no leader, and asks to be elected again and again.
        world.cuts.extend([(leader, rival), (rival, leader)]);
        let wait = 3 * ELECTION_NS + world.rng.below(ELECTION_NS);
        world.run(wait);
        world.ask_by(leader, Confirmation::Round);
        world.run(10 * MS);
        // The one that has confirmed the leader forgets everything that is not on its disk, and hears the rival only.
        world.crash(follower);
        world.start(follower);
        world.isolate(leader);
        for _ in 0..3 * ELECTION_NS / MS {
            let confirmed = world.reads_confirmed;
            world.ask_by(leader, Confirmation::Lease);
            certain += world.reads_confirmed - confirmed;
            deposed += u64::from(world.propose(rival));
            world.run(MS);
        }
    }
    assert!(certain > 10_000 && deposed > 10_000, "{certain} confirmed, {deposed} proposed");
}

#[test]
fn a_leadership_that_is_handed_over_has_no_lease_any_more() {
    let (mut world, leader) = led(9, 3);
    world.ask_by(leader, Confirmation::Round);
    world.run(20 * MS);
    let next = 1 + leader % 3;
    // The call to take over is on its way, for as long as it likes.
    world.cuts.insert((leader, next));
    world.transfer(next);
    let confirmed = world.reads_confirmed;
    world.captured = Some(Vec::new());
    world.ask_by(leader, Confirmation::Lease);
    assert_eq!(world.reads_confirmed, confirmed);
    assert!(!world.captured.take().expect("captured").is_empty(), "a round");
}

#[test]
fn many_reads_share_few_rounds() {
    let (mut world, leader) = led(6, 3);
    world.captured = Some(Vec::new());
    let confirmed = world.reads_confirmed;
    for _ in 0..1000 {
        assert!(world.ask(leader));
    }
    world.run(40 * MS);
    assert_eq!(world.reads_confirmed, confirmed + 1000);
    let heartbeats = world.captured.take().expect("captured").iter().filter(|(_, _, bytes)| bytes[1] == 6).count();
    assert!(heartbeats <= 2 * 16, "{heartbeats} heartbeats for 1000 reads");
}

#[test]
fn reads_survive_the_loss_of_their_heartbeats() {
    let (mut world, leader) = led(7, 3);
    world.faults.lost_percent = 50;
    let confirmed = world.reads_confirmed;
    for _ in 0..40 {
        world.ask(leader);
        world.run(20 * MS);
    }
    world.run(2 * ELECTION_NS);
    assert!(world.reads_confirmed > confirmed + 20, "{} of 40", world.reads_confirmed - confirmed);
}

/// A leader, and a follower that has just come back, and was away for longer than the log is kept.
fn away_for_long(seed: u64) -> (World, u64, u64) {
    let (mut world, leader) = led_with(seed, 3, SCARCE);
    let away = 1 + leader % 3;
    world.crash(away);
    for _ in 0..100 {
        world.propose(leader);
        world.run(10 * MS);
    }
    world.start(away);
    (world, leader, away)
}

/// The same when the follower has a snapshot in hand, which it keeps there.
fn fetching(seed: u64) -> (World, u64, u64) {
    let (mut world, leader, away) = away_for_long(seed);
    world.holds_fetches = true;
    assert!(world.run_until(10 * ELECTION_NS, |world| world.nodes[&away].fetching.is_some()));
    (world, leader, away)
}

#[test]
fn a_follower_that_was_away_long_gets_a_snapshot_and_then_entries() {
    for seed in 0..20 {
        let (mut world, _, _) = away_for_long(seed);
        assert!(world.run_until(10 * ELECTION_NS, |world| world.snapshots_installed > 0));
        world.assert_recovers();
    }
}

#[test]
fn a_follower_that_dies_with_a_snapshot_in_hand_is_sent_another() {
    let (mut world, _, away) = fetching(3);
    world.crash(away);
    world.holds_fetches = false;
    world.start(away);
    world.assert_recovers();
    assert!(world.snapshots_installed > 0);
}

#[test]
fn a_follower_with_a_stalled_disk_does_not_hold_up_the_others() {
    let (mut world, leader) = led(8, 3);
    let stalled = 1 + leader % 3;
    world.cuts.insert((stalled, leader));
    let committed = world.last_committed();
    (0..50).for_each(|_| assert!(world.propose(leader)));
    assert!(world.run_until(ELECTION_NS, |world| world.last_committed() >= committed + 50));
    world.heal();
    world.assert_recovers();
}

#[test]
fn leadership_is_handed_over_on_request() {
    for seed in 0..10 {
        let (mut world, leader) = led(seed, 3);
        let target = 1 + leader % 3;
        world.transfer(target);
        assert!(world.run_until(ELECTION_NS, |world| world.leader() == Some(target)), "without an election timeout");
        world.assert_recovers();
    }
}

#[test]
fn a_partitioned_follower_does_not_depose_the_leader_on_its_return() {
    let (mut world, leader) = led(9, 3);
    let term = world.nodes[&leader].status().expect("alive").role.term;
    world.isolate(1 + leader % 3);
    world.run(20 * ELECTION_NS);
    world.heal();
    world.run(5 * ELECTION_NS);
    let status = world.nodes[&leader].status().expect("alive");
    assert_eq!((world.leader(), status.role.term), (Some(leader), term));
}

#[test]
fn a_snapshot_outlives_the_leader_that_sent_it() {
    let (mut world, leader, away) = fetching(3);
    world.isolate(leader);
    let elected = |world: &World| world.leader().is_some_and(|id| id != leader);
    assert!(world.run_until(20 * ELECTION_NS, elected), "a replica in catch-up votes");
    world.run(ELECTION_NS);
    let mark = world.nodes[&away].fetching.as_ref().expect("still fetching").mark;
    assert!(world.node(away).finish_fetch(false, false));
    let status = world.nodes[&away].status().expect("alive");
    assert!(status.role.term > mark.term && status.commit >= mark.index, "{status:?}");
    world.holds_fetches = false;
    world.heal();
    world.assert_recovers();
}

#[test]
fn what_a_leader_offered_in_an_earlier_leadership_is_not_sent_again() {
    let (mut world, leader, away) = fetching(3);
    let other = 1 + away % 3;
    let offered = world.nodes[&away].fetching.as_ref().expect("just seen").mark;
    world.isolate(away);
    world.node(away).finish_fetch(true, false);
    for target in [other, leader] {
        world.transfer(target);
        assert!(world.run_until(10 * ELECTION_NS, |world| world.leader() == Some(target)));
        world.run(ELECTION_NS);
    }
    let status = world.nodes[&leader].status().expect("alive");
    assert!(
        status.compacted.index <= offered.index && status.applied > offered.index,
        "the old offer would do: {status:?}"
    );
    world.heal();
    assert!(world.run_until(10 * ELECTION_NS, |world| world.nodes[&away].fetching.is_some()));
    let mark = world.nodes[&away].fetching.as_ref().expect("just seen").mark;
    assert!(mark.index > offered.index, "{mark:?} was offered before");
    assert!(world.node(away).finish_fetch(false, false));
    world.holds_fetches = false;
    world.assert_recovers();
}

#[test]
fn a_new_leader_holds_reads_until_it_knows_what_is_committed() {
    let mut early = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 0, PLENTY);
        while world.leader().is_none() {
            world.run(MS / 10);
        }
        let leader = world.leader().expect("a leader");
        early += u64::from(world.nodes[&leader].status().expect("alive").commit.0 == 0);
        assert!(world.ask(leader));
        world.run(100 * MS);
        assert_eq!((world.reads_confirmed, world.reads_failed), (1, 0));
    }
    assert!(early > 10, "most are asked before the leader's first entry is committed");
}

#[test]
fn a_lone_voter_tells_its_learners_nothing_that_it_could_forget() {
    let mut config = Config::new(NodeId(1), vec![NodeId(1)], 1);
    config.learners = vec![NodeId(2)];
    let mut quorum = Quorum::new(config, Recovered::default(), Moment(0)).expect("a fresh replica");
    let (mut now, mut ticket) = (0, 0);
    while quorum.status().role.role != Role::Leader {
        now += 10 * MS;
        quorum.on_tick(Moment(now));
    }
    while quorum.has_ready() {
        let ready = quorum.take_ready();
        assert!(ready.send.is_empty(), "its vote and its entry are not durable");
        ticket = ready.persist.map_or(ticket, |write| write.ticket);
    }
    quorum.on_persisted(ticket);
    assert!(!quorum.take_ready().send.is_empty());
}

#[test]
fn what_the_disks_hold_must_make_sense() {
    let entry =
        |index, term| LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::Data, data: "x".into() };
    let mark = |index, term| LogMark { index: LogIndex(index), term: Term(term) };
    let start = |recovered| {
        let config = Config::new(NodeId(1), vec![NodeId(1), NodeId(2), NodeId(3)], 1);
        Quorum::new(config, recovered, Moment(0)).map(|quorum| quorum.status())
    };
    let hard_state = HardState { term: Term(5), vote: Some(NodeId(2)), commit: LogIndex(9) };
    let good =
        Recovered { hard_state, compacted: mark(3, 2), entries: vec![entry(4, 3), entry(5, 5)], applied: mark(4, 3) };
    let status = start(good.clone()).expect("good");
    assert_eq!((status.last, status.commit), (LogIndex(5), LogIndex(5)), "a commit beyond the log is only a hint");
    let bad = |change: &dyn Fn(&mut Recovered)| {
        let mut recovered = good.clone();
        change(&mut recovered);
        start(recovered).expect_err("refused").to_string()
    };
    assert!(bad(&|it| it.entries[1].index = LogIndex(6)).contains("does not continue"));
    assert!(bad(&|it| it.entries[1].term = Term(2)).contains("older term"));
    assert!(bad(&|it| it.hard_state.term = Term(4)).contains("newer term"));
    assert!(bad(&|it| it.applied = mark(2, 2)).contains("went back in time"));
    let ahead = start(Recovered { applied: mark(7, 5), ..good.clone() }).expect("the store is ahead");
    assert_eq!((ahead.compacted, ahead.last), (mark(7, 5), LogIndex(7)));
    let diverged = start(Recovered { applied: mark(5, 4), ..good }).expect("the log's tail was never committed");
    assert_eq!((diverged.compacted, diverged.last), (mark(5, 4), LogIndex(5)));
}

#[test]
fn absurd_configurations_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::new(NodeId(1), vec![NodeId(1), NodeId(2)], 1);
        change(&mut config);
        Quorum::new(config, Recovered::default(), Moment(0)).map(|_| ()).expect_err("refused").to_string()
    };
    assert!(refused(&|config| config.voters.clear()).contains("no voters"));
    assert!(refused(&|config| config.learners = vec![NodeId(2)]).contains("twice"));
    assert!(refused(&|config| config.voters = (1..=65).map(NodeId).collect()).contains("64"));
    assert!(refused(&|config| config.voters.push(NodeId(0))).contains("0 is not"));
    assert!(refused(&|config| config.id = NodeId(7)).contains("not a member"));
    assert!(refused(&|config| config.heartbeat_ns = 0).contains("heartbeat_ns is 0"));
    assert!(refused(&|config| config.election_timeout_ns = config.heartbeat_ns).contains("election_timeout_ns"));
    assert!(refused(&|config| config.max_message_bytes = 1).contains("max_message_bytes is 1"));
    assert!(refused(&|config| config.max_inflight = 0).contains("max_inflight"));
    assert!(refused(&|config| config.uncommitted_bytes_max = 0).contains("uncommitted_bytes_max"));
    assert!(refused(&|config| config.window_bytes_max = 0).contains("window_bytes_max"));
}
