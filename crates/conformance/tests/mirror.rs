//! Two clusters, and streams from a volume of one to a mirror in the other (docs/protocols/mirroring.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::dice::{self, Dice};
use gavel_conformance::two::with_two;
use gavel_conformance::{trees, wait};
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const FILES: u64 = 400;

/// A source, and a cluster with a mirror of its first volume.
struct Pair<'a> {
    source: &'a Cluster,
    copy: &'a Cluster,
    streams: PathBuf,
}

impl Pair<'_> {
    /// Writes a stream to a file; what was sent.
    fn send(&self, file: &str, words: &[&str]) -> Result<(PathBuf, Value)> {
        let path = self.streams.join(file);
        let mut command = self.source.mirror_command(1, &["send", "main", "--json"]);
        command.args(words).stdin(Stdio::null()).stdout(File::create(&path)?).stderr(Stdio::piped());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok((path, serde_json::from_str(said.trim()).with_context(|| said.clone())?))
    }

    fn receive_ran(&self, node: u64, file: &Path, words: &[&str]) -> Result<Ran> {
        self.copy.receive(node, "copy", file, &[&["--json"], words].concat())
    }

    /// Receives a stream from a file; what was received.
    fn receive(&self, node: u64, file: &Path, words: &[&str]) -> Result<Value> {
        let ran = self.receive_ran(node, file, words)?;
        ensure!(ran.code == Some(0), "{}: {}", ran.line, ran.stderr);
        Ok(serde_json::from_str(ran.stderr.trim())?)
    }

    /// Which state of the source the mirror shows.
    fn place(&self, node: u64) -> Result<String> {
        Ok(self.copy.mirror(node, &["receive", "copy", "--where"])?.ok()?.trim().to_owned())
    }

    /// The mirror shows what the source showed then, by its present and by the name of that state.
    fn same_as_of(&self, state: &str, copy: &Path) -> Result<()> {
        let then = format!("@@{state}");
        let wanted = trees::digest(&self.source.mount(1).join(&then))?;
        ensure!(trees::digest(&copy.join(&then))? == wanted, "as of {state}, the mirror is not what the source was");
        Ok(())
    }
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn with_pair(nodes: u64, body: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    with_two(1, nodes, |source, copy| {
        let streams = source.scratch().join("streams");
        std::fs::create_dir_all(&streams)?;
        body(&Pair { source, copy, streams })
    })
}

/// Changes of all kinds, somewhere in a tree that `trees::make` has made.
fn change(dice: &mut Dice, root: &Path, count: usize) -> Result<()> {
    for _ in 0..count {
        let tree = trees::read(root)?;
        let files: Vec<&PathBuf> =
            tree.iter().filter(|(_, e)| e.mode & 0o170_000 == 0o100_000).map(|(path, _)| path).collect();
        let file = root.join(*dice.pick(&files));
        let new = root.join(format!("new {}", dice.roll() % 1000));
        let writable = |file: &Path| -> Result<()> {
            Ok(std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?)
        };
        match dice.below(9) {
            0 => std::fs::write(&new, trees::noise(dice.roll(), 50_000))?,
            1 => std::fs::remove_file(&file)?,
            2 => std::fs::rename(&file, &new)?,
            3 if !new.exists() => std::fs::hard_link(&file, &new)?,
            4 => {
                writable(&file)?;
                File::options().write(true).open(&file)?.set_len(dice.roll() % 60_000)?;
            }
            5 => {
                writable(&file)?;
                setxattr(&file, "user.colour", format!("{}", dice.roll()).as_bytes(), XattrFlags::empty())?;
            }
            6 if !new.exists() => symlink("nowhere", &new)?,
            7 => {
                writable(&file)?;
                let at = dice.roll() % 30_000;
                std::os::unix::fs::FileExt::write_all_at(
                    &File::options().write(true).open(&file)?,
                    &trees::noise(dice.roll(), 20_000),
                    at,
                )?;
            }
            _ => std::fs::create_dir_all(root.join(format!("dir {}/deep", dice.roll() % 20)))?,
        }
    }
    trees::settle(root)
}

