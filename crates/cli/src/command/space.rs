//! `gavel space`: where the bytes of a volume are, or of what lies below a path in it.

use crate::output::{print_json, table};
use crate::target::Target;
use clap::Args;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::space::{Held, Space as Found};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the bytes below a path are: what lives, what only the past shows and since when, what snapshots keep, and what this node's disk holds.
#[derive(Args)]
#[command(
    after_help = "RECORDS are names, attributes and files up to 16 KiB, before compression; BLOBS the bytes of larger writes, each stored once. Every row and every blob is counted once, in the first line that it belongs to, so that the lines add up to the total.\n\n\
Of a mount's root, all of the volume is counted. Of any other path, what lives there and below it, and what was removed from there; what was moved away counts where it is now.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Examples:\n  gavel space /srv/shared\n  gavel space /srv/shared/projects/old\n  gavel space --volume 2 /srv/shared\n  gavel space --json ."
)]
pub struct Space {
    /// A path in a mount, which may have been removed; its root is the whole volume. By default the directory in which you are
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The whole of this volume, and not of what is mounted there
    #[arg(long, value_name = "NUMBER")]
    volume: Option<u32>,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl Space {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let target = Target::of(&self.path)?;
        let request = match self.volume {
            Some(volume) => Request::Space { volume, path: Vec::new() },
            None => Request::Space { volume: target.volume, path: target.path.clone() },
        };
        match target.ask(&request)? {
            Reply::Space(space) if self.json => print_json(&space)?,
            Reply::Space(space) => tell(&space),
            _ => return Err(anyhow::anyhow!("the daemon did not say where the bytes are")),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(space: &Found) {
    let mut rows: Vec<Vec<String>> = vec![line("live", &space.live)];
    rows.extend(space.history.iter().map(|aged| match aged.within.as_str() {
        "older" => line("ended before that", &aged.held),
        within => line(&format!("ended within the last {within}"), &aged.held),
    }));
    rows.push(line("kept by snapshots alone", &space.snapshots));
    rows.push(line("being removed", &space.going));
    rows.push(line("total", &space.total));
    println!("{}\n", table(&["", "VERSIONS", "RECORDS", "BLOBS", "IN BLOBS"], rows));
    let shared = &space.shared;
    println!(
        "shared:    {} blobs are named by several files or places, which saves {}",
        shared.blobs,
        size(shared.saved_bytes)
    );
    if shared.elsewhere_bytes > 0 {
        let others = if space.path.is_empty() { "other volumes" } else { "what is elsewhere" };
        println!("           {} are shared with {others}", size(shared.elsewhere_bytes));
    }
    let disk = &space.disk;
    println!(
        "this disk: {} of records and {} of blobs, of all volumes",
        size(disk.record_bytes),
        size(disk.blob_bytes)
    );
    println!("           {} of that come back when more of their segments is collected", size(disk.returning_bytes));
    if disk.condemned + disk.collected > 0 {
        println!("           {} blobs are about to be collected, {} are being removed", disk.condemned, disk.collected);
    }
    if space.partial {
        println!("There is more than could be looked at in time: these are the least numbers.");
    }
}

fn line(what: &str, held: &Held) -> Vec<String> {
    let Held { versions, record_bytes, blobs, blob_bytes } = held;
    vec![what.into(), versions.to_string(), size(*record_bytes), blobs.to_string(), size(*blob_bytes)]
}

/// A number of bytes, for people.
fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut scaled = bytes as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", units[unit]) }
}
