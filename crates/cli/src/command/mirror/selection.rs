//! `--only` and `--exclude`: which part of a volume is meant.

use clap::Args;
use gavel_types::Selection;

/// Which part of a volume.
#[derive(Args)]
pub(in crate::command) struct SelectionArgs {
    /// Only what is at or below these paths of the volume, which need not be there now
    #[arg(long, value_name = "DIR", num_args = 1..)]
    only: Vec<String>,
    /// Without what these patterns match: a name, in any directory (*.o, cache/), or a path from the volume's root (/users/*/tmp); / at the end: directories only
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,
}

impl SelectionArgs {
    /// Was nothing said?
    pub(in crate::command) fn is_empty(&self) -> bool {
        self.only.is_empty() && self.exclude.is_empty()
    }

    /// What was said.
    ///
    /// # Errors
    /// What is no path, or no pattern.
    pub(in crate::command) fn selection(&self) -> anyhow::Result<Selection> {
        Ok(Selection::new(&self.only, &self.exclude)?)
    }
}
