//! Transactions that do not fit into one request: they are staged (docs/protocols/transactions.md, "Staging").

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::Ran;
use gavel_conformance::{command, trees, wait};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);
/// Collided; nothing was written.
const COLLIDED: i32 = 75;
/// Names in each of the directories that are made.
const NAMES: usize = 1000;

/// `gavel txn run` of a shell script, in the mount of a node.
fn txn_run(cluster: &Cluster, node: u64, script: &str) -> Command {
    let mut command = cluster.gavel().command(["txn", "run"]);
    command.args(["-m", "many", "--", "sh", "-euc", script]).current_dir(cluster.mount(node));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Makes so many small files, in directories below `d`; then says so, and when it may go on ends.
fn script(cluster: &Cluster, files: usize) -> (String, PathBuf, PathBuf) {
    let (made, go) = (cluster.scratch().join("made"), cluster.scratch().join("go"));
    let script = format!(
        "mkdir d; i=0; while [ $i -lt {} ]; do mkdir d/$i; n=0; while [ $n -lt {NAMES} ]; do echo $i.$n > d/$i/$n; n=$((n+1)); done; i=$((i+1)); done
         touch {}; while [ ! -e {} ]; do sleep 0.02; done",
        files / NAMES,
        made.display(),
        go.display()
    );
    (script, made, go)
}

fn ended(mut child: Child) -> Result<(Option<i32>, String)> {
    let mut status = None;
    wait::until("the run ends", PATIENCE, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        std::io::Read::read_to_string(stderr, &mut said)?;
    }
    Ok((status.and_then(|status| status.code()), said))
}

/// What nodes say of staged objects: groups that are staged, and abandoned ones.
fn staged(cluster: &Cluster, node: u64) -> Option<(u64, u64)> {
    let config = cluster.config(node);
    let words = [OsStr::new("status"), "--json".as_ref(), "--config".as_ref(), config.as_os_str()];
    let ran = command::run(cluster.gavel().command(words), Duration::from_secs(10)).ok()?;
    let status: Value = serde_json::from_str(&ran.stdout).ok()?;
    let find = |value: &Value| Some((value["groups"].as_u64()?, value["abandoned"].as_u64()?));
    find(&status["staged"]).or_else(|| find(&status["node"]["staged"]))
}

fn nothing_is_staged(cluster: &Cluster) -> Result<()> {
    for node in cluster.ids() {
        wait::until("nothing is staged or abandoned", PATIENCE, || staged(cluster, node) == Some((0, 0)))?;
    }
    Ok(())
}

/// Objects of the volume, as a mount tells.
fn objects(mount: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(mount)?;
    Ok(found.f_files - found.f_ffree)
}

/// What somebody else does meanwhile: small writes with fsync, and looks at names. The longest that one took, before the commit and during it.
struct Others<'a> {
    mount: PathBuf,
    committing: &'a AtomicBool,
    stop: &'a AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stalls {
    before: Duration,
    committing: Duration,
    operations: u64,
}

impl Others<'_> {
    fn watch(&self, files: usize) -> Result<Stalls> {
        let (mut stalls, mut number) = (Stalls::default(), 0_u64);
        let file = File::create(self.mount.join(format!("own-{}", std::process::id())))
            .with_context(|| self.mount.display().to_string())?;
        let mut seen = false;
        while !self.stop.load(Ordering::Relaxed) {
            let during = self.committing.load(Ordering::Relaxed);
            let longest = if during { &mut stalls.committing } else { &mut stalls.before };
            let begun = Instant::now();
            file.write_all_at(&[number as u8; 100], number % 50 * 100)?;
            file.sync_all()?;
            *longest = (*longest).max(begun.elapsed());
            let begun = Instant::now();
            let there = self.mount.join("d").exists();
            *longest = (*longest).max(begun.elapsed());
            if there && !seen {
                seen = true;
                // All of it, or nothing: the last name that was made is there with the first one.
                let last = self.mount.join(format!("d/{}/{}", files / NAMES - 1, NAMES - 1));
                ensure!(last.exists() && self.mount.join("d/0/0").exists(), "a part of a transaction is seen");
                ensure!(std::fs::read_dir(self.mount.join("d"))?.count() == files / NAMES);
            }
            (number, stalls.operations) = (number + 1, stalls.operations + 2);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(stalls)
    }
}

