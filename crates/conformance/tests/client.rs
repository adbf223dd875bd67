//! A mount without a replica shows and makes the same tree as every node (docs/protocols/client.md), and outlives the node that it asks.

use anyhow::{Context, Result, ensure};
use gavel_conformance::client::Client;
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::dice;
use gavel_conformance::scene::{Churn, Scene};
use gavel_conformance::{process, wait};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the scene is played.
const ACT: Duration = Duration::from_secs(10);
/// A call on a mount has returned by then.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A file that has blobs, and not all of them in one read.
const LARGE: usize = 3 << 20;

/// Runs a test with a cluster and a client; says what the client has written if it fails.
fn with_client(body: impl FnOnce(&Cluster, &mut Client) -> Result<()>) -> Result<()> {
    with_cluster(3, |cluster| {
        let mut client = Client::up(cluster, "desk")?;
        let done = body(cluster, &mut client).and_then(|()| client.no_panic());
        done.and_then(|()| client.stop()).with_context(|| client.words())
    })
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 4096 * 31 + at % 251) as u8 ^ seed).collect()
}

#[test]
fn a_client_and_the_nodes_show_each_others_changes_at_once() -> Result<()> {
    with_client(|cluster, client| {
        let mut mounts = cluster.all_mounts();
        mounts.push(client.mount());
        let mut scene = Scene::new(&mounts, "scene", dice::seed())?;
        let churn = Churn::start(&scene)?;
        let end = Instant::now() + ACT;
        let played = wait::within("the changes of ten seconds", CALL_MAX, move || {
            let played = scene.play(&[0, 1, 2, 3], || Instant::now() < end);
            (scene, played)
        });
        let (mut scene, played) = played?;
        println!("{} changes, {} looks in the background", scene.step(), churn.looks());
        println!("changes {}\nlooks of one mount at a change {}", scene.changes.summary(), scene.looks.summary());
        drop(churn);
        let status = client.status()?;
        println!("{status}");
        played?;
        let number = |name: &str| status[name].as_u64().unwrap_or(0);
        ensure!(number("reads_leased") > 0, "nothing was answered under a lease: this has shown little");
        ensure!(number("commits") > 0, "the client has changed nothing: this has shown little");
        cluster.settle()
    })
}

#[test]
fn what_a_client_has_seen_its_kernel_answers_until_it_is_changed() -> Result<()> {
    with_client(|cluster, client| {
        let (here, there) = (client.mount().join("d"), cluster.mount(2).join("d"));
        std::fs::create_dir(&there)?;
        (0..20).try_for_each(|file| std::fs::write(there.join(format!("f{file}")), format!("old {file}")))?;
        let look = || (0..20).try_for_each(|file| std::fs::metadata(here.join(format!("f{file}"))).map(drop));
        let asked = || Ok::<u64, anyhow::Error>(client.number("/reads_leased")? + client.number("/reads_confirmed")?);
        let mut cost = 0;
        wait::until("a look at all files asks nobody", PATIENCE, || {
            let counted = || -> Result<u64> {
                let before = asked()?;
                look()?;
                Ok(asked()? - before)
            };
            cost = counted().unwrap_or(u64::MAX);
            cost == 0
        })
        .with_context(|| format!("the last one asked {cost} times"))?;
        for file in 0..20 {
            std::fs::write(there.join(format!("f{file}")), format!("this is new {file}"))?;
            let seen = std::fs::read_to_string(here.join(format!("f{file}")))?;
            ensure!(seen == format!("this is new {file}"), "file {file} is {seen:?}");
        }
        Ok(())
    })
}

/// Writes files one after the other until told to stop; gives how many there are, and the longest that one has taken.
fn write_on(dir: &Path, stop: &AtomicBool) -> Result<(u64, Duration)> {
    let (mut written, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let len = if written % 8 == 7 { 100_000 } else { 300 };
        std::fs::write(dir.join(format!("f{written}")), bytes(written as u8, len))
            .with_context(|| format!("file {written}"))?;
        longest = longest.max(began.elapsed());
        written += 1;
    }
    Ok((written, longest))
}

fn see_all(dir: &Path, written: u64) -> Result<()> {
    for file in 0..written {
        let len = if file % 8 == 7 { 100_000 } else { 300 };
        let path = dir.join(format!("f{file}"));
        let found = std::fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(found == bytes(file as u8, len), "{}: other bytes, {} of them", path.display(), found.len());
    }
    ensure!(std::fs::read_dir(dir)?.count() as u64 == written, "{}: more names than files", dir.display());
    Ok(())
}

