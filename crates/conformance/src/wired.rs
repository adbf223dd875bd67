//! Clusters whose nodes live on machines of their own: network namespaces on a switch, with cables that can be pulled.

use crate::command::{Gavel, Ran};
use crate::netns::Network;
use crate::place::Place;
use crate::serving::Serving;
use crate::turn::Turn;
use crate::{machine, mounts, process, wait};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// How many nodes it has, if nothing else is said.
pub const NODES: u64 = 3;
/// How long it may take to agree on something.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Where every node listens, on its own address.
const PORT: u16 = 7400;

/// A cluster as `gavel init` and `gavel serve` make it. Fields are dropped in order.
#[derive(Debug)]
pub struct Cluster {
    gavel: Gavel,
    nodes: Vec<Serving>,
    /// The namespace of its first node.
    first: u64,
    /// What its nodes mount; none: the first volume.
    volume: Option<String>,
    place: Place,
    /// Its cables.
    pub network: Rc<Network>,
    _turn: Option<Rc<Turn>>,
}

/// What is asked of a cluster by others than its owner, in other threads.
#[derive(Clone, Debug)]
pub struct Door {
    gavel: Gavel,
    dir: PathBuf,
}

/// Brings one up, hands it to `body`, and takes it down; shows what its nodes have said if anything fails.
///
/// # Errors
/// What failed.
pub fn with_cluster(body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    if !machine::has_programs(&["ip", "nsenter"]) {
        return Ok(());
    }
    let Some(turn) = Turn::take()? else { return Ok(()) };
    let network = Rc::new(Network::new(NODES)?);
    let mut cluster = Cluster::made(&Rc::new(turn), &network, (1, NODES), "")?;
    cluster.started()?;
    let result = cluster.mount_all().and_then(|()| body(&cluster)).and_then(|()| cluster.settle());
    if result.is_err() {
        cluster.show();
        return result;
    }
    cluster.down()
}

/// Brings up two, with so many nodes each and one cable between them; `tuning` goes into the `[tuning]` of all configurations.
///
/// # Errors
/// What failed.
pub fn with_two(
    (near, far): (u64, u64),
    tuning: &str,
    body: impl FnOnce(&mut Cluster, &mut Cluster) -> Result<()>,
) -> Result<()> {
    if !machine::has_programs(&["ip", "nsenter"]) {
        return Ok(());
    }
    let Some(turn) = Turn::take()?.map(Rc::new) else { return Ok(()) };
    let network = Rc::new(Network::of_two(near, far)?);
    let mut one = Cluster::made(&turn, &network, (1, near), tuning)?;
    let mut other = Cluster::made(&turn, &network, (near + 1, far), tuning)?;
    let mut result = one.started().and_then(|()| other.started()).and_then(|()| one.mount_all());
    if result.is_ok() {
        result = body(&mut one, &mut other).and_then(|()| one.settle()).and_then(|()| other.settle());
    }
    if result.is_err() {
        [&one, &other].into_iter().for_each(Cluster::show);
        return result;
    }
    one.down()?;
    other.down()
}

impl Cluster {
    /// Makes one that does not run yet.
    fn made(turn: &Rc<Turn>, network: &Rc<Network>, (first, count): (u64, u64), tuning: &str) -> Result<Cluster> {
        let gavel = Gavel::find()?;
        let place = Place::new()?;
        let mut init = gavel.command(["init", "--dir"]);
        init.arg(place.path().join("c"));
        for node in 1..=count {
            init.args(["--node", &format!("n{node}={}:{PORT}", network.address(first + node - 1))]);
        }
        crate::command::run(init, PATIENCE)?.ok()?;
        let (network, turn) = (network.clone(), Some(turn.clone()));
        let mut cluster = Cluster { gavel, nodes: Vec::new(), first, volume: None, place, network, _turn: turn };
        for node in 1..=count {
            let config = cluster.config(node);
            if !tuning.is_empty() {
                let text = std::fs::read_to_string(&config)?;
                ensure!(text.contains("[tuning]\n"), "{}: no [tuning]", config.display());
                std::fs::write(&config, text.replacen("[tuning]\n", &format!("[tuning]\n{tuning}\n"), 1))?;
            }
            std::fs::create_dir_all(cluster.mount(node))?;
            let serving = Serving::start(&cluster.gavel, &config, Some(cluster.enter(node)))?;
            cluster.nodes.push(serving);
        }
        Ok(cluster)
    }