#[test]
fn a_mirror_is_what_its_source_was() -> Result<()> {
    with_pair(1, |pair| {
        let mut dice = Dice::new(dice::seed());
        let tree = pair.source.mount(1);
        trees::make(&tree.join("tree"), FILES)?;
        trees::settle(&tree)?;
        let (stream, sent) = pair.send("whole", &[])?;
        ensure!(sent["steps"] == 1 && sent["read"]["rows"].as_u64() > Some(FILES), "{sent}");
        pair.receive_ran(1, &stream, &[])?.refused(&["there is no volume copy", "--create"])?;
        let received = pair.receive(1, &stream, &["--create"])?;
        ensure!(received["state"] == sent["to"], "{received} {sent}");
        let copy = pair.copy.mounted(1, "copy")?;
        ensure!(trees::digest(&copy)? == trees::digest(&tree)?, "the whole copy");
        let wanted = [Some(Errno::ROFS); 3];
        let found = [
            errno(std::fs::write(copy.join("new"), "x")),
            errno(std::fs::remove_dir_all(copy.join("tree"))),
            errno(std::fs::create_dir(copy.join("dir"))),
        ];
        ensure!(found == wanted, "{found:?}");
        let mut states = vec![pair.place(1)?];
        for round in 0..4 {
            let many = 1 + dice.below(12);
            change(&mut dice, &tree, many)?;
            let (stream, sent) = pair.send("more", &["--from", &states[round]])?;
            ensure!(sent["read"]["rows"].as_u64() < Some(2_000), "unchanged objects were read: {sent}");
            pair.receive(1, &stream, &[])?;
            states.push(pair.place(1)?);
            ensure!(trees::digest(&copy)? == trees::digest(&tree)?, "round {round}");
        }
        for state in &states {
            pair.same_as_of(state, &copy)?;
        }
        small_change(pair, &tree)?;
        blobs_that_are_there(pair, &tree)?;
        refusals(pair, &copy, &states)
    })
}

/// What a pass over a few changes reads.
fn small_change(pair: &Pair, tree: &Path) -> Result<()> {
    let from = pair.place(1)?;
    for number in 0..100 {
        std::fs::write(tree.join(format!("one of a hundred {number}")), "few bytes")?;
    }
    trees::settle(tree)?;
    let begun = Instant::now();
    let (stream, sent) = pair.send("few", &["--from", &from])?;
    let took = begun.elapsed();
    let read = &sent["read"];
    let read = |what: &str| read[what].as_u64().unwrap_or(u64::MAX);
    eprintln!("100 files made: a pass took {took:?}, and sent {sent}");
    ensure!(read("rows") == 0 && read("changes") + read("records") < 3_000, "{sent}");
    pair.receive(1, &stream, &[]).map(drop)
}

/// Bytes that the mirror has are not sent again.
fn blobs_that_are_there(pair: &Pair, tree: &Path) -> Result<()> {
    let pass = |file: &str| -> Result<(u64, u64)> {
        trees::settle(tree)?;
        let (stream, sent) = pair.send(file, &["--from", &pair.place(1)?])?;
        pair.receive(1, &stream, &[])?;
        let number = |what: &str| sent[what].as_u64().with_context(|| sent.to_string());
        Ok((number("blobs")?, number("blob_bytes")?))
    };
    let (large, moved) = (tree.join("large"), tree.join("large and moved"));
    std::fs::write(&large, trees::noise(77, 600_000))?;
    let (_, bytes) = pass("large")?;
    ensure!(bytes == 600_000, "{bytes} bytes of blobs for 600,000 of a file");
    // What is left of the file on both sides still names the blobs that it named.
    std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(&large)?,
        &trees::noise(78, 20_480),
        100 * 4096,
    )?;
    std::fs::rename(&large, &moved)?;
    std::fs::hard_link(&moved, &large)?;
    let (_, bytes) = pass("a piece of it")?;
    ensure!(bytes == 20_480, "{bytes} bytes of blobs for 20,480 that are new");
    Ok(())
}

