//! A round: fresh objects, workers on all mounts, perhaps a fault, a last look from everywhere, and the verdict.

use super::judge::{self, Fault, Recording};
use super::record::{Ask, DIRS, Kind, Record, SLOTS, Said, block};
use super::worker::{Hands, SET, Shared};
use crate::cluster::{Cluster, PATIENCE, resume};
use crate::dice::Dice;
use crate::{process, wait};
use anyhow::{Context, Result, ensure};
use rustix::fs::Mode;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Workers on each mount.
const WORKERS: usize = 3;
/// Calls that must have succeeded on each mount before a fault, and on those that go on, during it.
const SOME: usize = 25;
/// A node is killed up to so many calls after that.
const AT_RANDOM: usize = 60;
/// A round is worked through by then, on a busy machine.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// Longer than any call may take: the daemon answers within ten seconds, or is dead.
const LAST_CALL: Duration = Duration::from_secs(60);

/// What is done to the cluster in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The leader's daemon is killed (SIGKILL), and started again.
    LeaderKilled,
    /// The same of another node.
    FollowerKilled,
    /// The leader's daemon is stopped (SIGSTOP) until its session has ended, and goes on.
    LeaderStopped,
    /// The same of another node.
    FollowerStopped,
}

/// A round to be played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// All choices follow from it; what comes of them depends on the machine, too.
    pub seed: u64,
    /// Which round of the test.
    pub number: u64,
    /// What is done.
    pub trouble: Trouble,
    /// Is there little to change, and much to look at, so that nodes and kernels keep what they have seen?
    pub calm: bool,
    /// Sets of objects. With a fault there are two at least: the last one is worked on afterwards.
    pub sets: usize,
    /// Calls of one set.
    pub set_calls: usize,
}

/// The workers of a round. Dropped, they are told to stop.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    mounts: Vec<PathBuf>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Makes a round's objects, durable.
fn make(shared: &Shared, mount: &Path) -> Result<()> {
    let root = mount.join(&shared.dir);
    for object in &shared.objects {
        let path = root.join(&object.path);
        std::fs::create_dir_all(path.parent().context("below the root")?)?;
        if object.kind == Kind::Names {
            (0..DIRS).try_for_each(|dir| std::fs::create_dir(root.join(format!("{}.{dir}", object.path))))?;
            continue;
        }
        let mut file = File::create(&path)?;
        if object.kind != Kind::Journal {
            file.write_all(&block(object.first, object.kind.block()))?;
        }
        file.sync_all()?;
    }
    File::open(root)?.sync_all()?;
    Ok(())
}

impl Recorder {
    /// Makes the objects of a round through one of these mounts, which are of the nodes 1, 2, ...
    ///
    /// # Errors
    /// If that does not work.
    pub fn new(mounts: &[PathBuf], mut shared: Shared, direct: bool) -> Result<Recorder> {
        // What is made is known by its mode.
        rustix::process::umask(Mode::empty());
        shared.direct = direct;
        let mount = mounts.first().context("no mounts")?;
        make(&shared, mount).with_context(|| mount.display().to_string())?;
        Ok(Recorder { shared: Arc::new(shared), mounts: mounts.to_vec(), threads: Vec::new() })
    }

    /// Starts the workers, so many on each mount.
    ///
    /// # Errors
    /// If there can be no threads.
    pub fn start(&mut self, each: usize, dice: &mut Dice) -> Result<()> {
        for worker in 0..each * self.mounts.len() {
            let (shared, mount) = (self.shared.clone(), self.mounts[worker / each].clone());
            let (node, mut dice) = ((worker / each) as u64 + 1, Dice::new(dice.roll()));
            let work = move || Hands::new(&shared, mount, node, worker).work(&mut dice);
            self.threads.push(std::thread::Builder::new().name(format!("worker-{worker}")).spawn(work)?);
        }
        Ok(())
    }

    /// Waits until there are so many more calls on each of these nodes.
    fn wait_for_more(&self, nodes: &[u64], more: usize) -> Result<()> {
        let before: Vec<usize> = nodes.iter().map(|node| self.shared.calls(*node)).collect();
        let what = format!("{more} more calls on each of the nodes {nodes:?}");
        let enough = || nodes.iter().zip(&before).all(|(node, before)| self.shared.calls(*node) >= before + more);
        wait::until(&what, PATIENCE, || enough() || self.shared.is_through())
    }

