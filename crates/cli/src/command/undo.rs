//! `gavel undo` and `gavel restore`: a path becomes what it was.

use crate::output::print_json;
use crate::target::{Target, refuse_past};
use clap::Args;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::revert::{RevertAsk, RevertDone};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes a file or directory what it was: before its last change, or as of a state. What was removed comes back, what was changed is changed back, what came since
/// goes. An undo is a change like any other: `gavel history` shows it, and it can be undone.
#[derive(Args)]
#[command(
    after_help = "Without --at, the last version is undone: a removal (of a directory with all that was removed in it), a writing, a rename over it.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel undo /srv/shared/report\n  gavel undo --at 2h /srv/shared/src\n  gavel undo --dry-run /srv/shared/removed-directory"
)]
pub struct Undo {
    /// Which state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot's name; by default the one before the last version
    #[arg(long, value_name = "AT")]
    at: Option<String>,
    /// Say which state that is, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// For programs: what was done, as JSON
    #[arg(long)]
    json: bool,
    /// The file or directory; it need not be there any more
    path: PathBuf,
}

/// Makes a copy of what a file or directory was as of a state; where nothing is yet, or in its place. The bytes are shared, so that it takes no time and no space.
#[derive(Args)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel restore --at yesterday-evening --to /srv/shared/report.old /srv/shared/report\n  gavel restore --at 2026-11-27T18:00:00Z /srv/shared/src")]
pub struct Restore {
    /// Which state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot's name
    #[arg(long, value_name = "AT")]
    at: String,
    /// Where it is to come, in the same volume; there must be nothing yet. By default it replaces what is at PATH
    #[arg(long, value_name = "DEST")]
    to: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// For programs: what was done, as JSON
    #[arg(long)]
    json: bool,
    /// The file or directory; it need not be there any more
    path: PathBuf,
}

/// What to do instead of naming the past in the path.
const PAST_HINT: &str = "name the path as it is now, and the state with --at: gavel undo --at AT PATH";

impl Undo {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        refuse_past(&self.path, PAST_HINT)?;
        let target = Target::of(&self.path)?;
        carry_out(&target, self.path, self.at, None, (self.dry_run, self.json))
    }
}

impl Restore {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        refuse_past(&self.path, PAST_HINT)?;
        let target = Target::of(&self.path)?;
        let to = self.to.as_deref().map(Target::of).transpose()?;
        if let Some(to) = &to
            && (to.volume, &to.socket) != (target.volume, &target.socket)
        {
            return Err(anyhow::anyhow!(
                "both paths must be in one volume, on one mount: nothing is copied, only named"
            ));
        }
        let shown = self.to.unwrap_or(self.path);
        carry_out(&target, shown, Some(self.at), to.map(|to| to.path), (self.dry_run, self.json))
    }
}

fn carry_out(
    target: &Target,
    shown: PathBuf,
    at: Option<String>,
    to: Option<Vec<u8>>,
    (dry_run, json): (bool, bool),
) -> anyhow::Result<ExitCode> {
    let uid = rustix::process::geteuid().as_raw();
    let ask = RevertAsk { volume: target.volume, path: target.path.clone(), at, to, dry_run, uid };
    let Reply::Reverted(done) = target.ask(&Request::Revert(ask))? else {
        return Err(anyhow::anyhow!("the daemon did not say what it has done"));
    };
    if json {
        print_json(&done)?;
        return Ok(ExitCode::SUCCESS);
    }
    let RevertDone { at, time, was, is, before, made, changed, removed, not_kept, commits } = done;
    let shown = shown.display();
    if dry_run {
        println!("{shown} is {is}, and would become what it was as of {at} ({time}): {was}");
    } else if commits == 0 {
        println!("{shown} is what it was as of {at} ({time})");
    } else {
        println!("{shown} is what it was as of {at} ({time}): {made} made, {changed} changed, {removed} removed");
        println!("To take that back: gavel undo --at {before} {shown}");
    }
    if not_kept > 0 {
        println!("Of {not_kept} more, what they were is not kept: they are as they are now.");
    }
    Ok(ExitCode::SUCCESS)
}
