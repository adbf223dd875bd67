//! What was removed or overwritten comes back; states have names, and are mounted (docs/operations/history.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::Ran;
use gavel_conformance::{command, mounts, trees};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// Files of the tree that is removed and comes back: more than one plan makes.
const FILES: u64 = 6_000;

/// What was done through this mount is committed: what follows is another transaction.
fn settle(mount: &Path) -> Result<()> {
    Ok(File::open(mount)?.sync_all()?)
}

fn shell(dir: &Path, script: &str) -> Result<String> {
    command::shell(dir, script, PATIENCE)
}

/// Runs `gavel` with these words behind a subcommand.
fn gavel<S: AsRef<OsStr>>(cluster: &Cluster, words: &[S]) -> Result<Ran> {
    command::run(cluster.gavel().command(words), PATIENCE)
}

fn undo(cluster: &Cluster, path: &Path) -> Result<Value> {
    let ran = gavel(cluster, &[OsStr::new("undo"), OsStr::new("--json"), path.as_os_str()])?;
    Ok(serde_json::from_str(&ran.ok()?)?)
}

fn content(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[test]
fn what_was_done_to_a_file_is_undone_and_that_too() -> Result<()> {
    with_cluster(3, |cluster| {
        let (mount, other) = (cluster.mount(1), cluster.mount(2));
        let file = mount.join("file");
        std::fs::write(&file, "one")?;
        settle(&mount)?;
        std::fs::write(&file, "two")?;
        settle(&mount)?;
        undo(cluster, &file)?;
        ensure!(content(&file)? == "one", "an overwriting is undone: {:?}", content(&file)?);
        ensure!(content(&other.join("file"))? == "one", "on every node");
        undo(cluster, &file)?;
        ensure!(content(&file)? == "two", "and that, too");
        std::fs::remove_file(&file)?;
        settle(&mount)?;
        // Asked of another node, by the name of what is gone.
        undo(cluster, &other.join("file"))?;
        ensure!(content(&file)? == "two", "a removal");
        std::fs::write(mount.join("new"), "three")?;
        std::fs::rename(mount.join("new"), &file)?;
        settle(&mount)?;
        undo(cluster, &file)?;
        ensure!(content(&file)? == "two", "a file that came in its place");
        Ok(())
    })
}

#[test]
fn a_removed_tree_comes_back_whole() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        let tree = mount.join("tree");
        std::fs::create_dir(&tree)?;
        trees::make(&tree, 200)?;
        shell(&tree, &format!("mkdir many && cd many && seq {FILES} | xargs touch"))?;
        rustix::fs::setxattr(tree.join("many/7"), "user.colour", b"blue", rustix::fs::XattrFlags::CREATE)?;
        settle(&mount)?;
        let before = trees::read(&tree)?;
        let began = Instant::now();
        shell(&mount, "rm -rf tree")?;
        settle(&mount)?;
        let removing = began.elapsed();
        ensure!(!tree.exists(), "it is gone");
        let began = Instant::now();
        let done = undo(cluster, &tree)?;
        println!("removed in {removing:?}, came back in {:?}: {done}", began.elapsed());
        for node in cluster.ids() {
            let found = trees::read(&cluster.mount(node).join("tree"))?;
            trees::same(&before, &found).with_context(|| format!("mount {node}"))?;
        }
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(tree.join("many/7"), "user.colour", &mut value)?;
        ensure!(value.get(..len) == Some(&b"blue"[..]), "attributes");
        let left: Vec<_> = std::fs::read_dir(&mount)?.collect::<Result<_, _>>()?;
        ensure!(left.len() == 1, "nothing else is left behind: {left:?}");
        // The undo is a change, and goes back in one piece.
        undo(cluster, &tree)?;
        ensure!(!tree.exists() && std::fs::read_dir(&mount)?.next().is_none(), "it was not there before");
        Ok(())
    })
}

#[test]
fn an_undo_right_behind_a_removal_is_behind_all_of_it() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        shell(&mount, "mkdir tree && cd tree && seq 10000 | xargs touch")?;
        settle(&mount)?;
        for _ in 0..5 {
            // The last removals are answered, and not committed yet.
            shell(&mount, "rm -rf tree")?;
            let done = undo(cluster, &mount.join("tree"))?;
            ensure!(done.pointer("/is") == Some(&Value::from("nothing")), "it was gone: {done}");
            ensure!(names(&mount.join("tree"))?.len() == 10_000, "all is back: {done}");
        }
        Ok(())
    })
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    Ok(std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?)
}

/// The hidden name under which something comes back in `directory`, if there is one.
fn being_built(directory: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(directory).ok()?.filter_map(Result::ok);
    names
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".undo-")))
}

