//! `gavel umount`: ends a mount.

use anyhow::Context;
use clap::Args;
use gavel_mount::table::unmount_path;
use std::path::PathBuf;
use std::process::ExitCode;

/// Ends the mount at a directory. Works also for what a node that was killed has left behind.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel umount /srv/shared")]
pub struct Umount {
    /// Also while programs use it: they keep what they have open
    #[arg(long)]
    lazy: bool,
    /// The directory
    path: PathBuf,
}

impl Umount {
    /// # Errors
    /// Why the mount is still there.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = std::path::absolute(&self.path).with_context(|| self.path.display().to_string())?;
        unmount_path(&path, self.lazy)?;
        Ok(ExitCode::SUCCESS)
    }
}
