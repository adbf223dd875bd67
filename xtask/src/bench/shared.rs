//! One tree, two mounts: how soon a change is seen, and what taking turns costs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;

use super::measure::Measure;
use super::turn::{Turn, seconds};

/// A change that is not seen after so long is not going to be.
const SEEN_LIMIT: Duration = Duration::from_secs(30);

/// visible: a file grows on one mount, and another mount looks at its size until it has.
pub(super) fn visible(turn: &Turn) -> Result<()> {
    let [here, there, ..] = &turn.homes[..] else { bail!("needs two mounts") };
    let (here, there) = (here.join("grows"), there.join("grows"));
    let mut file = File::create_new(&here)?;
    turn.step("visible", || {
        let mut delays = Vec::new();
        for change in 1..=turn.sizes.changes as u64 {
            delays.push(one_change(&mut file, &there, change)?);
        }
        Ok(Measure::percentiles(["p50", "p99"], delays).into())
    })
}

/// Seconds from the return of the write on one mount until a stat on the other shows it; 0 if it was seen before.
fn one_change(file: &mut File, there: &Path, size: u64) -> Result<f64> {
    std::thread::scope(|scope| {
        let (ready, polls) = channel();
        let poller = scope.spawn(move || -> Result<Instant> {
            let give_up = Instant::now() + SEEN_LIMIT;
            fs::symlink_metadata(there)?;
            // The other side is gone only if its write failed; then nobody asks us.
            let _ = ready.send(());
            while Instant::now() < give_up {
                if fs::symlink_metadata(there)?.len() >= size {
                    return Ok(Instant::now());
                }
            }
            bail!("a change was not seen on the other mount within {} s", SEEN_LIMIT.as_secs())
        });
        let _ = polls.recv();
        file.write_all(b"x")?;
        let returned = Instant::now();
        let seen = poller.join().unwrap_or_else(|_| bail!("the poller panicked"))?;
        Ok(seen.saturating_duration_since(returned).as_secs_f64())
    })
}

/// ping-pong: appends to one file, creates in one directory, and a lock that goes back and forth.
pub(super) fn ping_pong(turn: &Turn) -> Result<()> {
    let turns = turn.sizes.changes;
    turn.step("ping-pong", || {
        let (took, ()) = seconds(|| alternate_appends(turn, turns))?;
        Ok(vec![Measure::each("append", turns, took)])
    })?;
    turn.step("ping-pong", || {
        let (took, ()) = seconds(|| alternate_creates(turn, turns))?;
        Ok(vec![Measure::each("create", turns, took)])
    })?;
    turn.step("ping-pong", || Ok(Measure::percentiles(["lock p50", "lock p99"], hand_over(turn, turns)?).into()))
}

/// Two threads, one on each mount, do a thing in turn.
fn in_turn(turn: &Turn, turns: usize, thing: impl Fn(&Path, usize) -> Result<()> + Sync) -> Result<()> {
    let [here, there, ..] = &turn.homes[..] else { bail!("needs two mounts") };
    let play = |home: &PathBuf, first: usize, mine: Receiver<()>, other: Sender<()>| -> Result<()> {
        for number in (first..turns).step_by(2) {
            mine.recv().context("the other mount failed")?;
            thing(home, number)?;
            // Whoever is done first has nobody to tell.
            let _ = other.send(());
        }
        Ok(())
    };
    let ((to_here, at_here), (to_there, at_there)) = (channel(), channel());
    to_here.send(()).context("nobody is there yet")?;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| play(there, 1, at_there, to_here));
        let mine = play(here, 0, at_here, to_there);
        let other = other.join().unwrap_or_else(|_| bail!("a thread panicked"));
        // Of two failures, the one that is not "the other failed" says more.
        match (mine, other) {
            (Err(mine), Err(other)) if mine.to_string() == "the other mount failed" => Err(other),
            (mine, other) => mine.and(other),
        }
    })
}

fn alternate_appends(turn: &Turn, turns: usize) -> Result<()> {
    File::create_new(turn.home().join("appended"))?;
    in_turn(turn, turns, |home, number| {
        let mut file = File::options().append(true).open(home.join("appended"))?;
        Ok(file.write_all(&(number as u32).to_le_bytes())?)
    })?;
    let appended = fs::read(turn.home().join("appended"))?;
    let expected: Vec<u8> = (0..turns as u32).flat_map(u32::to_le_bytes).collect();
    ensure!(appended == expected, "appends were lost or mixed up");
    Ok(())
}

fn alternate_creates(turn: &Turn, turns: usize) -> Result<()> {
    fs::create_dir(turn.home().join("created"))?;
    in_turn(turn, turns, |home, number| {
        File::create_new(home.join("created").join(number.to_string()))?;
        Ok(())
    })?;
    let created = fs::read_dir(turn.home().join("created"))?.count();
    ensure!(created == turns, "{created} of {turns} files are there");
    Ok(())
}

/// Seconds from the return of the unlock on one mount until the other, which waits for it, has the lock.
fn hand_over(turn: &Turn, turns: usize) -> Result<Vec<f64>> {
    let [here, there, ..] = &turn.homes[..] else { bail!("needs two mounts") };
    File::create_new(here.join("locked"))?;
    let open = |home: &Path| File::options().read(true).write(true).open(home.join("locked"));
    let files = [open(here)?, open(there)?];
    let lock = |file: &File| rustix::fs::fcntl_lock(file, FlockOperation::LockExclusive);
    let mut delays = Vec::new();
    lock(&files[0])?;
    for number in 0..turns {
        let (holder, waiter) = (&files[number % 2], &files[(number + 1) % 2]);
        let delay = std::thread::scope(|scope| -> Result<f64> {
            let (ready, asks) = channel();
            let waiting = scope.spawn(move || -> Result<Instant> {
                let _ = ready.send(());
                lock(waiter)?;
                Ok(Instant::now())
            });
            let _ = asks.recv();
            let refused = rustix::fs::fcntl_lock(waiter, FlockOperation::NonBlockingLockExclusive);
            rustix::fs::fcntl_lock(holder, FlockOperation::Unlock)?;
            let returned = Instant::now();
            let got = waiting.join().unwrap_or_else(|_| bail!("the waiter panicked"))?;
            ensure!(refused.is_err(), "two mounts hold the same lock");
            Ok(got.saturating_duration_since(returned).as_secs_f64())
        })?;
        delays.push(delay);
    }
    rustix::fs::fcntl_lock(&files[turns % 2], FlockOperation::Unlock)?;
    Ok(delays)
}
