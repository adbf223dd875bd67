//! `gavel volume list`: which volumes there are.

use super::Node;
use crate::output::{print_json, table};
use clap::Args;
use gavel_runtime::host::volumes::{VolumeAsk, VolumeLine};

/// Says which volumes there are.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel volume list --config /etc/gavel/gavel.toml\n  \
gavel volume list --destroyed --config /etc/gavel/gavel.toml")]
pub struct List {
    /// Those that were destroyed and have not gone yet
    #[arg(long)]
    destroyed: bool,
    #[command(flatten)]
    node: Node,
}

impl List {
    /// # Errors
    /// Why the node could not be asked.
    pub fn run(self) -> anyhow::Result<()> {
        let lines = self.node.ask(VolumeAsk::List { destroyed: self.destroyed })?;
        if self.node.json {
            return print_json(&lines);
        }
        match (lines.is_empty(), self.destroyed) {
            (true, true) => println!("No volume was destroyed."),
            (true, false) => println!("There are no volumes: `gavel volume create` makes one."),
            (false, true) => {
                let head = ["name", "number", "state", "destroyed", "goes", "objects", "bytes"];
                println!("{}", table(&head, lines.iter().map(destroyed).collect()));
            }
            (false, false) => {
                let head = ["name", "number", "objects", "bytes", "made", "clone of", "retention"];
                println!("{}", table(&head, lines.iter().map(used).collect()));
            }
        }
        Ok(())
    }
}

fn count(count: Option<u64>) -> String {
    count.map_or("counting".into(), |count| count.to_string())
}

fn used(line: &VolumeLine) -> Vec<String> {
    let origin = line.origin.as_ref().map_or(String::new(), |origin| {
        format!("{} as of {}", origin.name.clone().unwrap_or_else(|| origin.number.to_string()), origin.time)
    });
    let (objects, bytes) = (count(line.objects), count(line.bytes));
    vec![line.name.clone(), line.number.to_string(), objects, bytes, line.made.clone(), origin, line.policy.clone()]
}

fn destroyed(line: &VolumeLine) -> Vec<String> {
    let goes = match (&*line.state, &line.restorable_until) {
        ("destroyed", Some(until)) => format!("after {until}"),
        ("destroyed", None) => "when somebody says so".into(),
        ("ended", _) => format!("when its {} clones have gone", line.clones),
        _ => "now".into(),
    };
    let since = line.destroyed.clone().unwrap_or_default();
    let (objects, bytes) = (count(line.objects), count(line.bytes));
    vec![line.name.clone(), line.number.to_string(), line.state.clone(), since, goes, objects, bytes]
}