/// Streams that are not taken, and mirrors that stay what they were.
fn refusals(pair: &Pair, copy: &Path, states: &[String]) -> Result<()> {
    let tree = pair.source.mount(1);
    let before = (pair.place(1)?, trees::digest(copy)?);
    std::fs::write(tree.join("later"), trees::noise(1, 100_000))?;
    trees::settle(&tree)?;
    let (good, _) = pair.send("good", &["--from", &before.0])?;
    let bytes = std::fs::read(&good)?;
    let bad = |name: &str, bytes: &[u8], phrases: &[&str]| -> Result<()> {
        let path = pair.streams.join(name);
        std::fs::write(&path, bytes)?;
        pair.receive_ran(1, &path, &[])?.refused(phrases).with_context(|| name.to_owned())
    };
    bad("cut", &bytes[..bytes.len() - 30], &["truncated", "Hint: mirror copy shows state"])?;
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    bad("flipped", &flipped, &["damaged"])?;
    let mut newer = bytes.clone();
    newer[8] = 77;
    bad("newer", &newer, &["version 77", "upgrade"])?;
    bad("text", b"this is something else", &["no stream of `gavel mirror send`"])?;
    bad("nothing", b"", &["no stream of `gavel mirror send`"])?;
    // What came of the cut stream before the cut may be there: whole transactions.
    pair.same_as_of(&pair.place(1)?, copy)?;
    pair.receive(1, &good, &[])?;
    ensure!(trees::digest(copy)? == trees::digest(&tree)?);
    let again = pair.receive(1, &good, &[])?;
    ensure!(again["steps"] == 0, "{again}");
    std::fs::write(tree.join("later still"), "x")?;
    trees::settle(&tree)?;
    let (whole, _) = pair.send("whole again", &[])?;
    pair.receive_ran(1, &whole, &[])?.refused(&["whole copy", "--where"])?;
    let now = pair.send("now", &["--from", &pair.place(1)?])?;
    std::fs::write(tree.join("latest"), "x")?;
    trees::settle(&tree)?;
    let from = now.1["to"].as_str().context("a state")?;
    let (gap, _) = pair.send("gap", &["--from", from])?;
    pair.receive_ran(1, &gap, &[])?.refused(&["has come to", "--where"])?;
    // Another volume's, and into what is no mirror.
    let ran =
        pair.source.gavel().command(["volume", "create", "other", "--config"]).arg(pair.source.config(1)).output()?;
    ensure!(ran.status.success());
    let other = pair.streams.join("other");
    let sent = pair.source.mirror_command(1, &["send", "other"]).stdout(File::create(&other)?).status()?;
    ensure!(sent.success());
    pair.receive_ran(1, &other, &[])?.refused(&["is of volume other", "--create"])?;
    let mut into_main = pair.copy.mirror_command(1, &["receive", "main"]);
    let ran = into_main.stdin(File::open(&good)?).stderr(Stdio::piped()).output()?;
    ensure!(String::from_utf8_lossy(&ran.stderr).contains("is no mirror"));
    let missing = pair.source.mirror(1, &["send", "main", "--from", "2000-01-01"])?;
    missing.refused(&["made later"])?;
    let first = u64::from_str_radix(states[0].trim_start_matches("0x"), 16)?;
    for never in [0x7000_0000_0000_0000, first - 1, 16] {
        let name = copy.join(format!("@@{never:#x}"));
        ensure!(errno(std::fs::read_dir(&name).map(drop)) == Some(Errno::NOENT), "{}", name.display());
    }
    for state in states {
        pair.same_as_of(state, copy)?;
    }
    Ok(())
}

#[test]
fn a_receiver_that_is_killed_leaves_a_whole_state() -> Result<()> {
    with_pair(3, |pair| {
        let tree = pair.source.mount(1);
        trees::make(&tree.join("first"), 60)?;
        trees::settle(&tree)?;
        let (first, _) = pair.send("first", &[])?;
        pair.receive(2, &first, &["--create"])?;
        let copy = pair.copy.mounted(1, "copy")?;
        let before = (pair.place(1)?, trees::digest(&copy)?);
        // A step of many parts, and transactions behind it.
        trees::make(&tree.join("second"), 1_500)?;
        trees::settle(&tree)?;
        let (more, _) = pair.send("more", &["--from", &before.0])?;
        let mut killed = 0;
        for attempt in 0..6 {
            let mut receiver = pair
                .copy
                .mirror_command(2, &["receive", "copy"])
                .stdin(File::open(&more)?)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            std::thread::sleep(Duration::from_millis(150 + 250 * attempt));
            if receiver.try_wait()?.is_none() {
                pair.copy.kill(2)?;
                killed += 1;
            }
            let output = receiver.wait_with_output()?;
            let (state, done) = (pair.place(1)?, output.status.success());
            eprintln!("attempt {attempt}: done {done}, the mirror shows {state}");
            pair.same_as_of(&state, &copy)?;
            pair.copy.start()?;
            if done {
                break;
            }
        }
        ensure!(killed > 0, "the receiver was never killed in the middle");
        // A stream to another state than the one that broke off.
        std::fs::remove_dir_all(tree.join("first"))?;
        trees::settle(&tree)?;
        let (rest, _) = pair.send("rest", &["--from", &pair.place(1)?])?;
        pair.receive(3, &rest, &[])?;
        wait::until("node 1 has it, too", PATIENCE, || trees::digest(&copy).ok() == trees::digest(&tree).ok())
    })
}

