//! A source is lost, its mirror takes its place, and the former source comes back: first as a mirror, then in its old place (docs/operations/mirroring.md, "When the
//! source is lost, and comes back").

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::two::with_two;
use gavel_conformance::{trees, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Two clusters: `a` has the volume `main`, `b` its mirror `copy`.
struct Pair<'a> {
    a: &'a Cluster,
    b: &'a Cluster,
}

impl Pair<'_> {
    /// Admits a mirror to a volume; where its invitation is.
    fn admit(&self, cluster: &Cluster, volume: &str, name: &str) -> Result<String> {
        let path = cluster.admit(volume, name, &[])?;
        Ok(path.to_str().context("a path of text")?.to_owned())
    }

    /// Waits until a mirror shows something, and its source says that it has nothing more.
    fn caught_up(&self, cluster: &Cluster, volume: &str) -> Result<Value> {
        wait::for_some("the mirror has caught up", PATIENCE, || {
            let status = cluster.mirror_status(1, volume).ok()?;
            (status["state"] != "0x0" && status["follow"]["lag"]["transactions"] == 0).then_some(status)
        })
    }

    /// Mounts `main` anew where a node has mounted it.
    fn mounted_anew(&self, node: u64) -> Result<PathBuf> {
        let path = self.a.mount(node);
        self.a.umount(&path)?;
        self.a.mount_at(node, "main", &path)?;
        Ok(path)
    }

    /// Waits until one tree is what another one is.
    fn same(&self, what: &str, tree: &Path, wanted: &Path) -> Result<()> {
        let wanted = trees::digest(wanted)?;
        wait::until(what, PATIENCE, || trees::digest(tree).is_ok_and(|found| found == wanted))
    }

    /// The mirror is there, and shows what its source shows.
    fn begin(&self) -> Result<PathBuf> {
        let invitation = self.admit(self.a, "main", "copy")?;
        self.b.mirror(1, &["follow", &invitation, "--into", "copy"])?.ok()?;
        self.caught_up(self.b, "copy")?;
        let copy = self.b.mounted(1, "copy")?;
        self.same("the mirror", &copy, &self.a.mount(1))?;
        Ok(copy)
    }

    /// What is committed at `a` from now on does not come to `b`.
    fn cut_off(&self) -> Result<()> {
        self.b.mirror(1, &["pause", "copy"])?.ok()?;
        wait::until("the mirror stands still", PATIENCE, || {
            let listed = self.a.mirror(1, &["list", "--json"]).and_then(Ran::ok);
            let listed: Option<Value> = listed.ok().and_then(|said| serde_json::from_str(&said).ok());
            listed.is_some_and(|listed| listed["followers"][0]["connected"] == false)
        })
    }

    /// All of `a` is killed, and the mirror is promoted. Where it is mounted.
    fn fail_over(&self, copy: &Path) -> Result<PathBuf> {
        self.a.kill_at_once(&self.a.ids().collect::<Vec<_>>())?;
        self.b.mirror(1, &["promote", "copy"])?.ok()?;
        ensure!(is_stale(copy), "a mount of a mirror that was promoted");
        self.b.umount(copy)?;
        self.b.mounted(1, "copy")
    }
}

fn is_stale(mount: &Path) -> bool {
    let listed = std::fs::read_dir(mount).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    listed.err().and_then(|error| Errno::from_io_error(&error)) == Some(Errno::STALE)
}

fn with_pair(a: u64, b: u64, body: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    with_two(a, b, |a, b| body(&Pair { a, b }))
}

/// What `gavel mirror demote` is told by mistake.
fn refusals(pair: &Pair, early: &str) -> Result<()> {
    pair.a.mirror(1, &["demote", "main", early])?.refused(&["departed from no other one", "promote it first"])?;
    let invitation = pair.admit(pair.b, "copy", "wrong")?;
    let mut create = pair.a.gavel().command(["volume", "create", "other", "--config"]);
    create.arg(pair.a.config(1));
    command::run(create, PATIENCE)?.ok()?;
    pair.a
        .mirror(1, &["demote", "other", &invitation])?
        .refused(&["does not descend from other", "make a new mirror"])?;
    pair.a.mirror(1, &["demote", "nothing", &invitation])?.refused(&["there is no volume nothing"])?;
    let text = std::fs::read_to_string(&invitation)?;
    ensure!(text.contains("[lineage]"), "{text}");
    let older = invitation.replace("wrong", "older");
    let line = |word: &str| text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned();
    std::fs::write(&older, text.replace(&line("departed = "), "departed = \"0x5\""))?;
    pair.a.mirror(1, &["demote", "main", &older])?.refused(&["was pruned", "make a new mirror"])?;
    std::fs::write(&older, text.replace(&line("departed = "), "departed = \"0xf000000000000000\""))?;
    pair.a.mirror(1, &["demote", "main", &older])?.refused(&["has lost what was committed since"])?;
    std::fs::write(&older, text.replace(&line("address = "), "address = \"127.0.0.1:9\""))?;
    pair.a.mirror(1, &["demote", "main", &older])?.refused(&["no node of the source can be reached"])?;
    pair.b.mirror(1, &["dismiss", "copy", "--name", "wrong"])?.ok().map(drop)
}

