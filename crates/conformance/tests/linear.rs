//! Everything that programs on three mounts were answered, while nodes are killed and stopped, is what one filesystem could have answered
//! (`gavel_conformance::history`).
//!
//! `GAVEL_SEED=N` makes other choices than the usual ones; `GAVEL_LINEAR_SECONDS=N` plays for another time at night. What is wrong is
//! told in a file in the system's temporary directory, which the failure names.

use anyhow::{Context, Result};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::dice::{self, Dice};
use gavel_conformance::history::round::{Plan, Trouble, play};
use std::time::{Duration, Instant};

/// How long the long one takes, if nothing else is said.
const LONG: Duration = Duration::from_secs(300);
const LONG_VARIABLE: &str = "GAVEL_LINEAR_SECONDS";

/// No node is stopped (SIGSTOP): each close of a file asks its node since locks hold over nodes, so this process, which has files open on all mounts,
/// could start no other while one does not answer: to start one is to close all that it does not inherit.
const TROUBLES: [Trouble; 3] = [Trouble::None, Trouble::LeaderKilled, Trouble::FollowerKilled];

/// Calls of one set: of a busy round, and of a calm one, which takes some seconds.
const BUSY_CALLS: usize = 1_000;
const CALM_CALLS: usize = 5_000;

#[test]
fn answers_of_three_mounts_have_an_order() -> Result<()> {
    with_cluster(3, |cluster| {
        let seed = dice::seed();
        let rounds = [
            (Trouble::None, false),
            (Trouble::LeaderKilled, false),
            (Trouble::None, true),
            (Trouble::FollowerKilled, true),
        ];
        for (number, (trouble, calm)) in (1..).zip(rounds) {
            let set_calls = if calm { CALM_CALLS } else { BUSY_CALLS };
            let plan = Plan { seed, number, trouble, calm, sets: 2, set_calls };
            println!("{}", play(cluster, &plan).with_context(|| format!("GAVEL_SEED={seed}, {plan:?}"))?);
        }
        Ok(())
    })
}

#[test]
#[ignore = "nightly: takes five minutes"]
fn answers_of_three_mounts_have_an_order_for_long() -> Result<()> {
    let seconds = std::env::var(LONG_VARIABLE).ok().and_then(|text| text.parse().ok());
    with_cluster(3, |cluster| {
        let end = Instant::now() + seconds.map_or(LONG, Duration::from_secs);
        let (seed, mut number) = (dice::seed(), 0);
        let mut dice = Dice::new(seed);
        while Instant::now() < end {
            number += 1;
            let (trouble, calm) = (*dice.pick(&TROUBLES), dice.below(2) == 0);
            let calls = if calm { CALM_CALLS } else { BUSY_CALLS };
            let plan =
                Plan { seed, number, trouble, calm, sets: 2 + dice.below(2), set_calls: calls + dice.below(calls) };
            println!("{}", play(cluster, &plan).with_context(|| format!("GAVEL_SEED={seed}, {plan:?}"))?);
        }
        cluster.settle()
    })
}
