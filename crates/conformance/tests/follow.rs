//! Mirrors that follow their source by themselves, over the network (docs/protocols/mirroring.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::two::with_two;
use gavel_conformance::{trees, wait};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A source, and a cluster with mirrors of its first volume.
struct Pair<'a> {
    source: &'a Cluster,
    copy: &'a Cluster,
}

impl Pair<'_> {
    /// Admits a mirror at the source; its invitation.
    fn admit(&self, name: &str, keep_for: &str) -> Result<PathBuf> {
        let path = self.source.admit("main", name, &["--keep-for", keep_for])?;
        ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "others may read the invitation");
        Ok(path)
    }

    fn follow(&self, node: u64, invitation: &Path, into: &str) -> Result<Ran> {
        self.copy.follow(node, invitation, into)
    }

    /// What a node of the mirror's cluster says of the mirror.
    fn status(&self, node: u64) -> Result<Value> {
        self.copy.mirror_status(node, "copy")
    }

    /// What the source says of its follower.
    fn follower(&self, name: &str) -> Result<Value> {
        let said = self.source.mirror(1, &["list", "--json"])?.ok()?;
        let listed: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let lines = listed["followers"].as_array().context("no list of followers")?;
        lines.iter().find(|line| line["name"] == name).cloned().with_context(|| format!("no follower {name}: {said}"))
    }

    /// Pauses the mirror, and waits until it stands still.
    fn pause(&self, name: &str) -> Result<()> {
        self.copy.mirror(1, &["pause", "copy"])?.ok()?;
        wait::until("it is not connected", PATIENCE, || {
            self.follower(name).is_ok_and(|line| line["connected"] == false)
        })
    }

    fn state(&self, node: u64) -> Result<String> {
        Ok(self.status(node)?["state"].as_str().context("a state")?.to_owned())
    }

    /// Waits until the mirror shows what a tree is; how long that took.
    fn same(&self, what: &str, copy: &Path, tree: &Path) -> Result<Duration> {
        let begun = Instant::now();
        let wanted = trees::digest(tree)?;
        wait::until(what, PATIENCE, || trees::digest(copy).is_ok_and(|found| found == wanted))?;
        Ok(begun.elapsed())
    }

    /// The mirror shows what the source showed as of the mirror's state.
    fn same_as_of(&self, node: u64, copy: &Path, source: u64) -> Result<()> {
        let then = format!("@@{}", self.state(node)?);
        let wanted = trees::digest(&self.source.mount(source).join(&then))?;
        ensure!(trees::digest(&copy.join(&then))? == wanted, "{then}: the mirror is not what the source was");
        Ok(())
    }
}

fn with_pair(source: u64, copy: u64, body: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    with_two(source, copy, |source, copy| body(&Pair { source, copy }))
}

#[test]
fn a_mirror_goes_on_when_a_peer_of_its_source_or_the_node_that_carries_it_dies() -> Result<()> {
    with_pair(3, 3, |pair| {
        let tree = pair.source.mount(1);
        trees::make(&tree.join("first"), 60)?;
        trees::settle(&tree)?;
        let invitation = pair.admit("copy", "7d")?;
        pair.follow(2, &invitation, "copy")?.ok()?;
        wait::until("the whole copy is there", PATIENCE, || pair.state(1).is_ok_and(|state| state != "0x0"))?;
        let copy = pair.copy.mounted(1, "copy")?;
        eprintln!("the mirror is there after {:?} more", pair.same("the copy", &copy, &tree)?);
        // The peer that it follows dies.
        let peer = wait::for_some("a peer is followed", PATIENCE, || pair.status(1).ok()?["follow"]["peer"].as_u64())?;
        let other = pair.source.ids().find(|node| *node != peer).context("another node")?;
        pair.source.kill(peer)?;
        let tree = pair.source.mount(other);
        trees::make(&tree.join("second"), 40)?;
        trees::settle(&tree)?;
        let took = pair.same("the mirror follows another peer", &copy, &tree)?;
        let now = wait::for_some("another peer", PATIENCE, || pair.status(2).ok()?["follow"]["peer"].as_u64())?;
        eprintln!("peer {peer} was killed; the mirror follows peer {now}, and had the changes after {took:?}");
        ensure!(now != peer, "{now} was killed");
        pair.same_as_of(1, &copy, other)?;
        pair.source.start()?;
        // The node that carries it dies.
        let carrier = pair.copy.leader()?;
        let seen = pair.copy.ids().find(|node| *node != carrier).context("another node")?;
        let copy = if seen == 1 { copy } else { pair.copy.mounted(seen, "copy")? };
        ensure!(pair.status(seen)?["follow"]["carrier"] == carrier, "{}", pair.status(seen)?);
        pair.copy.kill(carrier)?;
        std::fs::remove_dir_all(tree.join("first"))?;
        trees::make(&tree.join("third"), 30)?;
        trees::settle(&tree)?;
        let took = pair.same("another node carries the mirror", &copy, &tree)?;
        let status = pair.status(seen)?;
        eprintln!("node {carrier} was killed; the mirror had the changes after {took:?}: {status}");
        ensure!(status["follow"]["carrier"] != carrier, "{status}");
        pair.same_as_of(seen, &copy, other)?;
        pair.copy.start()?;
        // All of the mirror's nodes stop, and it follows again.
        pair.copy.halt()?;
        std::fs::write(tree.join("while it was away"), "x")?;
        trees::settle(&tree)?;
        pair.copy.start()?;
        let copy = pair.copy.mounted(seen, "copy")?;
        pair.same("it follows after its cluster has started again", &copy, &tree).map(drop)
    })
}

