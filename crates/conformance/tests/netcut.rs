//! Nodes are cut off from the others: three network namespaces on a switch, a cable pulled.

use anyhow::{Context, Result, ensure};
use gavel_conformance::journal::{Journal, Outcome, Work, Writer};
use gavel_conformance::verify::{served_again, verify};
use gavel_conformance::wired::{Cluster, NODES, PATIENCE, with_cluster};
use gavel_conformance::{machine, wait};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// A call on a mount without a quorum has failed by then: operations wait for ten seconds.
const REFUSAL_MAX: Duration = Duration::from_secs(40);
/// Records of each writer before and after a fault.
const SOME: usize = 30;
/// The majority serves writes again this soon after it has lost its leader, on a machine that has time for it.
const FAILOVER_MAX: Duration = Duration::from_secs(3);

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

/// Sees that neither a write nor a read is answered through this node's mount, in time, for want of a quorum; once its right has run out to answer
/// what it holds leases over.
fn refuses(cluster: &Cluster, node: u64) -> Result<()> {
    wait::until("the right of the node that is cut off has run out", PATIENCE, || {
        cluster.status(node).is_ok_and(|status| status["leases"]["may_answer_ms"].is_null())
    })?;
    let mount = cluster.mount(node);
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
        refuses(cluster, old)?;
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
        refuses(cluster, follower)?;
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
        (1..=NODES).try_for_each(|node| refuses(cluster, node))?;
        (1..=NODES).try_for_each(|node| cluster.network.heal(node))?;
        more(&journal, cluster, &[1, 2, 3])?;
        finish(cluster, journal)
    })
}