#[test]
fn a_whole_copy_goes_on_where_it_was_broken_off() -> Result<()> {
    with_pair(1, |pair| {
        let tree = pair.source.mount(1);
        for part in 0..3 {
            trees::make(&tree.join(format!("part{part}")), 1_200)?;
        }
        std::fs::write(tree.join("large"), vec![3; 5 << 20])?;
        trees::settle(&tree)?;
        let (whole, sent) = pair.send("whole", &[])?;
        let bytes = sent["bytes"].as_u64().context("bytes")?;
        // Three quarters of it come, and the source goes on: what was there is changed, removed, and joined by more.
        File::options().write(true).open(&whole)?.set_len(bytes / 4 * 3)?;
        let broken = pair.receive_ran(1, &whole, &["--create"])?;
        ensure!(broken.code == Some(1) && broken.stderr.contains("truncated"), "{:?} {}", broken.code, broken.stderr);
        let place = pair.place(1)?;
        ensure!(
            place.contains('~') && broken.stderr.contains(&format!("--from {place}")),
            "{place}: {}",
            broken.stderr
        );
        let copy = pair.copy.mounted(1, "copy")?;
        ensure!(std::fs::read_dir(&copy)?.next().is_none(), "nothing of it is shown");
        std::fs::remove_dir_all(tree.join("part0/d0/é0"))?;
        trees::make(&tree.join("more"), 20)?;
        trees::settle(&tree)?;
        let (rest, again) = pair.send("rest", &["--from", &place])?;
        let left = again["bytes"].as_u64().context("bytes")?;
        eprintln!("{left} bytes go on where {bytes} broke off");
        ensure!(left < bytes / 2, "{left} of {bytes} were sent again");
        pair.receive(1, &rest, &[])?;
        ensure!(trees::digest(&copy)? == trees::digest(&tree)?, "the mirror is not what its source is");
        let refused = pair.receive_ran(1, &rest, &[])?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("--where"), "{:?} {}", refused.code, refused.stderr);
        // And on from there.
        std::fs::remove_dir_all(tree.join("part1"))?;
        trees::settle(&tree)?;
        let (more, _) = pair.send("then", &["--from", &pair.place(1)?])?;
        pair.receive(1, &more, &[])?;
        ensure!(trees::digest(&copy)? == trees::digest(&tree)?);
        Ok(())
    })
}

#[test]
fn a_pipe_follows_and_a_promoted_mirror_is_written() -> Result<()> {
    with_pair(1, |pair| {
        let mut dice = Dice::new(dice::seed() + 1);
        let tree = pair.source.mount(1);
        trees::make(&tree.join("tree"), 80)?;
        trees::settle(&tree)?;
        let mut send = pair.source.mirror_command(1, &["send", "main", "--follow"]).stdout(Stdio::piped()).spawn()?;
        let stream = send.stdout.take().context("a pipe")?;
        let mut receive = pair.copy.mirror_command(1, &["receive", "copy", "--create"]);
        let mut receive = receive.stdin(stream).stderr(Stdio::piped()).spawn()?;
        wait::until("the mirror is there", PATIENCE, || pair.place(1).is_ok_and(|place| place != "0x0"))?;
        let copy = pair.copy.mounted(1, "copy")?;
        for _ in 0..5 {
            let many = 1 + dice.below(8);
            change(&mut dice, &tree, many)?;
            let begun = Instant::now();
            let wanted = trees::digest(&tree)?;
            wait::until("the mirror follows", PATIENCE, || trees::digest(&copy).is_ok_and(|found| found == wanted))?;
            eprintln!("the mirror had followed after {:?}", begun.elapsed());
            let place = pair.place(1)?;
            pair.same_as_of(&place, &copy)?;
        }
        send.kill()?;
        send.wait()?;
        let output = wait_for(&mut receive)?;
        ensure!(output.contains("truncated") && output.contains("Hint: mirror copy shows state"), "{output}");
        let wanted = trees::digest(&copy)?;
        let promote = pair.copy.mirror_command(1, &["promote", "copy"]);
        let said = command::run(promote, PATIENCE)?.ok()?;
        ensure!(said.contains("volume as any other"), "{said}");
        ensure!(errno(std::fs::read_dir(&copy).map(drop)) == Some(Errno::STALE));
        pair.copy.gavel().run(["umount", "--lazy", copy.to_str().context("text")?])?.ok()?;
        let copy = pair.copy.mounted(1, "copy")?;
        ensure!(trees::digest(&copy)? == wanted, "what was mirrored is there");
        // What is made now has ids of its own: nothing that was mirrored is in its way.
        trees::make(&copy.join("own"), 200)?;
        trees::settle(&copy)?;
        let own = trees::read(&copy.join("own"))?;
        std::fs::remove_dir_all(copy.join("own"))?;
        ensure!(own.len() > 200 && trees::digest(&copy.join("tree"))? == trees::digest(&tree.join("tree"))?);
        let (more, _) = pair.send("more", &[])?;
        pair.receive_ran(1, &more, &[])?.refused(&["is no mirror"])
    })
}

fn wait_for(child: &mut std::process::Child) -> Result<String> {
    wait::until("the receiver ends", PATIENCE, || child.try_wait().is_ok_and(|ended| ended.is_some()))?;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().context("a pipe")?, &mut said)?;
    Ok(said)
}
