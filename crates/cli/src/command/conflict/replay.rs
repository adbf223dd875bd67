//! `gavel conflict replay`: runs the operation of a conflict anew.

use super::Node;
use crate::output::hinted;
use clap::Args;
use gavel_runtime::host::conflicts::ConflictId;
use gavel_runtime::host::control::Request;
use std::process::ExitCode;

/// Runs the operation of a conflict anew, on the files as they are now, as the user who asked for it. A write replaces what is there now. The conflict is dropped
/// if that succeeds, and stays otherwise.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel conflict replay 3 --config /etc/gavel/gavel.toml\n\n\
Exit status: 0 it was done, and the conflict is dropped; 1 it could not be done, and the conflict stays; 2 wrong command line.")]
pub struct Replay {
    #[command(flatten)]
    node: Node,
    /// Its number, as `gavel conflict list` says it
    id: ConflictId,
}

impl Replay {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (id, config) = (self.id, self.node.config.display());
        self.node.ask(&Request::ConflictReplay { id }).map_err(|error| {
            let hint = format!("look at it: gavel conflict show {id} --config {config}");
            hinted(format!("conflict {id} was not replayed: {error}"), hint)
        })?;
        println!("Conflict {id} was replayed, and is dropped.");
        Ok(ExitCode::SUCCESS)
    }
}
