//! A node is cut off with changes that it has answered, and its session ends: what nobody else has touched is committed afterwards, the rest is kept as conflicts
//! (docs/operations/conflicts.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::command::{Gavel, Ran};
use gavel_conformance::wired::{Cluster, NODES, PATIENCE, with_cluster};
use gavel_conformance::{command, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A call on a mount returns within this, whatever the cluster is like.
const CALL_MAX: Duration = Duration::from_secs(40);
/// How often a node is cut off until it was answering at that moment: its leases may just have been asked back.
const TRIES: u64 = 5;
/// What the node that is cut off writes, and what another one does.
const MINE: &str = "mine!\n";
const OTHER: &str = "other\n";
/// Files that both nodes will change, and some that only the first will. Those whose names end so are written with `LARGE_BYTES` at once: these go to a blob.
const BOTH: [&str; 3] = ["both1", "both2", "both_large"];
const ALONE: [&str; 2] = ["mine", "mine_large"];
const LARGE_BYTES: usize = 40_000;

fn content(name: &str, text: &str) -> String {
    if name.ends_with("large") { text.repeat(LARGE_BYTES / text.len()) } else { text.into() }
}

/// What one try needs.
struct Files {
    dir: String,
    open: Vec<(&'static str, File)>,
}

impl Files {
    fn make(mount: &Path, number: u64) -> Result<Files> {
        let dir = format!("d{number}");
        let at = mount.join(&dir);
        std::fs::create_dir(&at)?;
        let open = |name: &str| -> io::Result<File> {
            std::fs::write(at.join(name), content(name, "first\n"))?;
            let file = OpenOptions::new().write(true).open(at.join(name))?;
            file.sync_all()?;
            Ok(file)
        };
        let open = BOTH.into_iter().chain(ALONE).map(|name| Ok((name, open(name)?)));
        Ok(Files { open: open.collect::<io::Result<_>>()?, dir })
    }

    fn sync(&self) -> io::Result<()> {
        self.open.iter().try_for_each(|(_, file)| file.sync_all())
    }

    fn write(&self, text: &str) -> io::Result<()> {
        self.open.iter().try_for_each(|(name, file)| file.write_all_at(content(name, text).as_bytes(), 0))
    }

    fn file(&self, name: &str) -> Result<&File> {
        let found = self.open.iter().find(|(other, _)| *other == name);
        found.map(|(_, file)| file).with_context(|| format!("no file {name}"))
    }
}

fn behind(cluster: &Cluster, node: u64, what: &str) -> Result<u64> {
    cluster.status(node)?["behind"][what].as_u64().with_context(|| format!("node {node} says nothing of {what}"))
}

fn answered(cluster: &Cluster, node: u64) -> Result<u64> {
    cluster.status(node)?["leases"]["answered_behind"].as_u64().context("the node does not say what it answered behind")
}

/// Writes until the node answers all writes before they are committed.
fn warm(cluster: &Cluster, node: u64, files: &Files) -> Result<()> {
    wait::until("the node answers under exclusive leases", PATIENCE, || {
        let before = answered(cluster, node).unwrap_or(0);
        files.write("warm!\n").is_ok()
            && answered(cluster, node).is_ok_and(|now| now >= before + files.open.len() as u64)
    })?;
    Ok(files.sync()?)
}

/// Cuts the node off, and has it answer writes to all files then.
fn cut_off_with_answers(cluster: &Cluster, node: u64) -> Result<Files> {
    for number in 0..TRIES {
        let files = Files::make(&cluster.mount(node), number)?;
        warm(cluster, node, &files)?;
        cluster.network.cut(node)?;
        let (files, written) = wait::within("writing on a node that is cut off", CALL_MAX, move || {
            let written = files.write(MINE);
            (files, written)
        })?;
        match written {
            Ok(()) => return Ok(files),
            Err(error) => println!("try {number}: {error}"),
        }
        cluster.network.heal(node)?;
        cluster.settle()?;
    }
    anyhow::bail!("a node that was cut off has answered nothing in {TRIES} tries")
}

/// The other node changes some of the files, once the session of the first one has ended.
fn change_elsewhere(mount: PathBuf) -> Result<()> {
    let change = move || {
        BOTH.iter().try_for_each(|name| {
            let file = OpenOptions::new().write(true).open(mount.join(name))?;
            file.write_all_at(content(name, OTHER).as_bytes(), 0)?;
            file.sync_all()
        })
    };
    Ok(wait::within("changing the files through another node", CALL_MAX, change)??)
}

fn shows(cluster: &Cluster, dir: &str, name: &str, text: &str) -> Result<()> {
    for mount in cluster.mounts() {
        let there = std::fs::read_to_string(mount.join(dir).join(name))?;
        let begins: String = there.chars().take(20).collect();
        ensure!(there == content(name, text), "{name} is {begins:?}... and not {text:?} on {}", mount.display());
    }
    Ok(())
}

fn gavel(cluster: &Cluster, node: u64, words: &[&str]) -> Result<Ran> {
    let mut gavel = Gavel::find()?.command(words);
    gavel.arg("--config").arg(cluster.config(node));
    command::run(gavel, PATIENCE)
}

fn conflicts(cluster: &Cluster, node: u64) -> Result<Vec<Value>> {
    let listed = gavel(cluster, node, &["conflict", "list", "--json"])?.ok()?;
    Ok(serde_json::from_str(&listed)?)
}

fn id_of(conflicts: &[Value], path: &str) -> Result<String> {
    let of = |conflict: &&Value| conflict["what"].as_str().is_some_and(|what| what.ends_with(path));
    let found = conflicts.iter().find(of).with_context(|| format!("no conflict of {path} in {conflicts:?}"))?;
    ensure!(found["code"] == "changed" && found["uid"] == 0, "{found}");
    Ok(found["id"].to_string())
}

#[test]
fn changes_of_a_node_that_was_cut_off_are_committed_or_kept() -> Result<()> {
    with_cluster(|cluster| {
        let leader = cluster.leader_of(&[1, 2, 3])?;
        let node = leader % NODES + 1;
        let files = cut_off_with_answers(cluster, node)?;
        let dir = files.dir.clone();
        change_elsewhere(cluster.mount(leader).join(&dir))?;
        cluster.network.heal(node)?;
        let said = || Some((behind(cluster, node, "conflicts").ok()?, behind(cluster, node, "recovered").ok()?));
        wait::until("all that was answered has come to an end", PATIENCE, || said() == Some((3, 2)))
            .with_context(|| format!("conflicts and committed changes: {:?}", said()))?;

        ALONE.iter().try_for_each(|name| shows(cluster, &dir, name, MINE))?;
        BOTH.iter().try_for_each(|name| shows(cluster, &dir, name, OTHER))?;
        let told = files.file("both1")?.sync_all().err().context("nobody was told that a change was lost")?;
        ensure!(Errno::from_io_error(&told) == Some(Errno::IO), "{told}, and not EIO");
        files.file("mine")?.sync_all().context("syncing what was committed")?;

        let kept = conflicts(cluster, node)?;
        ensure!(kept.len() == BOTH.len(), "{kept:?}");
        let (first, second) = (id_of(&kept, &format!("/{dir}/both1"))?, id_of(&kept, &format!("/{dir}/both2"))?);
        let status = gavel(cluster, node, &["status"])?.ok()?;
        ensure!(status.starts_with("CONFLICTS: 3 ") && status.contains("gavel conflict list"), "{status}");
        let shown = gavel(cluster, node, &["conflict", "show", &first])?.ok()?;
        ensure!(shown.contains("mine!") && shown.contains("another node has changed"), "{shown}");

        gavel(cluster, node, &["conflict", "replay", &first])?.ok()?;
        shows(cluster, &dir, "both1", MINE)?;
        let large = id_of(&kept, &format!("/{dir}/both_large"))?;
        let shown = gavel(cluster, node, &["conflict", "show", &large])?.ok()?;
        ensure!(shown.contains("39996") && shown.contains("mine!"), "the bytes of a blob: {shown}");
        gavel(cluster, node, &["conflict", "replay", &large])?.ok()?;
        shows(cluster, &dir, "both_large", MINE)?;
        gavel(cluster, node, &["conflict", "show", &first])?.refused(&["there is no conflict"])?;
        gavel(cluster, node, &["conflict", "drop", &first, &second])?.refused(&["none was dropped"])?;
        let dropped = gavel(cluster, node, &["conflict", "drop", &second])?.ok()?;
        ensure!(dropped.contains("both2"), "it does not say what is lost: {dropped}");
        shows(cluster, &dir, "both2", OTHER)?;
        ensure!(conflicts(cluster, node)?.is_empty() && behind(cluster, node, "conflicts")? == 0, "still there");
        Ok(())
    })
}
