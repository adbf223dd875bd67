//! `gavel conflict drop`: forgets conflicts.

use super::Node;
use clap::Args;
use gavel_runtime::host::conflicts::ConflictId;
use gavel_runtime::host::control::Request;
use std::process::ExitCode;

/// Forgets conflicts: what they would have changed is lost, and nothing is changed.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel conflict drop 3 4 --config /etc/gavel/gavel.toml\n  \
gavel conflict drop --all --dry-run --config /etc/gavel/gavel.toml")]
pub struct Drop {
    #[command(flatten)]
    node: Node,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Say what would be lost, and drop nothing
    #[arg(long)]
    dry_run: bool,
    /// Their numbers, as `gavel conflict list` says them
    #[arg(required_unless_present = "all")]
    ids: Vec<ConflictId>,
}

impl Drop {
    /// # Errors
    /// Why nothing was dropped.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lines = self.node.list()?;
        if let Some(id) = self.ids.iter().find(|id| !lines.iter().any(|line| line.id == **id)) {
            anyhow::bail!("there is no conflict {id}; none was dropped");
        }
        let chosen: Vec<_> = lines.iter().filter(|line| self.all || self.ids.contains(&line.id)).collect();
        if !self.dry_run {
            // Just those that were listed: another may have come meanwhile.
            let ids = chosen.iter().map(|line| line.id).collect();
            self.node.ask(&Request::ConflictDrop { ids })?;
        }
        let lost = if self.dry_run { "would be lost" } else { "lost" };
        for line in chosen {
            println!("{lost}: conflict {}, user {}: {}", line.id, line.uid, line.what);
        }
        Ok(ExitCode::SUCCESS)
    }
}
