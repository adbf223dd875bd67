//! Two clusters, and a mirror in one of them that follows the first volume of the other.

use crate::figures;
use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::turn::Turn;
use gavel_conformance::{trees, wait};
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
        let invitation = self.source.admit("main", "copy", &[])?;
        self.copy.follow(1, &invitation, "copy")?.ok()?;
        self.mount_copy()?;
        self.caught_up().map(drop)
    }

    /// Mounts the mirror.
    pub(crate) fn mount_copy(&self) -> Result<()> {
        self.copy.mounted(1, "copy").map(drop)
    }

    /// Where the source is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.source.mount(1)
    }

    /// Where the mirror is mounted.
    pub(crate) fn mirror_root(&self) -> PathBuf {
        self.copy.dir().join("extra/copy-1")
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
            self.copy.mirror(1, &["resume", "copy"])?.ok()?;
            return self.caught_up().map(drop);
        }
        self.copy.mirror(1, &["pause", "copy"])?.ok()?;
        wait::until("it is not connected", PATIENCE, || {
            let said = self.source.mirror(1, &["list", "--json"]).and_then(Ran::ok).unwrap_or_default();
            serde_json::from_str(&said).is_ok_and(|listed: Value| listed["followers"][0]["connected"] == false)
        })
    }

    /// What is said of the mirror.
    pub(crate) fn status(&self) -> Result<Value> {
        self.copy.mirror_status(1, "copy")
    }

    /// A command of `gavel mirror` at the source, or in the mirror's cluster, to be run by the caller.
    pub(crate) fn command(&self, is_source: bool, words: &[&str]) -> Command {
        let cluster = if is_source { &self.source } else { &self.copy };
        cluster.mirror_command(1, words)
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
        self.copy.unmount_extra()?;
        self.copy.no_panics()?;
        self.source.no_panics()?;
        self.copy.down()?;
        self.source.down()
    }
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
