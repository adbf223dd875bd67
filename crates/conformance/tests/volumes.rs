//! Volumes on a real cluster: made, mounted side by side, cloned, destroyed, restored (docs/protocols/volumes.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::{command, mounts, trees, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILES: u64 = 2_000;
/// A clone takes no longer than this, whatever it begins with. (It takes some milliseconds; machines are busy.)
const CLONE_MAX: Duration = Duration::from_secs(5);

/// `gavel volume ...` through a node.
fn volume(cluster: &Cluster, node: u64, words: &[&str]) -> Result<command::Ran> {
    let mut command = cluster.gavel().command(["volume"]);
    command.args(words).arg("--config").arg(cluster.config(node));
    command::run(command, command::PATIENCE)
}

fn done(cluster: &Cluster, node: u64, words: &[&str]) -> Result<String> {
    volume(cluster, node, words)?.ok()
}

fn listed(cluster: &Cluster, node: u64, more: &[&str]) -> Result<Vec<Value>> {
    let words: Vec<&str> = ["list", "--json"].into_iter().chain(more.iter().copied()).collect();
    let told: Value = serde_json::from_str(&done(cluster, node, &words)?)?;
    Ok(told.as_array().context("not a list")?.clone())
}

fn names(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["name"].as_str()).collect()
}

fn mount_ran(cluster: &Cluster, node: u64, volume: &str, at: Option<&str>, path: &Path) -> Result<command::Ran> {
    std::fs::create_dir_all(path)?;
    let mut command = cluster.gavel().command(["mount", "--volume", volume, "--config"]);
    command.arg(cluster.config(node)).arg(path);
    if let Some(at) = at {
        command.args(["--at", at]);
    }
    command::run(command, command::PATIENCE)
}

/// Mounts a volume through a node, in the cluster's own directory, so that nothing of it can be left.
fn mounted(cluster: &Cluster, node: u64, volume: &str) -> Result<PathBuf> {
    let path = cluster.dir().join("extra").join(format!("{volume}-{node}"));
    mount_ran(cluster, node, volume, None, &path)?.ok()?;
    Ok(path)
}

fn unmount(cluster: &Cluster, path: &Path) -> Result<()> {
    let path = path.to_str().context("a path of text")?;
    cluster.gavel().run(["umount", "--lazy", path])?.ok().map(drop)
}

