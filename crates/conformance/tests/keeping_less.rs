//! Directories that keep less of their past than their volume (docs/operations/retention.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::{command, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn gavel(cluster: &Cluster, words: &[&str]) -> Result<String> {
    command::run(cluster.gavel().command(words), PATIENCE)?.ok()
}

fn refused(cluster: &Cluster, words: &[&str], phrases: &[&str]) -> Result<()> {
    command::run(cluster.gavel().command(words), PATIENCE)?.refused(phrases)
}

fn json(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&gavel(cluster, words)?)?)
}

/// Writes these files, durably.
fn write(dir: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, content) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        std::fs::write(&path, content)?;
    }
    Ok(File::open(dir)?.sync_all()?)
}

/// The present state, as a transaction, and a name for it that is taken away again unless it is to stay.
fn state(cluster: &Cluster, name: &str, stays: bool) -> Result<String> {
    let mount = cluster.mount(1);
    let said = gavel(cluster, &["snapshot", "create", text(&mount)?, name])?;
    if !stays {
        gavel(cluster, &["snapshot", "delete", text(&mount)?, name])?;
    }
    Ok(said.split_whitespace().nth(2).context("no transaction")?.to_owned())
}

fn shows(path: &Path, content: &str) -> Result<()> {
    let found = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ensure!(found == content, "{}: {found:?}, not {content:?}", path.display());
    Ok(())
}

fn is_stale(path: &Path) -> bool {
    let found = path.symlink_metadata();
    found.err().and_then(|error| Errno::from_io_error(&error)) == Some(Errno::STALE)
}

fn tid(text: &str) -> Result<u64> {
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}

/// Waits until a directory does not keep a state any more, and what it kept of it is gone. (Nobody looks there before: kernels keep what they have seen.)
fn pruned(cluster: &Cluster, dir: &str, state: &str) -> Result<()> {
    let (mount, state) = (cluster.mount(1), tid(state)?);
    let dir = mount.join(dir);
    wait::until("the state is not kept", PATIENCE, || {
        let asked = gavel(cluster, &["retention", "prune", text(&mount).unwrap_or("/")]);
        let shown = json(cluster, &["retention", "show", "--json", "--dir", text(&dir).unwrap_or("/")]);
        asked.is_ok()
            && shown.is_ok_and(|said| said["horizon"].as_str().and_then(|at| tid(at).ok()).is_some_and(|at| at > state))
    })?;
    wait::until("the sweep has come to its end", PATIENCE, || {
        let shown = json(cluster, &["retention", "show", "--json", text(&mount).unwrap_or("/")]);
        shown.is_ok_and(|said| said["sweeping"] == false)
    })?;
    // The other nodes have applied it, too.
    cluster.settle()
}