#[test]
fn a_source_that_was_lost_follows_its_former_mirror_and_takes_over_again() -> Result<()> {
    with_pair(3, 1, |pair| {
        let main = pair.a.mount(1);
        trees::make(&main.join("first"), 40)?;
        std::fs::write(main.join("large"), trees::noise(1, 5_000_000))?;
        trees::settle(&main)?;
        let copy = pair.begin()?;
        let early = pair.admit(pair.b, "copy", "early")?;
        // Some of it the mirror never gets.
        pair.cut_off()?;
        std::fs::write(main.join("never sent"), "x")?;
        std::fs::remove_dir_all(main.join("first/d1"))?;
        trees::settle(&main)?;
        let copy = pair.fail_over(&copy)?;
        trees::make(&copy.join("second"), 30)?;
        std::fs::remove_dir_all(copy.join("first/d2"))?;
        std::fs::write(copy.join("both"), "of the mirror")?;
        trees::settle(&copy)?;
        // It comes back, and is written to, through all of its nodes, up to the last moment.
        pair.a.start()?;
        trees::make(&main.join("later"), 30)?;
        trees::settle(&main)?;
        refusals(pair, &early)?;
        for node in pair.a.ids() {
            let dir = pair.a.mount(node).join(format!("of {node}"));
            std::fs::create_dir(&dir)?;
            for number in 0..40 {
                std::fs::write(dir.join(number.to_string()), format!("{node} {number}"))?;
            }
        }
        std::fs::write(main.join("both"), "of the source")?;
        let invitation = pair.admit(pair.b, "copy", "a")?;
        let saved = demoted(pair, &invitation)?;
        caught_up_without_a_whole_copy(pair, &copy)?;
        diverged(pair, &saved)?;
        fail_back(pair, &copy, &invitation)
    })
}

/// Shows what `main` has, and demotes it. Gives what the clone is called.
fn demoted(pair: &Pair, invitation: &str) -> Result<String> {
    let main = pair.a.mount(1);
    let before = trees::digest_of_content(&main)?;
    let said = pair.a.mirror(1, &["demote", "main", invitation, "--dry-run"])?.ok()?;
    for phrase in ["+ never sent", "- first/d1/", "+ of 3/", "+ both", "would be saved as volume", "nothing was done"] {
        ensure!(said.contains(phrase), "nothing about {phrase:?} in\n{said}");
    }
    ensure!(trees::digest_of_content(&main)? == before, "a dry run has changed something");
    let said = pair.a.mirror(2, &["demote", "main", invitation])?.ok()?;
    ensure!(said.contains("- first/d1/") && said.contains("follows copy"), "{said}");
    for mount in pair.a.all_mounts() {
        wait::until("mounts are stale", PATIENCE, || is_stale(&mount))?;
        ensure!(std::fs::write(mount.join("new"), "x").is_err());
    }
    let words = said.lines().find(|line| line.contains("is saved as volume")).context("nothing was saved")?;
    let saved = words.split(' ').next_back().context("no name")?.to_owned();
    let clone = pair.a.mounted(3, &saved)?;
    ensure!(trees::digest_of_content(&clone)? == before, "the clone is not what the volume was");
    let again = pair.a.mirror(1, &["demote", "main", invitation])?;
    again.refused(&["is a mirror already"])?;
    Ok(saved)
}

fn caught_up_without_a_whole_copy(pair: &Pair, copy: &Path) -> Result<()> {
    let shown = pair.mounted_anew(1)?;
    pair.mounted_anew(3)?;
    pair.same("the former source follows", &shown, copy)?;
    let status = pair.a.mirror_status(1, "main")?;
    let bytes = status["follow"]["bytes"].as_u64().context("bytes")?;
    eprintln!("the former source has caught up with {bytes} bytes: {status}");
    // What was made there has 30 files; the large one is not among them.
    ensure!(bytes < 3_000_000, "{bytes} bytes: a file was sent that has not changed");
    ensure!(!shown.join("never sent").exists() && std::fs::read(shown.join("both"))? == b"of the mirror");
    let refused = std::fs::write(shown.join("new"), "x").err().and_then(|error| Errno::from_io_error(&error));
    ensure!(refused == Some(Errno::ROFS), "a write to a mirror: {refused:?}");
    // It goes on, and its past is that of the other one.
    std::fs::write(copy.join("goes on"), "x")?;
    trees::settle(copy)?;
    pair.same("it follows", &shown, copy)?;
    let then = format!("@@{}", pair.caught_up(pair.a, "main")?["state"].as_str().context("a state")?);
    ensure!(trees::digest(&shown.join(&then))? == trees::digest(&copy.join(&then))?, "{then}");
    // A node that starts again finds a mirror where it mounted a volume.
    pair.a.kill(2)?;
    pair.a.start()?;
    pair.same("a node that was killed", &pair.a.mount(2), copy)
}

