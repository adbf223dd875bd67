//! A node dies or freezes under load: the longest stall of those who write elsewhere, and whether everything that was
//! acknowledged is still there.
//!
//! Writers append with fsync and create files on the mounts of the nodes that stay, and note each acknowledgement with its
//! time. After the fault and some more writing, the node comes back, and every acknowledged append and file is looked up
//! on every mount.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::cluster::{Cluster, NODES, Node};
use super::measure::{Measure, Unit};
use super::place::Kind;
use super::turn::Turn;

/// Bytes of one append: a number, eight times over, so that half of one is noticed.
const APPEND: usize = 64;

/// What a writer waits after each write. A stall is looked for, not throughput: a thousand writes a second from each of
/// four writers are load enough, and their number stays bounded on anything that is faster.
const PAUSE: Duration = Duration::from_millis(1);

/// How long a mount may take to answer again once all nodes run.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The ways a node goes away.
struct Fault {
    metric: &'static str,
    signal: Signal,
}

const FAULTS: [Fault; 2] = [
    Fault { metric: "longest stall, node killed", signal: Signal::KILL },
    Fault { metric: "longest stall, node stopped", signal: Signal::STOP },
];

/// failover.
pub(super) fn run(turn: &Turn) -> Result<()> {
    let Kind::Cluster(cluster) = &turn.place.kind else {
        turn.skip("failover", "needs a cluster that the benchmark brought up, to kill a node of");
        return Ok(());
    };
    for (number, fault) in FAULTS.iter().enumerate() {
        let victim = victim(cluster, turn.round)?;
        turn.step("failover", || {
            let stall = one_fault(turn, cluster, &victim, fault, &format!("fault-{number}"))?;
            Ok(vec![Measure::new(fault.metric, Unit::Milliseconds, stall.as_secs_f64() * 1e3)])
        })?;
    }
    Ok(())
}

/// The leader in odd rounds, another node in even ones.
fn victim(cluster: &Cluster, round: u64) -> Result<Node> {
    let leader = cluster.leader()?.context("no node leads")?;
    let odd = round % 2 == 1;
    let nodes = cluster.nodes();
    ensure!(nodes.len() == NODES, "{} of {NODES} nodes are running", nodes.len());
    nodes.into_iter().find(|node| (node.number == leader) == odd).context("the node to take away is not running")
}

fn one_fault(turn: &Turn, cluster: &Cluster, victim: &Node, fault: &Fault, name: &str) -> Result<Duration> {
    fs::create_dir(turn.home().join(name))?;
    let directories: Vec<_> = turn.homes.iter().map(|home| home.join(name)).collect();
    let stays = directories.iter().enumerate().filter(|(at, _)| at + 1 != victim.number).map(|(_, home)| home);
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| -> Result<Vec<Acknowledged>> {
        let writers: Vec<_> = stays
            .enumerate()
            .flat_map(|(writer, home)| [Writer::appends(home, writer), Writer::creates(home, writer)])
            .map(|writer| scope.spawn(|| writer.write_until(&stop)))
            .collect();
        // The load is the point here, not a condition to wait for.
        std::thread::sleep(Duration::from_secs(turn.sizes.seconds_before_fault));
        let done = victim.signal(fault.signal);
        std::thread::sleep(Duration::from_secs(turn.sizes.seconds_after_fault));
        stop.store(true, Ordering::Relaxed);
        let outcomes = writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| bail!("a writer panicked")));
        let acknowledged = outcomes.collect::<Result<Vec<_>>>();
        revive(cluster, victim, fault)?;
        done.and(acknowledged)
    })?;
    for home in &directories {
        let where_and_when = || format!("on {} after {}: {}", home.display(), fault.metric, victim.number);
        wait_until_it_answers(home).with_context(where_and_when)?;
        acknowledged.iter().try_for_each(|all| all.look_up(home)).with_context(where_and_when)?;
    }
    let stall = acknowledged.iter().map(Acknowledged::longest_stall).max();
    stall.context("nobody wrote anything")
}

