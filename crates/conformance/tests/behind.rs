//! Changes that a node answers before they are committed (docs/protocols/write-behind.md): what is durable when, on real mounts.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::{process, wait};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Files that are made before a node is killed, at most.
const FILES: u64 = 20_000;
/// What a test works in.
const DIR: &str = "behind";

fn file(mount: &Path, number: u64) -> PathBuf {
    mount.join(DIR).join(format!("file {number:06}"))
}

fn make(mount: &Path, number: u64) -> Result<()> {
    let path = file(mount, number);
    let mut file = File::create_new(&path).with_context(|| path.display().to_string())?;
    file.write_all(&number.to_le_bytes())?;
    Ok(())
}

/// The directory is there, and its node has an exclusive lease over it.
fn prepare(cluster: &Cluster, node: u64) -> Result<PathBuf> {
    let mount = cluster.mount(node);
    std::fs::create_dir(mount.join(DIR))?;
    let mut number = 0;
    wait::until("the node answers changes by itself", PATIENCE, || {
        number += 1;
        let before = cluster.leases(node).map_or(0, |leases| leases.answered_behind);
        let made = std::fs::write(mount.join(DIR).join(format!("warm {number}")), "").is_ok();
        made && cluster.leases(node).is_ok_and(|leases| leases.answered_behind > before)
    })?;
    File::open(mount.join(DIR))?.sync_all()?;
    Ok(mount)
}

/// The numbers of the files that are there, in order; each must hold what was written to it, or (the last one) nothing.
fn found(mount: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(mount.join(DIR))? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        let Some(number) = name.strip_prefix("file ") else { continue };
        numbers.push(number.parse()?);
    }
    numbers.sort_unstable();
    for (place, number) in numbers.iter().enumerate() {
        let bytes = std::fs::read(file(mount, *number))?;
        let is_last = place + 1 == numbers.len();
        ensure!(bytes == number.to_le_bytes() || (is_last && bytes.is_empty()), "file {number} holds {bytes:?}");
    }
    Ok(numbers)
}

/// Makes files until the node is killed after `time`; says how many were answered, and how many of these were synced.
fn make_until_killed(cluster: &Cluster, node: u64, sync_every: u64, time: Duration) -> Result<(u64, u64)> {
    let mount = cluster.mount(node);
    let pid = cluster.pid(node)?;
    let (answered, synced) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FILES {
                if make(&mount, number).is_err() {
                    return;
                }
                answered.store(number + 1, Ordering::SeqCst);
                let syncs = number % sync_every == sync_every - 1;
                if syncs && File::open(file(&mount, number)).and_then(|file| file.sync_all()).is_ok() {
                    synced.store(number + 1, Ordering::SeqCst);
                }
            }
        });
        let end = Instant::now() + time;
        while Instant::now() < end {
            std::thread::yield_now();
        }
        process::kill(pid)
    })?;
    Ok((answered.into_inner(), synced.into_inner()))
}

/// All that is there, through every node that answers, is the first files, and the same everywhere.
fn judge(cluster: &Cluster, answered: u64, durable: u64) -> Result<()> {
    cluster.start()?;
    cluster.settle()?;
    for mount in cluster.all_mounts() {
        let there = found(&mount)?;
        let count = there.len() as u64;
        println!("{}: {answered} answered, {durable} must be there, {count} are", mount.display());
        ensure!(there.iter().copied().eq(0..count), "{}: not the first ones: {there:?}", mount.display());
        // One more may have been made, and not answered.
        ensure!((durable..=answered + 1).contains(&count), "{}: {count} are there", mount.display());
    }
    Ok(())
}

#[test]
fn a_killed_node_loses_its_last_unsynced_changes_and_nothing_else() -> Result<()> {
    with_cluster(3, |cluster| {
        for node in [cluster.leader()?, cluster.follower()?] {
            prepare(cluster, node)?;
            let (answered, synced) = make_until_killed(cluster, node, 50, Duration::from_millis(700))?;
            ensure!(synced > 0, "too few were made: {answered}");
            judge(cluster, answered, synced)?;
            std::fs::rename(cluster.mount(node).join(DIR), cluster.mount(node).join(format!("{DIR} {node}")))?;
        }
        Ok(())
    })
}

