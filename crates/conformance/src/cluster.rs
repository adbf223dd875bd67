//! A throw-away cluster, as `gavel dev` makes it, and everything that can be done to it.

use crate::command::{Gavel, Ran};
use crate::place::Place;
use crate::turn::Turn;
use crate::{mounts, process, wait};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a cluster may take to agree on something: several elections, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How much of a log is shown when a test fails.
const LAST_LINES: usize = 25;

/// A running cluster. Dropped, it is gone.
#[derive(Debug)]
pub struct Cluster {
    gavel: Gavel,
    dir: PathBuf,
    nodes: u64,
    place: Place,
    // Dropped last: the next test starts on a clean machine.
    _turn: Option<Turn>,
}

/// What `gavel dev status --json` says of a node, as far as tests ask.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its number.
    pub id: u64,
    /// Its process, if it has one.
    pub pid: Option<u32>,
    /// The code of how it is, such as `OK`.
    pub verdict: String,
    /// What its daemon says; null if it does not answer.
    pub status: Value,
}

/// What a node says of leases (`gavel status --json`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leases {
    /// Ranges in the table, of all sessions.
    pub ranges: u64,
    /// For how many milliseconds it may answer without asking; none if it may not.
    pub may_answer_ms: Option<u64>,
    /// Reads that were answered there, without a message.
    pub reads_leased: u64,
    /// Reads that had to be confirmed by the quorum.
    pub reads_confirmed: u64,
    /// Changes that wait until others have given up their leases.
    pub blocked: u64,
    /// Changes that were answered there before they were committed.
    pub answered_behind: u64,
    /// Of these, how many are not committed yet.
    pub pending: u64,
    /// Of these, how many were lost.
    pub lost: u64,
}

impl NodeState {
    fn of(value: &Value) -> NodeState {
        NodeState {
            id: value["node"].as_u64().unwrap_or(0),
            pid: value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
            verdict: value["verdict"].as_str().unwrap_or("").to_owned(),
            status: value["status"].clone(),
        }
    }

    /// Does it lead, in its own opinion?
    pub fn leads(&self) -> bool {
        self.status["node"]["role"] == "leader"
    }

    /// What it says of leases, if it answers.
    pub fn leases(&self) -> Option<Leases> {
        let leases = &self.status["node"]["leases"];
        let number = |name: &str| leases[name].as_u64();
        Some(Leases {
            ranges: number("ranges")?,
            may_answer_ms: number("may_answer_ms"),
            reads_leased: number("reads_leased")?,
            reads_confirmed: number("reads_confirmed")?,
            blocked: number("blocked")?,
            answered_behind: number("answered_behind")?,
            pending: number("pending")?,
            lost: number("lost")?,
        })
    }

    /// How far it is: the last entry and the last transaction that it has applied.
    pub fn position(&self) -> Option<(u64, u64)> {
        Some((self.status["node"]["applied"].as_u64()?, self.status["node"]["tid"].as_u64()?))
    }
}

/// Brings a cluster up, hands it to `body`, and takes it down again, seeing that nothing stays. If anything fails, the
/// last lines of all logs are shown.
///
/// # Errors
/// What failed.
pub fn with_cluster(nodes: u64, body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let Some(turn) = Turn::take()? else { return Ok(()) };
    let cluster = Cluster::up(turn, nodes)?;
    match body(&cluster).and_then(|()| cluster.no_panics()) {
        Ok(()) => cluster.down(),
        Err(error) => {
            cluster.show_logs();
            Err(error)
        }
    }
}

impl Cluster {
    /// Brings a cluster up.
    ///
    /// # Errors
    /// If that does not work.
    pub fn up(turn: Turn, nodes: u64) -> Result<Cluster> {
        Cluster::made(Some(turn), nodes)
    }

    /// Brings another cluster up, beside this one. It must not live longer.
    ///
    /// # Errors
    /// If that does not work.
    pub fn beside(&self, nodes: u64) -> Result<Cluster> {
        Cluster::made(None, nodes)
    }

    fn made(turn: Option<Turn>, nodes: u64) -> Result<Cluster> {
        let gavel = Gavel::find()?;
        let place = Place::new()?;
        let dir = place.path().join("c");
        let cluster = Cluster { gavel, dir, nodes, place, _turn: turn };
        if let Err(error) = cluster.start() {
            cluster.show_logs();
            return Err(error);
        }
        Ok(cluster)
    }

    /// The program it runs.
    pub fn gavel(&self) -> &Gavel {
        &self.gavel
    }