/// Until the directory can be listed: a node that has just come back may have to catch up first.
fn wait_until_it_answers(directory: &Path) -> Result<()> {
    let give_up = Instant::now() + ANSWER_LIMIT;
    loop {
        match fs::read_dir(directory) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= give_up => {
                let limit = ANSWER_LIMIT.as_secs();
                return Err(error).with_context(|| format!("no answer within {limit} s of the node's return"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Brings the node back; `dev up` starts what does not run.
fn revive(cluster: &Cluster, victim: &Node, fault: &Fault) -> Result<()> {
    if fault.signal == Signal::STOP { victim.signal(Signal::CONT) } else { cluster.up() }
}

/// Writes one kind of thing on one mount.
struct Writer {
    home: PathBuf,
    name: String,
    appends: bool,
}

/// What one writer was told is there.
struct Acknowledged {
    name: String,
    appends: bool,
    /// When it began, and when each of its writes was acknowledged.
    times: Vec<Instant>,
}

impl Writer {
    fn appends(home: &Path, writer: usize) -> Self {
        Self { home: home.to_owned(), name: format!("appends-{writer}"), appends: true }
    }

    fn creates(home: &Path, writer: usize) -> Self {
        Self { home: home.to_owned(), name: format!("creates-{writer}"), appends: false }
    }

    fn write_until(self, stop: &AtomicBool) -> Result<Acknowledged> {
        let mut times = vec![Instant::now()];
        let path = self.home.join(&self.name);
        let mut file = if self.appends { Some(File::create_new(&path)?) } else { None };
        if !self.appends {
            fs::create_dir(&path)?;
        }
        while !stop.load(Ordering::Relaxed) {
            let number = times.len() as u64 - 1;
            match &mut file {
                Some(file) => {
                    file.write_all(&number.to_le_bytes().repeat(APPEND / 8))?;
                    file.sync_all()?;
                }
                None => drop(File::create_new(path.join(number.to_string()))?),
            }
            times.push(Instant::now());
            std::thread::sleep(PAUSE);
        }
        Ok(Acknowledged { name: self.name, appends: self.appends, times })
    }
}

impl Acknowledged {
    fn longest_stall(&self) -> Duration {
        self.times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Finds everything that was acknowledged below `home`.
    fn look_up(&self, home: &Path) -> Result<()> {
        let count = self.times.len() as u64 - 1;
        let path = home.join(&self.name);
        let lost = |what: &str, number: u64| {
            bail!("{}: {what} {number} of {count} was acknowledged and is lost", self.name);
        };
        if !self.appends {
            for number in 0..count {
                match fs::symlink_metadata(path.join(number.to_string())) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return lost("file", number),
                    outcome => outcome.with_context(|| format!("looking up file {number} of {}", self.name))?,
                };
            }
            return Ok(());
        }
        let file = File::open(&path)?;
        let mut bytes = [0; APPEND];
        for number in 0..count {
            match file.read_exact_at(&mut bytes, number * APPEND as u64) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return lost("append", number),
                outcome => outcome.with_context(|| format!("reading append {number} of {}", self.name))?,
            }
            if bytes[..] != number.to_le_bytes().repeat(APPEND / 8)[..] {
                return lost("append", number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = [Writer::appends(directory.path(), 0), Writer::creates(directory.path(), 0)];
            let running: Vec<_> = writers.into_iter().map(|writer| scope.spawn(|| writer.write_until(&stop))).collect();
            while !directory.path().join("creates-0/3").exists()
                || fs::metadata(directory.path().join("appends-0")).map_or(0, |about| about.len()) < 4 * APPEND as u64
            {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            for writer in running {
                let all = writer.join().expect("no panic").expect("it writes");
                all.look_up(directory.path()).expect("all is there");
                if all.appends {
                    let file = File::options().write(true).open(directory.path().join("appends-0")).expect("the file");
                    file.write_all_at(&[0xff], APPEND as u64 + 5).expect("damage");
                } else {
                    fs::remove_file(directory.path().join("creates-0/2")).expect("damage");
                }
                let error = all.look_up(directory.path()).expect_err("it was damaged").to_string();
                assert!(error.contains("was acknowledged and is lost"), "{error}");
            }
        });
    }
}