#[test]
fn a_sync_mount_loses_nothing_that_was_answered() -> Result<()> {
    with_cluster(3, |cluster| {
        let node = cluster.follower()?;
        prepare(cluster, node)?;
        cluster.mount_with(node, "sync")?;
        let before = cluster.leases(node)?.answered_behind;
        let (answered, _) = make_until_killed(cluster, node, FILES, Duration::from_millis(700))?;
        ensure!(answered > 0, "nothing was made");
        ensure!(cluster.leases(node).map_or(before, |leases| leases.answered_behind) == before, "answered behind");
        judge(cluster, answered, answered)
    })
}

#[test]
fn what_another_node_has_seen_stays() -> Result<()> {
    with_cluster(3, |cluster| {
        let (node, other) = (cluster.follower()?, cluster.leader()?);
        prepare(cluster, node)?;
        let (mount, elsewhere) = (cluster.mount(node), cluster.mount(other));
        let pid = cluster.pid(node)?;
        let mut seen = 0;
        for number in 0..300 {
            make(&mount, number)?;
            // Now and then, so that much is pending when somebody looks.
            if number % 60 == 59 {
                let bytes = std::fs::read(file(&elsewhere, number))?;
                ensure!(bytes == number.to_le_bytes(), "file {number} shows {bytes:?}");
                seen = number + 1;
            }
        }
        process::kill(pid)?;
        judge(cluster, 300, seen)
    })
}

#[test]
fn a_lone_writer_does_not_wait_and_fsync_does() -> Result<()> {
    with_cluster(3, |cluster| {
        let node = cluster.follower()?;
        let mount = prepare(cluster, node)?;
        let before = cluster.leases(node)?;
        for number in 0..500 {
            make(&mount, number)?;
        }
        File::open(file(&mount, 0))?.sync_all()?;
        let after = cluster.leases(node)?;
        println!("{before:?}, {after:?}");
        // Two changes for each file: it is made, and written.
        let behind = after.answered_behind - before.answered_behind;
        ensure!(behind >= 950, "only {behind} of 1,000 changes were answered at once");
        ensure!(after.pending == 0, "{} are not committed behind an fsync", after.pending);
        ensure!(after.lost == 0, "{} are lost", after.lost);
        Ok(())
    })
}

/// Much more waits than fits into one message between nodes (16 MiB), or into what waits for a connection (32 MiB), while those who would commit it hold
/// their breath: it has to be sent again.
#[test]
fn what_gathers_while_nobody_commits_is_committed_when_somebody_does() -> Result<()> {
    /// Each is kept in a record.
    const WRITE: usize = 16 << 10;
    const WRITES: usize = 3_500;
    const ENOUGH: usize = 3_000;
    with_cluster(3, |cluster| {
        let (node, leader) = (cluster.follower()?, cluster.leader()?);
        let path = prepare(cluster, node)?.join("large");
        let mut large = File::create_new(&path)?;
        large.sync_all()?;
        let others: Vec<u64> = cluster.ids().filter(|id| *id != node).collect();
        let stopped = cluster.pause_at_once(&others)?;
        let bytes = |number: usize| number.to_le_bytes().repeat(WRITE / 8);
        let written = AtomicUsize::new(0);
        std::thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| {
                (0..WRITES).try_for_each(|number| {
                    written.store(number, Ordering::SeqCst);
                    large.write_all(&bytes(number))
                })
            });
            // It may answer for 4.5 s without hearing of them; what it has by then has to do on a slow machine.
            let gathered =
                wait::until("much is pending", Duration::from_secs(4), || written.load(Ordering::SeqCst) >= ENOUGH);
            println!("{} writes were pending; enough: {}", written.load(Ordering::SeqCst), gathered.is_ok());
            stopped.iter().try_for_each(|pid| resume(*pid))?;
            Ok(writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??)
        })?;
        large.sync_all()?;
        ensure!(cluster.leases(node)?.pending == 0);
        let shown = std::fs::read(cluster.mount(leader).join(path.strip_prefix(cluster.mount(node))?))?;
        ensure!(shown == (0..WRITES).flat_map(bytes).collect::<Vec<u8>>(), "{} bytes are shown", shown.len());
        Ok(())
    })
}