    /// Waits until all sets are worked through, and all calls have returned.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn finish(&mut self) -> Result<()> {
        let through = wait::until("the round is worked through", ROUND_MAX, || self.shared.is_through());
        self.shared.stop();
        let threads = std::mem::take(&mut self.threads);
        wait::until("the last calls return", LAST_CALL, || threads.iter().all(JoinHandle::is_finished))?;
        for thread in threads {
            ensure!(thread.join().is_ok(), "a worker has panicked");
        }
        through
    }

    /// Looks at everything, through one mount after the other. Gives when that began.
    ///
    /// # Errors
    /// If something is not answered for long.
    pub fn look(&self) -> Result<u64> {
        let began = self.shared.now();
        for (node, mount) in (1..).zip(&self.mounts) {
            let mut hands = Hands::new(&self.shared, mount.clone(), node, 100 + node as usize);
            for (number, object) in self.shared.objects.iter().enumerate() {
                let asks: Vec<Ask> = match object.kind {
                    Kind::Journal => vec![Ask::ReadAll, Ask::Length],
                    Kind::Names => (0..SLOTS).map(Ask::Find).chain((0..DIRS).map(Ask::List)).collect(),
                    Kind::Register | Kind::Blob | Kind::Whole => vec![Ask::Read, Ask::Length],
                };
                for ask in asks {
                    let what = format!("node {node} answers {ask:?} of {}", object.path);
                    let answered = |said: Said| !matches!(said, Said::Refused(_) | Said::Unknown(_));
                    wait::until(&what, PATIENCE, || hands.ask(number, ask, false).is_some_and(answered))?;
                }
            }
        }
        Ok(began)
    }

    /// What there is to judge.
    pub fn recording(&self, title: String, faults: Vec<Fault>, last: u64) -> Recording {
        Recording { title, objects: self.shared.objects.clone(), records: self.shared.records(), faults, last }
    }
}

/// The sessions of all nodes.
fn sessions(cluster: &Cluster) -> Result<BTreeMap<u64, u64>> {
    let session = |node: u64| {
        wait::for_some(&format!("node {node} has a session"), PATIENCE, || {
            Some((node, cluster.state(node)?.status["node"]["session"].as_u64()?))
        })
    };
    cluster.ids().map(session).collect()
}

/// Reads that nodes have answered under leases since they were born. (What kernels answer by themselves is not among them.)
fn leased(cluster: &Cluster) -> Result<u64> {
    cluster.ids().map(|node| Ok(cluster.leases(node)?.reads_leased)).sum()
}

fn victim(cluster: &Cluster, trouble: Trouble) -> Result<u64> {
    match trouble {
        Trouble::LeaderKilled | Trouble::LeaderStopped => cluster.leader(),
        _ => cluster.follower(),
    }
}

fn killed(cluster: &Cluster, recorder: &Recorder, node: u64, others: &[u64]) -> Result<Fault> {
    let pid = cluster.pid(node)?;
    let from = recorder.shared.now();
    process::kill(pid)?;
    recorder.wait_for_more(others, SOME)?;
    cluster.start()?;
    Ok(Fault { node, from, till: recorder.shared.now(), killed: true })
}

/// Stops a node until the others have ended its session.
fn stopped(cluster: &Cluster, recorder: &Recorder, node: u64, others: &[u64]) -> Result<Fault> {
    let before = *sessions(cluster)?.get(&node).context("no session")?;
    let from = recorder.shared.now();
    let pid = cluster.pause(node)?;
    let going_on = recorder.wait_for_more(others, SOME);
    let is_over = || {
        let state = others.iter().find_map(|other| cluster.state(*other));
        let sessions = state.and_then(|state| state.status["node"]["sessions"].as_array().cloned());
        sessions.is_some_and(|all| !all.is_empty() && all.iter().all(|session| session["id"] != before))
    };
    let over = wait::until(&format!("the session of node {node}, which is stopped, ends"), PATIENCE, is_over);
    resume(pid)?;
    going_on.and(over)?;
    wait::for_some(&format!("node {node} has a new session"), PATIENCE, || {
        let now = cluster.state(node)?.status["node"]["session"].as_u64();
        let is_new = now.is_some_and(|now| now != before);
        is_new.then(|| Fault { node, from, till: recorder.shared.now(), killed: false })
    })
}

