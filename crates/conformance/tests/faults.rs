//! Nodes are killed, stopped and brought back, while writers on all mounts note what was acknowledged to them.

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::journal::{Journal, Outcome, Work, Writer};
use gavel_conformance::verify::{longest_stall, served_again, verify};
use gavel_conformance::{command, machine, mounts, process, trees, wait};
use rustix::io::Errno;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Records of each writer before and after a fault.
const SOME: usize = 30;
/// Writes are served again this soon after the leader's death, on a machine that has time for it.
const FAILOVER_MAX: Duration = Duration::from_secs(3);
/// A call on a mount without a quorum has failed by then: operations wait for ten seconds.
const REFUSAL_MAX: Duration = Duration::from_secs(40);
/// What was sent to the others before they were dead may be committed.
const GRACE: Duration = Duration::from_millis(500);

/// One that appends and one that makes files, on each mount.
fn journal(cluster: &Cluster) -> Result<Journal> {
    let mounts = cluster.all_mounts();
    let all: Vec<_> =
        mounts.iter().flat_map(|mount| [(mount.clone(), Work::Append), (mount.clone(), Work::Create)]).collect();
    let journal = Journal::start(&all)?;
    more(&journal, &cluster.ids().collect::<Vec<_>>(), cluster)?;
    Ok(journal)
}

/// The writers on the mounts of these nodes.
fn writers<'a>(journal: &'a Journal, cluster: &Cluster, nodes: &[u64]) -> Vec<&'a Writer> {
    nodes.iter().flat_map(|node| journal.on(&cluster.mount(*node))).collect()
}

/// Waits until all writers on these nodes' mounts have got on.
fn more(journal: &Journal, nodes: &[u64], cluster: &Cluster) -> Result<()> {
    journal.wait_for_more(&writers(journal, cluster, nodes), SOME, PATIENCE)
}

/// Ends the writers, and looks everything up everywhere.
fn finish(cluster: &Cluster, mut journal: Journal) -> Result<()> {
    journal.stop()?;
    cluster.settle()?;
    let summary = verify(&journal, &cluster.all_mounts())?;
    println!("{summary:?}");
    Ok(())
}

fn others(cluster: &Cluster, node: u64) -> Vec<u64> {
    cluster.ids().filter(|other| *other != node).collect()
}

#[test]
fn leader_killed_while_appending() -> Result<()> {
    with_cluster(3, |cluster| {
        let journal = journal(cluster)?;
        let leader = cluster.leader()?;
        let survivors = others(cluster, leader);
        let killed = journal.now();
        cluster.kill(leader)?;
        let gone = journal.now();
        more(&journal, &survivors, cluster)?;
        let mut slowest = Duration::ZERO;
        for writer in writers(&journal, cluster, &survivors) {
            let served = served_again(writer, gone).context("no acknowledgement after the leader's death")?;
            slowest = slowest.max(served + (gone - killed));
        }
        let limit = machine::with_slack(FAILOVER_MAX);
        println!("writes were served again {slowest:?} after the leader's death; at most {limit:?}");
        ensure!(slowest <= limit, "writes were served again only after {slowest:?}; {limit:?} are allowed");
        cluster.start()?;
        more(&journal, &[leader], cluster)?;
        finish(cluster, journal)
    })
}

#[test]
fn follower_killed() -> Result<()> {
    with_cluster(3, |cluster| {
        let journal = journal(cluster)?;
        let leader = cluster.leader()?;
        let follower = cluster.follower()?;
        let survivors = others(cluster, follower);
        let killed = journal.now();
        cluster.kill(follower)?;
        more(&journal, &survivors, cluster)?;
        let stalls = writers(&journal, cluster, &survivors).into_iter().map(|writer| longest_stall(writer, killed));
        let longest = stalls.max().unwrap_or_default();
        println!("the longest stall of the others was {longest:?}");
        ensure!(longest <= machine::with_slack(FAILOVER_MAX), "the others stood still for {longest:?}");
        ensure!(cluster.leader()? == leader, "the death of a follower cost the leader its place");
        cluster.start()?;
        more(&journal, &[follower], cluster)?;
        finish(cluster, journal)
    })
}

/// What a call on a mount gives, in a thread of its own: it may hang.
fn on_mount<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>> {
    wait::within(what, REFUSAL_MAX, work)
}

/// Sees that neither writes nor reads through this mount are answered, in time, and that the reason is that no quorum is.
fn refuses(mount: &Path) -> Result<()> {
    let (write, read, list) = (mount.join("made by a minority"), mount.join("known"), mount.to_owned());
    let refused = [
        ("making a file", on_mount("making a file", move || std::fs::write(write, "x"))?.err()),
        ("reading a file", on_mount("reading a file", move || std::fs::read(read))?.err()),
        ("listing", on_mount("listing", move || std::fs::read_dir(list)?.collect::<io::Result<Vec<_>>>())?.err()),
    ];
    for (what, error) in refused {
        let error = error.with_context(|| format!("{what} was answered without a quorum"))?;
        let errno = Errno::from_io_error(&error);
        ensure!(errno == Some(Errno::TIMEDOUT), "{what} without a quorum: {error}, and not ETIMEDOUT");
    }
    Ok(())
}

