//! Runs worlds: `gavel-sim --seeds 10000 --scenario everything`. Prints what failed, shrunk, and what was never reached.

use anyhow::{Context, Result, bail};
use clap::Parser;
use gavel_sim::cover::{Cover, MARKS};
use gavel_sim::{SCENARIOS, Scenario, Script, Verdict, quiet_panics, run, scenario, shrink};
use std::time::{Duration, Instant};

/// Failures that are told in full; the rest is counted.
const FAILURES_TOLD_MAX: usize = 5;
/// Lines of the trace that are printed of a failure.
const TRACE_LINES: usize = 60;

/// Simulates whole clusters, one seed after the other.
#[derive(Parser, Debug)]
#[command(name = "gavel-sim", after_help = "Example: gavel-sim --scenario everything --seeds 10000")]
struct Arguments {
    /// How many seeds to run of each scenario
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this scenario (calm, lossy, partitions, crashes, pauses, clocks, disk-faults, catch-up, rebuilds, old-messages, locks, pruning, transactions, everything)
    #[arg(long)]
    scenario: Option<String>,
    /// Stop after this many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Run this seed of the scenario once, and print everything that happened
    #[arg(long)]
    trace: Option<u64>,
    /// Do not shrink failures
    #[arg(long)]
    no_shrink: bool,
}

#[derive(Default)]
struct Totals {
    worlds: u64,
    failed: u64,
    virtual_ns: u64,
    answered: u64,
    entries: u64,
    undecided: u64,
    rest_ns_max: (u64, u64),
    cover: Cover,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    quiet_panics();
    let scenarios: Vec<&Scenario> = match &arguments.scenario {
        Some(name) => vec![scenario(name).with_context(|| format!("there is no scenario {name}"))?],
        None => SCENARIOS.iter().collect(),
    };
    if let Some(seed) = arguments.trace {
        return trace(&scenarios, seed);
    }
    let end = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (mut cover, mut failed) = (Cover::default(), 0);
    for scenario in scenarios {
        let totals = run_scenario(scenario, &arguments, end);
        failed += totals.failed;
        cover.add(&totals.cover);
    }
    tell_cover(&cover);
    if failed > 0 {
        bail!("{failed} worlds failed");
    }
    Ok(())
}

fn trace(scenarios: &[&Scenario], seed: u64) -> Result<()> {
    let [scenario] = scenarios else { bail!("--trace needs --scenario") };
    let script = scenario.script(seed);
    println!("{script}");
    match run(&script, true) {
        Verdict::Sound(outcome) => println!("sound: {outcome:?}"),
        Verdict::Violated(violation) => {
            violation.trace.iter().for_each(|line| println!("{line}"));
            bail!("{}", violation.what);
        }
    }
    Ok(())
}

fn run_scenario(scenario: &Scenario, arguments: &Arguments, end: Option<Instant>) -> Totals {
    let mut totals = Totals::default();
    let begun = Instant::now();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let script = scenario.script(seed);
        totals.worlds += 1;
        match run(&script, false) {
            Verdict::Sound(outcome) => {
                totals.virtual_ns += outcome.lasted_ns;
                totals.answered += outcome.answered;
                totals.entries += outcome.entries;
                totals.undecided += outcome.undecided;
                totals.rest_ns_max = totals.rest_ns_max.max((outcome.rest_ns, seed));
                totals.cover.add(&outcome.cover);
            }
            Verdict::Violated(violation) => {
                totals.failed += 1;
                println!("FAILED {} seed {seed}: {}", scenario.name, violation.what);
                if totals.failed as usize <= FAILURES_TOLD_MAX && !arguments.no_shrink {
                    tell_failure(&script);
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{:<12} {} worlds, {} failed, {:.1} worlds/s, {:.0} virtual s each, {:.0} operations, {:.0} entries each; slowest rest {:.1} s (seed {}); {} undecided",
        scenario.name,
        totals.worlds,
        totals.failed,
        totals.worlds as f64 / seconds,
        per_world(totals.virtual_ns, &totals) / 1e9,
        per_world(totals.answered, &totals),
        per_world(totals.entries, &totals),
        totals.rest_ns_max.0 as f64 / 1e9,
        totals.rest_ns_max.1,
        totals.undecided,
    );
    totals
}

fn per_world(sum: u64, totals: &Totals) -> f64 {
    sum as f64 / (totals.worlds - totals.failed).max(1) as f64
}

fn tell_failure(script: &Script) {
    let small = shrink::shrink(script);
    println!("shrunk to:\n{small}");
    if let Verdict::Violated(violation) = run(&small, true) {
        println!("which fails with: {}", violation.what);
        let skipped = violation.trace.len().saturating_sub(TRACE_LINES);
        violation.trace.iter().skip(skipped).for_each(|line| println!("    {line}"));
    }
}

fn tell_cover(cover: &Cover) {
    println!("reached:");
    for (mark, meaning) in MARKS {
        println!("{:>10}  {mark:<26} {meaning}", cover.count(mark));
    }
    let missed = cover.missed();
    if !missed.is_empty() {
        println!("never reached: {}", missed.join(", "));
    }
}
