//! What was removed and pruned gives its space back, on every node, and what stays is as it was (docs/protocols/collection.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::{trees, wait};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
/// How long the space may take to come back: a horizon of 15 s at most, sweeps, the grace, and rewriting, on a busy machine.
const SPACE_PATIENCE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;
/// Files that are written, of so many bytes; one in five stays.
const FILES: u64 = 25;
const FILE_BYTES: u64 = 4 * MIB;
/// Bytes of one write that are kept in a record, at most.
const INLINE_BYTES_MAX: u64 = 16 * 1024;

fn gavel<S: AsRef<OsStr>>(cluster: &Cluster, words: &[S]) -> Result<Ran> {
    command::run(cluster.gavel().command(words), PATIENCE)
}

/// Bytes that no two files have alike.
fn bytes_of(number: u64) -> Vec<u8> {
    trees::noise(number + 1, FILE_BYTES as usize)
}

fn path_of(mount: &Path, number: u64) -> PathBuf {
    mount.join(format!("file-{number}"))
}

/// Are these the bytes of the blobs of so many files? A kernel cuts a write where its pages end, so the last bytes of a file may be in its records.
fn are_of(bytes: u64, files: u64) -> bool {
    bytes <= files * FILE_BYTES && bytes + files * INLINE_BYTES_MAX >= files * FILE_BYTES
}

fn kept() -> u64 {
    (0..FILES).filter(|number| stays(*number)).count() as u64
}

fn stays(number: u64) -> bool {
    number.is_multiple_of(5)
}

/// What the files of a node's blobs hold on its disk, in bytes: what `du` says.
fn blob_bytes(cluster: &Cluster, node: u64) -> Result<u64> {
    let dir = cluster.home(node).join("data/blobs");
    let ran = command::shell(&dir, "du -s -B1 . | cut -f1", PATIENCE)?;
    ran.trim().parse().with_context(|| format!("du says {ran:?}"))
}

/// A cluster that collects after a second instead of a minute.
fn with_short_grace(body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    with_cluster(3, |cluster| {
        cluster.halt()?;
        for node in cluster.ids() {
            let mut config = std::fs::OpenOptions::new().append(true).open(cluster.config(node))?;
            let text = std::fs::read_to_string(cluster.config(node))?;
            let section = if text.contains("[tuning]") { "" } else { "\n[tuning]" };
            writeln!(config, "{section}\ncollect_grace_ms = 1000")?;
        }
        cluster.start()?;
        body(cluster)
    })
}

/// Writes the files through one mount, and removes most of them through another.
fn write_and_remove(cluster: &Cluster) -> Result<()> {
    let (mount, other) = (cluster.mount(1), cluster.mount(2));
    for number in 0..FILES {
        std::fs::write(path_of(&mount, number), bytes_of(number))?;
    }
    File::open(&mount)?.sync_all()?;
    for node in cluster.ids() {
        let held = || blob_bytes(cluster, node).is_ok_and(|bytes| bytes >= FILES * (FILE_BYTES - INLINE_BYTES_MAX));
        wait::until("every node holds all bytes", PATIENCE, held)?;
    }
    for number in (0..FILES).filter(|number| !stays(*number)) {
        std::fs::remove_file(path_of(&other, number))?;
    }
    Ok(File::open(&other)?.sync_all()?)
}

/// From now on, nothing of the past is kept.
fn keep_no_history(cluster: &Cluster) -> Result<()> {
    let mount = cluster.mount(1);
    gavel(cluster, &[OsStr::new("retention"), OsStr::new("set"), mount.as_os_str(), OsStr::new("nohistory")])?.ok()?;
    Ok(())
}

/// Asks to prune until every node's disk holds little more than what stays.
fn wait_for_space(cluster: &Cluster) -> Result<()> {
    let kept = kept() * FILE_BYTES;
    // A quarter of a segment may be dead, and so may the newest one.
    let most = kept * 2 + 8 * MIB;
    let mut last = Vec::new();
    let came = wait::until("the space of what was removed comes back on every node", SPACE_PATIENCE, || {
        let mount = cluster.mount(1);
        let _ = gavel(cluster, &[OsStr::new("retention"), OsStr::new("prune"), mount.as_os_str()]);
        last = cluster.ids().map(|node| blob_bytes(cluster, node).unwrap_or(u64::MAX)).collect();
        last.iter().all(|bytes| *bytes <= most)
    });
    came.with_context(|| format!("{last:?} bytes, and {most} are allowed"))
}

fn check_what_stays(cluster: &Cluster) -> Result<()> {
    for mount in cluster.all_mounts() {
        for number in (0..FILES).filter(|number| stays(*number)) {
            let found = std::fs::read(path_of(&mount, number))?;
            ensure!(found == bytes_of(number), "{} is not what was written", path_of(&mount, number).display());
        }
    }
    Ok(())
}

fn space(cluster: &Cluster) -> Result<Value> {
    space_of(cluster, "")
}

fn space_of(cluster: &Cluster, path: &str) -> Result<Value> {
    let path = cluster.mount(1).join(path);
    let ran = gavel(cluster, &[OsStr::new("space"), OsStr::new("--json"), path.as_os_str()])?;
    Ok(serde_json::from_str(&ran.ok()?)?)
}

fn number(value: &Value, path: &str) -> Result<u64> {
    value.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path} in {value}"))
}

