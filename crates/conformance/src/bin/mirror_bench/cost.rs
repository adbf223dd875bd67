//! What the source's foreground does with a mirror that follows, and with one that is paused, in turn.
//!
//! Both clusters are on this machine, so what the mirror's own daemons use is missing at the source: `--pin` gives each its CPU. What does not depend on
//! that is how much CPU the source's daemons use.

use crate::Asked;
use crate::changes::Changes;
use crate::figures::{Samples, secs};
use crate::pair::{Pair, Used, pin};
use anyhow::Result;
use gavel_conformance::turn::Turn;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the paced part of a round takes.
const PACED: Duration = Duration::from_secs(5);
/// How long daemons are looked at that have nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// What was measured with the mirror, or without.
#[derive(Default)]
struct Found {
    /// Changes in a second.
    unpaced: Samples,
    /// Milliseconds of each change, where they are paced.
    paced_p50: Samples,
    paced_p99: Samples,
    /// Microseconds of CPU for each change, of the source's daemons and of the mirror's: until the mirror has all of it.
    unpaced_cpu: (Samples, Samples),
    paced_cpu: (Samples, Samples),
    /// How long the mirror took to have all of it, in seconds.
    behind: Samples,
}

pub(crate) fn run(turn: Turn, asked: &Asked) -> Result<Value> {
    let mut pair = Pair::up(turn, asked.nodes)?;
    let mut changes = Changes::new(&pair.root().join("work"))?;
    pair.follow()?;
    let pids = pair.pids()?;
    if asked.pin {
        let last = std::thread::available_parallelism()?.get() - 1;
        pin(&pids.0, "0")?;
        pin(&[std::process::id()], "0")?;
        pin(&pids.1, &last.to_string())?;
    }
    let (mut without, mut with) = (Found::default(), Found::default());
    let mut idle = [0.0; 2];
    for follows in [false, true] {
        pair.set_following(follows)?;
        let used = Used::begin(&pids);
        std::thread::sleep(IDLE);
        let (source, _, elapsed) = used.so_far();
        idle[usize::from(follows)] = source / elapsed;
    }
    // The first round warms everything up, and does not count.
    for round in 0..=asked.rounds {
        let order = if round % 2 == 0 { [false, true] } else { [true, false] };
        for follows in order {
            let mut unused = Found::default();
            let found = match (round, follows) {
                (0, _) => &mut unused,
                (_, true) => &mut with,
                (_, false) => &mut without,
            };
            one(&mut pair, &mut changes, asked, (follows, &pids, idle[usize::from(follows)]), found)?;
        }
    }
    tell(&without, &with, idle);
    pair.down()?;
    Ok(json!({ "without": raw(&without), "with": raw(&with) }))
}

/// One turn of one of the two.
fn one(
    pair: &mut Pair,
    changes: &mut Changes,
    asked: &Asked,
    (follows, pids, idle): (bool, &(Vec<u32>, Vec<u32>), f64),
    found: &mut Found,
) -> Result<()> {
    pair.set_following(follows)?;
    // What it takes to come to an end counts, on both sides.
    let end = |pair: &mut Pair, used: &Used, count: u64| -> Result<(f64, f64, f64)> {
        let behind = if follows { secs(pair.caught_up()?) } else { 0.0 };
        let (source, mirror, elapsed) = used.so_far();
        let each = |cpu: f64| cpu * 1e6 / count as f64;
        Ok((each(source - idle * elapsed), each(mirror), behind))
    };
    let used = Used::begin(pids);
    let took = changes.unpaced(asked.changes)?;
    let (source, mirror, behind) = end(pair, &used, asked.changes)?;
    found.unpaced.add(asked.changes as f64 / secs(took));
    found.unpaced_cpu.0.add(source);
    found.unpaced_cpu.1.add(mirror);
    found.behind.add(behind);
    let (begun, used) = (Instant::now(), Used::begin(pids));
    let (count, each) = changes.paced(asked.rate, || begun.elapsed() < PACED)?;
    gavel_conformance::trees::settle(&pair.root())?;
    let (source, mirror, _) = end(pair, &used, count)?;
    found.paced_p50.add(each.percentile(50.0));
    found.paced_p99.add(each.percentile(99.0));
    found.paced_cpu.0.add(source);
    found.paced_cpu.1.add(mirror);
    Ok(())
}

fn tell(without: &Found, with: &Found, idle: [f64; 2]) {
    println!("| median (smallest to largest) | without | with one mirror | with / without, by rounds |");
    println!("|---|---|---|---|");
    let row = |what: &str, of: fn(&Found) -> &Samples| {
        let (without, with) = (of(without), of(with));
        let ratios = Samples(with.0.iter().zip(&without.0).map(|(with, without)| with / without).collect());
        // Of a mirror that is paused, its daemons do nothing.
        let ratios = if what.contains("mirror's") { "-".into() } else { ratios.spread() };
        println!("| {what} | {} | {} | {ratios} |", without.spread(), with.spread());
    };
    row("changes a second, not paced", |found| &found.unpaced);
    row("CPU of the source's daemons, us a change", |found| &found.unpaced_cpu.0);
    row("CPU of the mirror's daemons, us a change", |found| &found.unpaced_cpu.1);
    row("paced: a change takes, p50, ms", |found| &found.paced_p50);
    row("paced: p99, ms", |found| &found.paced_p99);
    row("paced: CPU of the source's daemons, us a change", |found| &found.paced_cpu.0);
    row("paced: CPU of the mirror's daemons, us a change", |found| &found.paced_cpu.1);
    println!("the mirror has caught up after {} s", with.behind.spread());
    println!(
        "at rest, the source's daemons use {:.3} (without) and {:.3} (with) seconds of CPU a second; taken off above",
        idle[0], idle[1]
    );
}

fn raw(found: &Found) -> Value {
    json!({
        "unpaced_per_s": found.unpaced.0,
        "unpaced_cpu_source_us": found.unpaced_cpu.0.0,
        "unpaced_cpu_mirror_us": found.unpaced_cpu.1.0,
        "paced_p50_ms": found.paced_p50.0,
        "paced_p99_ms": found.paced_p99.0,
        "paced_cpu_source_us": found.paced_cpu.0.0,
        "paced_cpu_mirror_us": found.paced_cpu.1.0,
        "behind_s": found.behind.0,
    })
}
