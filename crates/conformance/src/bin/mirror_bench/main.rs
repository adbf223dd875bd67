//! What a mirror costs its source, and how far behind it is: `./bench mirror`, docs/benchmarks.md ("Mirrors").
//!
//! - `pair`: the two clusters
//! - `changes`: what is done to the source, paced or not
//! - `lag`: how old what the mirror shows is
//! - `cost`: the source's foreground with and without a mirror, in turn
//! - `pass`: an incremental pass over many files of which few have changed
//! - `figures`: numbers, CPU, words

mod changes;
mod cost;
mod figures;
mod lag;
mod pair;
mod pass;

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::turn::Turn;
use serde_json::{Map, Value};
use std::path::PathBuf;

const HELP: &str = "\
What a mirror costs its source, and how far behind it is. Needs root and /dev/fuse.

    ./bench mirror [lag] [cost] [pass] [OPTION...]      without any of the three: all

  --nodes N       nodes of each cluster (1)
  --rate N        lag, cost: changes in a second, where they are paced (2000)
  --seconds N     lag: how long it is looked at (60)
  --rounds N      cost, pass: rounds (7)
  --changes N     cost: changes in a round, where they are not paced (20000)
  --pin           cost: the source and its workload on the first CPU, the mirror on the last one
  --files N       pass: files in the volume (1000000)
  --whole         pass: a mirror gets a whole copy first, and each pass goes there
  --json FILE     write every sample to this file

Everything is made below the temporary directory (TMPDIR), and removed again. What a run leaves that was killed, the next one removes.";

/// What is asked for.
#[derive(Debug)]
struct Asked {
    what: Vec<String>,
    nodes: u64,
    rate: u64,
    seconds: u64,
    rounds: u64,
    changes: u64,
    pin: bool,
    files: u64,
    whole: bool,
    json: Option<PathBuf>,
}

const ALL: [&str; 3] = ["lag", "cost", "pass"];

impl Asked {
    /// None if only help is wanted.
    fn of(mut words: impl Iterator<Item = String>) -> Result<Option<Asked>> {
        let mut asked = Asked {
            what: Vec::new(),
            nodes: 1,
            rate: 2_000,
            seconds: 60,
            rounds: 7,
            changes: 20_000,
            pin: false,
            files: 1_000_000,
            whole: false,
            json: None,
        };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64> {
                let text = words.next().with_context(|| format!("{word} needs a number"))?;
                let number = text.parse().with_context(|| format!("{word} {text}: not a number"))?;
                ensure!(number > 0, "{word} {text}: at least 1");
                Ok(number)
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--nodes" => asked.nodes = number()?,
                "--rate" => asked.rate = number()?,
                "--seconds" => asked.seconds = number()?,
                "--rounds" => asked.rounds = number()?,
                "--changes" => asked.changes = number()?,
                "--files" => asked.files = number()?,
                "--pin" => asked.pin = true,
                "--whole" => asked.whole = true,
                "--json" => asked.json = Some(words.next().context("--json needs a file")?.into()),
                what if ALL.contains(&what) => asked.what.push(word),
                _ => bail!("{word}: what is that?\nHint: ./bench mirror --help"),
            }
        }
        if asked.what.is_empty() {
            asked.what = ALL.map(str::to_owned).to_vec();
        }
        Ok(Some(asked))
    }
}

fn main() -> Result<()> {
    let Some(asked) = Asked::of(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(());
    };
    if cfg!(debug_assertions) {
        eprintln!("Note: this is a debug build; ./bench mirror runs a release build");
    }
    let mut samples = Map::new();
    for what in &asked.what {
        let Some(turn) = Turn::take()? else { bail!("clusters can't be brought up here") };
        println!("== {what}; load {}", figures::load());
        let found = match what.as_str() {
            "lag" => lag::run(turn, &asked),
            "cost" => cost::run(turn, &asked),
            _ => pass::run(turn, &asked),
        };
        samples.insert(what.clone(), found.with_context(|| what.clone())?);
        println!("load {} at the end", figures::load());
    }
    if let Some(path) = &asked.json {
        let text = serde_json::to_string_pretty(&Value::Object(samples))?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