#[test]
fn a_mirror_is_paused_resumed_removed_and_what_is_not_admitted_is_refused() -> Result<()> {
    with_pair(1, 1, |pair| {
        let tree = pair.source.mount(1);
        std::fs::write(tree.join("one"), trees::noise(1, 100_000))?;
        trees::settle(&tree)?;
        let invitation = pair.admit("copy", "7d")?;
        refusals(pair, &invitation)?;
        pair.follow(1, &invitation, "copy")?.ok()?;
        wait::until("the whole copy is there", PATIENCE, || pair.state(1).is_ok_and(|state| state != "0x0"))?;
        let copy = pair.copy.mounted(1, "copy")?;
        pair.same("the copy", &copy, &tree)?;
        pair.follow(1, &invitation, "copy")?.refused(&["follows its source already", "gavel mirror remove copy"])?;
        lag(pair)?;
        // Paused, it stays what it is.
        pair.pause("copy")?;
        let before = trees::digest(&copy)?;
        std::fs::write(tree.join("two"), trees::noise(2, 100_000))?;
        trees::settle(&tree)?;
        std::thread::sleep(Duration::from_secs(2));
        let status = pair.status(1)?;
        ensure!(trees::digest(&copy)? == before && status["follow"]["paused"] == true, "{status}");
        pair.copy.mirror(1, &["resume", "copy"])?.ok()?;
        pair.same("it was resumed", &copy, &tree)?;
        // Dismissed at the source.
        pair.source.mirror(1, &["dismiss", "main", "--name", "copy"])?.ok()?;
        std::fs::write(tree.join("three"), "x")?;
        trees::settle(&tree)?;
        let said = wait::for_some("it is told that it was dismissed", PATIENCE, || {
            let status = pair.status(1).ok()?;
            status["follow"]["error"].as_str().map(str::to_owned)
        })?;
        ensure!(said.contains("dismissed"), "{said}");
        pair.follow(1, &invitation, "another")?.refused(&["refuses", "not valid", "gavel mirror admit"])?;
        ensure!(!copy.join("three").exists());
        pair.copy.mirror(1, &["remove", "copy"])?.ok()?;
        pair.copy.mirror(1, &["resume", "copy"])?.refused(&["follows nobody"])?;
        ensure!(pair.status(1)?["follow"].is_null());
        // Another invitation, into the same mirror: it goes on from where it stands.
        let again = pair.admit("again", "7d")?;
        pair.follow(1, &again, "copy")?.ok()?;
        pair.same("it follows by another invitation", &copy, &tree).map(drop)
    })
}

/// Both sides say how far the mirror is.
fn lag(pair: &Pair) -> Result<()> {
    let lag = |status: &Value| status["follow"]["lag"].clone();
    let near = |status: &Value| {
        let lag = lag(status);
        lag["seconds"].as_f64().is_some_and(|seconds| seconds < 10.0) && lag["transactions"] == 0 && lag["bytes"] == 0
    };
    let status = wait::for_some("it is not behind", PATIENCE, || pair.status(1).ok().filter(near))?;
    eprintln!("a mirror of a source at rest: {}", lag(&status));
    let line = wait::for_some("the source knows", PATIENCE, || {
        pair.follower("copy").ok().filter(|line| line["connected"] == true && line["is_waited_for"] == true)
    })?;
    ensure!(line["state"].is_string() && line["keep_for_s"] == 7 * 86_400, "{line}");
    let node = pair.copy.state(1).context("the node says nothing")?;
    ensure!(node.status["mirrors"][0]["follow"]["lag"]["tids"].is_u64(), "{}", node.status["mirrors"]);
    let node = pair.source.state(1).context("the node says nothing")?;
    ensure!(node.status["followers"][0]["name"] == "copy", "{}", node.status["followers"]);
    Ok(())
}

