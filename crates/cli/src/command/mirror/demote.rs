//! `gavel mirror demote`: makes a volume a mirror of one that was its mirror.

use super::{Node, unexpected};
use crate::output::print_json;
use crate::past::{ask, print_json_line};
use crate::target::Target;
use clap::Args;
use gavel_runtime::host::history::{Line, Question};
use gavel_runtime::host::mirror::{DemoteAsk, DemotedLine, MirrorAnswer, MirrorAsk};
use gavel_types::VolumeRef;
use std::path::PathBuf;

/// So many paths are shown, unless nothing is done beside.
const PATHS_SHOWN: u64 = 50;

/// Makes a volume a mirror of one that was its mirror, and was promoted. What it has and the other one has not is shown, and saved as a clone.
#[derive(Args)]
#[command(
    after_help = "The invitation tells at which state the other volume departed: make it there after the promotion. From that state on the volume \
follows the other one; what it had behind it is in the clone. Its mounts have to be made again.\n\n\
Examples:\n  gavel mirror admit copy --name former --out former.invitation --config b.toml   (in the other cluster)\n  \
gavel mirror demote main former.invitation --dry-run --config a.toml\n  gavel mirror demote main former.invitation --config a.toml"
)]
pub struct Demote {
    /// The volume: its name or number
    volume: VolumeRef,
    /// The invitation that `gavel mirror admit` has made in the other cluster; - for standard input
    invitation: PathBuf,
    #[command(flatten)]
    node: Node,
    /// Only show what the volume has and the other one has not
    #[arg(long)]
    dry_run: bool,
    /// What the clone is called; by default the volume's name, with `-diverged-` and the state at which the other one departed
    #[arg(long, value_name = "NAME")]
    save_as: Option<String>,
    /// Do not follow the other volume: it is not asked for anything, and streams are received
    #[arg(long)]
    no_follow: bool,
    /// For programs: the paths and what was done, one JSON object each
    #[arg(long)]
    json: bool,
}

impl Demote {
    /// # Errors
    /// Why it was not demoted.
    pub fn run(self) -> anyhow::Result<()> {
        let invitation = super::follow::read(&self.invitation)?;
        let about = |dry_run: bool| DemoteAsk {
            volume: self.volume.clone(),
            invitation: invitation.clone(),
            save_as: self.save_as.clone(),
            follow: !self.no_follow,
            dry_run,
        };
        let would = self.ask(about(true))?;
        self.paths(&would)?;
        let line = if self.dry_run { would } else { self.ask(about(false))? };
        if self.json {
            return print_json(&line);
        }
        tell(&line);
        Ok(())
    }

    fn ask(&self, about: DemoteAsk) -> anyhow::Result<DemotedLine> {
        match self.node.ask(MirrorAsk::Demote(about))? {
            MirrorAnswer::Demoted(line) => Ok(line),
            _ => Err(unexpected()),
        }
    }

    /// Shows what the volume has behind the state at which the other one departed.
    fn paths(&self, line: &DemotedLine) -> anyhow::Result<()> {
        let count = format!("{}{}", line.transactions, if line.more { "+" } else { "" });
        let DemotedLine { name, source_name, departed, departed_time, .. } = line;
        if !self.json {
            println!(
                "{name} and {source_name} have one history up to {departed} ({departed_time}); {count} transactions of {name} are behind it"
            );
        }
        if line.transactions == 0 {
            return Ok(());
        }
        let target = Target { socket: self.node.socket()?, volume: line.number, path: Vec::new() };
        let (old_path, new_path, old_at) = (Vec::new(), Vec::new(), departed.clone());
        let question = Question::Diff { old_path, old_at, new_path, new_at: None, patch: false };
        let mut shown: u64 = 0;
        ask(&target, question, false, |said| {
            let Line::Diff(path) = said else { return Ok(()) };
            if self.json {
                return print_json_line(&path);
            }
            shown += 1;
            if self.dry_run || shown <= PATHS_SHOWN {
                crate::command::diff::print(&path);
            }
            Ok(())
        })?;
        if !self.json && !self.dry_run && shown > PATHS_SHOWN {
            println!("and {} paths more", shown - PATHS_SHOWN);
        }
        Ok(())
    }
}

fn tell(line: &DemotedLine) {
    let DemotedLine { name, source_name, departed, .. } = line;
    match (&line.saved, line.demoted) {
        (Some(saved), true) => println!("{name} as it was is saved as volume {saved}"),
        (Some(saved), false) => println!("{name} as it is would be saved as volume {saved}"),
        (None, _) => println!("there is nothing to be saved"),
    }
    match (line.demoted, line.follows) {
        (false, _) => println!("{name} would be a mirror of {source_name}, at {departed}: nothing was done"),
        (true, true) => println!("{name} is a mirror, at {departed}, and follows {source_name}; mount it again"),
        (true, false) => println!(
            "{name} is a mirror, at {departed}; mount it again, and go on with: gavel mirror send {source_name} --from {} | gavel mirror receive {name}",
            line.state
        ),
    }
}
