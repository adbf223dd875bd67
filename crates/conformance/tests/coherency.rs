//! What a node and its kernel keep, and that it is gone when somebody else changes it (docs/protocols/coherency.md).
//!
//! `GAVEL_SEED=N` plays another scene than the usual one.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::dice::{self, Dice};
use gavel_conformance::mapping::Mapping;
use gavel_conformance::scene::{Churn, Scene, Times};
use gavel_conformance::{machine, process, trees, wait};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a session lives that is not heard of: the usual `tuning.term_ms`.
const TERM: Duration = Duration::from_secs(5);
/// What may come on top of it: the leader's allowance for clocks (250 ms), and a commit.
const TERM_MORE: Duration = Duration::from_millis(500);
/// What nobody is in the way of is written this soon.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A call on a mount whose daemon goes on has returned by then: operations wait for ten seconds.
const CALL_MAX: Duration = Duration::from_secs(40);

// ---- Fresh: every mount shows exactly the new state, as soon as the change has returned.

/// How long the scene is played each night, and how long until the next fault.
const LONG: Duration = Duration::from_secs(300);
const ACT: Duration = Duration::from_secs(10);
/// A node is killed at a moment within this, with changes going on through the others.
const KILLED_WITHIN_MS: usize = 1_000;

fn say(scene: &mut Scene, churn: &Churn, cluster: &Cluster) -> Result<()> {
    println!("{} changes, {} looks in the background", scene.step(), churn.looks());
    println!("changes {}\nlooks of one mount at a change {}", scene.changes.summary(), scene.looks.summary());
    for node in cluster.ids() {
        let leases = cluster.leases(node)?;
        println!("node {node}: {leases:?}");
        ensure!(leases.reads_leased > 0, "node {node} has answered nothing under a lease: this has shown nothing");
    }
    Ok(())
}

/// Until so much time has passed.
fn passes(time: Duration) -> impl FnMut() -> bool {
    let end = Instant::now() + time;
    move || Instant::now() < end
}

#[test]
fn every_mount_shows_each_change_at_once() -> Result<()> {
    with_cluster(3, |cluster| {
        let mut scene = Scene::new(&cluster.all_mounts(), "scene", dice::seed())?;
        let churn = Churn::start(&scene)?;
        let played = wait::within("the changes of ten seconds", CALL_MAX, move || {
            let played = scene.play(&[0, 1, 2], passes(Duration::from_secs(10)));
            (scene, played)
        });
        let (mut scene, played) = played?;
        let said = say(&mut scene, &churn, cluster);
        played.and(said)
    })
}

/// Plays on with the others while a node is killed, is away and comes back, and then with all.
fn play_without(cluster: &Cluster, scene: &mut Scene, dice: &mut Dice, node: u64) -> Result<()> {
    let all: Vec<usize> = (0..3).collect();
    let others: Vec<usize> = all.iter().copied().filter(|mount| *mount as u64 + 1 != node).collect();
    let pid = cluster.pid(node)?;
    let moment = Duration::from_millis(dice.below(KILLED_WITHIN_MS) as u64);
    std::thread::scope(|scope| {
        let killed = scope.spawn(move || {
            std::thread::sleep(moment);
            process::kill(pid)
        });
        scene.play(&others, passes(ACT)).with_context(|| format!("around the death of node {node}"))?;
        killed.join().map_err(|_| anyhow::anyhow!("the killer has panicked"))?
    })?;
    std::thread::scope(|scope| {
        let started = scope.spawn(|| cluster.start());
        let played = scene.play(&others, || !started.is_finished());
        started.join().map_err(|_| anyhow::anyhow!("the starter has panicked"))??;
        played.with_context(|| format!("while node {node} came back"))
    })?;
    scene.play(&all, passes(ACT)).with_context(|| format!("after node {node} came back"))
}

#[test]
#[ignore = "takes five minutes"]
fn every_mount_shows_each_change_at_once_with_nodes_killed() -> Result<()> {
    with_cluster(3, |cluster| {
        let mut dice = Dice::new(dice::seed());
        let mut scene = Scene::new(&cluster.all_mounts(), "scene", dice::seed())?;
        let churn = Churn::start(&scene)?;
        let mut more = passes(LONG);
        while more() {
            scene.play(&[0, 1, 2], passes(ACT))?;
            let follower = cluster.follower()?;
            play_without(cluster, &mut scene, &mut dice, follower)?;
            let leader = cluster.leader()?;
            play_without(cluster, &mut scene, &mut dice, leader)?;
            say(&mut scene, &churn, cluster)?;
        }
        drop(churn);
        cluster.settle()
    })
}

