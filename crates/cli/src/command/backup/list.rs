//! `gavel backup list`: which backups there are.

use super::folder::Purpose;
use super::key::KeyArgs;
use super::{BackupLine, open, told};
use crate::output::{print_error, print_json, table};
use clap::Args;
use indicatif::HumanBytes;
use std::path::PathBuf;
use std::process::ExitCode;

/// Says which backups there are, the oldest first.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel backup list /backups/main")]
pub struct List {
    /// The folder
    dir: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// # Errors
    /// Why the folder could not be read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let repository = open(&self.dir, Purpose::Look, &self.key)?;
        let (mut lines, mut code) = (Vec::new(), ExitCode::SUCCESS);
        for tid in repository.tids().map_err(told)? {
            match repository.backup(tid) {
                Ok(backup) => lines.push(BackupLine::new(&backup)),
                Err(error) => {
                    print_error(&told(error));
                    code = ExitCode::FAILURE;
                }
            }
        }
        if self.json {
            print_json(&lines)?;
        } else {
            let rows = lines.into_iter().map(|line| {
                let new = format!("{} in {} files", HumanBytes(line.new_bytes), line.new_files);
                vec![
                    line.backup,
                    line.time,
                    if line.selection.is_all() { line.volume } else { format!("{} (a part)", line.volume) },
                    line.files.to_string(),
                    HumanBytes(line.bytes).to_string(),
                    new,
                ]
            });
            println!("{}", table(&["BACKUP", "TIME", "VOLUME", "FILES", "SIZE", "NEW"], rows.collect()));
        }
        Ok(code)
    }
}
