//! Two clusters, and a mirror in one of them that follows the first volume of the other.

use crate::figures;
use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE};
use gavel_conformance::command;
use gavel_conformance::turn::Turn;
use gavel_conformance::{mounts, trees, wait};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the mirror may need to come to what the source is.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Both.
pub(crate) struct Pair {
    // Dropped before the source: it lives beside it.
    copy: Cluster,
    source: Cluster,
    marks: u64,
}

impl Pair {
    /// Brings both up, without a mirror.
    pub(crate) fn up(turn: Turn, nodes: u64) -> Result<Pair> {
        let source = Cluster::up(turn, nodes)?;
        let copy = source.beside(nodes)?;
        Ok(Pair { source, copy, marks: 0 })
    }

    /// The mirror follows, and is mounted.
    pub(crate) fn follow(&mut self) -> Result<()> {
        let path = self.source.scratch().join("copy.invitation");
        let path = path.to_str().context("a path of text")?;
        mirror(&self.source, &["admit", "main", "--name", "copy", "--out", path])?;
        mirror(&self.copy, &["follow", path, "--into", "copy"])?;
        self.mount_copy()?;
        self.caught_up().map(drop)
    }

    /// Mounts the mirror.
    pub(crate) fn mount_copy(&self) -> Result<()> {
        std::fs::create_dir_all(self.mirror_root())?;
        let mut mount = self.copy.gavel().command(["mount", "--volume", "copy", "--config"]);
        mount.arg(self.copy.config(1)).arg(self.mirror_root());
        command::run(mount, PATIENCE)?.ok().map(drop)
    }

    /// Where the source is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.source.mount(1)
    }

    /// Where the mirror is mounted.
    pub(crate) fn mirror_root(&self) -> PathBuf {
        self.copy.dir().join("extra/copy")
    }

    /// Waits until the mirror shows what is written now; how long that took.
    pub(crate) fn caught_up(&mut self) -> Result<Duration> {
        self.marks += 1;
        let (mark, begun) = (self.marks.to_string(), Instant::now());
        std::fs::write(self.root().join("mark"), &mark)?;
        trees::settle(&self.root())?;
        let shown = self.mirror_root().join("mark");
        let is_there = || std::fs::read_to_string(&shown).is_ok_and(|text| text == mark);
        wait::until("the mirror has caught up", CATCH_UP, is_there).with_context(|| format!("{:?}", self.status()))?;
        Ok(begun.elapsed())
    }

    /// The mirror stands still, or follows and has caught up.
    pub(crate) fn set_following(&mut self, follows: bool) -> Result<()> {
        if follows {
            mirror(&self.copy, &["resume", "copy"])?;
            return self.caught_up().map(drop);
        }
        mirror(&self.copy, &["pause", "copy"])?;
        wait::until("it is not connected", PATIENCE, || {
            let said = mirror(&self.source, &["list", "--json"]).unwrap_or_default();
            serde_json::from_str(&said).is_ok_and(|listed: Value| listed["followers"][0]["connected"] == false)
        })
    }

    /// What is said of the mirror.
    pub(crate) fn status(&self) -> Result<Value> {
        let said = mirror(&self.copy, &["status", "copy", "--json"])?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// A command of `gavel mirror` at the source, or in the mirror's cluster, to be run by the caller.
    pub(crate) fn command(&self, is_source: bool, words: &[&str]) -> Command {
        let cluster = if is_source { &self.source } else { &self.copy };
        let mut command = cluster.gavel().command(["mirror"]);
        command.args(words).arg("--config").arg(cluster.config(1));
        command
    }

    /// The source.
    pub(crate) fn source(&self) -> &Cluster {
        &self.source
    }

    /// The daemons of the source, and those of the mirror.
    pub(crate) fn pids(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let of = |cluster: &Cluster| cluster.ids().map(|node| cluster.pid(node)).collect::<Result<Vec<u32>>>();
        Ok((of(&self.source)?, of(&self.copy)?))
    }

    /// All is gone.
    pub(crate) fn down(self) -> Result<()> {
        for mount in mounts::under(&self.copy.dir().join("extra")) {
            let path = mount.point.to_str().context("a path of text")?;
            self.copy.gavel().run(["umount", "--lazy", path])?.ok()?;
        }
        self.copy.no_panics()?;
        self.source.no_panics()?;
        self.copy.down()?;
        self.source.down()
    }
}

fn mirror(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let mut command = cluster.gavel().command(["mirror"]);
    command.args(words).arg("--config").arg(cluster.config(1));
    command::run(command, PATIENCE)?.ok()
}

/// What both clusters' daemons have used since.
pub(crate) struct Used {
    pids: (Vec<u32>, Vec<u32>),
    before: (f64, f64),
    begun: Instant,
}

impl Used {
    /// From now on.
    pub(crate) fn begin(pids: &(Vec<u32>, Vec<u32>)) -> Used {
        let before = (figures::cpu_seconds(&pids.0), figures::cpu_seconds(&pids.1));
        Used { pids: pids.clone(), before, begun: Instant::now() }
    }

    /// Seconds of CPU of the source's daemons and of the mirror's, and seconds that have gone by.
    pub(crate) fn so_far(&self) -> (f64, f64, f64) {
        let now = (figures::cpu_seconds(&self.pids.0), figures::cpu_seconds(&self.pids.1));
        (now.0 - self.before.0, now.1 - self.before.1, figures::secs(self.begun.elapsed()))
    }
}

/// Lets these processes run on these CPUs only, with all their threads.
pub(crate) fn pin(pids: &[u32], cpus: &str) -> Result<()> {
    for pid in pids {
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", cpus, &pid.to_string()]);
        command::run(command, PATIENCE)?.ok()?;
    }
    ensure!(!pids.is_empty(), "no process to pin");
    Ok(())
}