// ---- Warm: what a node has seen, it answers by itself, and what its kernel has seen, the kernel.

const FILES: u64 = 300;
const FILE_BYTES: usize = 4_096;
/// Nobody writes for so long: longer than a range that was written is kept free of leases.
const QUIET: Duration = Duration::from_secs(2);

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{}/file {number}", number % 10))
}

/// What a round of looks at all files has cost a node.
fn cost(cluster: &Cluster, node: u64, round: impl Fn(&Path, u64) -> io::Result<()>) -> Result<(u64, u64)> {
    let dir = cluster.mount(node).join("tree");
    let before = cluster.leases(node)?;
    (0..FILES).try_for_each(|number| round(&dir, number))?;
    let after = cluster.leases(node)?;
    Ok((after.reads_leased - before.reads_leased, after.reads_confirmed - before.reads_confirmed))
}

fn stat(dir: &Path, number: u64) -> io::Result<()> {
    std::fs::metadata(file(dir, number)).map(drop)
}

fn read(dir: &Path, number: u64) -> io::Result<()> {
    std::fs::read(file(dir, number)).map(drop)
}

fn look_up_absent(dir: &Path, number: u64) -> io::Result<()> {
    match std::fs::metadata(file(dir, FILES + number)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("what is absent is there")),
    }
}

fn make_quiet_tree(cluster: &Cluster) -> Result<()> {
    let maker = cluster.mount(2).join("tree");
    (0..10).try_for_each(|dir| std::fs::create_dir_all(maker.join(dir.to_string())))?;
    (0..FILES).try_for_each(|number| std::fs::write(file(&maker, number), trees::noise(number, FILE_BYTES)))?;
    // Not to wait for something: that nothing happens is what the tree has to have behind it.
    std::thread::sleep(QUIET);
    Ok(())
}

#[test]
fn quiet_tree_is_read_without_messages() -> Result<()> {
    with_cluster(3, |cluster| {
        make_quiet_tree(cluster)?;
        // The maker last: the others find it with leases of its own.
        for node in [1, 3, 2] {
            quiet_rounds(cluster, node)?;
        }
        Ok(())
    })
}

/// The first round brings the leases: what is read before they are there, is confirmed, and not kept by the kernel. In the
/// second nothing is confirmed, and what the kernel has seen in it, it keeps.
fn quiet_rounds(cluster: &Cluster, node: u64) -> Result<()> {
    for (what, round) in [("stat", stat as fn(&Path, u64) -> _), ("absent", look_up_absent), ("read", read)] {
        let costs = (0..4).map(|_| cost(cluster, node, round)).collect::<Result<Vec<_>>>()?;
        println!("node {node}, {what}: (leased, confirmed) of each round {costs:?}");
        let confirmed = costs[1..].iter().map(|(_, confirmed)| confirmed).sum::<u64>();
        ensure!(confirmed == 0, "node {node}, {what}: {confirmed} reads confirmed after the first round; {costs:?}");
        // An open reaches the node each time. Bytes and everything else do not.
        let allowed = if what == "read" { FILES } else { 0 };
        // Times to live run out now and then, once a term: not in both of two rounds.
        let least = costs[2..].iter().map(|(leased, _)| *leased).min().unwrap_or_default();
        ensure!(least <= allowed, "node {node}, {what}: the kernel has asked {least} times in each round; {costs:?}");
    }
    Ok(())
}

/// What a grant is widened for: a tree that nobody writes to is leased at once, and not file by file.
#[test]
fn quiet_tree_is_leased_with_its_first_reads() -> Result<()> {
    with_cluster(3, |cluster| {
        make_quiet_tree(cluster)?;
        let applied = || cluster.state(1).and_then(|state| state.position()).context("node 1 does not answer");
        let before = applied()?;
        let (leased, confirmed) = cost(cluster, 1, stat)?;
        let entries = applied()?.0 - before.0;
        println!("the first round: {leased} leased, {confirmed} confirmed, {entries} entries in the log");
        ensure!(confirmed < FILES / 2, "{confirmed} reads confirmed for {FILES} files, {entries} entries in the log");
        Ok(())
    })
}

// ---- Mapped

/// A mapping shows the new bytes this soon after the write has returned.
const SHOWN: Duration = Duration::from_millis(100);
const MAPPED_ROUNDS: u64 = 60;
const WARM_EVERY: u64 = 6;