/// A program writes through a client while something happens to the node that it asks.
fn write_through(
    cluster: &Cluster,
    client: &Client,
    happens: impl FnOnce(u64) -> Result<()>,
) -> Result<(u64, Duration)> {
    let dir = client.mount().join("files");
    std::fs::create_dir(&dir)?;
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&dir, &stop));
        let done = (|| {
            std::thread::sleep(Duration::from_secs(1));
            happens(client.number("/peer")?)?;
            std::thread::sleep(Duration::from_secs(4));
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer has panicked"))?;
        done.and(written)
    })?;
    println!("{} files; the longest took {:?}", written.0, written.1);
    ensure!(written.0 > 20, "only {} files were written: this has shown little", written.0);
    cluster.start()?;
    cluster.settle()?;
    for mount in cluster.all_mounts().iter().chain([&client.mount()]) {
        see_all(&mount.join("files"), written.0)?;
    }
    Ok(written)
}

#[test]
fn the_peer_that_a_client_asks_is_killed_while_a_program_writes() -> Result<()> {
    with_client(|cluster, client| {
        let leader = cluster.leader()?;
        let (_, longest) = write_through(cluster, client, |peer| {
            println!("node {peer} is asked, node {leader} leads");
            cluster.kill(peer)
        })?;
        ensure!(client.number("/switches")? > 0, "no other node was taken: this has shown nothing");
        // An election, if it led.
        ensure!(longest < Duration::from_secs(8), "a write took {longest:?}");
        Ok(())
    })
}

#[test]
fn the_peer_that_a_client_asks_stands_still_while_a_program_writes() -> Result<()> {
    with_client(|cluster, client| {
        write_through(cluster, client, |peer| {
            let pid = cluster.pause(peer)?;
            std::thread::sleep(Duration::from_secs(4));
            resume(pid)
        })?;
        Ok(())
    })
}

#[test]
fn every_node_is_killed_once_and_the_session_of_a_client_goes_on() -> Result<()> {
    with_client(|cluster, client| {
        let session = client.status()?["session"].clone();
        let file = client.mount().join("locked");
        std::fs::write(&file, "1")?;
        let locked = File::open(&file)?;
        locked.lock()?;
        for node in cluster.ids() {
            cluster.kill(node)?;
            std::fs::write(&file, format!("without {node}")).with_context(|| format!("without node {node}"))?;
            cluster.start()?;
            let seen = std::fs::read_to_string(cluster.mount(node).join("locked"))?;
            ensure!(seen == format!("without {node}"), "node {node} shows {seen:?}");
        }
        ensure!(client.status()?["session"] == session, "the client has another session now");
        let other = File::open(cluster.mount(1).join("locked"))?;
        ensure!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)), "the lock is gone");
        Ok(())
    })
}

#[test]
fn what_a_client_has_read_is_on_its_disk_after_a_restart() -> Result<()> {
    with_client(|cluster, client| {
        let large = bytes(7, LARGE);
        std::fs::write(cluster.mount(1).join("large"), &large)?;
        ensure!(std::fs::read(client.mount().join("large"))? == large, "other bytes");
        let fetched = client.number("/blobs_fetched")?;
        ensure!(fetched > 0, "nothing was fetched");
        wait::until("all is cached", PATIENCE, || client.number("/cache/blobs").is_ok_and(|cached| cached == fetched))?;
        client.stop()?;
        client.start()?;
        ensure!(std::fs::read(client.mount().join("large"))? == large, "other bytes after the restart");
        let (again, hits) = (client.number("/blobs_fetched")?, client.number("/cache/hits")?);
        ensure!((again, hits) == (0, fetched), "{again} blobs were fetched again, {hits} of {fetched} found");
        // What is damaged is not believed.
        client.stop()?;
        let cache = client.config().with_file_name("data").join("blobs");
        for entry in std::fs::read_dir(cache)? {
            let path = entry?.path();
            let mut damaged = std::fs::read(&path)?;
            damaged[0] ^= 1;
            std::fs::write(&path, damaged)?;
        }
        client.start()?;
        ensure!(std::fs::read(client.mount().join("large"))? == large, "damaged bytes were believed");
        ensure!(client.number("/blobs_fetched")? == fetched, "what was damaged was not fetched again");
        Ok(())
    })
}