/// Invitations that are none, or are to something else.
fn refusals(pair: &Pair, invitation: &Path) -> Result<()> {
    let text = &std::fs::read_to_string(invitation)?;
    let refused = |name: &str, text: &str, phrases: &[&str]| -> Result<()> {
        let path = pair.source.scratch().join(name);
        std::fs::write(&path, text)?;
        pair.follow(1, &path, "copy")?.refused(phrases).with_context(|| name.to_owned())
    };
    let line = |word: &str| text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned();
    let key = line("key = ");
    let wrong = format!("key = \"{}\"", "5".repeat(64));
    refused("wrong-key", &text.replace(&key, &wrong), &["refuses", "not valid", "gavel mirror admit"])?;
    refused("wrong-volume", &text.replace(&line("volume = "), "volume = 7"), &["refuses", "not valid"])?;
    refused("cut", &text[..text.len() / 2], &["not an invitation", "gavel mirror admit"])?;
    // Another cluster's nodes, at the addresses of this one's: they can't prove to be those that are meant.
    let foreign = std::fs::read_to_string(pair.copy.admit("main", "foreign", &[])?)?;
    let address = |text: &str| text.lines().find(|line| line.starts_with("address = ")).unwrap_or_default().to_owned();
    let swapped = foreign.replace(&address(&foreign), &address(text));
    refused("foreign-addresses", &swapped, &["no node of the source can be reached", "TLS handshake failed"])?;
    pair.copy.mirror(1, &["dismiss", "main", "--name", "foreign"])?.ok()?;
    let nobody = text.replace(&address(text), "address = \"127.0.0.1:9\"");
    refused("nobody", &nobody, &["no node of the source can be reached", "may be changed there"])?;
    pair.source.mirror(1, &["admit", "main", "--name", "copy"])?.refused(&["admitted to volume main already"])?;
    pair.follow(1, invitation, "main")?.refused(&["volume main is no mirror"])?;
    let status = pair.copy.mirror(1, &["status", "copy"])?;
    status.refused(&["there is no volume copy"])
}

