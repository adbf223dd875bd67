//! The bytes of one file: opened, read and written, in sequence and here and there.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::inputs::purpose;
use super::measure::Measure;
use super::random::Random;
use super::turn::{Turn, seconds};

const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;

/// open-read-close: a file whose bytes and attributes are cached.
pub(super) fn open_read_close(turn: &Turn) -> Result<()> {
    let path = turn.home().join("small");
    let mut bytes = vec![0; SMALL];
    Random::new(purpose::RANDOM, turn.round).fill(&mut bytes);
    std::fs::write(&path, &bytes)?;
    let mut once = || -> Result<f64> {
        let started = Instant::now();
        let read = File::open(&path)?.read(&mut bytes)?;
        let took = started.elapsed().as_secs_f64();
        ensure!(read == SMALL, "{read} of {SMALL} bytes were read");
        Ok(took)
    };
    for _ in 0..turn.sizes.opens / 10 {
        once()?;
    }
    turn.step("open-read-close", || {
        let took = (0..turn.sizes.opens).map(|_| once()).collect::<Result<Vec<_>>>()?;
        Ok(Measure::percentiles(["p50", "p99"], took).into())
    })
}

/// seq-write, seq-read-warm, seq-read-cold.
pub(super) fn sequence(turn: &Turn) -> Result<()> {
    let path = turn.home().join("large");
    let total = turn.sizes.sequence_bytes;
    turn.step("seq-write", || {
        let mut bytes = block(turn, purpose::SEQUENCE);
        let (took, ()) = seconds(|| write_all(&path, &mut bytes, total))?;
        Ok(vec![Measure::bandwidth("", total, took)])
    })?;
    if turn.wants("seq-read-warm") {
        read_all(&path, total)?;
    }
    turn.step_if_wanted("seq-read-warm", || {
        let (took, ()) = seconds(|| read_all(&path, total))?;
        Ok(vec![Measure::bandwidth("", total, took)])
    })?;
    turn.step_when_cold("seq-read-cold", || {
        let (took, ()) = seconds(|| read_all(&path, total))?;
        Ok(vec![Measure::bandwidth("", total, took)])
    })
}

/// rand-read-warm, rand-write.
pub(super) fn random(turn: &Turn) -> Result<()> {
    let path = turn.home().join("large");
    let (total, calls) = (turn.sizes.random_bytes, turn.sizes.random_calls);
    write_all(&path, &mut block(turn, purpose::RANDOM), total)?;
    read_all(&path, total)?;
    let file = File::options().read(true).write(true).open(&path)?;
    let mut places = Random::new(purpose::RANDOM, turn.round);
    let mut offset = move || places.below(total / SMALL as u64) * SMALL as u64;
    let mut bytes = vec![0; SMALL];
    turn.step_if_wanted("rand-read-warm", || {
        let (took, ()) = seconds(|| (0..calls).try_for_each(|_| Ok(file.read_exact_at(&mut bytes, offset())?)))?;
        Ok(vec![Measure::each("", calls, took)])
    })?;
    turn.step_if_wanted("rand-write", || {
        let (took, ()) = seconds(|| {
            for call in 0..calls {
                stamp(&mut bytes, call as u64);
                file.write_all_at(&bytes, offset())?;
            }
            Ok(file.sync_all()?)
        })?;
        Ok(vec![Measure::rate("with fsync at the end", calls, took)])
    })
}

/// A block that no compressor makes smaller.
fn block(turn: &Turn, purpose: u64) -> Vec<u8> {
    let mut bytes = vec![0; LARGE];
    Random::new(purpose, turn.round).fill(&mut bytes);
    bytes
}

/// Makes a block differ from all others, for a filesystem that stores what is equal once.
fn stamp(bytes: &mut [u8], number: u64) {
    for part in bytes.chunks_exact_mut(SMALL) {
        part[..8].copy_from_slice(&number.to_le_bytes());
    }
}

fn write_all(path: &Path, block: &mut [u8], total: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    for number in 0..total / block.len() as u64 {
        stamp(block, number);
        file.write_all_at(block, number * block.len() as u64)?;
    }
    file.sync_all()?;
    Ok(())
}

fn read_all(path: &Path, expected: u64) -> Result<()> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; LARGE];
    let mut total = 0;
    while let Some(read) = Some(file.read(&mut bytes)?).filter(|read| *read > 0) {
        total += read as u64;
    }
    ensure!(total == expected, "{total} of {expected} bytes were read");
    Ok(())
}