/// Waits until a node answers looks at these files by itself.
fn warm(cluster: &Cluster, node: u64, dir: &Path, names: &[String]) -> Result<()> {
    wait::until("what is looked at is answered under leases", PATIENCE, || {
        let looks = || {
            let before = cluster.leases(node).ok()?;
            for name in names {
                std::fs::read(dir.join(name)).ok()?;
                std::fs::metadata(dir.join(name)).ok()?;
                std::fs::metadata(dir.join(format!("no {name}"))).err()?;
            }
            std::fs::read_dir(dir).ok()?.for_each(drop);
            Some(cluster.leases(node).ok()?.reads_confirmed == before.reads_confirmed)
        };
        looks() == Some(true)
    })
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all_at(bytes, 0)
}

/// Maps a file on node 1, overwrites it through the others, again and again, and looks at the mapping after each.
fn mapped(cluster: &Cluster, name: &str, bytes: usize, watched: bool) -> Result<()> {
    std::fs::write(cluster.mount(2).join(name), trees::noise(0, bytes))?;
    warm(cluster, 1, &cluster.mount(1), &[name.to_owned()])?;
    let mapping = Mapping::of(&File::open(cluster.mount(1).join(name))?)?;
    ensure!(mapping.look() == trees::noise(0, bytes), "the mapping is not the file");
    let done = AtomicBool::new(!watched);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let looks = std::iter::repeat_with(|| drop(mapping.look()));
            looks.take_while(|()| !done.load(Ordering::Relaxed)).count()
        });
        let checked = overwrite_mapped(cluster, name, &mapping);
        done.store(true, Ordering::Relaxed);
        let looks = watcher.join().map_err(|_| anyhow::anyhow!("the watcher has panicked"))?;
        println!("{name}: {looks} looks at the mapping meanwhile");
        checked
    })
}

fn overwrite_mapped(cluster: &Cluster, name: &str, mapping: &Mapping) -> Result<()> {
    let (mut late, bytes) = (Vec::new(), mapping.look().len());
    for round in 1..=MAPPED_ROUNDS {
        // Most writes find node 1 without a lease, because of the one before. Not all shall.
        if round.is_multiple_of(WARM_EVERY) {
            warm(cluster, 1, &cluster.mount(1), &[name.to_owned()])?;
            mapping.look();
        }
        let (news, writer) = (trees::noise(round, bytes), 2 + round % 2);
        overwrite(&cluster.mount(writer).join(name), &news)?;
        let returned = Instant::now();
        if mapping.look() == news {
            continue;
        }
        while mapping.look() != news {
            ensure!(
                returned.elapsed() < SHOWN,
                "{name}, write {round} through node {writer}: the mapping does not show it {SHOWN:?} after it"
            );
        }
        late.push((round, returned.elapsed()));
    }
    println!("{name}: of {MAPPED_ROUNDS} writes, these were shown only later: {late:?}");
    Ok(())
}

#[test]
fn mapping_shows_what_another_mount_has_written() -> Result<()> {
    with_cluster(3, |cluster| {
        mapped(cluster, "small", 12_000, false)?;
        mapped(cluster, "large", 200_000, false)
    })
}

/// The same while a program looks at the mapping all the time.
#[test]
fn mapping_that_is_looked_at_shows_what_another_mount_has_written() -> Result<()> {
    with_cluster(3, |cluster| mapped(cluster, "watched", 12_000, true))
}

// ---- Stopped, killed: a node that has everything cached and does not answer

/// Nodes by what they do.
struct Cast {
    /// Has everything cached, and is stopped or killed.
    victim: u64,
    /// Writes to what the victim has cached.
    writer: u64,
    /// Writes elsewhere.
    bystander: u64,
}

const KEPT: u64 = 20;
const BEFORE: &[u8] = b"before";
const AFTER: &[u8] = b"what was written while the node did not answer";

impl Cast {
    /// The leader writes what the victim has cached, in a tree that is made and warmed up here.
    fn prepare(cluster: &Cluster) -> Result<Cast> {
        let leader = cluster.leader()?;
        let others: Vec<u64> = cluster.ids().filter(|node| *node != leader).collect();
        let cast = Cast { victim: others[0], writer: leader, bystander: others[1] };
        std::fs::create_dir(cluster.mount(cast.writer).join("kept"))?;
        for name in Cast::names() {
            std::fs::write(cluster.mount(cast.writer).join("kept").join(name), BEFORE)?;
        }
        std::fs::create_dir(cluster.mount(cast.bystander).join("elsewhere"))?;
        wait::until("the victim has cached everything but what the bystander works on", PATIENCE, || {
            cast.is_set(cluster).unwrap_or(false)
        })?;
        Ok(cast)
    }

