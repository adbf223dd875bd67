//! The cluster, through its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// A three-node cluster of ours.
pub(super) struct Cluster {
    gavel: PathBuf,
    directory: PathBuf,
}

/// One node of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Its number; mounts have the same.
    pub(super) number: usize,
    pub(super) pid: u32,
}

/// How many nodes the cluster has.
pub(super) const NODES: usize = 3;

impl Cluster {
    pub(super) fn new(gavel: &Path, directory: &Path) -> Self {
        Self { gavel: gavel.to_owned(), directory: directory.to_owned() }
    }

    /// Starts the nodes and mounts; nodes that run are left alone.
    pub(super) fn up(&self) -> Result<()> {
        self.dev("up", &["--nodes", &NODES.to_string()]).map(drop)
    }

    /// Mounts the tree anew on all nodes, with an option.
    pub(super) fn mount_anew(&self, option: &str) -> Result<()> {
        for (node, mount) in (1..=NODES).zip(self.mounts()) {
            let config = self.directory.join("node").join(node.to_string()).join("gavel.toml");
            self.run(Command::new(&self.gavel).arg("umount").arg(&mount))?;
            self.run(Command::new(&self.gavel).args(["mount", "-o", option, "--config"]).arg(config).arg(mount))?;
        }
        Ok(())
    }

    /// Unmounts and ends everything. Insists where somebody still uses a mount: whoever that is, is ours, and is given up.
    pub(super) fn end(&self) -> Result<()> {
        if self.dev("down", &[]).is_ok() {
            return Ok(());
        }
        for mount in self.mounts() {
            // Not mounted any more is what we want.
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH);
        }
        for node in self.nodes() {
            node.signal(Signal::KILL)?;
        }
        self.dev("down", &[]).map(drop)
    }

    /// The number of the node that leads, as far as anybody knows.
    pub(super) fn leader(&self) -> Result<Option<usize>> {
        let said: Value =
            serde_json::from_str(&self.dev("status", &["--json"])?).context("reading gavel dev status")?;
        let nodes = said["nodes"].as_array().context("gavel dev status names no nodes")?;
        let leads = nodes.iter().find(|node| node["status"]["node"]["role"] == "leader");
        Ok(leads.and_then(|node| node["node"].as_u64()).map(|number| number as usize))
    }

    /// Where the nodes mount the tree.
    pub(super) fn mounts(&self) -> Vec<PathBuf> {
        (1..=NODES).map(|node| self.directory.join("mnt").join(node.to_string())).collect()
    }

    /// The nodes that have a process.
    pub(super) fn nodes(&self) -> Vec<Node> {
        let node = |number: usize| {
            let file = self.directory.join("node").join(number.to_string()).join("gavel.pid");
            let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
            Path::new("/proc").join(format!("{pid}")).exists().then_some(Node { number, pid })
        };
        (1..=NODES).filter_map(node).collect()
    }

    fn dev(&self, what: &str, arguments: &[&str]) -> Result<String> {
        self.run(Command::new(&self.gavel).args(["dev", what, "--dir"]).arg(&self.directory).args(arguments))
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("running {}", self.gavel.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?}: {}: {}", output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Node {
    /// Sends its process a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("the node has no process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signalling node {}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_those_whose_process_lives() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write = |number: usize, text: &str| {
            let node = directory.path().join("node").join(number.to_string());
            fs::create_dir_all(&node).expect("a node's directory");
            fs::write(node.join("gavel.pid"), text).expect("a pid file");
        };
        write(1, &format!("{}\n", std::process::id()));
        write(2, "not a number");
        write(3, &u32::MAX.to_string());
        let nodes = Cluster::new(Path::new("gavel"), directory.path()).nodes();
        assert_eq!(nodes, [Node { number: 1, pid: std::process::id() }]);
    }
}
