//! Seeds of every scenario, as many as fit into a test; the nightly size is a flag of the binary.

use gavel_sim::cover::Cover;
use gavel_sim::{Outcome, Verdict, run, scenario};

/// Seeds of each scenario.
const SEEDS: u64 = 80;

fn sound(name: &str, seed: u64) -> Outcome {
    let script = scenario(name).expect("the name is one of the scenarios").script(seed);
    match run(&script, false) {
        Verdict::Sound(outcome) => *outcome,
        Verdict::Violated(violation) => panic!("{name} seed {seed}: {}\n{script}", violation.what),
    }
}

/// Runs the seeds of a scenario, which must at least once come to each of `marks`.
fn all_sound(name: &str, marks: &[&str]) {
    let mut cover = Cover::default();
    for seed in 1..=SEEDS {
        cover.add(&sound(name, seed).cover);
    }
    for mark in marks {
        assert!(cover.count(mark) > 0, "no seed of {name} came to {mark}");
    }
}

#[test]
fn calm() {
    all_sound("calm", &["blob_stored", "conflict", "orphan_reaped"]);
}

#[test]
fn lossy() {
    all_sound("lossy", &["conflict", "submit_gap"]);
}

#[test]
fn partitions() {
    all_sound("partitions", &["partitioned", "leader_changed", "session_expired"]);
}

#[test]
fn crashes() {
    all_sound("crashes", &["session_replaced", "crashed_while_writing", "records_behind"]);
}

#[test]
fn pauses() {
    all_sound("pauses", &["paused", "session_expired", "lost_with_session"]);
}

#[test]
fn lost_sessions() {
    all_sound("lost-sessions", &["pending_lost", "offered_again", "offer_committed", "offer_conflict"]);
}

#[test]
fn clocks() {
    all_sound("clocks", &["clock_far"]);
}

#[test]
fn disk_faults() {
    all_sound("disk-faults", &["log_failed", "flush_failed", "disk_full"]);
}

#[test]
fn catch_up() {
    all_sound("catch-up", &["log_trimmed", "catch_up_began", "catch_up_ended"]);
}

#[test]
fn rebuilds() {
    all_sound("rebuilds", &["records_wiped", "source_lost", "catch_up_ended"]);
}

#[test]
fn old_messages() {
    all_sound("old-messages", &["catch_up_crashed", "catch_up_in_parts", "catch_up_sealed"]);
}

#[test]
fn locks() {
    all_sound(
        "locks",
        &["lock_handed_over", "lock_lost", "lock_deadlock", "lock_cancelled", "lock_abandoned", "catch_up_ended"],
    );
}

#[test]
fn pruning() {
    all_sound("pruning", &["pruned", "swept", "copied_anew", "pinned", "pruned_all_gone", "pruned_kept"]);
}

#[test]
fn transactions() {
    let committed = ["txn_committed", "txn_only_read", "txn_rebased", "txn_stored_anew", "txn_crashed_committing"];
    all_sound("transactions", &[&committed[..], &["txn_collided", "txn_given_up", "txn_crashed"]].concat());
}

#[test]
fn everything() {
    all_sound("everything", &["catch_up_ended", "partitioned", "paused"]);
}

#[test]
fn one_seed_gives_one_world() {
    for seed in 1..=6 {
        let (first, second) = (sound("everything", seed), sound("everything", seed));
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.digest, sound("everything", seed + 100).digest);
    }
}
