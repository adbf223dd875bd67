//! Nodes are cut off from the others: three network namespaces on a switch, a cable pulled.

use anyhow::{Context, Result, ensure};
use gavel_conformance::command::Gavel;
use gavel_conformance::journal::{Journal, Outcome, Work, Writer};
use gavel_conformance::netns::Network;
use gavel_conformance::place::Place;
use gavel_conformance::serving::Serving;
use gavel_conformance::turn::Turn;
use gavel_conformance::verify::{served_again, verify};
use gavel_conformance::{machine, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NODES: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// A call on a mount without a quorum has failed by then: operations wait for ten seconds.
const REFUSAL_MAX: Duration = Duration::from_secs(40);
/// Records of each writer before and after a fault.
const SOME: usize = 30;
/// The majority serves writes again this soon after it has lost its leader, on a machine that has time for it.
const FAILOVER_MAX: Duration = Duration::from_secs(3);

/// A cluster as `gavel init` and `gavel serve` make it. Fields are dropped in order.
struct Cluster {
    nodes: Vec<Serving>,
    place: Place,
    network: Network,
    _turn: Turn,
}

/// Brings one up, hands it to `body`, and takes it down; shows what its nodes have said if anything fails.
fn with_cluster(body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
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
        gavel_conformance::command::run(init, PATIENCE)?.ok()?;
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
            gavel_conformance::command::run(mount, PATIENCE)?.ok()?;
        }
        Ok(cluster)
    }

    fn config(&self, node: u64) -> PathBuf {
        self.place.path().join("c/node").join(node.to_string()).join("gavel.toml")
    }

    fn mount(&self, node: u64) -> PathBuf {
        self.place.path().join("mnt").join(node.to_string())
    }

    fn mounts(&self) -> Vec<PathBuf> {
        (1..=NODES).map(|node| self.mount(node)).collect()
    }

    fn status(&self, node: u64) -> Result<Value> {
        let status = self.nodes[node as usize - 1].status();
        Ok(status.with_context(|| format!("node {node} does not answer"))?["node"].clone())
    }

    /// The leader that all of these nodes name, one of them.
    fn leader_of(&self, nodes: &[u64]) -> Result<u64> {
        wait::for_some("a leader that all name", PATIENCE, || {
            let named: Vec<Option<u64>> =
                nodes.iter().map(|node| self.status(*node).ok()?["leader"].as_u64()).collect();
            let leader = named.first().copied().flatten()?;
            (nodes.contains(&leader) && named.iter().all(|other| *other == Some(leader))).then_some(leader)
        })
    }

    /// Waits until all have applied the same.
    fn settle(&self) -> Result<()> {
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

fn journal(cluster: &Cluster) -> Result<Journal> {
    let all: Vec<_> =
        cluster.mounts().into_iter().flat_map(|mount| [(mount.clone(), Work::Append), (mount, Work::Create)]).collect();
    let journal = Journal::start(&all)?;
    more(&journal, cluster, &[1, 2, 3])?;
    Ok(journal)
}

fn writers<'a>(journal: &'a Journal, cluster: &Cluster, nodes: &[u64]) -> Vec<&'a Writer> {
    nodes.iter().flat_map(|node| journal.on(&cluster.mount(*node))).collect()
}

fn more(journal: &Journal, cluster: &Cluster, nodes: &[u64]) -> Result<()> {
    journal.wait_for_more(&writers(journal, cluster, nodes), SOME, PATIENCE)
}

fn finish(cluster: &Cluster, mut journal: Journal) -> Result<()> {
    journal.stop()?;
    cluster.settle()?;
    let summary = verify(&journal, &cluster.mounts())?;
    println!("{summary:?}");
    Ok(())
}