#[test]
fn what_is_not_worth_its_past_goes_and_the_rest_stays() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        let files =
            [("src/a", "zero"), ("build/x", "zero"), ("build/y", "same"), ("out/o", "zero"), ("out/deep/d", "zero")];
        write(&mount, &files)?;
        for dir in ["build", "out"] {
            let path = mount.join(dir);
            let done = json(cluster, &["retention", "set", "--json", "--dir", text(&path)?, "nohistory"])?;
            ensure!(done["changed"] == 3 + u64::from(dir == "out"), "all of {dir}: {done}");
            ensure!(done["policy"] == "nohistory", "{done}");
        }
        let named = state(cluster, "named", true)?;
        write(&mount, &[("src/a", "one"), ("build/x", "one"), ("out/o", "one"), ("out/new", "one")])?;
        let then = state(cluster, "then", false)?;
        write(&mount, &[("src/a", "two"), ("build/x", "two"), ("out/o", "two"), ("out/newer", "two")])?;
        std::fs::remove_dir_all(mount.join("out/deep"))?;
        write(&mount, &[])?;
        let later = state(cluster, "later", false)?;
        pruned(cluster, "build", &later)?;
        for mount in cluster.all_mounts() {
            let past = mount.join(format!("@@{then}"));
            ensure!(is_stale(&past.join("build/x")), "{} is shown", past.display());
            shows(&past.join("src/a"), "one")?;
            // No name of this directory has changed since; of the other one, some have.
            shows(&past.join("build/y"), "same")?;
            let names: Vec<_> = std::fs::read_dir(&past)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
            ensure!(names.len() == 3, "the names are kept where they are: {names:?}");
            ensure!(is_stale(&past.join("out")) && is_stale(&past.join("out/o")), "{}", past.display());
            // What has a name is whole.
            for (name, content) in files {
                shows(&mount.join(format!("@@{named}")).join(name), content)?;
                shows(&mount.join("@@named").join(name), content)?;
            }
            shows(&mount.join("build/x"), "two")?;
        }

        let old = mount.join(format!("@@{then}"));
        let told = gavel(cluster, &["diff", text(&old)?, text(&mount)?])?;
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        let has = |sign: char, name: &str| lines.iter().any(|line| line.starts_with(sign) && line.contains(name));
        ensure!(has('M', "src/a") && has('?', "build/x") && has('?', "out"), "{told}");
        ensure!(!told.contains("out/o") && !told.contains("build/y"), "{told}");

        // An undo leaves alone what nobody knows.
        let undone = json(cluster, &["undo", "--json", "--at", &then, text(&mount)?])?;
        ensure!(undone["not_kept"] == 2, "{undone}");
        shows(&mount.join("src/a"), "one")?;
        shows(&mount.join("build/x"), "two")?;
        shows(&mount.join("out/newer"), "two")?;
        Ok(())
    })
}

#[test]
fn a_directory_hands_on_how_long_it_keeps() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        write(&mount, &[("cache/a", "one"), ("src/b", "one")])?;
        let policy = |path: &str| -> Result<String> {
            let shown = json(cluster, &["retention", "show", "--json", "--dir", text(&mount.join(path))?])?;
            Ok(shown["policy"].as_str().context("a policy")?.to_owned())
        };
        let set = |path: &str, policy: &str| -> Result<Value> {
            json(cluster, &["retention", "set", "--json", "--dir", text(&mount.join(path))?, policy])
        };
        set("cache", "keep everything 1h; hourly 1d")?;
        write(&cluster.mount(2), &[("cache/new/deep", "two")])?;
        let kept = "keep everything 1h; hourly 1d; snapshots";
        ensure!(policy("cache/new/deep")? == kept && policy("cache/a")? == kept, "{}", policy("cache/new/deep")?);
        ensure!(policy("src/b")? == "keep everything" && policy("")? == "keep everything");
        // A move keeps what it had, until it is set anew.
        std::fs::rename(mount.join("src/b"), mount.join("cache/b"))?;
        ensure!(policy("cache/b")? == "keep everything");
        ensure!(set("cache", "keep everything 1h; hourly 1d")?["changed"] == 1);
        ensure!(set("cache", "volume")?["changed"] == 5);
        ensure!(policy("cache/new/deep")? == "keep everything");
        // Who looks before they leap.
        let would = json(
            cluster,
            &["retention", "set", "--json", "--dry-run", "--dir", text(&mount.join("cache"))?, "nohistory"],
        )?;
        ensure!(would["preview"]["looked_at"].as_u64() > Some(0) && would["changed"].is_null(), "{would}");
        ensure!(policy("cache/a")? == "keep everything");
        let of = |path: &str, policy: &str, phrases: &[&str]| {
            refused(cluster, &["retention", "set", "--dir", text(&mount.join(path))?, policy], phrases)
        };
        of("nothing", "nohistory", &["nothing", "there is nothing of this name"])?;
        of("cache", "keep all", &["no retention policy"])?;
        for hours in 1..15 {
            set("cache/a", &format!("keep everything {hours}d"))?;
        }
        of("cache/a", "keep everything 99d", &["15", "gavel retention show"])?;
        ensure!(set("cache/a", "keep everything 3d")?["changed"] == 1, "one that there is can be used");
        // All of it survives.
        cluster.kill(cluster.leader()?)?;
        cluster.start()?;
        cluster.settle()?;
        ensure!(policy("cache/a")? == "keep everything 3d; snapshots");
        Ok(())
    })
}