#[test]
fn history_waits_for_a_mirror_that_is_away_up_to_its_limit() -> Result<()> {
    with_pair(1, 1, |pair| {
        let tree = pair.source.mount(1);
        let retention = |words: &[&str]| -> Result<()> {
            let mut command = pair.source.gavel().command(["retention"]);
            command.args(words);
            command::run(command, PATIENCE)?.ok().map(drop)
        };
        let root = tree.to_str().context("text")?;
        retention(&["set", root, "keep everything 10s"])?;
        let large = trees::noise(1, 3_000_000);
        std::fs::write(tree.join("unchanged"), &large)?;
        trees::settle(&tree)?;
        let patient = pair.admit("copy", "1h")?;
        pair.follow(1, &patient, "copy")?.ok()?;
        wait::until("the whole copy is there", PATIENCE, || pair.state(1).is_ok_and(|state| state != "0x0"))?;
        let copy = pair.copy.mounted(1, "copy")?;
        pair.same("the copy", &copy, &tree)?;
        wait::until("the source knows", PATIENCE, || {
            pair.follower("copy").is_ok_and(|line| line["state"].is_string())
        })?;
        pair.pause("copy")?;
        let stands = pair.state(1)?;
        let away = |begun: Instant, seconds: u64| -> Result<()> {
            while begun.elapsed() < Duration::from_secs(seconds) {
                std::fs::write(tree.join("changing"), format!("{:?}", begun.elapsed()))?;
                std::fs::write(tree.join("made and gone"), "x")?;
                trees::settle(&tree)?;
                std::fs::remove_file(tree.join("made and gone"))?;
                std::thread::sleep(Duration::from_secs(1));
            }
            retention(&["prune", root])
        };
        away(Instant::now(), 25)?;
        let line = pair.follower("copy")?;
        eprintln!("away for 25 s, with `keep everything 10s`: {line}");
        ensure!(line["is_waited_for"] == true && line["held_s"].as_u64() > Some(5), "{line}");
        ensure!(
            trees::digest(&tree.join(format!("@@{stands}"))).is_ok(),
            "the state that the mirror stands at was pruned"
        );
        pair.copy.mirror(1, &["resume", "copy"])?.ok()?;
        pair.same("it goes on", &copy, &tree)?;
        let bytes = pair.status(1)?["follow"]["bytes"].as_u64().context("bytes")?;
        ensure!(bytes < 1_000_000, "{bytes} bytes were sent for a few small changes");
        // Another one, that is not waited for so long.
        pair.copy.mirror(1, &["remove", "copy"])?.ok()?;
        pair.source.mirror(1, &["dismiss", "main", "--name", "copy"])?.ok()?;
        let impatient = pair.admit("impatient", "5s")?;
        pair.follow(1, &impatient, "copy")?.ok()?;
        pair.same("it follows by another invitation", &copy, &tree)?;
        wait::until("the source knows", PATIENCE, || {
            pair.follower("impatient").is_ok_and(|line| line["state"].is_string())
        })?;
        std::fs::write(tree.join("made before"), "x")?;
        pair.same("it has a file that is removed later", &copy, &tree)?;
        pair.pause("impatient")?;
        let stands = pair.state(1)?;
        std::fs::remove_file(tree.join("made before"))?;
        away(Instant::now(), 25)?;
        let line = pair.follower("impatient")?;
        eprintln!("away for 25 s, waited for 5 s: {line}");
        ensure!(line["is_waited_for"] == false && line["held_s"] == 0, "{line}");
        ensure!(
            trees::digest(&tree.join(format!("@@{stands}"))).is_err(),
            "history waits for a mirror that is not waited for"
        );
        pair.copy.mirror(1, &["resume", "copy"])?.ok()?;
        pair.same("it goes on from what is there", &copy, &tree)?;
        let bytes = pair.status(1)?["follow"]["bytes"].as_u64().context("bytes")?;
        eprintln!("{bytes} bytes were sent to compare");
        ensure!(bytes < 1_000_000, "{bytes} bytes: the unchanged file was sent again");
        ensure!(std::fs::read(copy.join("unchanged"))? == large && !copy.join("made before").exists());
        std::fs::write(tree.join("and on"), "x")?;
        pair.same("it goes on one by one", &copy, &tree).map(drop)
    })
}

#[test]
fn a_mirror_of_a_mirror_follows_too() -> Result<()> {
    with_pair(1, 1, |pair| {
        let tree = pair.source.mount(1);
        trees::make(&tree.join("first"), 40)?;
        trees::settle(&tree)?;
        pair.follow(1, &pair.admit("copy", "7d")?, "copy")?.ok()?;
        wait::until("the whole copy is there", PATIENCE, || pair.state(1).is_ok_and(|state| state != "0x0"))?;
        // Its mirror is in the source's own cluster: any cluster will do.
        pair.source.follow(1, &pair.copy.admit("copy", "second", &[])?, "back")?.ok()?;
        let status = || pair.source.mirror_status(1, "back").ok();
        wait::until("the second copy is there", PATIENCE, || status().is_some_and(|status| status["state"] != "0x0"))?;
        let back = pair.source.dir().join("extra/back");
        std::fs::create_dir_all(&back)?;
        let mut command = pair.source.gavel().command(["mount", "--volume", "back", "--config"]);
        command.arg(pair.source.config(1)).arg(&back);
        command::run(command, command::PATIENCE)?.ok()?;
        pair.same("the second copy", &back, &tree)?;
        for round in 0..4 {
            trees::make(&tree.join(format!("round {round}")), 20)?;
            std::fs::write(tree.join("changing"), trees::noise(round, 300_000))?;
            trees::settle(&tree)?;
            let took = pair.same("both follow", &back, &tree)?;
            eprintln!("a mirror of a mirror had the changes after {took:?}");
        }
        std::fs::remove_dir_all(tree.join("first"))?;
        trees::settle(&tree)?;
        pair.same("what is removed goes there, too", &back, &tree)?;
        let status = status().context("no status")?;
        ensure!(status["source_volume"] == 2 && status["follow"]["error"].is_null(), "{status}");
        let path = back.to_str().context("text")?;
        pair.source.gavel().run(["umount", "--lazy", path])?.ok().map(drop)
    })
}
