//! `gavel backup verify`: looks whether everything is there, and good.

use super::folder::Purpose;
use super::key::KeyArgs;
use super::{open, told};
use crate::command::mirror::progress;
use crate::output::print_json;
use clap::Args;
use gavel_backup::verify::{Verified, verify};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks whether everything is there, and good: reads every file, and follows every reference. Needs no cluster.
#[derive(Args)]
#[command(after_help = "Exit status: 0 everything is good; 1 something is damaged, or could not be read.\n\n\
Example:\n  gavel backup verify /backups/main")]
pub struct Verify {
    /// The folder
    dir: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Part of the machine-readable output: fields are only added.
#[derive(Serialize)]
struct Line {
    good: bool,
    /// Backups, and those of them that are damaged.
    backups: Vec<String>,
    damaged_backups: Vec<String>,
    files: u64,
    bytes: u64,
    damaged: Vec<DamagedLine>,
    /// There are more damaged files than are listed.
    more: bool,
}

#[derive(Serialize)]
struct DamagedLine {
    file: String,
    what: String,
    backups: Vec<String>,
}

impl Verify {
    /// # Errors
    /// Why the folder could not be read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let repository = open(&self.dir, Purpose::Read, &self.key)?;
        let bar = progress();
        let verified = verify(&repository, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let verified = verified.map_err(told)?;
        let line = Line::new(&verified);
        if self.json {
            print_json(&line)?;
        } else {
            tell(&line);
        }
        Ok(if line.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Line {
    fn new(verified: &Verified) -> Line {
        let damaged = verified.damaged.iter().map(|(file, damage)| DamagedLine {
            file: file.to_string(),
            what: damage.what.clone(),
            backups: damage.backups.iter().map(ToString::to_string).collect(),
        });
        Line {
            good: verified.is_good(),
            backups: verified.backups.iter().map(ToString::to_string).collect(),
            damaged_backups: verified.spoiled().iter().map(ToString::to_string).collect(),
            files: verified.files,
            bytes: verified.bytes,
            damaged: damaged.collect(),
            more: verified.more,
        }
    }
}

fn tell(line: &Line) {
    for DamagedLine { file, what, backups } in &line.damaged {
        let spoils = match &backups[..] {
            [] => "no backup needs it".to_owned(),
            backups => format!("it spoils {}", backups.join(", ")),
        };
        println!("{file}: {what}; {spoils}");
    }
    if line.more {
        println!("... and more");
    }
    let (all, spoiled) = (line.backups.len(), line.damaged_backups.len());
    if line.good {
        println!("{all} backups, {} files, {} bytes: all good", line.files, line.bytes);
    } else {
        println!("{spoiled} of {all} backups are damaged: {}", line.damaged_backups.join(", "));
        println!("Hint: gavel backup create DIR --whole stores anew what the volume still has");
    }
}
