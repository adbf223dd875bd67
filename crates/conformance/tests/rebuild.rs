//! `gavel rebuild`: a node makes its records anew, and those that are left can do with it.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, resume, with_cluster};
use gavel_conformance::{process, trees, wait};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// More than a node keeps of its log, in files that go through the log.
const FILES: u64 = 2_600;
const FILE_BYTES: usize = 16_000;

/// Starts one node alone; `gavel dev up` would start all.
fn serve(cluster: &Cluster, node: u64) -> Result<()> {
    let log = OpenOptions::new().append(true).open(cluster.home(node).join("gavel.log"))?;
    let mut command = cluster.gavel().command(["serve", "--config"]);
    command.arg(cluster.config(node)).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn()?;
    // It ends with the cluster.
    std::thread::spawn(move || child.wait());
    Ok(())
}

fn is_catching_up(cluster: &Cluster, node: u64) -> bool {
    cluster.state(node).is_some_and(|state| state.status["node"]["catching_up"] == true)
}

fn write_durably(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// The node's log is longer than that of the only other one that is left: it must be elected, and has no records. It hands over to the
/// other one, and copies from it.
#[test]
fn records_are_made_anew_by_a_node_that_has_the_longer_log_when_the_leader_is_gone() -> Result<()> {
    with_cluster(3, |cluster| {
        let leader = cluster.leader()?;
        let others: Vec<u64> = cluster.ids().filter(|node| *node != leader).collect();
        let (behind, rebuilt) = (others[0], others[1]);
        let here = cluster.mount(leader);
        write_durably(&here.join("changed"), "before")?;
        let words = ["snapshot", "create"].map(OsStr::new);
        cluster.gavel().run(words.into_iter().chain([here.as_os_str(), OsStr::new("first")]))?.ok()?;
        fs::create_dir(here.join("many"))?;
        for number in 0..FILES {
            fs::write(here.join(format!("many/{number}")), trees::noise(number, FILE_BYTES))?;
        }
        write_durably(&here.join("changed"), "after")?;
        cluster.settle()?;
        let config = cluster.config(rebuilt);
        let rebuild = |more: &[&str]| {
            let mut command = cluster.gavel().command(["rebuild", "--config"]);
            command.arg(&config).args(more);
            gavel_conformance::command::run(command, PATIENCE)
        };
        rebuild(&["--yes"])?.refused(&["a running node cannot be rebuilt"])?;

        let pid = cluster.pause(behind)?;
        write_durably(&here.join("late"), "acknowledged by two, one of which loses its records")?;
        cluster.kill_at_once(&[leader, rebuilt])?;
        resume(pid)?;
        let told = rebuild(&[])?.ok()?;
        ensure!(told.contains("would move"), "it says {told:?}");
        rebuild(&["--yes"])?.ok()?;
        serve(cluster, rebuilt)?;
        wait::until("it has no records yet", PATIENCE, || is_catching_up(cluster, rebuilt))?;
        let late = cluster.mount(behind).join("late");
        wait::until("the two that are left serve what was acknowledged", PATIENCE, || {
            fs::read_to_string(&late).is_ok_and(|text| text.starts_with("acknowledged"))
        })?;
        wait::until("it has caught up", PATIENCE, || {
            cluster.state(rebuilt).is_some_and(|state| state.status["node"]["catching_up"] == false)
        })?;

        // `gavel dev` does not know of the one that was started by hand.
        process::kill(cluster.state(rebuilt).and_then(|state| state.pid).context("it does not answer")?)?;
        cluster.start()?;
        cluster.settle()?;
        let expected = trees::read(&cluster.mount(behind))?;
        ensure!(expected.len() as u64 > FILES, "{} of {FILES} files are there", expected.len());
        for mount in cluster.all_mounts() {
            trees::same(&expected, &trees::read(&mount)?).with_context(|| mount.display().to_string())?;
        }
        let past = fs::read_to_string(cluster.mount(rebuilt).join("changed@@first"))?;
        ensure!(past == "before", "its past shows {past:?}");
        Ok(())
    })
}