/// Sees that neither a write nor a read is answered through this mount, in time, for want of a quorum.
fn refuses(mount: &Path) -> Result<()> {
    let (write, read) = (mount.join("made by a minority"), mount.join("known"));
    let write = wait::within("making a file", REFUSAL_MAX, move || std::fs::write(write, "x"))?.err();
    let read = wait::within("reading a file", REFUSAL_MAX, move || std::fs::read(read))?.err();
    for (what, error) in [("making a file", write), ("reading a file", read)] {
        let error: io::Error = error.with_context(|| format!("{what} was answered without a quorum"))?;
        let errno = Errno::from_io_error(&error);
        ensure!(errno == Some(Errno::TIMEDOUT), "{what} without a quorum: {error}, and not ETIMEDOUT");
    }
    Ok(())
}

#[test]
fn leader_cut_off_and_healed() -> Result<()> {
    with_cluster(|cluster| {
        std::fs::write(cluster.mount(1).join("known"), "known")?;
        let journal = journal(cluster)?;
        let old = cluster.leader_of(&[1, 2, 3])?;
        let majority: Vec<u64> = (1..=NODES).filter(|node| *node != old).collect();
        cluster.network.cut(old)?;
        let cut = journal.now();
        more(&journal, cluster, &majority)?;
        let served = writers(&journal, cluster, &majority).into_iter().map(|writer| served_again(writer, cut));
        let slowest = served.max().flatten().context("the majority was not served again")?;
        let limit = machine::with_slack(FAILOVER_MAX);
        println!("the majority was served again {slowest:?} after the cut; at most {limit:?}");
        ensure!(slowest <= limit, "the majority was served again only after {slowest:?}; {limit:?} are allowed");
        let new = cluster.leader_of(&majority)?;
        ensure!(new != old, "the majority follows one that it can't reach");
        wait::until("the leader that was cut off steps down", PATIENCE, || {
            cluster.status(old).is_ok_and(|status| status["role"] != "leader" && status["quorum"] == false)
        })?;
        refuses(&cluster.mount(old))?;
        let late = journal.now();
        for writer in writers(&journal, cluster, &[old]) {
            let of_then = |note: &gavel_conformance::journal::Note| note.began > cut && note.ended < late;
            let wrong = writer.notes().into_iter().find(|note| of_then(note) && note.outcome == Outcome::Acknowledged);
            ensure!(wrong.is_none(), "acknowledged by a minority: {wrong:?}");
        }
        cluster.network.heal(old)?;
        more(&journal, cluster, &[1, 2, 3])?;
        let there = cluster.mount(old).join("made by a minority");
        ensure!(!there.exists(), "what was refused has come true");
        finish(cluster, journal)
    })
}

#[test]
fn follower_cut_off_and_healed_does_not_depose_the_leader() -> Result<()> {
    with_cluster(|cluster| {
        std::fs::write(cluster.mount(1).join("known"), "known")?;
        let journal = journal(cluster)?;
        let leader = cluster.leader_of(&[1, 2, 3])?;
        let term = cluster.status(leader)?["term"].clone();
        let follower = leader % NODES + 1;
        let majority: Vec<u64> = (1..=NODES).filter(|node| *node != follower).collect();
        cluster.network.cut(follower)?;
        more(&journal, cluster, &majority)?;
        refuses(&cluster.mount(follower))?;
        cluster.network.heal(follower)?;
        more(&journal, cluster, &[1, 2, 3])?;
        ensure!(cluster.leader_of(&[1, 2, 3])? == leader, "the one that came back has cost the leader its place");
        ensure!(cluster.status(leader)?["term"] == term, "the one that came back has begun a term");
        finish(cluster, journal)
    })
}

#[test]
fn all_cut_off_from_each_other_and_healed() -> Result<()> {
    with_cluster(|cluster| {
        std::fs::write(cluster.mount(1).join("known"), "known")?;
        let journal = journal(cluster)?;
        (1..=NODES).try_for_each(|node| cluster.network.cut(node))?;
        (1..=NODES).try_for_each(|node| refuses(&cluster.mount(node)))?;
        (1..=NODES).try_for_each(|node| cluster.network.heal(node))?;
        more(&journal, cluster, &[1, 2, 3])?;
        finish(cluster, journal)
    })
}
