//! `gavel log`: which transactions there were, and which come.

use crate::past::{Users, ask, print_json_line, words};
use crate::target::Target;
use clap::Args;
use gavel_history::LogLine;
use gavel_history::log::PathChange;
use gavel_runtime::host::history::{Line, Question};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Changes of a transaction that people are shown, if they don't ask for all.
const CHANGES_SHOWN: usize = 5;

/// The transactions of a volume, or of what is below a path: newest first, or as they come.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Signs: + made, - removed, M changed, R renamed.\n\n\
Examples:\n  gavel log /srv/shared\n  gavel log --since 2h /srv/shared/project\n  gavel log --follow /srv/shared\n  \
gavel log --follow --json --from 0x18c4a3f0a1b2c3d4 /srv/shared")]
pub struct Log {
    /// The mount of the volume, or any path in it
    #[arg(default_value = ".")]
    path: PathBuf,
    /// So many transactions at most
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "follow")]
    limit: u32,
    /// Only what came after this state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot
    #[arg(long, value_name = "AT", conflicts_with = "follow")]
    since: Option<String>,
    /// Only what was there in this state
    #[arg(long, value_name = "AT", conflicts_with = "follow")]
    until: Option<String>,
    /// Transactions as they come, in their order, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// With --follow: begin behind this transaction; by default behind the last one that there is
    #[arg(long, value_name = "AT", requires = "follow")]
    from: Option<String>,
    /// All changes of each transaction
    #[arg(long, short)]
    verbose: bool,
    /// For programs: one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Log {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let target = Target::of(&self.path)?;
        let path = target.path.clone();
        let question = match self.follow {
            true => Question::Follow { path, from: self.from.clone() },
            false => {
                Question::Log { path, since: self.since.clone(), until: self.until.clone(), limit: self.limit as usize }
            }
        };
        let (mut users, mut told) = (Users::default(), false);
        ask(&target, question, self.follow, |line| {
            told = true;
            match (line, self.json) {
                (Line::Log(line), true) => print_json_line(&line),
                (Line::Following { after }, true) => print_json_line(&json!({ "following_after": after })),
                (Line::More { next }, true) => print_json_line(&json!({ "more": true, "next": next })),
                (Line::Log(line), false) => self.print(&line, &mut users),
                (Line::Following { after }, false) => {
                    eprintln!("What comes after {after}:");
                    Ok(())
                }
                (Line::More { next }, false) => {
                    println!("There is more: go on with --until {}", next.unwrap_or_default());
                    Ok(())
                }
                _ => Ok(()),
            }
        })?;
        if !told && !self.json {
            println!("There are no transactions.");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, line: &LogLine, users: &mut Users) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let note = if line.note.is_empty() { String::new() } else { format!("  {}", line.note) };
        println!("{}  {}  node {}  {}{note}", line.tid, line.time, line.node, users.name(line.uid));
        let most = if self.verbose { usize::MAX } else { CHANGES_SHOWN };
        for change in line.changes.iter().take(most) {
            println!("  {}", shown(change));
        }
        let more = line.more + line.changes.len().saturating_sub(most) as u64;
        if more > 0 {
            println!("  and {more} more");
        }
        Ok(out.flush()?)
    }
}

fn shown(change: &PathChange) -> String {
    let path = match &change.from {
        Some(from) => format!("{} {from} -> {}", change.sign.as_char(), change.path),
        None if change.path.is_empty() => format!("{} .", change.sign.as_char()),
        None => format!("{} {}", change.sign.as_char(), change.path),
    };
    if change.changes.is_empty() { path } else { format!("{path}  ({})", words(&change.changes)) }
}
