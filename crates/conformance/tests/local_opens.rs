//! Mounts with `-o local_opens`: the kernel opens files unasked (Linux 6.18), and no mount shows the past for it
//! (docs/protocols/mount.md, "Opened unasked").
//!
//! `GAVEL_SEED=N` plays another scene than the usual one.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::dice;
use gavel_conformance::scene::{Churn, Scene, Times};
use gavel_conformance::wait;
use rustix::mount::{UnmountFlags, unmount};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the scene is played, and nodes write at the same time.
const PLAYED: Duration = Duration::from_secs(10);
/// A call returns by then: operations wait for 24 s at most, and nobody is dead here.
const CALL_MAX: Duration = Duration::from_secs(40);
/// Nodes that write one file at the same time wait for each other, but no call waits as long as for one that is dead.
const WRITE_MAX: Duration = Duration::from_secs(4);

/// A node is killed so often while nodes write one page.
const KILLS: usize = 3;
/// Nodes that have written so often have met.
const MET: u64 = 100;

fn mount_anew(cluster: &Cluster) -> Result<()> {
    cluster.ids().try_for_each(|node| cluster.mount_with(node, "local_opens"))
}

/// Live objects, as `df -i` counts them.
fn objects(mount: &Path) -> Result<u64> {
    let said = rustix::fs::statvfs(mount)?;
    Ok(said.f_files - said.f_ffree)
}

#[test]
fn every_mount_shows_each_change_at_once() -> Result<()> {
    with_cluster(3, |cluster| {
        mount_anew(cluster)?;
        let mut scene = Scene::new(&cluster.all_mounts(), "scene", dice::seed())?;
        let churn = Churn::start(&scene)?;
        let played = wait::within("the changes of ten seconds", CALL_MAX, move || {
            let end = Instant::now() + PLAYED;
            let played = scene.play(&[0, 1, 2], || Instant::now() < end);
            (scene, played)
        });
        let (mut scene, played) = played?;
        println!("{} changes, {} looks in the background", scene.step(), churn.looks());
        println!("changes {}\nlooks {}", scene.changes.summary(), scene.looks.summary());
        played
    })
}

#[test]
fn what_is_removed_elsewhere_stays_for_who_has_it_open_and_goes_then() -> Result<()> {
    with_cluster(3, |cluster| {
        mount_anew(cluster)?;
        let (here, there) = (cluster.mount(1), cluster.mount(2));
        let before = objects(&here)?;
        for name in ["known", "open"] {
            std::fs::write(here.join(name), name)?;
            ensure!(std::fs::read_to_string(there.join(name))? == name, "{name} is not shown");
        }
        let mut open = File::open(there.join("open"))?;
        for name in ["known", "open"] {
            std::fs::remove_file(here.join(name))?;
            ensure!(!there.join(name).exists(), "{name} is still there");
        }
        wait::until("what nobody has open is gone", PATIENCE, || objects(&here).is_ok_and(|now| now == before + 1))?;
        let mut bytes = String::new();
        open.read_to_string(&mut bytes).context("read what has no name")?;
        ensure!(bytes == "open", "{bytes}");
        drop(open);
        wait::until("what was open is gone", PATIENCE, || objects(&here).is_ok_and(|now| now == before))
    })
}

/// What a node writes again and again, at a place of its own.
fn record(name: &str, number: u64) -> String {
    format!("{name} {number:08}\n")
}

fn write_records(path: &Path, name: &str, offset: u64) -> Result<(u64, Times, Duration)> {
    let (mut times, mut longest, mut number) = (Times::default(), Duration::ZERO, 0);
    let file = OpenOptions::new().write(true).open(path)?;
    let end = Instant::now() + PLAYED;
    while Instant::now() < end {
        let began = Instant::now();
        number += 1;
        file.write_all_at(record(name, number).as_bytes(), offset)?;
        times.add(began.elapsed());
        longest = longest.max(began.elapsed());
    }
    Ok((number, times, longest))
}

/// Writes until it is told to stop, or a write fails; counts what was written.
fn write_until(stop: &AtomicBool, written: &AtomicU64, path: &Path, name: &str, offset: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    while !stop.load(Ordering::SeqCst) {
        let number = written.fetch_add(1, Ordering::SeqCst);
        file.write_all_at(record(name, number).as_bytes(), offset)?;
    }
    Ok(())
}

#[test]
fn a_node_that_is_killed_while_nodes_write_one_page_ends_and_starts_again() -> Result<()> {
    with_cluster(3, |cluster| {
        for _ in 0..KILLS {
            mount_anew(cluster)?;
            let (stop, written) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
            let paths: Vec<_> = cluster.all_mounts().into_iter().map(|mount| mount.join("records")).collect();
            File::create(&paths[0])?;
            std::thread::scope(|scope| {
                let writers: Vec<_> = std::iter::zip(&paths, &written)
                    .zip([("one", 0), ("two", 100), ("three", 200)])
                    .map(|((path, written), (name, at))| {
                        let stop = &stop;
                        scope.spawn(move || write_until(stop, written, path, name, at))
                    })
                    .collect();
                let met = || written.iter().all(|written| written.load(Ordering::SeqCst) > MET);
                let killed = wait::until("all nodes write", PATIENCE, met).and_then(|()| cluster.kill(1));
                stop.store(true, Ordering::SeqCst);
                if killed.is_err() {
                    // A daemon that hangs keeps its writer, which this test would wait for.
                    _ = unmount(cluster.mount(1), UnmountFlags::FORCE);
                }
                killed?;
                let mut ended = writers.into_iter().map(|writer| writer.join().expect("does not panic"));
                // The dead node's writer is told so, or had ended before.
                _ = ended.next();
                ended.collect::<Result<()>>()
            })?;
            cluster.start()?;
        }
        Ok(())
    })
}

#[test]
fn nodes_that_write_one_page_at_the_same_time_do_not_wait_for_each_other_for_ever() -> Result<()> {
    with_cluster(3, |cluster| {
        mount_anew(cluster)?;
        File::create(cluster.mount(1).join("records"))?;
        let paths = cluster.all_mounts().into_iter().map(|mount| mount.join("records"));
        let writers: Vec<_> = paths
            .zip(["one", "two", "three"])
            .zip([0, 100, 200])
            .map(|((path, name), at)| (name, at, std::thread::spawn(move || write_records(&path, name, at))))
            .collect();
        let mut expected = Vec::new();
        for (name, at, writer) in writers {
            let (last, mut times, longest) = writer.join().expect("does not panic").with_context(|| name)?;
            println!("{name}: {}", times.summary());
            ensure!(longest < WRITE_MAX, "{name} waited for {longest:?}");
            expected.push((at as usize, record(name, last)));
        }
        for mount in cluster.all_mounts() {
            let bytes = std::fs::read(mount.join("records"))?;
            for (at, record) in &expected {
                let found = bytes.get(*at..*at + record.len());
                ensure!(found == Some(record.as_bytes()), "{}: not {record:?} at {at}", mount.display());
            }
        }
        Ok(())
    })
}
