//! Locks hold over all nodes (docs/protocols/locks.md): programs on three mounts lock one file, and somebody dies.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::locker::{Locker, Said};
use gavel_conformance::{command, machine, wait};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LOCKER: &str = env!("CARGO_BIN_EXE_locker");
/// What is handed over from one node to another is there by then; a commit, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
/// A session ends when it was not heard of for its term (5 s), some allowance for clocks, and a commit.
const SESSION_ENDS: Duration = Duration::from_secs(20);
/// `flock(2)`.
const SHARED: &str = "flock f 5";
const EXCLUSIVE: &str = "flock f 6";
const EXCLUSIVE_WAIT: &str = "flock f 2";
const UNLOCK: &str = "flock f 8";

fn file(cluster: &Cluster, node: u64) -> PathBuf {
    cluster.mount(node).join("locked")
}

/// A process on a node, with the file open.
fn on(cluster: &Cluster, node: u64) -> Result<Locker> {
    Locker::of(LOCKER, &file(cluster, node)).with_context(|| format!("on node {node}"))
}

/// Locks that are held, and requests that wait, as a node's replica has it.
fn counts(cluster: &Cluster, node: u64) -> Option<(u64, u64)> {
    let state = cluster.state(node)?;
    let locks = &state.status["node"]["locks"];
    Some((locks["held"].as_u64()?, locks["waiting"].as_u64()?))
}

fn until_counts(cluster: &Cluster, node: u64, expected: (u64, u64)) -> Result<()> {
    let mut last = None;
    let counted = wait::until("the locks are as many as expected", PATIENCE, || {
        last = counts(cluster, node);
        last == Some(expected)
    });
    counted.with_context(|| format!("{expected:?} and not {last:?}"))
}

fn begin(cluster: &Cluster) -> Result<()> {
    std::fs::write(file(cluster, 1), "bytes to lock").context("making the file")
}

fn granted(said: &Said) -> Result<()> {
    ensure!(said.text == "ok", "it was answered {}", said.text);
    Ok(())
}

#[test]
fn fcntl_and_flock_exclude_over_three_mounts() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let (mut a, mut b, mut c) = (on(cluster, 1)?, on(cluster, 2)?, on(cluster, 3)?);
        // Byte ranges: apart, shared, exclusive; split by an unlock in the middle.
        a.says("set f write 0 10", "ok")?;
        b.says("set f write 10 10", "ok")?;
        b.says("set f write 9 1", "EAGAIN")?;
        c.says("set f read 0 0", "EAGAIN")?;
        c.says("get f write 0 0", "write 0 10 0")?;
        a.says("get f write 0 0", "write 10 10 0")?;
        a.says("set f none 4 2", "ok")?;
        b.says("set f write 4 2", "ok")?;
        b.says("set f write 3 1", "EAGAIN")?;
        a.says("set f read 0 4", "ok")?;
        c.says("set f read 0 4", "ok")?;
        c.says("set f write 0 1", "EAGAIN")?;
        // The other family does not see them.
        c.says(EXCLUSIVE, "ok")?;
        a.says(SHARED, "EAGAIN")?;
        c.says(SHARED, "ok")?;
        a.says(SHARED, "ok")?;
        a.says(EXCLUSIVE, "EAGAIN")?;
        // A process of the same node is another owner, and is told by its number.
        let mut d = on(cluster, 1)?;
        d.says("set f write 0 1", "EAGAIN")?;
        d.says("get f write 6 1", &format!("write 6 4 {}", a.pid()))?;
        d.says("ofd f write 100 1", "ok")?;
        b.says("set f write 100 1", "EAGAIN")?;
        // Closing gives everything back: POSIX locks at once, even through another open file of the same process.
        a.says(&format!("open g {}", file(cluster, 1).display()), "ok")?;
        a.says("close g", "ok")?;
        b.says("set f write 0 4", "EAGAIN")?;
        c.says("set f none 0 0", "ok")?;
        b.says("set f write 0 4", "ok")?;
        d.says("close f", "ok")?;
        a.says("close f", "ok")?;
        b.says("close f", "ok")?;
        c.says("close f", "ok")?;
        until_counts(cluster, 2, (0, 0))
    })
}

