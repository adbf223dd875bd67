//! `gavel conflict list`: which conflicts a node keeps.

use super::{Node, time};
use crate::output::{print_json, table};
use clap::Args;
use std::process::ExitCode;

/// Says which changes this node answered and could not commit, oldest first.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel conflict list --config /etc/gavel/gavel.toml\n  \
gavel conflict list --config gavel.toml --json | jq '.[].id'")]
pub struct List {
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// # Errors
    /// Why the node could not be asked.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lines = self.node.list()?;
        if self.json {
            print_json(&lines)?;
        } else if lines.is_empty() {
            println!("There are no conflicts.");
        } else {
            let rows = lines.into_iter().map(|line| {
                vec![line.id.to_string(), time(line.time), format!("{}:{}", line.uid, line.gid), line.what, line.why]
            });
            println!("{}", table(&["id", "answered", "user", "what", "why it was not committed"], rows.collect()));
        }
        Ok(ExitCode::SUCCESS)
    }
}
