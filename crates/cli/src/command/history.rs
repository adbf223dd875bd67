//! `gavel history`: what became of a path.

use crate::output::table;
use crate::past::{Users, ask, print_json_line, words};
use crate::target::{Target, refuse_past};
use clap::Args;
use gavel_runtime::host::history::{Line, Question};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// What became of a path: each transaction that changed it, newest first. Renames are followed back; what was removed is found by its name. Of a
/// directory: what became of it, and of the names in it.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Examples:\n  gavel history /srv/shared/report.odt\n  gavel history /srv/shared/removed-last-week.txt\n  \
gavel history --removed /srv/shared\n  gavel history --json --at 2h /srv/shared/report.odt")]
pub struct History {
    /// The path; it need not be there any more
    path: PathBuf,
    /// Up to which state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot; by default the present
    #[arg(long, value_name = "AT")]
    at: Option<String>,
    /// Of a directory: the names that are not there any more, those that went last first
    #[arg(long)]
    removed: bool,
    /// So many lines at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// For programs: one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl History {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        refuse_past(&self.path, "name the path as it is now, and the state with --at: gavel history --at AT PATH")?;
        let target = Target::of(&self.path)?;
        let (path, at, limit) = (target.path.clone(), self.at.clone(), self.limit as usize);
        let question = match self.removed {
            true => Question::Removed { path, at, limit },
            false => Question::History { path, at, limit },
        };
        let mut rows = Rows::default();
        ask(&target, question, false, |line| if self.json { print_json(&line) } else { rows.add(line) })?;
        if !self.json {
            rows.print(self.removed);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_json(line: &Line) -> anyhow::Result<()> {
    match line {
        Line::History(line) => print_json_line(line),
        Line::Removed(line) => print_json_line(line),
        Line::More { .. } => print_json_line(&json!({ "more": true })),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Rows {
    users: Users,
    rows: Vec<Vec<String>>,
    more: bool,
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

impl Rows {
    fn add(&mut self, line: Line) -> anyhow::Result<()> {
        match line {
            Line::History(line) => {
                let user = shown(line.uid.map(|uid| self.users.name(uid)));
                let mut done = words(&line.changes);
                if !line.note.is_empty() {
                    done = format!("{done} ({})", line.note);
                }
                let size = shown(line.size);
                self.rows.push(vec![line.tid, line.time, shown(line.node), user, size, line.path, done]);
            }
            Line::Removed(line) => {
                let user = shown(line.uid.map(|uid| self.users.name(uid)));
                let done = line.to.map_or_else(|| "removed".into(), |to| format!("renamed to {to}"));
                let size = shown(line.size);
                self.rows.push(vec![line.tid, line.time, shown(line.node), user, size, line.name, done, line.last]);
            }
            Line::More { .. } => self.more = true,
            _ => {}
        }
        Ok(())
    }

    fn print(self, removed: bool) {
        let header: &[&str] = match removed {
            true => &["transaction", "time", "node", "user", "size", "name", "what", "last there"],
            false => &["transaction", "time", "node", "user", "size", "path", "what"],
        };
        if self.rows.is_empty() {
            println!("{}", if removed { "Nothing was removed." } else { "Nothing is recorded." });
            return;
        }
        let oldest = self.rows.last().and_then(|row| row.first()).cloned().unwrap_or_default();
        println!("{}", table(header, self.rows));
        if self.more {
            println!("There is more before {oldest}: --limit shows more lines, --at an earlier part.");
        }
    }
}
