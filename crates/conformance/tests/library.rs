//! The library for programs, `gavel-api`, on real mounts: what its documents promise.

use anyhow::{Context, Result, ensure};
use gavel_api::{Error, Volume};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::txn::no_trace;
use gavel_conformance::{mounts, wait};
use std::io;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// So many threads of two nodes count in one file, each so often.
const COUNTERS: usize = 4;
const COUNTS: usize = 10;

fn content(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[test]
fn a_program_commits_many_changes_at_once_or_none() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        std::fs::write(here.join("old"), "1")?;
        std::os::unix::fs::symlink("/etc", here.join("out"))?;
        let volume = Volume::of(&here)?;
        ensure!(volume == Volume::of(here.join("old"))?, "any path in it leads to it");
        let transaction = volume.begin("a library's")?;
        let dir = transaction.dir();
        dir.create_dir_all("a/b")?;
        dir.write("a/b/c", "2")?;
        dir.rename("old", dir, "a/new")?;
        ensure!(content(&transaction.path("/a/b/c"))? == "2", "an absolute path is taken within the transaction");
        for outside in ["../x", "/etc/hostname", "out/hostname"] {
            let refused = dir.read(outside).map_err(|error| error.kind());
            ensure!(refused == Err(io::ErrorKind::PermissionDenied), "{outside}: {refused:?}");
        }
        ensure!(!other.join("a").exists() && other.join("old").exists(), "nothing is seen before");
        match Volume::of(transaction.path("a")) {
            Err(Error::InTransaction { id, .. }) => ensure!(id == transaction.id(), "{id}"),
            found => anyhow::bail!("a transaction within another: {found:?}"),
        }
        let start = transaction.start();
        let tid = transaction.commit()?.context("a Tid")?;
        ensure!(tid > start, "{tid} {start}");
        ensure!(content(&other.join("a/b/c"))? == "2" && content(&other.join("a/new"))? == "1", "all is seen at once");
        ensure!(!other.join(format!("@@{start}/a")).exists(), "and was not there as it began");
        ensure!(volume.begin("")?.commit()?.is_none(), "nothing was changed");

        // What is given up, dropped, or whose work fails, leaves nothing.
        let given_up = volume.begin("")?;
        given_up.dir().write("given-up", "")?;
        given_up.abort()?;
        let dropped = volume.begin("")?;
        dropped.dir().write("dropped", "")?;
        drop(dropped);
        let failed = volume.transact("", 3, |transaction| {
            transaction.dir().write("failed", "")?;
            Err::<(), _>(io::Error::other("no more"))
        });
        ensure!(matches!(&failed, Err(Error::Work(error)) if error.to_string() == "no more"), "{failed:?}");
        no_trace(cluster, 1)?;
        for name in ["given-up", "dropped", "failed"] {
            ensure!(!here.join(name).exists() && !other.join(name).exists(), "{name}");
        }
        Ok(())
    })
}

#[test]
fn what_collides_is_told_and_can_be_done_again() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        std::fs::write(here.join("count"), "0")?;
        let transaction = Volume::of(&here)?.begin("")?;
        let seen = transaction.dir().read_to_string("count")?;
        std::fs::write(other.join("count"), "7")?;
        std::fs::File::open(&other)?.sync_all()?;
        transaction.dir().write("copy", seen)?;
        match transaction.commit() {
            Err(Error::Collided(conflict)) => {
                let told = conflict.to_string();
                ensure!(conflict.collisions.len() == 1 && conflict.more == 0, "{conflict:?}");
                ensure!(told.contains("count (read here)") && told.contains("on node 2"), "{told}");
            }
            ended => anyhow::bail!("it depends on what was changed: {ended:?}"),
        }
        ensure!(!here.join("copy").exists(), "nothing was written");

        // Threads on two nodes: no count is lost.
        std::fs::write(here.join("count"), "0")?;
        std::thread::scope(|scope| -> Result<()> {
            let counters = [&here, &other].into_iter().cycle().take(COUNTERS).map(|mount| {
                scope.spawn(move || -> Result<()> {
                    let volume = Volume::of(mount)?;
                    for _ in 0..COUNTS {
                        volume.transact("count", 1000, |transaction| -> Result<()> {
                            let dir = transaction.dir();
                            let count: u64 = dir.read_to_string("count")?.parse()?;
                            Ok(dir.write("count", (count + 1).to_string())?)
                        })?;
                    }
                    Ok(())
                })
            });
            let counters: Vec<_> = counters.collect();
            counters.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a counter panicked"))?)
        })?;
        let counted = content(&other.join("count"))?;
        ensure!(counted == (COUNTERS * COUNTS).to_string(), "{counted}");
        no_trace(cluster, 1)?;
        no_trace(cluster, 2)
    })
}

#[test]
fn without_a_volume_or_a_daemon_it_says_so() -> Result<()> {
    with_cluster(3, |cluster| {
        let nowhere = Volume::of(cluster.scratch());
        ensure!(matches!(&nowhere, Err(Error::NotInVolume(path)) if path == cluster.scratch()), "{nowhere:?}");
        let missing = Volume::of(cluster.mount(1).join("missing"));
        ensure!(matches!(&missing, Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound), "{missing:?}");
        let volume = Volume::of(cluster.mount(1))?;
        let long = volume.begin(&"x".repeat(1000)).map(drop);
        ensure!(matches!(&long, Err(Error::Refused(cause)) if cause.contains("960")), "{long:?}");
        let transaction = volume.begin("its daemon is killed")?;
        transaction.dir().write("file", "")?;
        cluster.kill(1)?;
        let ended = transaction.commit();
        ensure!(matches!(&ended, Err(Error::Io(_) | Error::Unknown { .. })), "{ended:?}");
        let gone = volume.begin("").map(drop);
        ensure!(matches!(&gone, Err(Error::NoDaemon { .. })), "{gone:?}");
        cluster.start()?;
        ensure!(!cluster.mount(2).join("file").exists(), "nothing was written");
        let places = cluster.home(1).join("data/transactions");
        wait::until("its dead mount is taken off", PATIENCE, || mounts::under(&places).is_empty())?;
        no_trace(cluster, 1)
    })
}