#[test]
fn a_lock_is_handed_to_who_waits_the_longest() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let (mut a, mut b, mut c) = (on(cluster, 1)?, on(cluster, 2)?, on(cluster, 3)?);
        for (take, lock, give_back) in
            [("set f write 0 0", "wait f write 5 1", "set f none 0 0"), (EXCLUSIVE, EXCLUSIVE_WAIT, UNLOCK)]
        {
            a.says(take, "ok")?;
            b.order(lock)?;
            until_counts(cluster, 1, (1, 1))?;
            c.order(lock)?;
            until_counts(cluster, 1, (1, 2))?;
            ensure!(b.is_waiting() && c.is_waiting());
            a.says(give_back, "ok")?;
            granted(&b.answer(SOON)?)?;
            ensure!(c.is_waiting());
            a.says(take, "EAGAIN")?;
            b.says(give_back, "ok")?;
            granted(&c.answer(SOON)?)?;
            c.says(give_back, "ok")?;
            until_counts(cluster, 1, (0, 0))?;
        }
        // Two that wait for each other: the second is told.
        a.says("set f write 0 1", "ok")?;
        b.says("set f write 1 1", "ok")?;
        a.order("wait f write 1 1")?;
        until_counts(cluster, 1, (2, 1))?;
        b.says("wait f write 0 1", "EDEADLK")?;
        b.says("set f none 0 0", "ok")?;
        granted(&a.answer(SOON)?)
    })
}

#[test]
fn what_a_killed_process_had_or_waited_for_is_free_at_once() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        for (take, lock, give_back) in
            [("set f write 0 0", "wait f write 0 0", "set f none 0 0"), (EXCLUSIVE, EXCLUSIVE_WAIT, UNLOCK)]
        {
            let (mut a, mut b, mut c) = (on(cluster, 1)?, on(cluster, 2)?, on(cluster, 3)?);
            a.says(take, "ok")?;
            b.order(lock)?;
            until_counts(cluster, 3, (1, 1))?;
            c.order(lock)?;
            until_counts(cluster, 3, (1, 2))?;
            b.kill()?;
            until_counts(cluster, 3, (1, 1))?;
            a.kill()?;
            granted(&c.answer(SOON)?)?;
            c.says(give_back, "ok")?;
            until_counts(cluster, 3, (0, 0))?;
        }
        Ok(())
    })
}

#[test]
fn who_waits_can_be_interrupted() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let (mut a, mut b) = (on(cluster, 1)?, on(cluster, 2)?);
        a.says("set f write 0 0", "ok")?;
        a.says(EXCLUSIVE, "ok")?;
        for lock in ["wait f write 0 0", EXCLUSIVE_WAIT] {
            for _ in 0..3 {
                b.order(lock)?;
                until_counts(cluster, 1, (2, 1))?;
                b.interrupt()?;
                let said = b.answer(SOON)?;
                ensure!(said.text == "EINTR", "{lock}: {}", said.text);
                until_counts(cluster, 1, (2, 0))?;
            }
        }
        // Before it is in line: nobody knows when the signal comes.
        for _ in 0..50 {
            b.order("wait f write 0 0")?;
            let mut said = None;
            wait::until("the signal is heard", SOON, || {
                // It may come before the call, which is then not interrupted by it.
                let _ = b.interrupt();
                said = b.answer(Duration::from_millis(1)).ok();
                said.is_some()
            })?;
            let said = said.context("it was heard")?;
            ensure!(said.text == "EINTR", "{}", said.text);
        }
        a.says("set f none 0 0", "ok")?;
        b.says("wait f write 0 0", "ok")?;
        Ok(())
    })
}

#[test]
fn locks_outlive_their_leader() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let leader = cluster.leader()?;
        let others: Vec<u64> = cluster.ids().filter(|node| *node != leader).collect();
        let (mut a, mut b) = (on(cluster, others[0])?, on(cluster, others[1])?);
        a.says("set f write 0 0", "ok")?;
        a.says(SHARED, "ok")?;
        b.order("wait f write 0 0")?;
        until_counts(cluster, others[0], (2, 1))?;
        cluster.kill(leader)?;
        let next = cluster.leader()?;
        ensure!(next != leader);
        let mut c = on(cluster, others[1])?;
        c.says("set f read 0 0", "EAGAIN")?;
        c.says(EXCLUSIVE, "EAGAIN")?;
        ensure!(b.is_waiting());
        a.says("set f none 0 0", "ok")?;
        granted(&b.answer(SOON)?)?;
        cluster.start()?;
        let mut d = on(cluster, leader)?;
        d.says("set f read 0 0", "EAGAIN")?;
        drop(b);
        d.says("wait f write 0 0", "ok")?;
        Ok(())
    })
}

#[test]
fn the_locks_of_a_killed_node_are_free_when_its_session_has_ended() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let (mut a, mut b) = (on(cluster, 1)?, on(cluster, 2)?);
        a.says("set f write 0 0", "ok")?;
        b.order("wait f write 0 0")?;
        until_counts(cluster, 3, (1, 1))?;
        cluster.kill(1)?;
        granted(&b.answer(SESSION_ENDS)?)?;
        until_counts(cluster, 3, (1, 0))?;
        drop(a);
        cluster.start()
    })
}

