//! The benchmark: every workload in every directory, in turn.
//!
//! - `families`: which workloads there are, and which belong together
//! - `names`, `trees`, `bytes`, `syncs`, `tools`, `build`: workloads for one mount
//! - `shared`, `failover`: workloads for several mounts of the same tree
//! - `turn`: what a workload sees: a fresh directory, sizes, a stopwatch
//! - `place`: a directory that is compared, its mounts, its daemons, and what cold means there
//! - `session`: the order of turns, and what happens when one fails or hangs
//! - `setup`: what is compared when nothing is named: an image, a passthrough, a cluster
//! - `undo`: how everything that was started goes away again
//! - `cluster`: the cluster, through its command line
//! - `daemons`: CPU and memory of processes
//! - `inputs`, `random`: what workloads work on, from a fixed seed
//! - `measure`, `report`: numbers, tables, JSON
//!
//! Invariants:
//! 1. Only the workload is timed: preparing, cleaning up, and writing back what others left dirty are not.
//! 2. Inputs depend on the seed and the round, on nothing else; no two rounds write the same bytes, so that nothing gains by
//!    having seen them.
//! 3. A failure in one directory is reported there, and stops nothing else.
//! 4. What was started, mounted or made is gone at the end, also after an error or Ctrl-C.

mod build;
mod bytes;
mod cluster;
mod daemons;
mod failover;
mod families;
mod inputs;
mod measure;
mod names;
mod place;
mod random;
mod report;
mod session;
mod setup;
mod shared;
mod syncs;
mod tools;
mod trees;
mod turn;
mod undo;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use families::FAMILIES;
use place::Place;
use session::Session;
use turn::Sizes;
use undo::Undo;

/// Rounds when nothing else is said; fewer have no spread worth the name.
const ROUNDS: u64 = 5;

/// What `xtask bench` is told.
#[derive(Args)]
pub struct BenchArguments {
    /// Directories to compare, as NAME=PATH or, for several mounts of one tree, NAME=PATH,PATH,PATH. The first is the one
    /// that others are compared with, and `passthrough` the floor. Without any: a local directory, a passthrough and a
    /// three-node cluster, on an ext4 image made for it
    #[arg(value_name = "NAME=PATH")]
    directories: Vec<String>,
    /// Rounds (1..=1000)
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_name = "ID,ID")]
    only: Vec<String>,
    /// Only these of what the benchmark can bring up: local, passthrough, gavel (by default all three), local-opens (a cluster mounted with that option)
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME", conflicts_with = "directories")]
    places: Vec<String>,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Small sizes and one round: shows that everything works, measures nothing
    #[arg(long)]
    quick: bool,
    /// Processes that serve a directory, for their CPU and memory, as NAME=PID,PID
    #[arg(long, value_name = "NAME=PID,PID")]
    daemons: Vec<String>,
    /// The gavel binary; by default next to this one
    #[arg(long, value_name = "FILE")]
    gavel: Option<PathBuf>,
    /// Where images and inputs are put; needs the image's size, and a disk, not memory
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Size of the ext4 image; a cluster keeps three copies of everything ever written
    #[arg(long, value_name = "GIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    image_gib: u64,
    /// Give a workload up after so many seconds without a result
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    limit: u64,
    /// Name the workloads and end
    #[arg(long)]
    list: bool,
}

/// Runs the benchmark and prints its tables. Exit status 1 when a workload failed somewhere.
///
/// # Errors
/// When an argument is wrong, or what is to be compared cannot be brought up.
pub fn run(arguments: BenchArguments) -> Result<ExitCode> {
    if arguments.list {
        families::print_list();
        return Ok(ExitCode::SUCCESS);
    }
    let only = wanted(&arguments.only)?;
    if cfg!(debug_assertions) && !arguments.quick {
        eprintln!("Note: this is a debug build; ./bench runs a release build");
    }
    let undo = Undo::on_signals()?;
    let scratch = setup::scratch(&arguments, &undo)?;
    let places = places(&arguments, &scratch, &undo)?;
    let session = Session {
        places,
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        only,
        sizes: if arguments.quick { Sizes::quick() } else { Sizes::full() },
        scratch,
        limit: Duration::from_secs(arguments.limit),
    };
    let results = session.run();
    report::print(&results);
    if let Some(path) = &arguments.json {
        report::write_json(&results, &session, path).with_context(|| format!("writing {}", path.display()))?;
    }
    undo.all();
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The workloads that were asked for; all when none was named.
fn wanted(only: &[String]) -> Result<BTreeSet<&'static str>> {
    let all = || FAMILIES.iter().flat_map(|family| family.ids.iter().copied());
    if only.is_empty() {
        return Ok(all().collect());
    }
    only.iter()
        .map(|id| match all().find(|known| known == id) {
            Some(known) => Ok(known),
            None => bail!("there is no workload {id:?}\nHint: xtask bench --list names them"),
        })
        .collect()
}

fn places(arguments: &BenchArguments, scratch: &std::path::Path, undo: &Undo) -> Result<Vec<Arc<Place>>> {
    let places = if arguments.directories.is_empty() {
        setup::bring_up(arguments, scratch, undo)?
    } else {
        let daemons = arguments.daemons.iter().map(|given| place::parse_daemons(given)).collect::<Result<Vec<_>>>()?;
        let named = arguments.directories.iter().map(|given| Place::parse(given, &daemons));
        named.collect::<Result<Vec<_>>>()?
    };
    let names: BTreeSet<_> = places.iter().map(|place| place.name.as_str()).collect();
    if names.len() < places.len() {
        bail!("two directories have the same name\nHint: NAME=PATH, each with its own name");
    }
    Ok(places.into_iter().map(Arc::new).collect())
}