    fn started(&mut self) -> Result<()> {
        self.ids().try_for_each(|node| self.up(node))
    }

    /// Waits until a node takes part.
    fn up(&mut self, node: u64) -> Result<()> {
        let up = self.nodes[node as usize - 1].up_or_ended(PATIENCE)?;
        ensure!(up.is_none(), "node {node} has ended: {up:?}");
        Ok(())
    }

    fn mount_all(&self) -> Result<()> {
        self.ids().try_for_each(|node| self.mount_one(node))
    }

    /// Mounts what this node is to mount; what a dead one has left there goes.
    fn mount_one(&self, node: u64) -> Result<()> {
        mounts::take_off(&self.mount(node));
        let mut mount = self.gavel.command(["mount", "--config"]);
        mount.arg(self.config(node));
        if let Some(volume) = &self.volume {
            mount.args(["--volume", volume]);
        }
        mount.arg(self.mount(node));
        crate::command::run(mount, PATIENCE)?.ok().map(drop)
    }

    /// Its nodes mount this volume from now on.
    ///
    /// # Errors
    /// If they can't.
    pub fn mounts_volume(&mut self, name: &str) -> Result<()> {
        self.volume = Some(name.into());
        self.mount_all()
    }

    /// A command with the network of a node.
    fn enter(&self, node: u64) -> Command {
        self.network.enter(self.first + node - 1)
    }

