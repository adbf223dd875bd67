//! `gavel dev down`.

use super::cluster::DevCluster;
use crate::output::spinner;
use anyhow::Context;
use clap::Args;
use gavel_mount::table;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a node may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stops all nodes and removes the directory: no process, mount or file is left behind.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel dev down --dir /tmp/gavel\n  gavel dev down --dir /tmp/gavel --keep   # stop only; 'dev up' goes on with the same data"
)]
pub struct Down {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Stop only: keep the directory and all data in it
    #[arg(long)]
    keep: bool,
}

impl Down {
    /// # Errors
    /// Why something is left.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = DevCluster::open(&self.dir)?;
        let progress = spinner("stopping nodes");
        // All at once: the last ones would wait for a quorum that is gone.
        let stopped: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = cluster.nodes().map(|node| scope.spawn(move || node.stop(PATIENCE))).collect();
            let panicked = |_| Err(anyhow::anyhow!("stopping a node panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        stopped.into_iter().collect::<anyhow::Result<()>>()?;
        if !self.keep {
            progress.set_message("removing files");
            let left = table::mounts()?.into_iter().find(|mount| mount.point.starts_with(&cluster.dir));
            if let Some(left) = left {
                anyhow::bail!("{} is still mounted; nothing was removed", left.point.display());
            }
            std::fs::remove_dir_all(&cluster.dir).with_context(|| format!("removing {}", cluster.dir.display()))?;
        }
        progress.finish_and_clear();
        Ok(ExitCode::SUCCESS)
    }
}
