//! `gavel txn`: many changes at once, or none.

mod begin;
mod enter;
mod run;
mod show;
mod which;

use crate::output::print_json;
use clap::Subcommand;
use gavel_runtime::host::txn::{Collision, TxnEnd};
use std::process::ExitCode;
pub use which::of_mount;

/// Nothing was written, because others have changed what the transaction depends on (`EX_TEMPFAIL`: it may succeed when it is run again).
const COLLIDED: u8 = 75;
/// Nobody can say whether it was committed (`EX_IOERR`).
const UNKNOWN: u8 = 74;

/// Many changes through plain paths, by any program, that become one commit or nothing. What a transaction reads must not have been changed by others when it is
/// committed; otherwise nothing is written, and it says what collides.
#[derive(Subcommand)]
#[command(
    after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line; 75 collided with others, nothing was written; \
74 nobody can say whether it was committed. Of `run`, see its help.\n\n\
Examples:\n  gavel txn run -- make install\n  gavel txn run --retry 3 --message 'bump version' -- ./release.sh\n  \
gavel txn begin /mnt/work && ... && gavel txn commit /mnt/work"
)]
pub enum Txn {
    /// Run a command; what it changes is committed if it succeeds
    Run(run::Run),
    /// Begin a transaction with a directory of its own
    Begin(begin::Begin),
    /// Say which are open on a node
    List(show::List),
    /// Say how one is
    Status(show::Status),
    /// Say what one has changed
    Diff(show::Diff),
    /// Commit one
    Commit(begin::Commit),
    /// Give one up: nothing of it was written
    Abort(begin::Abort),
    /// Move one to the present, if nothing collides
    Rebase(begin::Rebase),
    /// The command of a run, in its own namespace
    #[command(hide = true)]
    Enter(enter::Enter),
}

impl Txn {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Txn::Run(run) => Ok(run.run()),
            Txn::Begin(begin) => begin.run(),
            Txn::List(list) => list.run(),
            Txn::Status(status) => status.run(),
            Txn::Diff(diff) => diff.run(),
            Txn::Commit(commit) => commit.run(),
            Txn::Abort(abort) => abort.run(),
            Txn::Rebase(rebase) => rebase.run(),
            Txn::Enter(enter) => Ok(enter.run()),
        }
    }
}

/// Says how a transaction ended, and gives the exit status for that.
fn told(id: &str, end: &TxnEnd, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(end)?;
    }
    match end {
        TxnEnd::Committed { tid: Some(tid), time } if !json => {
            println!("committed at {tid} ({})", time.as_deref().unwrap_or_default());
        }
        TxnEnd::Committed { tid: None, .. } if !json => println!("nothing was changed"),
        TxnEnd::Rebased { start } if !json => println!("{id} begins at {start} now"),
        TxnEnd::Aborted {} if !json => println!("{id} is given up; nothing of it was written"),
        TxnEnd::Collided { collisions, more } => {
            if !json {
                complain(id, collisions, *more);
            }
            return Ok(ExitCode::from(COLLIDED));
        }
        TxnEnd::Unknown { cause } => {
            eprintln!("error: nobody can say whether transaction {id} was committed: {cause}");
            eprintln!("Hint: if it was, `gavel log` shows a commit with [txn {id}] when the cluster can be reached");
            return Ok(ExitCode::from(UNKNOWN));
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what collides.
fn complain(id: &str, collisions: &[Collision], more: u64) {
    eprintln!("error: transaction {id} collides with others; nothing was written");
    for Collision { path, here, there } in collisions {
        eprintln!("  {path}: {here} here");
        if there.is_empty() {
            eprintln!("    changed by others; who it was is not known any more");
        }
        for there in there {
            let what = if there.what.is_empty() { "changed".to_owned() } else { there.what.join("; ") };
            let note = if there.note.is_empty() { String::new() } else { format!(": {}", there.note) };
            let (tid, time, node, uid) = (&there.tid, &there.time, there.node, there.uid);
            eprintln!("    {what} at {tid} ({time}) by user {uid} on node {node}{note}");
        }
    }
    if more > 0 {
        eprintln!("  and {more} more");
    }
}