/// Waits until `gavel space` tells of the blobs of so many files. A file that was removed lives until its last close has come to the daemon, which a kernel
/// tells after close(2) has returned; rows that are pruned go in steps.
fn wait_until_told(cluster: &Cluster, path: &str, files: u64) -> Result<()> {
    let mut last = Value::Null;
    let told = wait::until("the space that is told is that of these files", PATIENCE, || {
        last = space(cluster).unwrap_or_else(|error| Value::String(error.to_string()));
        number(&last, path).is_ok_and(|bytes| are_of(bytes, files))
    });
    told.with_context(|| format!("{path} of {files} files, in {last}"))
}

#[test]
fn what_was_removed_and_pruned_gives_its_space_back() -> Result<()> {
    with_short_grace(|cluster| {
        write_and_remove(cluster)?;
        wait_until_told(cluster, "/live/blob_bytes", kept())?;
        let before = space(cluster)?;
        ensure!(are_of(number(&before, "/total/blob_bytes")?, FILES), "{before}");
        keep_no_history(cluster)?;
        wait_for_space(cluster)?;
        check_what_stays(cluster)?;
        wait_until_told(cluster, "/total/blob_bytes", kept())?;
        // What was collected can be written again.
        std::fs::write(path_of(&cluster.mount(2), 1), bytes_of(1))?;
        File::open(cluster.mount(2))?.sync_all()?;
        ensure!(std::fs::read(path_of(&cluster.mount(3), 1))? == bytes_of(1), "written again");
        Ok(())
    })
}

/// Waits until `gavel space PATH` tells of the blobs of so many files: live ones, and all.
fn wait_until_told_below(cluster: &Cluster, path: &str, live: u64, total: u64) -> Result<Value> {
    let mut last = Value::Null;
    let told = wait::until("the space below a path is that of its files", PATIENCE, || {
        last = space_of(cluster, path).unwrap_or_else(|error| Value::String(error.to_string()));
        let is = |pointer, files| number(&last, pointer).is_ok_and(|bytes| are_of(bytes, files));
        is("/live/blob_bytes", live) && is("/total/blob_bytes", total)
    });
    told.with_context(|| format!("{path}: {live} files live of {total}, in {last}"))?;
    Ok(last)
}

#[test]
fn the_space_below_a_path_is_that_of_what_lives_there_and_was_removed_from_there() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        for (number, path) in ["in/a", "in/b", "in/sub/c", "in/sub/d", "in/sub/leaves", "out/e"].iter().enumerate() {
            let path = mount.join(path);
            std::fs::create_dir_all(path.parent().context("a parent")?)?;
            std::fs::write(path, bytes_of(number as u64))?;
        }
        File::open(&mount)?.sync_all()?;
        let whole = wait_until_told_below(cluster, "in", 5, 5)?;
        ensure!(whole.pointer("/path") == Some(&Value::from("in")), "{whole}");
        ensure!(number(&whole, "/shared/elsewhere_bytes")? == 0, "{whole}");
        wait_until_told_below(cluster, "in/sub", 3, 3)?;
        wait_until_told_below(cluster, "in/a", 1, 1)?;
        // What is removed is the past of its directory, also when that is removed; what is moved counts where it is.
        std::fs::remove_file(mount.join("in/b"))?;
        std::fs::rename(mount.join("in/sub/leaves"), mount.join("out/came"))?;
        std::fs::remove_dir_all(mount.join("in/sub"))?;
        File::open(&mount)?.sync_all()?;
        wait_until_told_below(cluster, "in", 1, 4)?;
        wait_until_told_below(cluster, "in/sub", 0, 2)?;
        wait_until_told_below(cluster, "in/b", 0, 1)?;
        wait_until_told_below(cluster, "out", 2, 2)?;
        // Equal writes are stored once. (Of more bytes, the kernel may make other writes each time.)
        let same = &bytes_of(100)[..MIB as usize / 2];
        for directory in ["left", "right"] {
            std::fs::create_dir(mount.join(directory))?;
            std::fs::write(mount.join(directory).join("same"), same)?;
        }
        File::open(&mount)?.sync_all()?;
        let mut last = Value::Null;
        let told = wait::until("what is shared is told", PATIENCE, || {
            last = space_of(cluster, "left").unwrap_or_else(|error| Value::String(error.to_string()));
            number(&last, "/shared/elsewhere_bytes").is_ok_and(|bytes| bytes == MIB / 2)
        });
        told.with_context(|| last.to_string())?;
        let never = gavel(cluster, &[OsStr::new("space"), mount.join("in/never").as_os_str()])?;
        ensure!(never.code == Some(1), "a name that never was: {never:?}");
        Ok(())
    })
}

#[test]
fn a_node_is_killed_while_space_comes_back_and_what_stays_is_whole() -> Result<()> {
    with_short_grace(|cluster| {
        write_and_remove(cluster)?;
        keep_no_history(cluster)?;
        let all = FILES * FILE_BYTES - 8 * MIB;
        let victim = cluster.follower()?;
        wait::until("the first space comes back", SPACE_PATIENCE, || {
            let mount = cluster.mount(1);
            let _ = gavel(cluster, &[OsStr::new("retention"), OsStr::new("prune"), mount.as_os_str()]);
            cluster.ids().any(|node| blob_bytes(cluster, node).is_ok_and(|bytes| bytes < all))
        })?;
        cluster.kill(victim)?;
        cluster.start()?;
        cluster.settle()?;
        check_what_stays(cluster)?;
        let kept = kept() * FILE_BYTES;
        let others = || cluster.ids().filter(|node| *node != victim);
        wait::until("the space comes back where nobody was killed", SPACE_PATIENCE, || {
            others().all(|node| blob_bytes(cluster, node).is_ok_and(|bytes| bytes <= kept * 2 + 8 * MIB))
        })?;
        check_what_stays(cluster)
    })
}
