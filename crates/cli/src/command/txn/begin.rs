//! `gavel txn begin`, and how such a transaction ends: `commit`, `abort`, `rebase`.

use super::told;
use super::which::{Node, Which, ask_txn};
use crate::output::print_json;
use anyhow::Context;
use clap::Args;
use gavel_runtime::host::txn::{TxnAnswer, TxnAsk, TxnBegin, TxnEnd};
use gavel_types::VolumeRef;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Begins a transaction: the volume as it is now, at a directory of its own. What is changed there is seen by nobody else until it is committed. It is there again when its node was stopped or killed and starts.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel txn begin /mnt/work\n  gavel txn begin --message 'new layout'")]
pub struct Begin {
    #[command(flatten)]
    node: Node,
    /// The volume's name or number; by default, the one that this directory is in, or the only one that is mounted
    #[arg(long)]
    volume: Option<VolumeRef>,
    /// What for: the note of the commit, which `gavel log` shows
    #[arg(long, short, default_value = "")]
    message: String,
    /// For programs: as JSON
    #[arg(long)]
    json: bool,
    /// The empty directory to mount it at; by default, one is made
    dir: Option<PathBuf>,
}

impl Begin {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, volume) = self.node.find(self.volume)?;
        let dir =
            self.dir.map(|dir| std::path::absolute(&dir).with_context(|| dir.display().to_string())).transpose()?;
        let uid = rustix::process::geteuid().as_raw();
        let begin = TxnBegin { volume, uid, message: self.message, dir };
        match ask_txn(&socket, TxnAsk::Begin(begin))? {
            TxnAnswer::Started(started) if self.json => print_json(&started)?,
            TxnAnswer::Started(started) => println!("{} {}", started.id, started.place.display()),
            _ => anyhow::bail!("the daemon did not say what it has begun"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Commits a transaction: everything that was changed in it becomes visible at once, or nothing if others have changed what it depends on. Then it goes on, and can be rebased
/// or given up.
#[derive(Args)]
#[command(after_help = "Exit status: 0 committed; 1 could not be done; 75 collided with others, nothing was written; \
74 nobody can say whether it was committed.\n\nExample:\n  gavel txn commit /mnt/work --message 'new layout'")]
pub struct Commit {
    #[command(flatten)]
    which: Which,
    /// What for; by default, as was said when it began
    #[arg(long, short)]
    message: Option<String>,
    /// Also if its journal is damaged: commit what is left of it
    #[arg(long)]
    incomplete: bool,
    /// For programs: as JSON
    #[arg(long)]
    json: bool,
}

impl Commit {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, id) = self.which.find()?;
        if let TxnAnswer::List(lines) = ask_txn(&socket, TxnAsk::Status { id: id.clone() })?
            && let Some(line) = lines.first()
        {
            write_back(&line.place);
        }
        end(
            &socket,
            &id,
            TxnAsk::Commit { id: id.clone(), message: self.message, incomplete: self.incomplete },
            self.json,
        )
    }
}

/// What programs have changed in mappings of files becomes a part of the transaction.
pub fn write_back(place: &Path) {
    // Whoever can't have the place opened has nothing mapped there.
    if let Ok(place) = std::fs::File::open(place) {
        let _ = rustix::fs::syncfs(&place);
    }
}

/// Gives a transaction up: nothing of it was written, and its directory is free again.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel txn abort /mnt/work")]
pub struct Abort {
    #[command(flatten)]
    which: Which,
}

impl Abort {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, id) = self.which.find()?;
        end(&socket, &id, TxnAsk::Abort { id: id.clone() }, false)
    }
}

/// Moves a transaction to the present: what others have committed since it began shows in it. If they have changed what it depends on, it says what, and leaves it where it is.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 moved; 1 could not be done; 75 collides with others, nothing was changed.\n\nExample:\n  gavel txn rebase /mnt/work"
)]
pub struct Rebase {
    #[command(flatten)]
    which: Which,
    /// For programs: as JSON
    #[arg(long)]
    json: bool,
}

impl Rebase {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (socket, id) = self.which.find()?;
        end(&socket, &id, TxnAsk::Rebase { id: id.clone() }, self.json)
    }
}

fn end(socket: &Path, id: &str, about: TxnAsk, json: bool) -> anyhow::Result<ExitCode> {
    match ask_txn(socket, about)? {
        TxnAnswer::Ended(end) => told(id, &end, json),
        _ => told(id, &TxnEnd::Unknown { cause: "the daemon did not say how it ended".into() }, json),
    }
}
