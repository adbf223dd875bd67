//! How old what the mirror shows is, while the source is changed at a steady pace.
//!
//! One thread writes the time into a file of the source every few milliseconds; another one reads that file through the mirror's mount. The difference to the
//! time of the read is the age: of the write, until it is shown. The writes count among the changes.

use crate::Asked;
use crate::changes::Changes;
use crate::figures::{Samples, secs};
use crate::pair::{Pair, Used};
use anyhow::{Context, Result, ensure};
use gavel_conformance::turn::Turn;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

const WARM_UP: Duration = Duration::from_secs(5);
/// So often the time is written: 200 changes a second.
const WRITE_EVERY: Duration = Duration::from_millis(5);
const WRITES_PER_SECOND: u64 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Threads that share the other changes.
const THREADS: u64 = 2;

pub(crate) fn run(turn: Turn, asked: &Asked) -> Result<Value> {
    ensure!(asked.rate > WRITES_PER_SECOND, "--rate must be more than {WRITES_PER_SECOND}");
    let mut pair = Pair::up(turn, asked.nodes)?;
    let work = (0..THREADS).map(|number| Changes::new(&pair.root().join(format!("work {number}"))));
    let work = work.collect::<Result<Vec<_>>>()?;
    std::fs::write(pair.root().join("clock"), format!("{:020}", now_ns()?))?;
    pair.follow()?;
    let pids = pair.pids()?;
    let stop = AtomicBool::new(false);
    let rate = (asked.rate - WRITES_PER_SECOND) / THREADS;
    let (ages, used, took, count, elapsed) = std::thread::scope(|scope| -> Result<_> {
        let more = || !stop.load(Ordering::Relaxed);
        let clock = pair.root().join("clock");
        let writer = scope.spawn(move || write_time(&clock, more));
        let workers: Vec<_> = work.into_iter().map(|mut work| scope.spawn(move || work.paced(rate, more))).collect();
        std::thread::sleep(WARM_UP);
        let (begun, used) = (Instant::now(), Used::begin(&pids));
        let ages = ages(&pair.mirror_root().join("clock"), Duration::from_secs(asked.seconds));
        let (used, elapsed) = (used.so_far(), begun.elapsed());
        stop.store(true, Ordering::Relaxed);
        let mut count = writer.join().map_err(|_| anyhow::anyhow!("the clock has panicked"))??;
        let mut took = Samples::default();
        for worker in workers {
            let (done, each) = worker.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
            count += done;
            took.0.extend(each.0);
        }
        Ok((ages?, used, took, count, elapsed))
    })?;
    let reached = count as f64 / (secs(elapsed) + secs(WARM_UP));
    let status = pair.status()?;
    let behind = pair.caught_up()?;
    println!("{reached:.0} changes a second ({} were wanted), for {:.0} s", asked.rate, secs(elapsed));
    let of = |percent: f64| ages.percentile(percent) / 1e3;
    println!(
        "age of what the mirror shows: p50 {:.3} s, p90 {:.3} s, p99 {:.3} s, longest {:.3} s; {} looks",
        of(50.0),
        of(90.0),
        of(99.0),
        of(100.0),
        ages.0.len()
    );
    println!("a change took: p50 {:.3} ms, p99 {:.3} ms", took.percentile(50.0), took.percentile(99.0));
    println!("CPU: the source's daemons {:.2}, the mirror's {:.2} seconds a second", used.0 / used.2, used.1 / used.2);
    println!("at the end: {}; caught up {behind:?} after the last change", status["follow"]["lag"]);
    pair.down()?;
    Ok(json!({ "rate": reached, "ages_ms": ages.0, "cpu_source": used.0, "cpu_mirror": used.1, "seconds": used.2 }))
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?)
}

/// Writes the time again and again; how often.
fn write_time(path: &Path, more: impl Fn() -> bool) -> Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let (begun, mut count) = (Instant::now(), 0u64);
    while more() {
        let due = WRITE_EVERY.mul_f64(count as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        file.write_all_at(format!("{:020}", now_ns()?).as_bytes(), 0)?;
        count += 1;
    }
    Ok(count)
}

/// How old what the mirror shows is, again and again, in milliseconds.
fn ages(path: &Path, time: Duration) -> Result<Samples> {
    let (begun, mut ages) = (Instant::now(), Samples::default());
    while begun.elapsed() < time {
        let text = std::fs::read_to_string(path)?;
        let shown: u64 = text.trim_start_matches('0').parse().with_context(|| text.clone())?;
        ages.add(now_ns()?.saturating_sub(shown) as f64 / 1e6);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ages)
}
