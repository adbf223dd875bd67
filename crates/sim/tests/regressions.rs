//! Scripts that once showed a fault, cut down to what it takes. Each is named by the fault; with the fix taken back, it
//! fails. The seeds of the scenarios find the same faults at other places, so a script that a change of the workload
//! has made harmless may be replaced.

use gavel_sim::script::{DiskCall, LEADER, When};
use gavel_sim::{Fault, Mix, Outcome, Script, Verdict, What, run};

fn sound(script: &Script) -> Outcome {
    match run(script, true) {
        Verdict::Sound(outcome) => *outcome,
        Verdict::Violated(violation) => panic!("{}\n{}", violation.what, violation.trace.join("\n")),
    }
}

/// Seeds that are tried, from a script's own on, until one reaches the situation that its test is about.
const SEEDS_MAX: u64 = 100;

/// The first world of the script, with its seed or one of those behind it, that comes to what the test is about; all up to it are sound.
fn sound_until(script: Script, reached: impl Fn(&Outcome) -> bool) {
    let seeds = script.seed..script.seed + SEEDS_MAX;
    let found = seeds.clone().any(|seed| reached(&sound(&Script { seed, ..script.clone() })));
    assert!(found, "none of the seeds {seeds:?} comes to it");
}

/// A node that restarts asks for a session, and falls so far behind that it catches up past the entry that opens it.
/// Files that lost their last name in the same stretch count this session among those who may have them open; it has to say
/// that it does not, when it hears of itself later, or they stay for ever.
#[test]
fn orphans_from_a_stretch_of_log_that_the_session_has_skipped_are_released() {
    let outcome = sound(&Script {
        seed: 64,
        nodes: 5,
        programs: 15,
        operations: 17,
        busy_ms: 7391,
        mix: Mix { names: 4, registers: 0, journals: 3, churn: 5, bytes: 0, open_files: 0, xattrs: 0, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 0,
        faults: vec![
            Fault { at_ms: 188, what: What::Crash { node: LEADER, down_ms: 4779 } },
            Fault { at_ms: 2045, what: What::Weather { lost: 196, doubled: 62, late: 245, late_ms: 39, for_ms: 5584 } },
        ],
    });
    assert!(outcome.cover.count("catch_up_ended") > 0);
}

/// A file loses its last name while one node has it open. Another node, which has already said that it does not hold the
/// file, opens it by its number: that must be refused, for the file goes when the first node closes it.
#[test]
fn a_file_that_is_kept_for_another_node_only_cannot_be_opened() {
    sound(&Script {
        seed: 14,
        nodes: 5,
        programs: 15,
        operations: 88,
        busy_ms: 10937,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 0, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: false,
        drift_ppm: 0,
        faults: vec![],
    });
}

/// A catch-up has ended, the log restarts behind it, and the power fails before the records are flushed: entries that
/// are in neither would be lost. The log restarts only when the records are durable.
#[test]
fn power_fails_between_the_end_of_a_catch_up_and_the_flush_of_its_records() {
    let script = Script {
        seed: 43,
        nodes: 5,
        programs: 5,
        operations: 9,
        busy_ms: 8739,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 0, bytes: 3, open_files: 3, xattrs: 0, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 0,
        faults: vec![
            Fault { at_ms: 340, what: What::Crash { node: LEADER, down_ms: 5832 } },
            Fault { at_ms: 3301, what: What::CrashWhen { node: 0, when: When::CatchingUp, down_ms: 237 } },
        ],
    };
    sound_until(script, |outcome| outcome.cover.count("catch_up_crashed") > 0);
}

/// A session ends in a stretch of the log that its node skips by a catch-up, with requests in flight: nobody can say
/// whether they were applied, and running them again would apply them twice.
#[test]
fn requests_of_a_session_that_ended_unseen_are_not_run_again() {
    sound(&Script {
        seed: 159,
        nodes: 5,
        programs: 15,
        operations: 77,
        busy_ms: 11353,
        mix: Mix::ALL,
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 0,
        faults: vec![
            Fault { at_ms: 2338, what: What::Alone { node: 0, for_ms: 1334 } },
            Fault { at_ms: 3100, what: What::CrashWhen { node: 2, when: When::CatchingUp, down_ms: 314 } },
            Fault {
                at_ms: 3111,
                what: What::Weather { lost: 42, doubled: 551, late: 86, late_ms: 6141, for_ms: 7948 },
            },
            Fault { at_ms: 3881, what: What::Alone { node: 0, for_ms: 1714 } },
            Fault {
                at_ms: 6671,
                what: What::Weather { lost: 93, doubled: 309, late: 199, late_ms: 10328, for_ms: 4779 },
            },
        ],
    });
}

/// A node crashes during a catch-up, and asks the same first question again behind its restart, of a state that has moved on.
/// The answer to the question before the crash arrives late and says that nothing follows: it must not be taken for the
/// answer to the second one, or the replica takes over a state whose records it does not have.
#[test]
fn an_answer_to_a_scan_before_a_crash_arrives_behind_it() {
    let outcome = sound(&Script {
        seed: 20395,
        nodes: 5,
        programs: 15,
        operations: 66,
        busy_ms: 16471,
        mix: Mix::ALL,
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 0,
        faults: vec![
            Fault { at_ms: 764, what: What::Alone { node: 3, for_ms: 1454 } },
            Fault { at_ms: 1236, what: What::Alone { node: 1, for_ms: 2526 } },
            Fault { at_ms: 1551, what: What::CrashWhen { node: 1, when: When::CatchingUp, down_ms: 20 } },
            Fault { at_ms: 3005, what: What::Alone { node: 3, for_ms: 1766 } },
            Fault {
                at_ms: 4009,
                what: What::Weather { lost: 52, doubled: 556, late: 143, late_ms: 8341, for_ms: 4690 },
            },
            Fault { at_ms: 5460, what: What::Alone { node: 1, for_ms: 2038 } },
            Fault { at_ms: 8754, what: What::CrashWhen { node: 3, when: When::CatchingUp, down_ms: 198 } },
            Fault {
                at_ms: 10575,
                what: What::Weather { lost: 18, doubled: 270, late: 239, late_ms: 12238, for_ms: 4396 },
            },
            Fault { at_ms: 12296, what: What::CrashWhen { node: 2, when: When::CatchingUp, down_ms: 197 } },
            Fault { at_ms: 12431, what: What::Alone { node: 3, for_ms: 1940 } },
        ],
    });
    assert!(outcome.cover.count("catch_up_crashed") > 0);
}

/// Two clocks are far from the others' median, in both directions. A leader with such a clock steps aside, but not in
/// favour of the other one, or the two hand leadership to each other for ever and nothing is committed.
#[test]
fn leaders_with_wrong_clocks_do_not_hand_leadership_to_each_other() {
    let outcome = sound(&Script {
        seed: 21173,
        nodes: 5,
        programs: 5,
        operations: 14,
        busy_ms: 8627,
        mix: Mix::ALL,
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: false,
        drift_ppm: 10_000,
        faults: vec![
            Fault { at_ms: 1421, what: What::ClockJump { node: 2, by_ms: 20000 } },
            Fault { at_ms: 3835, what: What::CrashWhen { node: 0, when: When::Effects(52), down_ms: 4856 } },
            Fault { at_ms: 5463, what: What::ClockWrong { node: LEADER, by_ms: -20000, for_ms: 163 } },
            Fault { at_ms: 5668, what: What::ClockJump { node: LEADER, by_ms: -20000 } },
            Fault { at_ms: 6423, what: What::ClockJump { node: 3, by_ms: 6000 } },
        ],
    });
    assert!(outcome.cover.count("leader_changed") < 10, "leadership bounced");
}

/// A leader whose disk is slow does not hear that it was deposed, and is asked for a read: it must not answer from its
/// own state without a majority.
#[test]
fn a_deposed_leader_with_a_slow_disk_confirms_no_read() {
    sound(&Script {
        seed: 2,
        nodes: 5,
        programs: 5,
        operations: 68,
        busy_ms: 8980,
        mix: Mix::ALL,
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: false,
        drift_ppm: 0,
        faults: vec![Fault { at_ms: 4598, what: What::SlowDisk { node: LEADER, times: 187, for_ms: 828 } }],
    });
}

/// A leader's clock is put right while another node has not heard of that yet: the two must not hand leadership back and
/// forth until they have.
#[test]
fn leadership_does_not_bounce_while_nodes_disagree_about_their_clocks() {
    let outcome = sound(&Script {
        seed: 204064,
        nodes: 3,
        programs: 6,
        operations: 68,
        busy_ms: 8818,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![
            Fault { at_ms: 871, what: What::Blackout { down_ms: 144 } },
            Fault { at_ms: 1940, what: What::FlushFails { node: 2, kept: true } },
            Fault { at_ms: 3385, what: What::Pause { node: LEADER, for_ms: 207, lossy: false } },
            Fault { at_ms: 3976, what: What::ClockWrong { node: LEADER, by_ms: 600000, for_ms: 3686 } },
            Fault { at_ms: 4210, what: What::CrashWhen { node: 1, when: When::Flushing, down_ms: 519 } },
            Fault { at_ms: 4925, what: What::ClockWrong { node: LEADER, by_ms: -20000, for_ms: 1105 } },
            Fault { at_ms: 5470, what: What::Alone { node: LEADER, for_ms: 3779 } },
            Fault { at_ms: 7971, what: What::CrashWhen { node: LEADER, when: When::Writing, down_ms: 2856 } },
        ],
    });
    assert!(outcome.cover.count("leader_changed") < 10, "leadership bounced");
}

/// The quorum is busy, so that the leader puts what it wanted to propose back in its line: it must count the bytes of the
/// line right, or it thinks the line full for ever.
#[test]
fn a_leader_that_could_not_propose_does_not_think_its_line_full() {
    sound(&Script {
        seed: 201436,
        nodes: 3,
        programs: 9,
        operations: 68,
        busy_ms: 12988,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![
            Fault { at_ms: 1137, what: What::FlushFails { node: LEADER, kept: false } },
            Fault { at_ms: 1207, what: What::Cut { from: 1, to: 2, for_ms: 23 } },
            Fault { at_ms: 2087, what: What::Alone { node: LEADER, for_ms: 761 } },
            Fault { at_ms: 2159, what: What::SlowDisk { node: LEADER, times: 30, for_ms: 222 } },
            Fault { at_ms: 2982, what: What::Crash { node: 0, down_ms: 4572 } },
            Fault { at_ms: 3455, what: What::SlowLink { from: 0, to: 1, delay_ms: 35, for_ms: 383 } },
            Fault { at_ms: 3628, what: What::ClockWrong { node: 1, by_ms: -6000, for_ms: 7509 } },
            Fault {
                at_ms: 4728,
                what: What::Weather { lost: 109, doubled: 192, late: 232, late_ms: 1889, for_ms: 105 },
            },
            Fault { at_ms: 7514, what: What::Pause { node: 2, for_ms: 10697, lossy: true } },
            Fault { at_ms: 8363, what: What::ClockWrong { node: LEADER, by_ms: 4000, for_ms: 213 } },
        ],
    });
}

/// A lease is granted while a commit of the same node is on its way, and a kernel keeps what is read under it before the
/// node's own replica has the commit: what is kept must not outlive that.
#[test]
fn what_a_node_is_writing_is_not_kept_under_a_lease_that_comes_meanwhile() {
    let script = Script {
        seed: 311053,
        nodes: 5,
        programs: 15,
        operations: 87,
        busy_ms: 8391,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![],
    };
    let hit = |outcome: &Outcome, mark| outcome.cover.count(mark) > 0;
    sound_until(script, |outcome| hit(outcome, "kept_answer") && hit(outcome, "forgot_for_own_write"));
}

/// A replica catches up to a position that only a node knew to be committed whose log is ruined then. The one that is left
/// has the entries, and can't commit them without the one that waits for it to be so far.
#[test]
fn a_catch_up_goes_on_when_its_source_is_lost() {
    let outcome = sound(&Script {
        seed: 306222,
        nodes: 3,
        programs: 6,
        operations: 89,
        busy_ms: 12258,
        mix: Mix { names: 0, registers: 4, journals: 3, churn: 0, bytes: 3, open_files: 0, xattrs: 0, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![
            Fault {
                at_ms: 2690,
                what: What::Weather { lost: 132, doubled: 38, late: 123, late_ms: 313, for_ms: 1512 },
            },
            Fault { at_ms: 2692, what: What::SlowDisk { node: LEADER, times: 25, for_ms: 991 } },
            Fault { at_ms: 4421, what: What::DiskFails { node: LEADER, call: DiskCall::Sync, skip: 13 } },
            Fault { at_ms: 6420, what: What::Cut { from: 2, to: 1, for_ms: 1488 } },
            Fault { at_ms: 6848, what: What::CrashWhen { node: 0, when: When::Flushing, down_ms: 5082 } },
            Fault {
                at_ms: 7664,
                what: What::Weather { lost: 123, doubled: 118, late: 43, late_ms: 2898, for_ms: 5072 },
            },
            Fault { at_ms: 11929, what: What::BitFlip { node: LEADER, place: 11335449386453981469, down_ms: 1062 } },
        ],
    });
    assert!(outcome.cover.count("catch_up_ended") > 0);
}

/// A leader that ends a silent session and is asked for it again at the same time may put both into one entry, the question first: the node must
/// not take the session for open.
#[test]
fn a_session_that_is_asked_for_again_ends_in_the_same_entry() {
    sound(&Script {
        seed: 562182,
        nodes: 5,
        programs: 15,
        operations: 66,
        busy_ms: 13082,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 0 },
        lockers: 0,
        snapshots: false,
        transactions: 0,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![
            Fault { at_ms: 174, what: What::Crash { node: LEADER, down_ms: 1648 } },
            Fault { at_ms: 725, what: What::FlushFails { node: 3, kept: true } },
            Fault { at_ms: 1784, what: What::Pause { node: 4, for_ms: 8600, lossy: false } },
            Fault { at_ms: 1985, what: What::Cut { from: 3, to: 1, for_ms: 8434 } },
            Fault { at_ms: 2915, what: What::ClockJump { node: 1, by_ms: -20000 } },
            Fault { at_ms: 3289, what: What::Split { side: 23, for_ms: 541 } },
            Fault { at_ms: 4496, what: What::DiskFails { node: LEADER, call: DiskCall::Create, skip: 4 } },
            Fault { at_ms: 4567, what: What::Cut { from: 4, to: 3, for_ms: 694 } },
            Fault { at_ms: 4638, what: What::Split { side: 7, for_ms: 46 } },
            Fault { at_ms: 5938, what: What::BitFlip { node: 0, place: 1164321720884923136, down_ms: 2423 } },
            Fault {
                at_ms: 6544,
                what: What::Weather { lost: 241, doubled: 147, late: 272, late_ms: 1597, for_ms: 4746 },
            },
            Fault { at_ms: 10051, what: What::SlowDisk { node: 4, times: 165, for_ms: 296 } },
            Fault { at_ms: 10081, what: What::SlowLink { from: 3, to: 4, delay_ms: 97, for_ms: 900 } },
            Fault { at_ms: 10997, what: What::CrashWhen { node: LEADER, when: When::Elected, down_ms: 721 } },
            Fault {
                at_ms: 12452,
                what: What::Weather { lost: 164, doubled: 44, late: 167, late_ms: 2837, for_ms: 188 },
            },
            Fault { at_ms: 12453, what: What::Alone { node: 4, for_ms: 7952 } },
        ],
    });
}

/// A leader has offered its state, sweeps, loses the second node for good and with it its leadership, and is elected anew by the third,
/// which was cut off and has to copy all records. That one takes no entry before it has copied, and nothing of the new term is committed
/// without it: what was offered before the sweep, whose records nobody has any more, must not be offered again.
#[test]
fn a_leader_elected_anew_by_a_node_that_is_to_copy_does_not_offer_what_was_swept_since() {
    let outcome = sound(&Script {
        seed: 201207,
        nodes: 3,
        programs: 9,
        operations: 64,
        busy_ms: 10755,
        mix: Mix { names: 4, registers: 4, journals: 3, churn: 5, bytes: 3, open_files: 3, xattrs: 1, shared: 6 },
        lockers: 0,
        snapshots: true,
        transactions: 1,
        short_log: true,
        drift_ppm: 1000,
        faults: vec![
            Fault { at_ms: 46, what: What::SlowDisk { node: LEADER, times: 34, for_ms: 3581 } },
            Fault { at_ms: 286, what: What::CaughtCommitting { paused: false, for_ms: 3688 } },
            Fault { at_ms: 3947, what: What::Blackout { down_ms: 98 } },
            Fault { at_ms: 4354, what: What::Pause { node: LEADER, for_ms: 1015, lossy: false } },
            Fault { at_ms: 4838, what: What::Split { side: 1, for_ms: 7189 } },
            Fault { at_ms: 5094, what: What::Retain { node: 2, whole_ms: 701, every_ms: 0, for_ms: 4031, rows: 20 } },
            Fault { at_ms: 7552, what: What::Weather { lost: 145, doubled: 104, late: 287, late_ms: 84, for_ms: 281 } },
            Fault { at_ms: 7815, what: What::BitFlip { node: 1, place: 7524056702795453033, down_ms: 327 } },
        ],
    });
    assert!(outcome.cover.count("catch_up_ended") > 0);
}