/// What the source had and the mirror had not is in the clone, whatever comes to the volume.
fn diverged(pair: &Pair, saved: &str) -> Result<()> {
    let clone = pair.a.dir().join("extra").join(format!("{saved}-3"));
    for node in pair.a.ids() {
        for number in 0..40 {
            let text = std::fs::read_to_string(clone.join(format!("of {node}/{number}")))?;
            ensure!(text == format!("{node} {number}"), "{text}");
        }
    }
    ensure!(std::fs::read(clone.join("both"))? == b"of the source" && clone.join("never sent").exists());
    ensure!(!clone.join("first/d1").exists() && clone.join("first/d2").exists() && !clone.join("second").exists());
    ensure!(std::fs::read(clone.join("large"))? == trees::noise(1, 5_000_000));
    std::fs::write(clone.join("goes on"), "in the clone")?;
    trees::settle(&clone)
}

/// Back to where it was, by plan: nothing is lost, and nothing has to be saved.
fn fail_back(pair: &Pair, copy: &Path, stale: &str) -> Result<()> {
    let wanted = trees::digest(copy)?;
    pair.b.umount(copy)?;
    pair.caught_up(pair.a, "main")?;
    pair.a.mirror(1, &["promote", "main"])?.ok()?;
    pair.a.mirror(1, &["demote", "main", stale])?.refused(&["has followed another one since", "was promoted"])?;
    for mount in pair.a.all_mounts() {
        ensure!(is_stale(&mount), "{}: a mount of what was a mirror", mount.display());
    }
    let main = pair.mounted_anew(1)?;
    ensure!(trees::digest(&main)? == wanted, "what the mirror has got is there");
    std::fs::write(main.join("at home again"), "x")?;
    trees::make(&main.join("third"), 20)?;
    trees::settle(&main)?;
    pair.a.mirror(1, &["dismiss", "main", "--name", "copy"])?.ok()?;
    let invitation = pair.admit(pair.a, "main", "again")?;
    let said = pair.b.mirror(1, &["demote", "copy", &invitation])?.ok()?;
    ensure!(said.contains("there is nothing to be saved") && said.contains("copy is a mirror"), "{said}");
    let copy = pair.b.mounted(1, "copy")?;
    pair.same("the mirror follows again", &copy, &main)?;
    let status = pair.b.mirror_status(1, "copy")?;
    let bytes = status["follow"]["bytes"].as_u64().context("bytes")?;
    ensure!(bytes < 2_000_000, "{bytes} bytes: files were sent that have not changed");
    std::fs::remove_dir_all(main.join("second"))?;
    trees::settle(&main)?;
    pair.same("as before", &copy, &main)
}

#[test]
fn open_files_and_much_to_be_taken_back_while_nodes_are_killed() -> Result<()> {
    with_pair(3, 1, |pair| {
        let main = pair.a.mount(2);
        trees::make(&main.join("first"), 30)?;
        std::fs::write(main.join("held"), trees::noise(2, 200_000))?;
        trees::settle(&main)?;
        let copy = pair.begin()?;
        pair.cut_off()?;
        trees::settle(&main)?;
        let copy = pair.fail_over(&copy)?;
        std::fs::write(copy.join("new"), trees::noise(3, 60_000))?;
        trees::settle(&copy)?;
        pair.a.start()?;
        // Much is made behind the state that they have in common; one file has lost its name there, is open, and has grown.
        let mut held = File::options().append(true).open(main.join("held"))?;
        std::fs::remove_file(main.join("held"))?;
        held.write_all(&trees::noise(4, 100_000))?;
        let open = File::create(main.join("made and removed"))?;
        std::fs::remove_file(main.join("made and removed"))?;
        for number in 0..3000 {
            std::fs::write(main.join(format!("diverged {number}")), "x")?;
        }
        std::fs::remove_dir_all(main.join("first"))?;
        trees::settle(&main)?;
        let invitation = pair.admit(pair.b, "copy", "a")?;
        pair.a.mirror(1, &["demote", "main", &invitation])?.ok()?;
        let leader = pair.a.leader()?;
        pair.a.kill(leader)?;
        let node = pair.a.ids().find(|node| *node != leader).context("another node")?;
        let other = pair.a.ids().find(|other| *other != leader && *other != node).context("a third node")?;
        let shown = pair.mounted_anew(node)?;
        pair.mounted_anew(other)?;
        ensure!(!shown.join("diverged 7").exists(), "half of a step is shown");
        pair.same("it follows", &shown, &copy)?;
        ensure!(std::fs::read(shown.join("held"))? == trees::noise(2, 200_000), "a file that had lost its name");
        drop((held, open));
        pair.a.start()?;
        std::fs::write(copy.join("more"), "x")?;
        trees::settle(&copy)?;
        pair.same("it goes on", &shown, &copy)?;
        pair.a.settle()
    })
}