    fn names() -> Vec<String> {
        (0..KEPT).map(|number| format!("file {number}")).collect()
    }

    /// The bystander's writes recall what the victim was granted too widely, and the victim must not have come back to it.
    fn is_set(&self, cluster: &Cluster) -> Result<bool> {
        warm(cluster, self.victim, &self.kept(cluster, self.victim), &Cast::names())?;
        let quick = (0..5).map(|number| self.write_elsewhere(cluster, number)).collect::<Result<Vec<_>>>()?;
        let before = cluster.leases(self.victim)?;
        for name in Cast::names() {
            std::fs::read(self.kept(cluster, self.victim).join(&name))?;
            std::fs::metadata(self.kept(cluster, self.victim).join(&name))?;
        }
        let after = cluster.leases(self.victim)?;
        println!("prepared: elsewhere {quick:?}, the victim's leases {before:?}, {after:?}");
        // Before its session is in force, all reads are confirmed, and none is counted.
        Ok(before.may_answer_ms.is_some() && after.reads_confirmed == before.reads_confirmed)
    }

    fn kept(&self, cluster: &Cluster, node: u64) -> PathBuf {
        cluster.mount(node).join("kept")
    }

    fn write_elsewhere(&self, cluster: &Cluster, number: u64) -> Result<Duration> {
        let began = Instant::now();
        let path = cluster.mount(self.bystander).join("elsewhere").join((number % 8).to_string());
        std::fs::write(path, number.to_string()).context("writing elsewhere")?;
        Ok(began.elapsed())
    }

    /// Writes to all that the victim has cached, and elsewhere at the same time; sees that neither takes longer than it
    /// may. The victim stopped at `since`.
    fn write(&self, cluster: &Cluster, since: Instant) -> Result<()> {
        let limit = TERM + machine::with_slack(TERM_MORE);
        let at_once = machine::with_slack(AT_ONCE);
        let kept = self.kept(cluster, self.writer);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                let (mut times, mut longest, mut number) = (Times::default(), Duration::ZERO, 0);
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    let took = self.write_elsewhere(cluster, number)?;
                    times.add(took);
                    longest = longest.max(took);
                }
                Ok::<_, anyhow::Error>((times, longest))
            });
            let written = wait::within("writing to what the victim has cached", CALL_MAX, move || {
                let began = Instant::now();
                let first = overwrite(&kept.join("file 0"), AFTER).map(|()| (since.elapsed(), began.elapsed()));
                let rest = Cast::names().iter().skip(1).try_for_each(|name| overwrite(&kept.join(name), AFTER));
                first.and_then(|first| rest.map(|()| (first, since.elapsed())))
            });
            done.store(true, Ordering::Relaxed);
            let (mut times, longest) =
                elsewhere.join().map_err(|_| anyhow::anyhow!("the bystander has panicked"))??;
            let ((after, took), all) = written??;
            println!("the first write was done {after:?} after the stop and took {took:?}; all {KEPT} after {all:?}");
            println!("writes elsewhere meanwhile {}", times.summary());
            ensure!(took <= limit, "the write took {took:?}; {limit:?} are allowed");
            ensure!(longest <= at_once, "a write elsewhere took {longest:?}; {at_once:?} are allowed");
            Ok(())
        })
    }
}

/// Looks at a file in a thread of its own: it may take until the daemon goes on.
fn look<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Receiver<io::Result<T>> {
    let (sender, receiver) = channel();
    // Whoever does not listen any more has what it wanted to know.
    std::thread::spawn(move || sender.send(work()));
    receiver
}

/// The first answer; refusals for want of a quorum, which the node may not have heard of yet, are told and passed over.
fn again<T>(may_refuse: bool, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let refused = |error: &io::Error| may_refuse && Errno::from_io_error(error) == Some(Errno::TIMEDOUT);
    let (began, mut refusals) = (Instant::now(), 0);
    loop {
        match look() {
            Err(error) if refused(&error) && began.elapsed() < CALL_MAX => refusals += 1,
            seen => {
                println!("refused {refusals} times before it was answered");
                return seen;
            }
        }
    }
}

/// What a look through the stopped mount gives. While it is stopped, nothing at all, or what is true.
fn told(what: &str, looked: &Receiver<io::Result<Vec<u8>>>, patience: Duration) -> Result<bool> {
    let Ok(found) = looked.recv_timeout(patience) else { return Ok(false) };
    let found = found.with_context(|| what.to_owned())?;
    let told = String::from_utf8_lossy(&found);
    ensure!(found == AFTER, "{what}: the old state is shown: {told:?}");
    Ok(true)
}