#[test]
fn somebody_fills_and_removes_what_comes_back_and_nothing_is_left_half_done() -> Result<()> {
    with_cluster(3, |cluster| {
        let (mount, other) = (cluster.mount(1), cluster.mount(2));
        shell(&mount, &format!("mkdir tree && cd tree && seq {FILES} | xargs touch"))?;
        settle(&mount)?;
        let then = names(&mount.join("tree"))?;
        for round in 0..3 {
            shell(&mount, "rm -r tree")?;
            settle(&mount)?;
            let is_done = AtomicBool::new(false);
            let (ran, met) = std::thread::scope(|scope| {
                let meddler = scope.spawn(|| {
                    let mut met = 0;
                    while !is_done.load(Ordering::Relaxed) {
                        // Names that are to come, made by somebody else, or all of it removed.
                        if let Some(hidden) = being_built(&other) {
                            met += 1;
                            let _ = match round {
                                0 => (1..=FILES)
                                    .try_for_each(|number| File::create_new(hidden.join(number.to_string())).map(drop)),
                                _ => std::fs::remove_dir_all(&hidden),
                            };
                        }
                    }
                    met
                });
                let ran = gavel(cluster, &[OsStr::new("undo"), mount.join("tree").as_os_str()]);
                is_done.store(true, Ordering::Relaxed);
                (ran, meddler.join().unwrap_or_default())
            });
            let ran = ran?;
            println!("round {round}: somebody was in its way {met} times; status {:?}", ran.code);
            // Whoever meddles all the time may win: then the command says so, and what there is can be removed.
            if ran.code != Some(0) {
                ensure!(met > 0, "nobody was in its way: {ran:?}");
                ensure!(!mount.join("tree").exists(), "a tree that is not whole: {ran:?}");
                shell(&mount, "rm -rf .undo-*")?;
                settle(&mount)?;
                undo(cluster, &mount.join("tree"))?;
            }
            let found = names(&mount.join("tree"))?;
            // What somebody has removed of it meanwhile, or of the tree when it had its name, is gone.
            ensure!(found.is_subset(&then) && (round > 0 || found == then), "{} names, met {met} times", found.len());
            ensure!(being_built(&mount).is_none(), "nothing is left of what was built");
        }
        Ok(())
    })
}

#[test]
fn a_directory_goes_back_to_a_snapshot_and_its_past_can_be_mounted() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        let tree = mount.join("tree");
        std::fs::create_dir(&tree)?;
        trees::make(&tree, 60)?;
        let before = trees::read(&tree)?;
        gavel(cluster, &[OsStr::new("snapshot"), OsStr::new("create"), mount.as_os_str(), OsStr::new("good")])?.ok()?;
        // Through all mounts, and with names that were not there.
        shell(&cluster.mount(2).join("tree"), "rm -r d1 && chmod 700 d2 && echo more >> 'd3/é0/3/file 3'")?;
        shell(&cluster.mount(3).join("tree"), "mv d4 elsewhere && mkdir new && echo x > new/file && ln -s a new/b")?;
        let past = cluster.scratch().join("past");
        std::fs::create_dir(&past)?;
        let config = cluster.config(2);
        let at =
            [OsStr::new("mount"), OsStr::new("--config"), config.as_os_str(), OsStr::new("--at"), OsStr::new("good")];
        gavel(cluster, &[&at[..], &[past.as_os_str()]].concat())?.ok()?;
        let seen = trees::read(&past.join("tree")).and_then(|seen| trees::same(&before, &seen));
        let written = std::fs::write(past.join("tree/new"), "x");
        mounts::take_off(&past);
        seen.context("the mounted past")?;
        let errno = written.err().and_then(|error| error.raw_os_error());
        ensure!(errno == Some(rustix::io::Errno::ROFS.raw_os_error()), "the past was written to: {errno:?}");
        let words = [OsStr::new("undo"), OsStr::new("--at"), OsStr::new("good"), tree.as_os_str()];
        gavel(cluster, &words)?.ok()?;
        for node in cluster.ids() {
            let found = trees::read(&cluster.mount(node).join("tree"))?;
            trees::same(&before, &found).with_context(|| format!("mount {node}"))?;
        }
        Ok(())
    })
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(1);
        std::fs::write(mount.join("file"), "text")?;
        settle(&mount)?;
        let ask = |words: &[&str], path: &Path, phrases: &[&str]| -> Result<()> {
            let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
            gavel(cluster, &words)?.refused(phrases)
        };
        ask(&["undo"], &mount.join("never"), &["never", "ever had"])?;
        ask(&["undo"], &mount.join("no/such/directory"), &["directory"])?;
        ask(&["undo"], &mount, &["--at"])?;
        ask(&["undo"], Path::new("/"), &["not in a mount of Gavel"])?;
        ask(&["undo", "--at", "2999-01-01"], &mount.join("file"), &["future"])?;
        ask(&["undo", "--at", "1999-01-01"], &mount.join("file"), &["made later"])?;
        ask(&["undo", "--at", "nosuch"], &mount.join("file"), &["no snapshot"])?;
        ask(&["undo", "--at", "12:00"], &mount.join("file"), &["neither a transaction"])?;
        let to = mount.join("file");
        ask(
            &["restore", "--at", "0s", "--to", &to.display().to_string()],
            &mount.join("file"),
            &["something already"],
        )?;
        let (create, drop) = (["snapshot", "create"], ["snapshot", "delete"]);
        let named = |verb: [&str; 2], name: &str| {
            let words = [OsStr::new(verb[0]), OsStr::new(verb[1]), mount.as_os_str(), OsStr::new(name)];
            gavel(cluster, &words)
        };
        named(create, "2h")?.refused(&["cannot be a snapshot's name"])?;
        named(drop, "nosuch")?.refused(&["no snapshot nosuch"])?;
        named(create, "twice")?.ok()?;
        named(create, "twice")?.refused(&["already"])?;
        let past = mount.join("file@@twice");
        for verb in [&["undo"][..], &["restore", "--at", "twice"], &["history"]] {
            ask(verb, &past, &["this is a past state", "Hint: name the path as it is now", "--at AT"])?;
        }
        ensure!(content(&mount.join("file"))? == "text", "nothing was changed");
        Ok(())
    })
}
