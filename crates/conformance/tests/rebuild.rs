//! `gavel rebuild`: a node makes its records anew, and those that are left can do with it.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{PATIENCE, resume, with_cluster};
use gavel_conformance::serving::Serving;
use gavel_conformance::{trees, wait};
use std::ffi::OsStr;
use std::fs;

/// More than a node keeps of its log, in files that go through the log.
const FILES: u64 = 2_600;
const FILE_BYTES: usize = 16_000;

fn is_catching_up(node: &Serving, expected: bool) -> bool {
    node.status().is_some_and(|status| status["node"]["catching_up"] == expected)
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
        fs::write(here.join("changed"), "before")?;
        let words = ["snapshot", "create"].map(OsStr::new);
        cluster.gavel().run(words.into_iter().chain([here.as_os_str(), OsStr::new("first")]))?.ok()?;
        fs::create_dir(here.join("many"))?;
        for number in 0..FILES {
            fs::write(here.join(format!("many/{number}")), trees::noise(number, FILE_BYTES))?;
        }
        fs::write(here.join("changed"), "after")?;
        trees::settle(&here)?;
        cluster.settle()?;
        let config = cluster.config(rebuilt);
        let rebuild = |more: &[&str]| {
            let mut command = cluster.gavel().command(["rebuild", "--config"]);
            command.arg(&config).args(more);
            gavel_conformance::command::run(command, PATIENCE)
        };
        rebuild(&["--yes"])?.refused(&["a running node cannot be rebuilt"])?;

        let pid = cluster.pause(behind)?;
        fs::write(here.join("late"), "acknowledged by two, one of which loses its records")?;
        trees::settle(&here)?;
        cluster.kill_at_once(&[leader, rebuilt])?;
        resume(pid)?;
        let told = rebuild(&[])?.ok()?;
        ensure!(told.contains("would move"), "it says {told:?}");
        rebuild(&["--yes"])?.ok()?;
        // Alone: `gavel dev up` would start all.
        let serving = Serving::start(cluster.gavel(), &config, None)?;
        wait::until("it has no records yet", PATIENCE, || is_catching_up(&serving, true))?;
        let late = cluster.mount(behind).join("late");
        wait::until("the two that are left serve what was acknowledged", PATIENCE, || {
            fs::read_to_string(&late).is_ok_and(|text| text.starts_with("acknowledged"))
        })?;
        wait::until("it has caught up", PATIENCE, || is_catching_up(&serving, false))?;

        serving.end()?;
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