    /// A directory of the test, outside of the cluster's.
    pub fn scratch(&self) -> &Path {
        self.place.path()
    }

    /// The cluster's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The numbers of its nodes.
    pub fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.nodes
    }

    /// Mounts the tree anew on a node, with this option, until the node ends.
    ///
    /// # Errors
    /// If it can't be taken off or mounted.
    pub fn mount_with(&self, node: u64, option: &str) -> Result<()> {
        let (mount, config) = (self.mount(node), self.config(node));
        self.gavel().run(["umount".as_ref(), mount.as_os_str()])?.ok()?;
        let options = ["mount".as_ref(), "--config".as_ref(), config.as_os_str(), "-o".as_ref(), option.as_ref()];
        self.gavel().run(options.into_iter().chain([mount.as_os_str()]))?.ok().map(drop)
    }

    /// Where a node mounts the tree.
    pub fn mount(&self, node: u64) -> PathBuf {
        self.dir.join("mnt").join(node.to_string())
    }

    /// All mounts.
    pub fn all_mounts(&self) -> Vec<PathBuf> {
        self.ids().map(|node| self.mount(node)).collect()
    }

    /// A node's directory: configuration, certificate, data.
    pub fn home(&self, node: u64) -> PathBuf {
        self.dir.join("node").join(node.to_string())
    }

    /// A node's configuration.
    pub fn config(&self, node: u64) -> PathBuf {
        self.home(node).join("gavel.toml")
    }

    /// What a node's daemon has written so far.
    pub fn log(&self, node: u64) -> String {
        let bytes = std::fs::read(self.home(node).join("gavel.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn dev(&self, what: &str, more: &[&str]) -> Result<Ran> {
        let mut command = self.gavel.command(["dev", what, "--dir"]);
        command.arg(&self.dir).args(more);
        crate::command::run(command, crate::command::PATIENCE)
    }

    /// Starts all nodes that do not run; returns when all mounts work.
    ///
    /// # Errors
    /// What `gavel dev up` says.
    pub fn start(&self) -> Result<()> {
        self.dev("up", &["--nodes", &self.nodes.to_string()])?.ok().map(drop)
    }

    /// Stops all nodes and keeps their data.
    ///
    /// # Errors
    /// What `gavel dev down` says.
    pub fn halt(&self) -> Result<()> {
        self.dev("down", &["--keep"])?.ok().map(drop)
    }

    /// Ends the cluster, and sees that nothing is left of it.
    ///
    /// # Errors
    /// If something is.
    pub fn down(self) -> Result<()> {
        self.dev("down", &[])?.ok()?;
        let left = mounts::under(&self.dir);
        ensure!(left.is_empty(), "dev down has left mounts: {left:?}");
        let left = process::mentioning(&self.dir);
        ensure!(left.is_empty(), "dev down has left processes: {left:?}");
        ensure!(!self.dir.exists(), "dev down has left {}", self.dir.display());
        Ok(())
    }

    /// How all nodes are. A node that is stopped makes this take five seconds: ask for one node then.
    ///
    /// # Errors
    /// If `gavel dev status` fails.
    pub fn states(&self) -> Result<Vec<NodeState>> {
        let told: Value = serde_json::from_str(&self.dev("status", &["--json"])?.ok()?)?;
        let nodes = told["nodes"].as_array().context("dev status names no nodes")?;
        Ok(nodes.iter().map(NodeState::of).collect())
    }

    /// What one node says of itself; none if it does not answer.
    pub fn state(&self, node: u64) -> Option<NodeState> {
        let mut command = self.gavel.command(["status", "--json", "--config"]);
        command.arg(self.config(node));
        let told = crate::command::run(command, crate::command::PATIENCE).ok()?.ok().ok()?;
        let status: Value = serde_json::from_str(&told).ok()?;
        let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Some(NodeState { id: node, pid, verdict: String::new(), status })
    }

    /// What one node says of leases.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn leases(&self, node: u64) -> Result<Leases> {
        let leases = self.state(node).and_then(|state| state.leases());
        leases.with_context(|| format!("node {node} says nothing of leases"))
    }

    /// A node's process.
    ///
    /// # Errors
    /// If it has none.
    pub fn pid(&self, node: u64) -> Result<u32> {
        let states = self.states()?;
        let found = states.iter().find(|state| state.id == node).and_then(|state| state.pid);
        found.with_context(|| format!("node {node} does not run"))
    }

    /// Who leads: the one whose opinion it is that a majority shares.
    ///
    /// # Errors
    /// If nobody does for long.
    pub fn leader(&self) -> Result<u64> {
        wait::for_some("a leader", PATIENCE, || {
            let states = self.states().ok()?;
            let leader = states.iter().find(|state| state.leads())?.id;
            let followers = states.iter().filter(|state| state.status["node"]["leader"] == leader).count() as u64;
            (followers * 2 > self.nodes).then_some(leader)
        })
    }

    /// Some node that does not lead.
    ///
    /// # Errors
    /// If nobody leads for long.
    pub fn follower(&self) -> Result<u64> {
        let leader = self.leader()?;
        self.ids().find(|node| *node != leader).context("a cluster of one has no follower")
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self, node: u64) -> Result<()> {
        process::kill(self.pid(node)?)
    }

    /// SIGKILL to several at once.
    ///
    /// # Errors
    /// If one does not run.
    pub fn kill_at_once(&self, nodes: &[u64]) -> Result<()> {
        let pids = nodes.iter().map(|node| self.pid(*node)).collect::<Result<Vec<u32>>>()?;
        pids.iter().try_for_each(|pid| process::signal(*pid, Signal::KILL))?;
        wait::until("the killed processes are gone", PATIENCE, || pids.iter().all(|pid| !process::is_alive(*pid)))
    }

    /// SIGSTOP: the node holds its breath. Gives its process, for [`resume`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, node: u64) -> Result<u32> {
        Ok(self.pause_at_once(&[node])?[0])
    }

    /// SIGSTOP to several at once. Gives their processes, for [`resume`].
    ///
    /// # Errors
    /// If one does not run.
    pub fn pause_at_once(&self, nodes: &[u64]) -> Result<Vec<u32>> {
        let pids = nodes.iter().map(|node| self.pid(*node)).collect::<Result<Vec<u32>>>()?;
        pids.iter().try_for_each(|pid| process::signal(*pid, Signal::STOP))?;
        wait::until("the processes have stopped", PATIENCE, || pids.iter().all(|pid| process::is_stopped(*pid)))?;
        Ok(pids)
    }

    /// Waits until all nodes are well and have applied the same.
    ///
    /// # Errors
    /// If that does not come: how they are.
    pub fn settle(&self) -> Result<()> {
        let mut last = Vec::new();
        let settled = wait::until("all nodes are well and equal", PATIENCE, || {
            last = self.states().unwrap_or_default();
            let first = last.first().and_then(NodeState::position);
            // Conflicts wait for somebody to look at them; the node is well.
            let is_well = |verdict: &str| matches!(verdict, "OK" | "CONFLICTS");
            let well = |state: &NodeState| is_well(&state.verdict) && state.position() == first;
            first.is_some() && last.iter().all(well)
        });
        let brief = |state: &NodeState| format!("node {}: {} {:?}", state.id, state.verdict, state.position());
        settled.with_context(|| last.iter().map(brief).collect::<Vec<_>>().join("; "))
    }

    /// Sees that no daemon has panicked, whatever became of it.
    ///
    /// # Errors
    /// If one has: where.
    pub fn no_panics(&self) -> Result<()> {
        for node in self.ids() {
            let log = self.log(node);
            let line = log.lines().find(|line| line.contains("panicked at") || line.contains("has panicked"));
            ensure!(line.is_none(), "node {node}: {}", line.unwrap_or_default());
        }
        Ok(())
    }

    /// Shows the last lines of all logs, and copies them to where GAVEL_CONFORMANCE_LOGS says.
    pub fn show_logs(&self) {
        for node in self.ids() {
            let log = self.log(node);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of node {node}'s log");
            lines[lines.len().saturating_sub(LAST_LINES)..].iter().for_each(|line| eprintln!("{line}"));
            if let Some(dir) = std::env::var_os("GAVEL_CONFORMANCE_LOGS") {
                let test = std::thread::current().name().unwrap_or("test").replace(':', "_");
                let copied = std::fs::create_dir_all(&dir)
                    .and_then(|()| std::fs::write(Path::new(&dir).join(format!("{test}-{node}.log")), &log));
                if let Err(error) = copied {
                    eprintln!("{}: {error}", Path::new(&dir).display());
                }
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // What lives in its place ends with the place.
    }
}

/// SIGCONT: a paused node goes on.
///
/// # Errors
/// If the process is gone.
pub fn resume(pid: u32) -> Result<()> {
    process::signal(pid, Signal::CONT)
}