#[test]
fn two_nodes_killed_and_back() -> Result<()> {
    with_cluster(3, |cluster| {
        std::fs::write(cluster.mount(1).join("known"), "known")?;
        let journal = journal(cluster)?;
        // The one that is left may lead or follow: it leads here, and must notice by itself.
        let left = cluster.leader()?;
        let began = journal.now();
        cluster.kill_at_once(&others(cluster, left))?;
        // Until then it may answer for what it holds leases over, changes too: these are committed when there is a quorum again.
        wait::until("the right of the node that is left has run out", PATIENCE, || {
            cluster.leases(left).is_ok_and(|leases| leases.may_answer_ms.is_none())
        })?;
        refuses(&cluster.mount(left))?;
        wait::until("the writers of the minority get errors", REFUSAL_MAX, || {
            writers(&journal, cluster, &[left])
                .iter()
                .all(|writer| writer.notes().iter().any(|note| note.began > began && note.errno.is_some()))
        })?;
        let state = cluster.state(left).context("the node that is left does not answer")?;
        ensure!(state.status["node"]["quorum"] == false, "it claims a quorum: {}", state.status["node"]);
        let late = journal.now();
        for writer in writers(&journal, cluster, &[left]) {
            // What was under way when the others died may have been committed.
            let wrong = writer
                .notes()
                .into_iter()
                .find(|note| note.began > began + GRACE && note.ended < late && note.outcome == Outcome::Acknowledged);
            ensure!(wrong.is_none(), "acknowledged by a minority: {wrong:?}");
        }
        cluster.start()?;
        more(&journal, &cluster.ids().collect::<Vec<_>>(), cluster)?;
        ensure!(!cluster.mount(1).join("made by a minority").exists(), "what was refused has come true");
        finish(cluster, journal)
    })
}

#[test]
fn every_node_killed_at_once_and_back() -> Result<()> {
    with_cluster(3, |cluster| {
        let journal = journal(cluster)?;
        let all: Vec<u64> = cluster.ids().collect();
        for _ in 0..2 {
            cluster.kill_at_once(&all)?;
            cluster.start()?;
            more(&journal, &all, cluster)?;
        }
        finish(cluster, journal)
    })
}