fn make_trouble(cluster: &Cluster, recorder: &Recorder, plan: &Plan, dice: &mut Dice) -> Result<Option<Fault>> {
    if plan.trouble == Trouble::None {
        recorder.shared.open(plan.sets);
        return Ok(None);
    }
    recorder.shared.open(plan.sets - 1);
    let node = victim(cluster, plan.trouble)?;
    let all: Vec<u64> = cluster.ids().collect();
    let others: Vec<u64> = all.iter().copied().filter(|other| *other != node).collect();
    recorder.wait_for_more(&all, SOME)?;
    recorder.wait_for_more(&[node], dice.below(AT_RANDOM))?;
    let fault = match plan.trouble {
        Trouble::LeaderStopped | Trouble::FollowerStopped => stopped(cluster, recorder, node, &others)?,
        _ => killed(cluster, recorder, node, &others)?,
    };
    recorder.shared.open(plan.sets);
    Ok(Some(fault))
}

/// Nodes whose sessions have ended though nothing was done to them, as they do when a machine has no time for them for five seconds: what
/// they had not synced may be lost.
fn unasked(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>, fault: Option<&Fault>, now: u64) -> Vec<Fault> {
    let ended = |node: &u64| before.get(node) != after.get(node) && fault.is_none_or(|fault| fault.node != *node);
    before
        .keys()
        .filter(|node| ended(node))
        .map(|node| Fault { node: *node, from: 0, till: now, killed: false })
        .collect()
}

/// Plays a round and judges it. Gives what it was, in one line.
///
/// # Errors
/// If the round could not be played; or what was wrong, and where it is told.
pub fn play(cluster: &Cluster, plan: &Plan) -> Result<String> {
    let began = Instant::now();
    let mut dice = Dice::new(plan.seed ^ (plan.number << 32));
    let (mounts, workers) = (cluster.all_mounts(), WORKERS * cluster.all_mounts().len());
    let dir = format!("history/{}", plan.number);
    let mut shared = Shared::new(dir, plan.sets, plan.set_calls, workers);
    shared.calm = plan.calm;
    let mut recorder = Recorder::new(&mounts, shared, true)?;
    let (before, leased) = (sessions(cluster)?, leased(cluster)?);
    recorder.start(WORKERS, &mut dice)?;
    let fault = make_trouble(cluster, &recorder, plan, &mut dice)?;
    recorder.finish()?;
    let leased = self::leased(cluster)?.saturating_sub(leased);
    let after = sessions(cluster)?;
    let mut faults = unasked(&before, &after, fault.as_ref(), recorder.shared.now());
    let surprises = faults.len();
    faults.extend(fault);
    let last = recorder.look()?;
    let title =
        format!("seed {} round {} {:?}{}", plan.seed, plan.number, plan.trouble, if plan.calm { " calm" } else { "" });
    let recording = recorder.recording(title, faults, last);
    let played = began.elapsed();
    judge::pass(&recording, &format!("{}-{}", plan.seed, plan.number))?;
    let mut said = format!("{}, {leased} reads under leases", summary(&recording));
    let unshown = plan.calm && plan.trouble == Trouble::None && leased == 0;
    ensure!(!unshown, "no node has answered anything under a lease: this has shown nothing");
    if surprises > 0 {
        said += &format!(", {surprises} sessions ended unasked");
    }
    Ok(format!("{said}; {:.1} s, judged in {:.1} s", played.as_secs_f32(), (began.elapsed() - played).as_secs_f32()))
}