fn unmount_all(cluster: &Cluster) -> Result<()> {
    let extra = mounts::under(&cluster.dir().join("extra"));
    extra.iter().try_for_each(|path| unmount(cluster, &path.point))
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn is_stale(path: &Path) -> bool {
    errno(std::fs::read_dir(path).map(drop)) == Some(Errno::STALE)
}

#[test]
fn two_volumes_side_by_side_know_nothing_of_each_other() -> Result<()> {
    with_cluster(3, |cluster| {
        ensure!(names(&listed(cluster, 1, &[])?) == ["main"], "a cluster starts with one volume");
        let said = done(cluster, 2, &["create", "builds", "--mode", "1777"])?;
        ensure!(said.contains("builds is volume 2"), "{said}");
        let (on_1, on_3) = (mounted(cluster, 1, "builds")?, mounted(cluster, 3, "2")?);
        std::fs::write(on_1.join("a"), "of builds")?;
        std::fs::write(cluster.mount(2).join("a"), "of main")?;
        ensure!(std::fs::read_to_string(on_3.join("a"))? == "of builds");
        ensure!(std::fs::read_to_string(cluster.mount(3).join("a"))? == "of main");
        // A snapshot of the one is none of the other.
        let path = on_3.to_str().context("text")?;
        cluster.gavel().run(["snapshot", "create", path, "first"])?.ok()?;
        std::fs::write(on_1.join("a"), "changed")?;
        ensure!(std::fs::read_to_string(on_3.join("@@first/a"))? == "of builds");
        ensure!(errno(std::fs::read(cluster.mount(1).join("@@first/a"))) == Some(Errno::NOENT));
        done(cluster, 3, &["rename", "builds", "works"])?;
        ensure!(names(&listed(cluster, 1, &[])?) == ["main", "works"]);
        ensure!(std::fs::read_to_string(on_1.join("a"))? == "changed", "a mount goes on under another name");
        unmount_all(cluster)
    })
}

#[test]
fn a_clone_takes_no_time_and_goes_its_own_way() -> Result<()> {
    with_cluster(3, |cluster| {
        let timed = |from: &str, name: &str| -> Result<Duration> {
            let begun = Instant::now();
            done(cluster, 2, &["clone", from, name])?;
            Ok(begun.elapsed())
        };
        let empty = timed("main", "empty")?;
        let tree = cluster.mount(1).join("tree");
        trees::make(&tree, FILES)?;
        let made = trees::read(&tree)?;
        let full = timed("main", "copy")?;
        eprintln!("a clone of nothing took {empty:?}, one of {FILES} files {full:?}");
        ensure!(empty < CLONE_MAX && full < CLONE_MAX, "{empty:?}, {full:?}");
        let (copy, also) = (mounted(cluster, 2, "copy")?, mounted(cluster, 3, "copy")?);
        trees::same(&made, &trees::read(&also.join("tree"))?).context("the clone begins as its origin")?;
        ensure!(trees::read(&mounted(cluster, 2, "empty")?)?.is_empty(), "what was cloned before has nothing");
        // Each is changed in its way.
        std::fs::remove_dir_all(copy.join("tree/d0"))?;
        std::fs::write(copy.join("tree/new"), "of the copy")?;
        std::fs::rename(copy.join("tree/d1"), copy.join("moved"))?;
        std::fs::remove_dir_all(tree.join("d2"))?;
        std::fs::write(tree.join("new"), "of the origin")?;
        ensure!(!also.join("tree/d0").exists() && also.join("tree/d2").exists() && also.join("moved").exists());
        ensure!(cluster.mount(3).join("tree/d0").exists() && !cluster.mount(3).join("tree/d2").exists());
        ensure!(std::fs::read_to_string(also.join("tree/new"))? == "of the copy");
        ensure!(std::fs::read_to_string(cluster.mount(3).join("tree/new"))? == "of the origin");
        history_of_a_clone(cluster, &copy, &also)?;
        a_clone_of_the_past(cluster, &made)?;
        unmount_all(cluster)
    })
}

/// The past of a clone begins where it was made; what it inherited is in the history of its paths.
fn history_of_a_clone(cluster: &Cluster, copy: &Path, also: &Path) -> Result<()> {
    let path = copy.to_str().context("text")?;
    let said = cluster.gavel().run(["snapshot", "create", path, "kept"])?.ok()?;
    ensure!(said.contains("kept is 0x"), "{said}");
    std::fs::remove_file(copy.join("tree/new"))?;
    ensure!(std::fs::read_to_string(also.join("@@kept/tree/new"))? == "of the copy");
    let ran = cluster.gavel().run(["diff", &format!("{path}@@kept"), path])?.ok()?;
    ensure!(ran.contains("new"), "{ran}");
    let inherited = copy.join("moved");
    let ran = cluster.gavel().run(["history", inherited.to_str().context("text")?])?.ok()?;
    ensure!(!ran.trim().is_empty(), "no history");
    let undone = copy.join("tree/new");
    cluster.gavel().run(["undo", undone.to_str().context("text")?])?.ok()?;
    ensure!(std::fs::read_to_string(&undone)? == "of the copy");
    let early = copy.join("@@2020-01-01");
    ensure!(errno(std::fs::read_dir(early).map(drop)) == Some(Errno::NOENT));
    Ok(())
}

fn a_clone_of_the_past(cluster: &Cluster, made: &trees::Tree) -> Result<()> {
    let main = cluster.mount(1);
    cluster.gavel().run(["snapshot", "create", main.to_str().context("text")?, "then"])?.ok()?;
    let then = trees::read(&main)?;
    std::fs::remove_dir_all(main.join("tree"))?;
    done(cluster, 3, &["clone", "main", "earlier", "--at", "then"])?;
    done(cluster, 1, &["clone", "earlier", "earliest"])?;
    let earliest = mounted(cluster, 2, "earliest")?;
    trees::same(&then, &trees::read(&earliest)?)?;
    ensure!(made.len() > 100 && !main.join("tree").exists());
    // What it has is counted in the background.
    wait::until("the clone is counted", PATIENCE, || {
        let lines = listed(cluster, 1, &[]).unwrap_or_default();
        let line = lines.iter().find(|line| line["name"] == "earliest");
        line.is_some_and(|line| line["objects"].as_u64().is_some_and(|objects| objects as usize > then.len() / 2))
    })?;
    let lines = listed(cluster, 1, &[])?;
    let line = lines.iter().find(|line| line["name"] == "earliest").context("not listed")?;
    ensure!(line["origin"]["name"] == "earlier", "{line}");
    Ok(())
}

#[test]
fn a_destroyed_volume_is_stale_and_comes_back() -> Result<()> {
    with_cluster(3, |cluster| {
        done(cluster, 1, &["create", "work"])?;
        let (on_1, on_2) = (mounted(cluster, 1, "work")?, mounted(cluster, 2, "work")?);
        std::fs::write(on_1.join("kept"), "bytes")?;
        let open = std::fs::File::open(on_2.join("kept"))?;
        let mut unlisted = std::fs::read_dir(&on_1)?;
        volume(cluster, 3, &["destroy", "work"])?.refused(&["nobody is there to be asked", "Hint: ", "--yes"])?;
        let said = done(cluster, 3, &["destroy", "work", "--yes"])?;
        ensure!(said.contains("gavel volume restore work"), "{said}");
        wait::until("the mounts are stale", PATIENCE, || is_stale(&on_1) && is_stale(&on_2))?;
        let first = unlisted.next().context("a destroyed volume seems to be empty")?;
        ensure!(errno(first.map(drop)) == Some(Errno::STALE), "a destroyed volume is listed");
        ensure!(errno(std::fs::write(on_1.join("more"), "x")) == Some(Errno::STALE));
        drop(open);
        let ran = mount_ran(cluster, 1, "work", None, &cluster.dir().join("extra/refused"))?;
        ran.refused(&["work was destroyed", "gavel volume restore"])?;
        ensure!(names(&listed(cluster, 2, &[])?) == ["main"]);
        let lines = listed(cluster, 2, &["--destroyed"])?;
        ensure!(names(&lines) == ["work"] && lines[0]["restorable_until"].is_null(), "{lines:?}");
        // Its name is free, and so it comes back under another.
        done(cluster, 2, &["create", "work"])?;
        volume(cluster, 2, &["restore", "work"])?.refused(&["there is a volume work already"])?;
        let said = done(cluster, 2, &["restore", "work", "--as", "again"])?;
        ensure!(said.contains("again is there again, volume 2"), "{said}");
        wait::until("the mount works again", PATIENCE, || {
            std::fs::read_to_string(on_1.join("kept")).is_ok_and(|text| text == "bytes")
        })?;
        // And now for good.
        done(cluster, 1, &["destroy", "again", "--now", "--yes"])?;
        wait::until("all of it is gone", PATIENCE, || {
            listed(cluster, 1, &["--destroyed"]).is_ok_and(|lines| lines.is_empty())
        })?;
        volume(cluster, 1, &["restore", "again"])?.refused(&["no volume again was destroyed"])?;
        unmount_all(cluster)
    })
}

#[test]
fn volumes_survive_the_death_of_the_leader_and_of_all() -> Result<()> {
    with_cluster(3, |cluster| {
        let tree = cluster.mount(1).join("tree");
        trees::make(&tree, 60)?;
        done(cluster, 1, &["clone", "main", "copy"])?;
        done(cluster, 1, &["create", "gone"])?;
        done(cluster, 1, &["destroy", "gone", "--yes"])?;
        let copy = mounted(cluster, 2, "copy")?;
        std::fs::remove_dir_all(copy.join("tree/d0"))?;
        std::fs::write(copy.join("own"), trees::noise(3, 50_000))?;
        std::fs::remove_dir_all(&tree)?;
        command::shell(&copy, "sync", PATIENCE)?;
        let expected = trees::read(&copy)?;
        unmount_all(cluster)?;
        cluster.kill(cluster.leader()?)?;
        let seen = |node: u64| -> Result<()> {
            let copy = mounted(cluster, node, "copy")?;
            trees::same(&expected, &trees::read(&copy)?)?;
            unmount(cluster, &copy)
        };
        seen(cluster.leader()?)?;
        cluster.start()?;
        cluster.settle()?;
        cluster.kill_at_once(&cluster.ids().collect::<Vec<u64>>())?;
        cluster.start()?;
        cluster.settle()?;
        cluster.ids().try_for_each(seen)?;
        ensure!(names(&listed(cluster, 3, &[])?) == ["main", "copy"]);
        ensure!(names(&listed(cluster, 3, &["--destroyed"])?) == ["gone"]);
        // The origin goes; the clone stays what it is.
        done(cluster, 2, &["create", "other"])?;
        done(cluster, 2, &["restore", "gone"])?;
        Ok(())
    })
}

#[test]
fn nonsense_is_refused_with_a_word_on_what_to_do() -> Result<()> {
    with_cluster(1, |cluster| {
        let said = |words: &[&str], phrases: &[&str]| volume(cluster, 1, words)?.refused(phrases);
        said(&["create", "main"], &["there is a volume main already"])?;
        for name in ["2", "a/b", "", "-", &"x".repeat(65)] {
            let ran = volume(cluster, 1, &["create", "--", name])?;
            ensure!(matches!(ran.code, Some(1 | 2)) && !ran.stderr.is_empty(), "{name:?}: {ran:?}");
        }
        said(&["clone", "nowhere", "copy"], &["there is no volume nowhere", "gavel volume list"])?;
        said(&["clone", "main", "copy", "--at", "2001-01-01"], &["2001-01-01", "made later"])?;
        said(&["clone", "main", "copy", "--at", "nosuch"], &["nosuch"])?;
        said(&["rename", "main", "a b"], &["cannot be a volume's name"])?;
        said(&["destroy", "nowhere", "--yes"], &["nowhere", "gavel volume list"])?;
        said(&["restore", "main"], &["was not destroyed"])?;
        mount_ran(cluster, 1, "nowhere", None, &cluster.dir().join("extra/x"))?
            .refused(&["there is no volume nowhere"])?;
        for depth in 0..8 {
            let from = if depth == 0 { "main".to_owned() } else { format!("c{depth}") };
            done(cluster, 1, &["clone", &from, &format!("c{}", depth + 1)])?;
        }
        said(&["clone", "c8", "c9"], &["8 times over", "copy the files"])?;
        done(cluster, 1, &["list"])?;
        Ok(())
    })
}