/// A stat as bytes: as many as the file has.
fn sized(length: u64) -> Vec<u8> {
    if length == AFTER.len() as u64 { AFTER.to_vec() } else { vec![b'?'; length as usize] }
}

/// Goes on when it is dropped: nobody else would end the pause of a test that fails.
struct Paused(u32);

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = resume(self.0);
    }
}

#[test]
fn stopped_node_never_shows_the_past() -> Result<()> {
    stopped(true, false)
}

#[test]
fn stopped_node_answers_the_first_look_when_it_goes_on() -> Result<()> {
    stopped(false, false)
}

#[test]
#[ignore = "defect: a read of an open file that is begun while the daemon stands still can show the new bytes cut to the old size"]
fn stopped_node_does_not_cut_what_is_read_of_an_open_file() -> Result<()> {
    stopped(false, true)
}

/// `meanwhile`: what is open is read while the node is stopped, and not only when it goes on.
fn stopped(may_refuse: bool, meanwhile: bool) -> Result<()> {
    with_cluster(3, |cluster| {
        let cast = Cast::prepare(cluster)?;
        let kept = cast.kept(cluster, cast.victim);
        let open = File::open(kept.join("file 1"))?;
        ensure!(read_all(&open)? == BEFORE, "the open file is not as it was written");
        let mapping = Mapping::of(&File::open(kept.join("file 2"))?)?;
        ensure!(mapping.look() == BEFORE, "the mapping is not as it was written");
        let pid = cluster.pid(cast.victim)?;
        ensure!(cast.is_set(cluster)?, "the victim has lost what it had cached");
        let stopped = Instant::now();
        process::signal(pid, Signal::STOP)?;
        let paused = Paused(pid);
        wait::until("the victim has stopped", PATIENCE, || process::is_stopped(pid))?;
        cast.write(cluster, stopped)?;

        // The kernel may have answered by itself until now. From now on that would be the past.
        let path = |name: &str| kept.join(name);
        let (stat, name, held) = (path("file 0"), path("file 3"), open);
        let mut held = Some(held);
        let mut looks = vec![
            ("stat", look(move || again(may_refuse, || std::fs::metadata(&stat).map(|meta| sized(meta.len()))))),
            ("open and read", look(move || again(may_refuse, || std::fs::read(&name)))),
        ];
        if let Some(held) = held.take_if(|_| meanwhile) {
            looks.push(("reading what was open", look(move || again(may_refuse, || read_all(&held)))));
        }
        let mut unanswered = Vec::new();
        for (what, looked) in looks {
            let rest = (stopped + TERM + TERM_MORE).saturating_duration_since(Instant::now());
            let seen = told(&format!("{what} on the stopped node"), &looked, rest.max(SHOWN))?;
            println!("{what} on the stopped node {:?} after the stop: answered: {seen}", stopped.elapsed());
            if !seen {
                unanswered.push((what, looked));
            }
        }
        drop(paused);
        let resumed = Instant::now();
        let last = path("file 2");
        let first = look(move || again(may_refuse, || std::fs::metadata(&last).map(|meta| sized(meta.len()))));
        ensure!(told("stat of what is mapped", &first, CALL_MAX)?, "no answer from the node that goes on");
        let mapped = mapping.look();
        ensure!(AFTER.starts_with(&mapped), "after a stat, the mapping shows {:?}", String::from_utf8_lossy(&mapped));
        if let Some(held) = held {
            unanswered.push(("reading what was open", look(move || again(may_refuse, || read_all(&held)))));
        }
        for (what, looked) in &unanswered {
            ensure!(told(&format!("{what} on the node that goes on"), looked, CALL_MAX)?, "{what}: never answered");
        }
        println!("everything was answered {:?} after the node went on", resumed.elapsed());
        cluster.settle()
    })
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 2 * AFTER.len()];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(bytes)
}

#[test]
fn killed_node_is_waited_for_no_longer_than_its_term() -> Result<()> {
    with_cluster(3, |cluster| {
        let cast = Cast::prepare(cluster)?;
        let pid = cluster.pid(cast.victim)?;
        ensure!(cast.is_set(cluster)?, "the victim has lost what it had cached");
        let killed = Instant::now();
        process::kill(pid)?;
        cast.write(cluster, killed)?;
        cluster.start()?;
        for name in Cast::names() {
            let found = std::fs::read(cast.kept(cluster, cast.victim).join(&name))?;
            ensure!(found == AFTER, "{name}: back, and it shows {:?}", String::from_utf8_lossy(&found));
        }
        cluster.settle()
    })
}
