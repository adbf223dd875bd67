//! An incremental pass over a volume with many files, of which a hundred have changed: how long it takes, and what is read for it.

use crate::Asked;
use crate::figures::{Samples, secs};
use crate::pair::Pair;
use anyhow::{Context, Result, ensure};
use gavel_conformance::trees;
use gavel_conformance::turn::Turn;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FILES_IN_DIR: u64 = 10_000;
const FILE_BYTES: usize = 16;
/// Threads that make the files, each whole directories.
const THREADS: u64 = 4;
/// Of a pass: files that are made, written to, renamed and removed.
const MADE: u64 = 40;
const WRITTEN: u64 = 30;
const RENAMED: u64 = 10;
const REMOVED: u64 = 20;
/// Changes of a pass.
const CHANGES: u64 = MADE + WRITTEN + RENAMED + REMOVED;
/// A change of a small file is a few rows of the change index, and a few records: of the file, and of its directory. Whoever reads more than so many for each,
/// reads what has not changed.
const READ_EACH_MAX: u64 = 20;
const TELL_EVERY: u64 = 100_000;

pub(crate) fn run(turn: Turn, asked: &Asked) -> Result<Value> {
    let mut pair = Pair::up(turn, asked.nodes)?;
    let took = make(&pair.root(), asked.files)?;
    println!("{} files made in {:.0} s", asked.files, secs(took));
    let mut from = named(&pair, "behind-the-making")?;
    let mut whole = Value::Null;
    if asked.whole {
        let begun = Instant::now();
        let (sent, received) = piped(&pair, &[], &["--create"])?;
        println!("a whole copy took {:.1} s: {sent}, {received}", secs(begun.elapsed()));
        from = sent["to"].as_str().context("a state")?.to_owned();
        whole = json!({ "seconds": secs(begun.elapsed()), "sent": sent });
    }
    let (mut took, mut passes) = (Samples::default(), Vec::new());
    for round in 0..asked.rounds {
        change(&pair.root(), asked.files, round)?;
        trees::settle(&pair.root())?;
        let begun = Instant::now();
        let sent = match asked.whole {
            true => piped(&pair, &["--from", &from], &[])?.0,
            false => sent(&pair, &["--from", &from])?,
        };
        took.add(secs(begun.elapsed()));
        println!("{CHANGES} changes: {:.3} s: {sent}", secs(begun.elapsed()));
        from = sent["to"].as_str().context("a state")?.to_owned();
        let read: u64 = ["changes", "records", "rows"].iter().filter_map(|what| sent["read"][what].as_u64()).sum();
        ensure!(read > CHANGES && read < CHANGES * READ_EACH_MAX, "{read} rows of all kinds were read: {sent}");
        passes.push(sent);
    }
    if asked.whole {
        pair.mount_and_compare(asked.rounds)?;
    }
    println!("a pass took {} s", took.spread());
    pair.down()?;
    Ok(json!({ "files": asked.files, "seconds": took.0, "passes": passes, "whole": whole }))
}

impl Pair {
    /// The mirror shows the changes of the last round, and no other number of names than the source.
    fn mount_and_compare(&mut self, rounds: u64) -> Result<()> {
        self.mount_copy()?;
        let count = |root: PathBuf| std::fs::read_dir(root.join("d0")).map(Iterator::count);
        let (wanted, found) = (count(self.root())?, count(self.mirror_root())?);
        ensure!(wanted == found, "{wanted} names at the source, and {found} in the mirror");
        let last = format!("d0/made {} 0", rounds - 1);
        ensure!(self.mirror_root().join(&last).exists(), "{last} is not in the mirror");
        Ok(())
    }
}

fn file(root: &Path, number: u64) -> PathBuf {
    root.join(format!("d{}", number / FILES_IN_DIR)).join(format!("f{number}"))
}

/// Makes so many files.
fn make(root: &Path, files: u64) -> Result<Duration> {
    let (begun, made) = (Instant::now(), AtomicU64::new(0));
    let some = |thread: u64| -> Result<()> {
        for dir in (thread..files.div_ceil(FILES_IN_DIR)).step_by(THREADS as usize) {
            std::fs::create_dir(root.join(format!("d{dir}")))?;
            for number in dir * FILES_IN_DIR..((dir + 1) * FILES_IN_DIR).min(files) {
                let path = file(root, number);
                std::fs::write(&path, trees::noise(number, FILE_BYTES)).with_context(|| path.display().to_string())?;
                let made = made.fetch_add(1, Ordering::Relaxed) + 1;
                if made.is_multiple_of(TELL_EVERY) {
                    eprintln!("{made} files after {:.0} s", secs(begun.elapsed()));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || some(thread))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))?)
    })?;
    trees::settle(root)?;
    Ok(begun.elapsed())
}

/// The changes of a round, all over the volume.
fn change(root: &Path, files: u64, round: u64) -> Result<()> {
    let apart = files / CHANGES;
    ensure!(apart > round, "so few files are used up by round {round}");
    let some = |number: u64| file(root, number * apart + round);
    for number in 0..MADE {
        let dir = number * apart / FILES_IN_DIR;
        std::fs::write(root.join(format!("d{dir}")).join(format!("made {round} {number}")), "few bytes")?;
    }
    for number in MADE..MADE + WRITTEN {
        OpenOptions::new().append(true).open(some(number))?.write_all(b"more")?;
    }
    for number in MADE + WRITTEN..MADE + WRITTEN + RENAMED {
        std::fs::rename(some(number), some(number).with_extension("renamed"))?;
    }
    (CHANGES - REMOVED..CHANGES).try_for_each(|number| std::fs::remove_file(some(number)))?;
    Ok(())
}

/// The present state, by its transaction: it gets a name.
fn named(pair: &Pair, name: &str) -> Result<String> {
    let root = pair.root();
    let root = root.to_str().context("a path of text")?;
    let said = pair.source().gavel().run(["snapshot", "create", root, name])?.ok()?;
    Ok(said.split_whitespace().nth(2).with_context(|| said.clone())?.to_owned())
}

/// Sends a stream to nobody; what was sent.
fn sent(pair: &Pair, words: &[&str]) -> Result<Value> {
    let mut send = pair.command(true, &["send", "main", "--json"]);
    let output = send.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    said(output.status.success(), &output.stderr)
}

/// Sends a stream into the mirror; what was sent, and what was received.
fn piped(pair: &Pair, words: &[&str], into: &[&str]) -> Result<(Value, Value)> {
    let mut send = pair.command(true, &["send", "main", "--json"]);
    let mut send = send.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stream = send.stdout.take().context("a pipe")?;
    let mut receive = pair.command(false, &["receive", "copy", "--json"]);
    let received = receive.args(into).stdin(stream).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let sent = send.wait_with_output()?;
    Ok((said(sent.status.success(), &sent.stderr)?, said(received.status.success(), &received.stderr)?))
}

fn said(is_done: bool, stderr: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(stderr);
    ensure!(is_done, "gavel mirror: {text}");
    serde_json::from_str(text.trim()).with_context(|| text.into_owned())
}