#[test]
fn a_node_that_was_given_up_tells_its_programs_that_their_locks_are_gone() -> Result<()> {
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let away = cluster.follower()?;
        let other = cluster.ids().find(|node| *node != away).context("another node")?;
        let (mut a, mut waits, mut b) = (on(cluster, away)?, on(cluster, away)?, on(cluster, other)?);
        a.says("set f write 0 10", "ok")?;
        a.says(EXCLUSIVE, "ok")?;
        b.says("set f write 20 10", "ok")?;
        waits.order("wait f write 20 10")?;
        until_counts(cluster, other, (3, 1))?;
        let pid = cluster.pause(away)?;
        b.order("wait f write 0 10")?;
        let said = b.answer(SESSION_ENDS);
        resume(pid)?;
        granted(&said?)?;
        wait::until("the node has noticed", PATIENCE, || {
            let state = cluster.state(away);
            // What waited stands in line again, under the new session.
            state.is_some_and(|state| state.status["node"]["locks"]["waiting"].as_u64() == Some(1))
        })?;
        a.says("get f write 0 10", "EIO")?;
        a.says("set f write 50 1", "EIO")?;
        a.says("set f none 0 0", "EIO")?;
        a.says("set f write 50 1", "ok")?;
        a.says(EXCLUSIVE, "EIO")?;
        a.says("close f", "ok")?;
        a.says(&format!("open f {}", file(cluster, away).display()), "ok")?;
        a.says(EXCLUSIVE, "ok")?;
        b.says("set f none 0 0", "ok")?;
        granted(&waits.answer(SOON)?)
    })
}

/// One table, two writers on two nodes, a thousand small transactions each.
#[test]
fn sqlite_on_two_mounts_at_once() -> Result<()> {
    const EACH: usize = 1_000;
    if !machine::has_programs(&["sqlite3"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let create = "PRAGMA journal_mode=DELETE; CREATE TABLE t(writer, number, PRIMARY KEY(writer, number));";
        command::shell(&cluster.mount(1), &format!("sqlite3 -bail db '{create}'"), SESSION_ENDS)?;
        let writer = |node: u64| -> Result<Command> {
            let insert = |row: usize| format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({node}, {row}); COMMIT;\n");
            let script = cluster.scratch().join(format!("insert {node}"));
            std::fs::write(&script, (0..EACH).map(insert).collect::<String>())?;
            let mut command = Command::new("sqlite3");
            command.args(["-bail", "-cmd", ".timeout 120000", "db"]).arg(format!(".read '{}'", script.display()));
            command.current_dir(cluster.mount(node));
            Ok(command)
        };
        let (first, second) = (writer(1)?, writer(2)?);
        let limit = Duration::from_secs(500);
        let other = std::thread::spawn(move || command::run(second, limit)?.ok());
        let one = command::run(first, limit)?.ok();
        other.join().map_err(|_| anyhow::anyhow!("the second writer has panicked"))??;
        one?;
        let count = "SELECT count(*) FROM t; SELECT count(DISTINCT writer) FROM t; PRAGMA integrity_check;";
        for node in cluster.ids() {
            let found = command::shell(&cluster.mount(node), &format!("sqlite3 -bail db '{count}'"), SESSION_ENDS)?;
            ensure!(found == format!("{}\n2\nok\n", 2 * EACH), "mount {node}: {found}");
        }
        Ok(())
    })
}

/// Not a test of anything but time: prints what a lock costs.
#[test]
#[ignore = "a measurement"]
fn measure() -> Result<()> {
    const ROUNDS: usize = 300;
    with_cluster(3, |cluster| {
        begin(cluster)?;
        let (mut a, mut b) = (on(cluster, 1)?, on(cluster, 2)?);
        let (mut pairs, mut hand_overs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (taken, given) = (a.says("set f write 0 0", "ok")?, a.says("set f none 0 0", "ok")?);
            pairs.push(taken.after_ns - taken.before_ns + given.after_ns - given.before_ns);
        }
        for _ in 0..ROUNDS / 10 {
            a.says("set f write 0 0", "ok")?;
            b.order("wait f write 0 0")?;
            until_counts(cluster, 1, (1, 1))?;
            let given = a.says("set f none 0 0", "ok")?;
            let got = b.answer(SOON)?;
            granted(&got)?;
            hand_overs.push(got.after_ns - given.before_ns);
            b.says("set f none 0 0", "ok")?;
        }
        for (what, mut times) in [("lock and unlock", pairs), ("hand-over", hand_overs)] {
            times.sort_unstable();
            let at = |part: usize| times[times.len() * part / 100] as f64 / 1e6;
            println!("{what}: p50 {:.2} ms, p90 {:.2} ms ({} times)", at(50), at(90), times.len());
        }
        Ok(())
    })
}
