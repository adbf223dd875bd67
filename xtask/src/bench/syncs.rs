//! Appends that are durable before the next one: what databases, mail and journals do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use super::inputs::purpose;
use super::measure::Measure;
use super::random::Random;
use super::turn::{Turn, seconds};

const APPEND: usize = 4 << 10;
const WRITERS: usize = 8;

/// fsync.
pub(super) fn run(turn: &Turn) -> Result<()> {
    let (alone, each) = (turn.sizes.syncs_alone, turn.sizes.syncs_each);
    turn.step("fsync", || {
        let path = turn.home().join("alone");
        let (took, each) = seconds(|| append(&path, turn.round, alone))?;
        let rate = Measure::rate("1 writer", alone, took);
        Ok([rate].into_iter().chain(Measure::percentiles(["1 writer p50", "1 writer p99"], each)).collect())
    })?;
    turn.step("fsync", || {
        let (took, all) = seconds(|| append_together(turn, each))?;
        let rate = Measure::rate("8 writers", each * WRITERS, took);
        Ok([rate].into_iter().chain(Measure::percentiles(["8 writers p50", "8 writers p99"], all)).collect())
    })
}

/// Answers with the seconds of each append and fsync.
fn append(path: &Path, stream: u64, times: usize) -> Result<Vec<f64>> {
    let mut random = Random::new(purpose::SYNC, stream);
    let mut bytes = vec![0; APPEND];
    let file = File::create_new(path)?;
    let mut each = Vec::with_capacity(times);
    for time in 0..times {
        random.fill(&mut bytes);
        let started = Instant::now();
        file.write_all_at(&bytes, (time * APPEND) as u64)?;
        file.sync_all()?;
        each.push(started.elapsed().as_secs_f64());
    }
    Ok(each)
}

fn append_together(turn: &Turn, times: usize) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let start = |writer: usize| {
            let path = turn.home().join(format!("writer-{writer}"));
            let stream = turn.round * 1_000 + writer as u64;
            scope.spawn(move || append(&path, stream, times))
        };
        let threads: Vec<_> = (0..WRITERS).map(start).collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(each) => all.extend(each?),
                Err(_) => bail!("a writer panicked"),
            }
        }
        Ok(all)
    })
}