#[test]
fn locks_of_a_client_and_of_a_node_exclude_each_other() -> Result<()> {
    with_client(|cluster, client| {
        std::fs::write(cluster.mount(1).join("locked"), "")?;
        let here = File::open(client.mount().join("locked"))?;
        let there = File::open(cluster.mount(2).join("locked"))?;
        here.lock()?;
        ensure!(matches!(there.try_lock(), Err(TryLockError::WouldBlock)), "both have it");
        // Who waits for it gets it when it is given back.
        let waiting = std::thread::spawn(move || there.lock().map(|()| there));
        wait::until("the node's program waits", PATIENCE, || {
            let state = cluster.state(1);
            state.is_some_and(|state| state.status["node"]["locks"]["waiting"] == 1)
        })?;
        here.unlock()?;
        let there = waiting.join().map_err(|_| anyhow::anyhow!("the waiter has panicked"))??;
        ensure!(matches!(here.try_lock(), Err(TryLockError::WouldBlock)), "both have it now");
        let waiting = std::thread::spawn(move || here.lock());
        wait::until("the client's program waits", PATIENCE, || {
            let state = cluster.state(1);
            state.is_some_and(|state| state.status["node"]["locks"]["waiting"] == 1)
        })?;
        there.unlock()?;
        waiting.join().map_err(|_| anyhow::anyhow!("the waiter has panicked"))??;
        Ok(())
    })
}

#[test]
fn a_client_is_killed_and_its_leases_and_locks_end_with_its_session() -> Result<()> {
    with_client(|cluster, client| {
        let file = client.mount().join("kept");
        std::fs::write(&file, "all of it")?;
        let locked = File::open(&file)?;
        locked.lock()?;
        let (pid, before) = (client.pid()?, client.status()?["session"].clone());
        client.kill()?;
        ensure!(!process::is_alive(pid), "it is not killed");
        drop(locked);
        let there = cluster.mount(3).join("kept");
        ensure!(std::fs::read_to_string(&there)? == "all of it", "what was answered is lost");
        // Another life of it ends the session at once.
        client.start()?;
        ensure!(client.status()?["session"] != before, "it has the session of its earlier life");
        let began = Instant::now();
        File::open(&there)?.lock()?;
        std::fs::write(&there, "changed")?;
        ensure!(began.elapsed() < Duration::from_secs(4), "the session was waited for: {:?}", began.elapsed());
        ensure!(std::fs::read_to_string(&file)? == "changed", "the client shows something else");
        Ok(())
    })
}

#[test]
fn a_file_that_is_open_on_a_client_outlives_its_name() -> Result<()> {
    with_client(|cluster, client| {
        let large = bytes(3, 200_000);
        std::fs::write(client.mount().join("gone"), &large)?;
        let mut open = File::open(client.mount().join("gone"))?;
        std::fs::remove_file(cluster.mount(2).join("gone"))?;
        ensure!(!client.mount().join("gone").exists(), "the name is there still");
        let mut found = Vec::new();
        std::io::Read::read_to_end(&mut open, &mut found)?;
        ensure!(found == large, "{} other bytes", found.len());
        Ok(())
    })
}

#[test]
fn what_a_client_was_told_of_the_past_is_on_its_disk_after_a_restart() -> Result<()> {
    with_client(|cluster, client| {
        std::fs::write(cluster.mount(1).join("changed"), "before")?;
        let mut command = cluster.gavel().command(["snapshot", "create"]);
        command.arg(cluster.mount(1)).arg("then");
        gavel_conformance::command::run(command, gavel_conformance::command::PATIENCE)?.ok()?;
        std::fs::write(client.mount().join("changed"), "after")?;
        let look = |client: &Client| -> Result<()> {
            let seen = std::fs::read_to_string(client.mount().join("changed@@then"))?;
            ensure!(seen == "before", "the snapshot shows {seen:?}");
            Ok(())
        };
        look(client)?;
        let asked = client.number("/past_asked")?;
        ensure!(asked > 0, "no node was asked");
        wait::until("all is cached", PATIENCE, || client.number("/past/blobs").is_ok_and(|cached| cached == asked))?;
        client.stop()?;
        client.start()?;
        look(client)?;
        let (again, hits) = (client.number("/past_asked")?, client.number("/past/hits")?);
        ensure!(again == 0 && hits > 0, "{again} questions were asked again, {hits} answers found");
        let absent = std::fs::read(client.mount().join("changed@@never"));
        ensure!(absent.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound), "a state that is none");
        Ok(())
    })
}