/// A leader that holds its breath and goes on as if nothing had been: the others have elected another one.
fn leader_stopped(time: Duration) -> Result<()> {
    with_cluster(3, |cluster| {
        let journal = journal(cluster)?;
        let leader = cluster.leader()?;
        let survivors = others(cluster, leader);
        let stopped = journal.now();
        let pid = cluster.pause(leader)?;
        while journal.now() < stopped + time {
            more(&journal, &survivors, cluster)?;
        }
        let last = *survivors.last().context("no survivors")?;
        let news = cluster.mount(last).join("news");
        std::fs::write(&news, "written meanwhile")?;
        resume(pid)?;
        // The very first look must show it, or be refused: the node can't know that it leads no more. The watcher on
        // this mount looks at the appended records all the time.
        let here = cluster.mount(leader).join("news");
        let seen = on_mount("the first look after the pause", move || std::fs::read_to_string(here))?;
        match seen {
            Ok(text) => ensure!(text == "written meanwhile", "the first look shows {text:?}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("the first look shows the past"),
            Err(error) => println!("the first look was refused: {error}"),
        }
        more(&journal, &cluster.ids().collect::<Vec<_>>(), cluster)?;
        finish(cluster, journal)
    })
}

#[test]
fn leader_stopped_for_long() -> Result<()> {
    leader_stopped(Duration::from_secs(15))
}

#[test]
#[ignore = "takes more than a minute; the shorter one does the same"]
fn leader_stopped_for_a_minute() -> Result<()> {
    leader_stopped(Duration::from_secs(60))
}

#[test]
fn killed_daemon_leaves_a_mount_that_a_restart_cleans_up() -> Result<()> {
    with_cluster(3, |cluster| {
        let node = cluster.follower()?;
        let mount = cluster.mount(node);
        std::fs::write(mount.join("before"), "before")?;
        let held = std::fs::File::open(mount.join("before"))?;
        for _ in 0..3 {
            cluster.kill(node)?;
            let here = mount.clone();
            let dead = on_mount("a look at a dead mount", move || std::fs::read_dir(here).map(drop))?;
            let errno = dead.err().as_ref().and_then(Errno::from_io_error);
            ensure!(errno == Some(Errno::NOTCONN), "a dead mount says {errno:?}");
            cluster.start()?;
            let there = mounts::under(&mount);
            ensure!(there.len() == 1 && there[0].kind == "fuse.gavel", "mounted there: {there:?}");
            ensure!(std::fs::read_to_string(mount.join("before"))? == "before", "not the tree");
        }
        // What was open before stays dead, and harms nobody.
        ensure!(held.metadata().is_err(), "a file of a mount that is gone still answers");
        Ok(())
    })
}

#[test]
fn node_away_while_others_write_much() -> Result<()> {
    with_cluster(3, |cluster| {
        let away = cluster.follower()?;
        let here = cluster.mount(cluster.leader()?);
        std::fs::write(here.join("known"), "known")?;
        cluster.kill(away)?;
        trees::make(&here.join("tree"), 200)?;
        for number in 0..8 {
            std::fs::write(here.join(format!("large {number}")), trees::noise(1_000 + number, 2_000_000))?;
        }
        std::fs::remove_file(here.join("known"))?;
        std::fs::rename(here.join("tree/d1"), here.join("tree/moved"))?;
        let expected = trees::read(&here)?;
        cluster.start()?;
        cluster.settle()?;
        let blobs =
            || Some(cluster.states().ok()?.iter().map(|state| state.status["blobs"].as_u64()).collect::<Vec<_>>());
        wait::until("its blobs are filled in", PATIENCE, || {
            blobs().is_some_and(|all| all.windows(2).all(|two| two[0] == two[1]))
        })?;
        for mount in cluster.all_mounts() {
            trees::same(&expected, &trees::read(&mount)?).with_context(|| mount.display().to_string())?;
        }
        Ok(())
    })
}

/// A small disk for a node's data.
const SMALL_DISK: u64 = 64 << 20;
/// More of this than a log segment holds must fill the disk, however much room the log had left.
const FILLING_FILES: u64 = 3_000;

#[test]
fn full_disk_on_one_node() -> Result<()> {
    with_cluster(3, |cluster| {
        let small = cluster.follower()?;
        cluster.halt()?;
        let data = cluster.home(small).join("data");
        let disk = move_to_small_disk(&data)?;
        cluster.start()?;
        let here = others(cluster, small)[0];
        let made = fill(cluster, small, &data, &cluster.mount(here))?;
        println!("the disk was full after {made} files");
        // Those who have room go on: each of their mounts, with small and large files.
        for node in others(cluster, small) {
            std::fs::write(cluster.mount(node).join(format!("small {node}")), "x")?;
            std::fs::write(cluster.mount(node).join(format!("large {node}")), trees::noise(node, 300_000))?;
        }
        let log = cluster.log(small);
        ensure!(
            log.contains("No space left") || log.to_lowercase().contains("full"),
            "its log does not say that its disk is full"
        );
        // With room it comes back by itself, or once it is started again.
        std::fs::remove_file(data.join(BALLAST))?;
        cluster.start()?;
        cluster.settle()?;
        let expected = trees::read(&cluster.mount(here))?;
        ensure!(expected.len() as u64 >= made, "{} of {made} files are there", expected.len());
        for mount in cluster.all_mounts() {
            trees::same(&expected, &trees::read(&mount)?).with_context(|| mount.display().to_string())?;
        }
        cluster.halt()?;
        drop(disk);
        Ok(())
    })
}

const BALLAST: &str = "ballast";

/// A mount that goes with the test.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        mounts::take_off(&self.0);
    }
}

/// Puts a small filesystem in the place of a directory, with a copy of what was in it.
fn move_to_small_disk(data: &Path) -> Result<Disk> {
    let old = data.with_extension("old");
    std::fs::rename(data, &old)?;
    std::fs::create_dir(data)?;
    let size = format!("size={SMALL_DISK}");
    let quoted = data.display();
    command::shell(Path::new("/"), &format!("mount -t tmpfs -o {size},mode=700 gavel-conformance {quoted}"), PATIENCE)?;
    let disk = Disk(data.to_owned());
    command::shell(data, &format!("cp -a --sparse=never {}/. .", old.display()), PATIENCE)?;
    Ok(disk)
}

/// Takes up the room of the small disk, and then makes files through another mount until the node feels it. Gives how many.
fn fill(cluster: &Cluster, small: u64, data: &Path, mount: &Path) -> Result<u64> {
    let mut ballast = std::fs::File::create(data.join(BALLAST))?;
    let full = std::iter::repeat_with(|| ballast.write_all(&[0x5a; 4096])).find_map(io::Result::err);
    ensure!(full.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull), "the ballast does not fill the disk");
    let pid = cluster.pid(small)?;
    let dir = mount.join("filling");
    std::fs::create_dir(&dir)?;
    for number in 0..FILLING_FILES {
        let mut file = std::fs::File::create(dir.join(number.to_string()))?;
        file.write_all(&trees::noise(number, 16_000))?;
        // So that no more is made than fits when there is room again: the small node takes what is committed.
        file.sync_all()?;
        if !process::is_alive(pid) {
            return Ok(number + 1);
        }
    }
    bail!("{FILLING_FILES} files of 16 kB did not fill a disk of {SMALL_DISK} bytes")
}
