//! `gavel mirror list`, `status` and `promote`.

use super::Node;
use crate::output::{print_json, table};
use clap::Args;
use gavel_runtime::host::mirror::{MirrorAsk, MirrorLine};
use gavel_types::VolumeRef;

/// Says which mirrors there are, and how far each is.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Says how far a mirror is.
#[derive(Args)]
pub struct Status {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Makes a mirror a volume as any other: it can be written from then on, and takes nothing more of its source. Its mounts have to be made again.
#[derive(Args)]
pub struct Promote {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
}

impl List {
    /// # Errors
    /// Why it could not be said.
    pub fn run(self) -> anyhow::Result<()> {
        let lines = self.node.mirrors(MirrorAsk::List { volume: None })?;
        if self.json {
            return print_json(&lines);
        }
        if lines.is_empty() {
            println!("There are no mirrors.");
            return Ok(());
        }
        let rows = lines.iter().map(|line| {
            let age = line.age_s.map_or("-".into(), |age| format!("{age} s"));
            let source = format!("{} of {:.8}", line.source_volume, line.source_cluster);
            vec![line.number.to_string(), line.name.clone(), source, shown(line), age, state(line).into()]
        });
        println!("{}", table(&["NUMBER", "NAME", "SOURCE", "SHOWS", "AGE", "STATE"], rows.collect()));
        Ok(())
    }
}

fn shown(line: &MirrorLine) -> String {
    line.state_time.as_ref().map_or("nothing yet".into(), |time| format!("{} ({time})", line.state))
}

fn state(line: &MirrorLine) -> &'static str {
    match (&line.promoted, &line.step_to) {
        (Some(_), _) => "promoted",
        (None, Some(_)) => "within a step",
        (None, None) => "at a boundary",
    }
}

impl Status {
    /// # Errors
    /// Why it could not be said.
    pub fn run(self) -> anyhow::Result<()> {
        let lines = self.node.mirrors(MirrorAsk::List { volume: Some(self.volume) })?;
        for line in &lines {
            if self.json {
                print_json(line)?;
                continue;
            }
            println!("mirror:    {} (volume {})", line.name, line.number);
            println!("source:    volume {} of cluster {}", line.source_volume, line.source_cluster);
            println!("shows:     {}", shown(line));
            if let Some(age) = line.age_s {
                println!("age:       {age} s");
            }
            match (&line.promoted, &line.step_to) {
                (Some(promoted), _) => println!("promoted:  {promoted}; it is a volume as any other"),
                (None, Some(to)) => println!("step:      to {to} of the source, not complete"),
                (None, None) => {}
            }
        }
        Ok(())
    }
}

impl Promote {
    /// # Errors
    /// Why it was not promoted.
    pub fn run(self) -> anyhow::Result<()> {
        for line in self.node.mirrors(MirrorAsk::Promote { volume: self.volume })? {
            println!("{} is a volume as any other, and departs from its source at {}", line.name, shown(&line));
        }
        Ok(())
    }
}