/// What a recording holds.
fn summary(recording: &Recording) -> String {
    let weights = judge::weigh(recording);
    let count = |weight| weights.iter().filter(|other| **other == weight).count();
    let largest = (0..recording.objects.len())
        .map(|object| recording.records.iter().filter(|record| record.object == object).count())
        .max();
    let failed = |record: &&Record| matches!(record.said, Said::Refused(_) | Said::Unknown(_));
    format!(
        "{}: {} objects, {} calls ({} must have happened, {} may have, {} failed), at most {} of one object",
        recording.title,
        recording.objects.len(),
        recording.records.len(),
        count(judge::Weight::Must),
        count(judge::Weight::May),
        recording.records.iter().filter(failed).count(),
        largest.unwrap_or(0),
    )
}

/// Objects of one set.
pub const SET_OBJECTS: usize = SET.len();

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Three "mounts", one worker each in turn: what it finds is wrong for certain, whatever a local filesystem does about calls at the same time.
    fn recorded(mounts: &[PathBuf], meddle: impl FnOnce(&Path)) -> Result<Recording> {
        let mut recorder = Recorder::new(mounts, Shared::new("history/1".into(), 1, 400, 1), false)?;
        recorder.shared.open(1);
        recorder.start(1, &mut Dice::new(3)).context("starting")?;
        recorder.finish()?;
        meddle(&mounts[0].join("history/1/0"));
        let last = recorder.look()?;
        Ok(recorder.recording("a local directory".into(), Vec::new(), last))
    }

    fn here() -> Result<(tempfile::TempDir, PathBuf)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().to_owned();
        Ok((dir, path))
    }

    #[test]
    fn nothing_is_wrong_with_a_local_directory() -> Result<()> {
        let (_dir, path) = here()?;
        let recording = recorded(&[path], |_| ())?;
        let findings = judge::judge(&recording);
        assert!(findings.is_empty(), "{}", judge::told(&recording, &findings[0]));
        // Everything was asked of everything, and most of it succeeded.
        for (number, object) in recording.objects.iter().enumerate() {
            let calls = recording.records.iter().filter(|record| record.object == number);
            let done = calls.filter(|record| record.ask.changes() && record.said == Said::Done).count();
            assert!(done > 5, "{done} changes of {object:?}");
        }
        Ok(())
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_found() -> Result<()> {
        type Meddling = fn(&Path) -> Result<()>;
        let wrong: [(&str, Meddling); 6] = [
            ("bytes", |set| Ok(File::options().write(true).open(set.join("0"))?.write_all_at(&block(1, 4_096), 0)?)),
            ("torn", |set| Ok(File::options().write(true).open(set.join("2"))?.write_all_at(&block(1, 4_096), 0)?)),
            ("length", |set| Ok(File::options().write(true).open(set.join("1"))?.set_len(9_999)?)),
            ("append", |set| Ok(File::options().append(true).open(set.join("4"))?.write_all(b"000000000000002\n")?)),
            ("lost", |set| Ok(File::options().write(true).open(set.join("5"))?.set_len(16)?)),
            ("names", |set| {
                Ok((0..SLOTS).try_for_each(|slot| {
                    let path = set.join(format!("6.{}/name {}", slot / 4, slot % 4));
                    if path.exists() { std::fs::remove_file(path) } else { std::fs::write(path, "") }
                })?)
            }),
        ];
        for (what, meddling) in wrong {
            let (_dir, path) = here()?;
            let recording = recorded(&[path], |set| meddling(set).expect("meddling"))?;
            assert!(!judge::judge(&recording).is_empty(), "{what}");
        }
        Ok(())
    }

    #[test]
    fn a_mount_that_lags_behind_is_found() -> Result<()> {
        let ((_dir, path), (_other, stale)) = (here()?, here()?);
        make(&Shared::new("history/1".into(), 1, 400, 1), &stale)?;
        let mut recorder = Recorder::new(&[path, stale], Shared::new("history/1".into(), 1, 400, 1), false)?;
        recorder.shared.open(1);
        recorder.start(1, &mut Dice::new(3))?;
        recorder.finish()?;
        let last = recorder.look()?;
        let findings = judge::judge(&recorder.recording("two directories".into(), Vec::new(), last));
        let wrong: std::collections::BTreeSet<usize> = findings.iter().map(|finding| finding.object).collect();
        assert_eq!(wrong.len(), SET_OBJECTS, "{findings:?}");
        Ok(())
    }
}
