//! Many agents change one source tree at the same time, on all nodes, each change in a transaction that is checked before it is committed (docs/operations/transactions.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::txn::{no_trace, run_command};
use gavel_conformance::{command, machine};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);
const AGENTS: usize = 8;
/// Changes of each agent whose check compiles the whole tree: each depends on all files, so that they can only be committed one behind the other.
const COMPILED: u64 = 1;
/// Changes of each agent whose check reads its own files only.
const OWN: u64 = 12;

fn module(agent: usize, step: u64) -> String {
    format!("pub const STEP: u64 = {step};\n// {agent}\n")
}

/// It does not compile beside another step of the module.
fn user(agent: usize, step: u64) -> String {
    format!("const _: () = assert!(crate::module_{agent}::STEP == {step});\n")
}

fn make_tree(source: &Path) -> Result<()> {
    std::fs::create_dir(source)?;
    let mut root = String::new();
    for agent in 0..AGENTS {
        root += &format!("pub mod module_{agent};\nmod user_{agent};\n");
        std::fs::write(source.join(format!("module_{agent}.rs")), module(agent, 0))?;
        std::fs::write(source.join(format!("user_{agent}.rs")), user(agent, 0))?;
    }
    Ok(std::fs::write(source.join("lib.rs"), root)?)
}

/// One change: both files of an agent, first one, then the other.
fn edit(agent: usize) -> String {
    format!(
        "cd source; step=$(sed -n 's/.*= \\([0-9]*\\);/\\1/p' module_{agent}.rs); next=$((step + 1))
        sed \"s/= $step;/= $next;/\" module_{agent}.rs > new_{agent}; mv new_{agent} module_{agent}.rs
        sed \"s/== $step)/== $next)/\" user_{agent}.rs > new_{agent}; mv new_{agent} user_{agent}.rs"
    )
}

fn compile(out: &Path) -> String {
    format!(
        "rustc --edition 2021 --crate-type lib --crate-name tree --emit metadata --out-dir {} lib.rs",
        out.display()
    )
}

/// What one agent does: it makes its changes one after the other, each again if others were faster.
fn work_alone(cluster: &Cluster, agent: usize, changes: u64, check: &str) -> Result<()> {
    let node = agent as u64 % cluster.ids().count() as u64 + 1;
    let message = format!("agent {agent}");
    let script = format!("{}\n{check}", edit(agent));
    for _ in 0..changes {
        let words = ["--retry", "100", "--message", &message];
        command::run(run_command(cluster, node, &words, &script), PATIENCE)?.ok()?;
    }
    Ok(())
}

/// Some agents at once; gives how many changes were committed in a second.
fn work(cluster: &Cluster, agents: usize, changes: u64, check: impl Fn(usize) -> String) -> Result<f64> {
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let start = |agent: usize| {
            let check = check(agent);
            scope.spawn(move || work_alone(cluster, agent, changes, &check))
        };
        let all: Vec<_> = (0..agents).map(start).collect();
        all.into_iter().try_for_each(|agent| agent.join().map_err(|_| anyhow::anyhow!("an agent panicked"))?)
    })?;
    Ok(agents as f64 * changes as f64 / began.elapsed().as_secs_f64())
}

/// The step that both files of an agent are at.
fn step_of(state: &Path, agent: usize) -> Result<u64> {
    let path = state.join(format!("module_{agent}.rs"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let step = text.split(&['=', ';']).nth(1).context("a step")?.trim().parse()?;
    let used = std::fs::read_to_string(state.join(format!("user_{agent}.rs")))?;
    ensure!(used == user(agent, step), "{}: half of a change: {text} {used}", state.display());
    Ok(step)
}

/// Every state that there ever was is without half of a change; gives how many commits agents have made.
fn check_every_state(cluster: &Cluster) -> Result<u64> {
    let source = cluster.mount(3).join("source");
    let log = cluster.gavel().run(["log", "--json", "--limit", "10000", source.to_str().context("a path")?])?.ok()?;
    let mut commits = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line)?;
        if !line["note"].as_str().is_some_and(|note| note.starts_with("agent ")) {
            continue;
        }
        commits += 1;
        let state = source.join(format!("@@{}", line["tid"].as_str().context("a Tid")?));
        for agent in 0..AGENTS {
            step_of(&state, agent)?;
        }
    }
    Ok(commits)
}

#[test]
fn agents_change_one_tree_and_nobody_sees_half_of_a_change() -> Result<()> {
    if !machine::has_programs(&["rustc"]) {
        return Ok(());
    }
    with_cluster(3, |cluster| {
        let source = cluster.mount(1).join("source");
        make_tree(&source)?;
        std::fs::File::open(cluster.mount(1))?.sync_all()?;
        let out = cluster.scratch();
        let compiled = work(cluster, AGENTS, COMPILED, |agent| {
            let dir = out.join(format!("out-{agent}"));
            format!("mkdir -p {}; {}", dir.display(), compile(&dir))
        })?;
        let own = |agent: usize| format!("grep -q \"== $next)\" user_{agent}.rs");
        let alone = work(cluster, 1, OWN, own)?;
        let together = work(cluster, AGENTS, OWN, own)?;
        println!(
            "changes in a second: {compiled:.1} compiled by 8 agents; {alone:.1} by one agent, {together:.1} by 8 in files of their own"
        );
        let commits = check_every_state(cluster)?;
        let expected = AGENTS as u64 * (COMPILED + OWN) + OWN;
        ensure!(commits == expected, "{commits} commits of {expected}");
        let steps: Vec<u64> =
            (0..AGENTS).map(|agent| step_of(&cluster.mount(2).join("source"), agent)).collect::<Result<_>>()?;
        ensure!(steps.iter().sum::<u64>() == expected, "{steps:?}: a change was lost");
        command::shell(&cluster.mount(2).join("source"), &compile(out), PATIENCE).context("the final tree")?;
        ensure!(together > alone, "eight agents make {together:.1} changes in a second, one makes {alone:.1}");
        cluster.ids().try_for_each(|node| no_trace(cluster, node))
    })
}