    /// Pulls a node's cable, or puts it back.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn plug(&self, node: u64, is_in: bool) -> Result<()> {
        let namespace = self.first + node - 1;
        if is_in { self.network.heal(namespace) } else { self.network.cut(namespace) }
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self, node: u64) -> Result<()> {
        process::kill(self.nodes[node as usize - 1].pid())
    }

    /// Starts nodes that were killed, at once; returns when they take part and have mounted. What they had said in the life before must be no panic.
    ///
    /// # Errors
    /// If they do not take part.
    pub fn restart(&mut self, nodes: &[u64]) -> Result<()> {
        for node in nodes {
            self.no_panic(*node)?;
            let (config, within) = (self.config(*node), Some(self.enter(*node)));
            self.nodes[*node as usize - 1] = Serving::start(&self.gavel, &config, within)?;
        }
        for node in nodes {
            self.up(*node)?;
            self.mount_one(*node)?;
        }
        Ok(())
    }

    /// What a node has said since it was started last.
    pub fn said(&self, node: u64) -> String {
        self.nodes[node as usize - 1].said()
    }

    /// The numbers of its nodes.
    pub fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.nodes.len() as u64
    }

    /// For other threads.
    pub fn door(&self) -> Door {
        Door { gavel: self.gavel.clone(), dir: self.place.path().to_owned() }
    }

    /// A directory of the test, outside of the cluster's.
    pub fn scratch(&self) -> &Path {
        self.place.path()
    }

    /// A node's configuration.
    pub fn config(&self, node: u64) -> PathBuf {
        self.door().config(node)
    }

    /// Where a node mounts the tree.
    pub fn mount(&self, node: u64) -> PathBuf {
        self.door().mount(node)
    }

    /// All mounts.
    pub fn mounts(&self) -> Vec<PathBuf> {
        self.ids().map(|node| self.mount(node)).collect()
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self, node: u64) -> Result<Value> {
        let status = self.nodes[node as usize - 1].status();
        Ok(status.with_context(|| format!("node {node} does not answer"))?["node"].clone())
    }

    /// The leader that all of these nodes name, one of them.
    ///
    /// # Errors
    /// If they do not agree on one.
    pub fn leader_of(&self, nodes: &[u64]) -> Result<u64> {
        wait::for_some("a leader that all name", PATIENCE, || {
            let named: Vec<Option<u64>> =
                nodes.iter().map(|node| self.status(*node).ok()?["leader"].as_u64()).collect();
            let leader = named.first().copied().flatten()?;
            (nodes.contains(&leader) && named.iter().all(|other| *other == Some(leader))).then_some(leader)
        })
    }

    /// Waits until all have applied the same.
    ///
    /// # Errors
    /// If that does not come.
    pub fn settle(&self) -> Result<()> {
        wait::until("all nodes are equal", PATIENCE, || {
            let position = |node: u64| {
                let status = self.status(node).ok()?;
                let clean = status["catching_up"] == false && status["failure"].is_null();
                Some((status["applied"].as_u64()?, status["tid"].as_u64()?)).filter(|_| clean)
            };
            let first = position(1);
            first.is_some() && self.ids().all(|node| position(node) == first)
        })
    }

    /// Shows the last lines that its nodes have said, and copies all to where GAVEL_CONFORMANCE_LOGS says.
    fn show(&self) {
        for (node, serving) in (1..).zip(&self.nodes) {
            let said = serving.said();
            let lines: Vec<&str> = said.lines().collect();
            let namespace = self.first + node - 1;
            eprintln!("--- the end of what node {node} (of namespace {namespace}) says");
            lines[lines.len().saturating_sub(25)..].iter().for_each(|line| eprintln!("{line}"));
            if let Some(dir) = std::env::var_os("GAVEL_CONFORMANCE_LOGS") {
                let copied = std::fs::create_dir_all(&dir)
                    .and_then(|()| std::fs::write(Path::new(&dir).join(format!("wired-{namespace}.log")), &said));
                if let Err(error) = copied {
                    eprintln!("{}: {error}", Path::new(&dir).display());
                }
            }
        }
    }

    fn no_panic(&self, node: u64) -> Result<()> {
        let said = self.nodes[node as usize - 1].said();
        let line = said.lines().find(|line| line.contains("panicked"));
        if let Some(line) = line {
            bail!("node {node}: {line}");
        }
        Ok(())
    }

    fn down(self) -> Result<()> {
        self.ids().try_for_each(|node| self.no_panic(node))?;
        // All at once: the last one would wait for a quorum that is gone.
        let ends: Vec<_> = self.nodes.into_iter().map(|node| std::thread::spawn(|| node.end())).collect();
        for end in ends {
            end.join().map_err(|_| anyhow::anyhow!("ending a node panicked"))??;
        }
        Ok(())
    }
}

impl Door {
    /// A node's configuration.
    pub fn config(&self, node: u64) -> PathBuf {
        self.dir.join("c/node").join(node.to_string()).join("gavel.toml")
    }

    /// Where a node mounts the tree.
    pub fn mount(&self, node: u64) -> PathBuf {
        self.dir.join("mnt").join(node.to_string())
    }

    /// Runs `gavel WORDS` to its end.
    ///
    /// # Errors
    /// If it can't be run, or does not end.
    pub fn gavel(&self, words: &[&str]) -> Result<Ran> {
        crate::command::run(self.gavel.command(words), PATIENCE)
    }

    /// The same, in a directory.
    ///
    /// # Errors
    /// As [`Door::gavel`]; if there is no such directory.
    pub fn gavel_in(&self, dir: &Path, words: &[&str]) -> Result<Ran> {
        let mut command = self.gavel.command(words);
        command.current_dir(dir);
        crate::command::run(command, PATIENCE)
    }

    /// Runs `gavel WORDS --config` with a node's configuration.
    ///
    /// # Errors
    /// As [`Door::gavel`].
    pub fn through(&self, node: u64, words: &[&str]) -> Result<Ran> {
        let mut command = self.gavel.command(words);
        command.arg("--config").arg(self.config(node));
        crate::command::run(command, PATIENCE)
    }
}
