//! A cluster whose nodes live on machines of their own: network namespaces on a switch, with cables that can be pulled.

use crate::command::Gavel;
use crate::netns::Network;
use crate::place::Place;
use crate::serving::Serving;
use crate::turn::Turn;
use crate::{machine, wait};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How many nodes it has.
pub const NODES: u64 = 3;
/// How long it may take to agree on something.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster as `gavel init` and `gavel serve` make it. Fields are dropped in order.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Serving>,
    place: Place,
    /// Its cables.
    pub network: Network,
    _turn: Turn,
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
    let cluster = Cluster::up(turn)?;
    let result = body(&cluster).and_then(|()| cluster.settle());
    if result.is_err() {
        for (node, serving) in (1..).zip(&cluster.nodes) {
            let said = serving.said();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!("--- the end of what node {node} says");
            lines[lines.len().saturating_sub(25)..].iter().for_each(|line| eprintln!("{line}"));
        }
        return result;
    }
    cluster.down()
}

impl Cluster {
    fn up(turn: Turn) -> Result<Cluster> {
        let gavel = Gavel::find()?;
        let network = Network::new(NODES)?;
        let place = Place::new()?;
        let mut init = gavel.command(["init", "--dir"]);
        init.arg(place.path().join("c"));
        for node in 1..=NODES {
            init.args(["--node", &format!("n{node}={}:7400", network.address(node))]);
        }
        crate::command::run(init, PATIENCE)?.ok()?;
        let mut cluster = Cluster { nodes: Vec::new(), place, network, _turn: turn };
        for node in 1..=NODES {
            let serving = Serving::start(&gavel, &cluster.config(node), Some(cluster.network.enter(node)))?;
            cluster.nodes.push(serving);
        }
        for node in 1..=NODES {
            let up = cluster.nodes[node as usize - 1].up_or_ended(PATIENCE)?;
            ensure!(up.is_none(), "node {node} has ended: {up:?}");
            std::fs::create_dir_all(cluster.mount(node))?;
            let mut mount = gavel.command(["mount", "--config"]);
            mount.arg(cluster.config(node)).arg(cluster.mount(node));
            crate::command::run(mount, PATIENCE)?.ok()?;
        }
        Ok(cluster)
    }

    /// A node's configuration.
    pub fn config(&self, node: u64) -> PathBuf {
        self.place.path().join("c/node").join(node.to_string()).join("gavel.toml")
    }

    /// Where a node mounts the tree.
    pub fn mount(&self, node: u64) -> PathBuf {
        self.place.path().join("mnt").join(node.to_string())
    }

    /// All mounts.
    pub fn mounts(&self) -> Vec<PathBuf> {
        (1..=NODES).map(|node| self.mount(node)).collect()
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
            first.is_some() && (2..=NODES).all(|node| position(node) == first)
        })
    }

    fn down(self) -> Result<()> {
        for node in &self.nodes {
            ensure!(!node.said().contains("panicked"), "process {} has panicked: {}", node.pid(), node.said());
        }
        // All at once: the last one would wait for a quorum that is gone.
        let ends: Vec<_> = self.nodes.into_iter().map(|node| std::thread::spawn(|| node.end())).collect();
        for end in ends {
            end.join().map_err(|_| anyhow::anyhow!("ending a node panicked"))??;
        }
        Ok(())
    }
}