/// So many files in one transaction; what others wait at most for one operation while it is committed, and before.
fn files_in_one_transaction(cluster: &Cluster, files: usize) -> Result<(Duration, Duration)> {
    let (script, made, go) = script(cluster, files);
    let (committing, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let begun = Instant::now();
    let mut command = txn_run(cluster, 1, &script);
    let child = command.spawn()?;
    std::thread::scope(|scope| {
        let watching: Vec<_> = [2, 3]
            .into_iter()
            .map(|node| Others { mount: cluster.mount(node), committing: &committing, stop: &stop })
            .map(|others| scope.spawn(move || others.watch(files)))
            .collect();
        let all = (|| {
            wait::until("the files are made", PATIENCE, || made.exists())?;
            let making = begun.elapsed();
            committing.store(true, Ordering::Relaxed);
            let begun = Instant::now();
            File::create(&go)?;
            let (code, said) = ended(child)?;
            ensure!(code == Some(0), "{code:?} {said}");
            Ok((making, begun.elapsed()))
        })();
        stop.store(true, Ordering::Relaxed);
        let stalls: Vec<Stalls> =
            watching.into_iter().map(|thread| thread.join().expect("a watcher panicked")).collect::<Result<_>>()?;
        let (making, took) = all?;
        let longest = stalls.iter().map(|stalls| stalls.committing).max().unwrap_or_default();
        let before = stalls.iter().map(|stalls| stalls.before).max().unwrap_or_default();
        let operations: u64 = stalls.iter().map(|stalls| stalls.operations).sum();
        eprintln!(
            "{files} files: made in {making:?}, committed in {took:?}; the longest of {operations} operations of others took {longest:?} during the commit, {before:?} before"
        );
        Ok((longest, before))
    })
}

fn all_are_there(cluster: &Cluster, files: usize) -> Result<()> {
    for node in cluster.ids() {
        let mount = cluster.mount(node);
        for i in 0..files / NAMES {
            let count = std::fs::read_dir(mount.join(format!("d/{i}")))?.count();
            ensure!(count == NAMES, "node {node}: d/{i} has {count} names");
        }
        let (i, n) = (files / NAMES - 1, NAMES - 1);
        let last = std::fs::read_to_string(mount.join(format!("d/{i}/{n}")))?;
        ensure!(last == format!("{i}.{n}\n"), "{last}");
    }
    nothing_is_staged(cluster)
}

fn gavel<S: AsRef<OsStr>>(cluster: &Cluster, node: u64, words: &[S]) -> Result<Ran> {
    let mut command = cluster.gavel().command(words);
    command.current_dir(cluster.mount(node));
    command::run(command, PATIENCE)
}

/// It is one transaction to whoever asks about the past, and it can be undone as one.
fn it_is_one_transaction(cluster: &Cluster, files: usize) -> Result<()> {
    let log = gavel(cluster, 2, &["log", "--json", "--limit", "20000", "."])?.ok()?;
    let lines: Vec<Value> = serde_json::from_str::<Value>(&log)
        .map(|all| all.as_array().cloned().unwrap_or_else(|| vec![all]))
        .or_else(|_| log.lines().map(serde_json::from_str).collect())?;
    let many: Vec<&Value> =
        lines.iter().filter(|line| line["note"].as_str().is_some_and(|note| note.starts_with("many "))).collect();
    ensure!(many.len() == 1, "{} transactions", many.len());
    let told = many[0]["changes"].as_array().map_or(0, Vec::len) as u64 + many[0]["more"].as_u64().unwrap_or(0);
    ensure!(told as usize > files, "{told} changes are told of {files} files: {:.300}", many[0].to_string());
    let tid = many[0]["tid"].as_str().context("a Tid")?.to_owned();
    // A file of it was made by that transaction.
    let history = gavel(cluster, 3, &["history", "--json", "d/0/7"])?.ok()?;
    ensure!(history.contains(&tid), "{tid}: {history:.2000}");
    ensure!(history.matches("\"tid\"").count() == 1, "{history:.2000}");
    Ok(())
}

#[test]
fn twenty_thousand_files_appear_at_once() -> Result<()> {
    with_cluster(3, |cluster| {
        let files = 20_000;
        let (longest, before) = files_in_one_transaction(cluster, files)?;
        ensure!(longest < Duration::from_secs(2).max(before * 2), "somebody else has waited for {longest:?}");
        all_are_there(cluster, files)?;
        it_is_one_transaction(cluster, files)
    })
}

#[test]
#[ignore = "nightly: a measurement, takes some minutes"]
fn a_hundred_thousand_files_appear_at_once_and_hold_nobody_up() -> Result<()> {
    with_cluster(3, |cluster| {
        let files = 100_000;
        let (longest, before) = files_in_one_transaction(cluster, files)?;
        all_are_there(cluster, files)?;
        it_is_one_transaction(cluster, files)?;
        // On a machine that does nothing else. On one that is busy, they wait as long without any transaction.
        let most = Duration::from_millis(200).max(before * 2);
        ensure!(longest < most, "somebody else has waited for {longest:?}, and for {before:?} before");
        Ok(())
    })
}

#[test]
fn killed_in_the_midst_of_staging_it_leaves_no_trace() -> Result<()> {
    with_cluster(3, |cluster| {
        let leader = cluster.leader()?;
        let node = cluster.ids().find(|node| *node != leader).context("a follower")?;
        let mut here = File::create(cluster.mount(leader).join("here"))?;
        here.write_all(b"x")?;
        here.sync_all()?;
        let before = objects(&cluster.mount(leader))?;
        let files = 20_000;
        let (script, made, go) = script(cluster, files);
        let mut command = txn_run(cluster, node, &script);
        let child = command.spawn()?;
        wait::until("the files are made", PATIENCE, || made.exists())?;
        File::create(&go)?;
        wait::until("something is staged", PATIENCE, || staged(cluster, leader).is_some_and(|(groups, _)| groups > 0))?;
        cluster.kill(node)?;
        let (code, said) = ended(child)?;
        ensure!(code != Some(0), "it was committed before it was killed: this shows nothing ({said})");
        let grown = objects(&cluster.mount(leader))?;
        ensure!(grown > before, "something was staged: {before} {grown}");
        cluster.start()?;
        nothing_is_staged(cluster)?;
        for node in cluster.ids() {
            ensure!(!cluster.mount(node).join("d").exists(), "node {node}");
            wait::until("its objects are gone", PATIENCE, || {
                objects(&cluster.mount(node)).is_ok_and(|objects| objects == before)
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_collision_behind_the_staging_leaves_nothing() -> Result<()> {
    with_cluster(3, |cluster| {
        let other = cluster.mount(2);
        std::fs::write(other.join("read"), "1")?;
        File::open(&other)?.sync_all()?;
        let (files, script, made, go) = {
            let (script, made, go) = script(cluster, 10_000);
            (10_000_u64, format!("cat read; {script}"), made, go)
        };
        let mut command = txn_run(cluster, 1, &script);
        let child = command.spawn()?;
        wait::until("the files are made", PATIENCE, || made.exists())?;
        std::fs::write(other.join("read"), "2")?;
        File::open(&other)?.sync_all()?;
        let before = objects(&other)?;
        File::create(&go)?;
        let (code, said) = ended(child)?;
        ensure!(code == Some(COLLIDED), "{code:?} {said}");
        nothing_is_staged(cluster)?;
        let after = objects(&other)?;
        ensure!(after == before, "{files} files: {before} objects before, {after} behind");
        ensure!(!other.join("d").exists() && !cluster.mount(1).join("d").exists());
        Ok(())
    })
}

/// More bytes than a transaction holds in memory, in pieces that each would stay there.
#[test]
fn many_bytes_in_small_pieces_are_no_limit() -> Result<()> {
    with_cluster(3, |cluster| {
        let source = cluster.scratch().join("source");
        std::fs::write(&source, trees::noise(5, 100 << 20))?;
        let source = source.display();
        let script = format!("dd if={source} of=large bs=8k 2>/dev/null; cmp {source} large; mv large moved");
        let (code, complaint) = ended(txn_run(cluster, 1, &script).spawn()?)?;
        ensure!(code == Some(0), "{code:?} {complaint}");
        for node in cluster.ids() {
            let script = format!("cmp {source} moved");
            command::shell(&cluster.mount(node), &script, PATIENCE).with_context(|| format!("node {node}"))?;
        }
        Ok(())
    })
}
