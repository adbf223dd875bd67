//! `gavel rebuild`: makes a stopped node fetch all its records anew.

use crate::output::hinted;
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::Config;
use gavel_runtime::host::daemon::RECORDS_DIR;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// Moves a stopped node's records aside, so that at its next start it fetches all of them, with their history, from the other
/// nodes. For a node whose records are damaged or have diverged. Its log, by which it votes, and its blobs stay; a damaged
/// log cannot be made anew, for a voter must not forget its votes.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel rebuild --config /etc/gavel/gavel.toml --yes\n  gavel serve --config /etc/gavel/gavel.toml"
)]
pub struct Rebuild {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do it. Without this, only what would be done is said
    #[arg(long)]
    yes: bool,
}

impl Rebuild {
    /// # Errors
    /// Why the records stay where they are.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)?;
        let records = config.data_dir.join(RECORDS_DIR);
        // Holding the lock shows that the node does not run, and keeps it from starting meanwhile.
        let _lock = gavel_runtime::host::daemon::lock_data(&config)
            .map_err(|error| hinted(error.to_string(), "stop the node first; a running node cannot be rebuilt"))?;
        anyhow::ensure!(records.exists(), "{}: there are no records to move aside", records.display());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = config.data_dir.join(format!("{RECORDS_DIR}.aside-{now}"));
        if !self.yes {
            println!("would move {} to {}", records.display(), aside.display());
            println!("The node would fetch all records from the others at its next start. Add --yes to do it.");
            return Ok(ExitCode::SUCCESS);
        }
        std::fs::rename(&records, &aside).with_context(|| format!("moving {}", records.display()))?;
        println!("Moved the records to {}; remove that directory when the node is well again.", aside.display());
        println!("Start the node: gavel serve --config {}", self.config.display());
        Ok(ExitCode::SUCCESS)
    }
}
