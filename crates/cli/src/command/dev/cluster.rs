//! The directory of a throw-away cluster, and the processes of its nodes.
//!
//! | path | what |
//! |---|---|
//! | `gavel-dev.json` | marks the directory as ours: only such a directory is ever removed |
//! | `node/N/` | a node: configuration, certificates, `data/`, `gavel.log`, `gavel.pid` |
//! | `mnt/N/` | its mount |

use crate::output::hinted;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MARK: &str = "gavel-dev.json";
/// Most nodes of a throw-away cluster: more than a quorum ever needs.
pub const NODES_MAX: u64 = 9;
/// How often a condition that is waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Mark {
    nodes: u64,
}

/// A throw-away cluster.
pub struct DevCluster {
    /// Its directory.
    pub dir: PathBuf,
    /// How many nodes it has.
    pub nodes: u64,
}

impl DevCluster {
    /// The cluster in `dir`; none if there is none.
    ///
    /// # Errors
    /// If what is there can't be read.
    pub fn find(dir: &Path) -> anyhow::Result<Option<DevCluster>> {
        let text = match std::fs::read(dir.join(MARK)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| dir.join(MARK).display().to_string())?,
        };
        let mark: Mark = serde_json::from_slice(&text).with_context(|| dir.join(MARK).display().to_string())?;
        Ok(Some(DevCluster { dir: dir.canonicalize()?, nodes: mark.nodes }))
    }

    /// The cluster in `dir`.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(dir: &Path) -> anyhow::Result<DevCluster> {
        DevCluster::find(dir)?.ok_or_else(|| {
            let what = format!("{}: there is no throw-away cluster", dir.display());
            hinted(what, format!("make one: gavel dev up --dir {} --nodes 3", dir.display()))
        })
    }

    /// Marks `dir`, which must be empty or missing, as a cluster's.
    ///
    /// # Errors
    /// If it is neither, or can't be made.
    pub fn claim(dir: &Path, nodes: u64) -> anyhow::Result<DevCluster> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        if std::fs::read_dir(dir)?.next().is_some() {
            let what = format!("{}: not empty, and not a throw-away cluster", dir.display());
            return Err(hinted(what, "give an empty directory, or one that is not there yet"));
        }
        std::fs::write(dir.join(MARK), serde_json::to_vec(&Mark { nodes })?)?;
        Ok(DevCluster { dir: dir.canonicalize()?, nodes })
    }

    /// Its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = DevNode> + '_ {
        (1..=self.nodes).map(|id| DevNode {
            id,
            home: self.dir.join("node").join(id.to_string()),
            mount: self.dir.join("mnt").join(id.to_string()),
        })
    }
}

/// A node of a throw-away cluster.
#[derive(Clone)]
pub struct DevNode {
    /// Its id.
    pub id: u64,
    /// Its directory.
    pub home: PathBuf,
    /// Where it mounts.
    pub mount: PathBuf,
}

impl DevNode {
    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.home.join(crate::command::init::CONFIG_FILE)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join("control.sock")
    }

    /// Where its daemon writes what happens.
    pub fn log(&self) -> PathBuf {
        self.home.join("gavel.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.home.join("gavel.pid")
    }

    /// The process of its daemon, if it runs. A process that has the number by chance is not taken for it.
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config();
        let is_ours = line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
        is_ours.then_some(pid)
    }

    /// Starts its daemon, detached from this process and its terminal. The child need not be waited for.
    ///
    /// # Errors
    /// If there is no such program, or its log can't be written.
    pub fn start(&self) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.with_context(|| self.log().display().to_string())?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("serve").arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
        let child = command.spawn().context("starting a node")?;
        std::fs::write(self.pid_file(), child.id().to_string())?;
        Ok(child)
    }

    /// Ends the daemon: asks it, then insists. Takes off what it leaves mounted.
    ///
    /// # Errors
    /// If it can't be ended.
    pub fn stop(&self, patience: Duration) -> anyhow::Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid as i32)) else { break };
            // It may have ended in this very moment.
            let _ = kill_process(pid, signal);
            wait_for(patience, || self.pid().is_none());
        }
        if let Some(pid) = self.pid() {
            anyhow::bail!("node {}: process {pid} cannot be ended", self.id);
        }
        for path in gavel_mount::table::stale_mounts_under(&self.mount)? {
            gavel_mount::table::unmount_path(&path, true)?;
        }
        Ok(())
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().map(|line| format!("\n  {line}")).collect()
    }
}

/// Waits until `condition` holds, for `patience` at most. Says whether it does.
pub fn wait_for(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
