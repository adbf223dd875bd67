//! `gavel txn list`, `status`, `diff`: what transactions are open, and what they have changed.

use super::which::{Node, Which, ask_txn};
use crate::command::diff::print;
use crate::output::{print_json, table};
use crate::past::{Users, print_json_line};
use clap::Args;
use gavel_runtime::host::txn::{TxnAnswer, TxnAsk, TxnLine};
use std::process::ExitCode;

/// Says which transactions are open on a node, and, once, which were committed when it ended.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel txn list")]
pub struct List {
    #[command(flatten)]
    node: Node,
    /// For programs: as JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lines = lines(ask_txn(&self.node.find(None)?.0, TxnAsk::List {})?)?;
        if self.json {
            print_json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut users = Users::default();
        let rows = lines.iter().map(|line| {
            vec![
                line.id.clone(),
                line.volume.to_string(),
                format!("{} s", line.age_secs),
                users.name(line.uid),
                line.changes.to_string(),
                line.state.word().to_owned(),
                line.start.clone(),
                if line.run { "(run)".into() } else { line.place.display().to_string() },
                line.message.clone(),
            ]
        });
        let head = [
            "transaction",
            "volume",
            "age",
            "user",
            "records changed",
            "state",
            "keeps the state",
            "directory",
            "message",
        ];
        println!("{}", table(&head, rows.collect()));
        for line in &lines {
            for notice in &line.notices {
                println!("{}: {notice}", line.id);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says how a transaction is: how old, how large, and which state of the volume it keeps from being pruned.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel txn status /mnt/work")]
pub struct Status {
    #[command(flatten)]
    which: Which,
    /// For programs: as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, id) = self.which.find()?;
        for line in lines(ask_txn(&socket, TxnAsk::Status { id })?)? {
            if self.json {
                print_json(&line)?;
                continue;
            }
            println!("transaction  {} in volume {}", line.id, line.volume);
            println!(
                "began        {} ({} s ago), for user {}",
                line.time,
                line.age_secs,
                Users::default().name(line.uid)
            );
            println!("state        {}", line.state.word());
            println!("directory    {}", line.place.display());
            println!("keeps        the state {}", line.start);
            println!("changed      {} records", line.changes);
            println!("depends on   {} records", line.guards);
            println!("room taken   {} of {} bytes", line.bytes, line.bytes_max);
            for notice in &line.notices {
                println!("NOTICE       {notice}");
            }
            if let Some(full) = &line.full {
                println!("FULL         an operation was refused for lack of room: {full}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says what a transaction has changed, as `gavel diff` does.
#[derive(Args)]
#[command(after_help = "Signs: + made, - removed, M changed, R renamed.\n\nExample:\n  gavel txn diff /mnt/work")]
pub struct Diff {
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, id) = self.which.find()?;
        let TxnAnswer::Diff(lines) = ask_txn(&socket, TxnAsk::Diff { id })? else {
            anyhow::bail!("the daemon did not say what it has changed");
        };
        for line in &lines {
            if self.json {
                print_json_line(line)?;
            } else {
                print(line);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn lines(answer: TxnAnswer) -> anyhow::Result<Vec<TxnLine>> {
    match answer {
        TxnAnswer::List(lines) => Ok(lines),
        _ => Err(anyhow::anyhow!("the daemon did not say how it is")),
    }
}
