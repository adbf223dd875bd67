//! `gavel mirror`: second copies of volumes, in other clusters.

mod admit;
mod demote;
mod follow;
mod list;
mod receive;
mod selection;
mod send;

pub(super) use selection::SelectionArgs;
pub(super) use send::progress;

use crate::output::hinted;
use clap::{Args, Subcommand};
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request, ask};
use gavel_runtime::host::mirror::{MirrorAnswer, MirrorAsk, MirrorLine};
use gavel_types::VolumeRef;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long a daemon may take for what is no stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mirrors: volumes that hold what a volume of another cluster held as of one of its transactions, and move on from there.
#[derive(Subcommand)]
#[command(after_help = "Exit status: 0 done; 1 could not be done, or broke off; 2 wrong command line.\n\n\
Examples:\n  gavel mirror send main --config a.toml | ssh backup gavel mirror receive copy --create --config b.toml\n  \
gavel mirror send main --config a.toml --from $(ssh backup gavel mirror receive copy --where --config b.toml) | ...\n  \
gavel mirror admit main --name backup --out backup.invitation --config a.toml\n  \
gavel mirror follow backup.invitation --into copy --config b.toml\n  gavel mirror list --config b.toml")]
pub enum Mirror {
    /// Write what a mirror lacks to standard output
    Send(send::Send),
    /// Take a mirror on, by what comes from standard input
    Receive(receive::Receive),
    /// Let a mirror in another cluster follow a volume: make its invitation
    Admit(admit::Admit),
    /// Let it follow no more
    Dismiss(admit::Dismiss),
    /// Make a mirror follow its source by itself
    Follow(follow::Follow),
    /// Let a mirror that follows stand still
    Pause(follow::Pause),
    /// Let it go on
    Resume(follow::Resume),
    /// End that a mirror follows
    Remove(follow::Remove),
    /// Say which mirrors there are, how far each is, and who follows volumes of this cluster
    List(list::List),
    /// Say how far one is
    Status(list::Status),
    /// Make one a volume as any other
    Promote(list::Promote),
    /// Make a volume a mirror of one that was its mirror
    Demote(demote::Demote),
}

/// The node that is asked.
#[derive(Args)]
struct Node {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Node {
    fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(Config::load(&self.config)?.control_socket)
    }

    fn mirrors(&self, about: MirrorAsk) -> anyhow::Result<Vec<MirrorLine>> {
        match self.ask(about)? {
            MirrorAnswer::Mirrors(lines) => Ok(lines),
            _ => Err(unexpected()),
        }
    }

    fn ask(&self, about: MirrorAsk) -> anyhow::Result<MirrorAnswer> {
        match ask(&self.socket()?, &Request::Mirror { about }, PATIENCE) {
            Ok(Reply::Mirror(answer)) => Ok(*answer),
            Ok(Reply::Error(error)) => Err(failed(&error)),
            Ok(_) => Err(unexpected()),
            Err(error) => Err(self.unasked(&error.to_string())),
        }
    }

    fn unasked(&self, error: &str) -> anyhow::Error {
        hinted(error.to_owned(), format!("start the node: gavel serve --config {}", self.config.display()))
    }
}

impl Mirror {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Mirror::Send(send) => send.run()?,
            Mirror::Receive(receive) => receive.run()?,
            Mirror::Admit(admit) => admit.run()?,
            Mirror::Dismiss(dismiss) => dismiss.run()?,
            Mirror::Follow(follow) => follow.run()?,
            Mirror::Pause(pause) => pause.run()?,
            Mirror::Resume(resume) => resume.run()?,
            Mirror::Remove(remove) => remove.run()?,
            Mirror::List(list) => list.run()?,
            Mirror::Status(status) => status.run()?,
            Mirror::Promote(promote) => promote.run()?,
            Mirror::Demote(demote) => demote.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A volume, by its name or number, or by a path in a mount of it.
pub(super) fn volume_or_path(text: &str) -> Result<VolumeRef, &Path> {
    text.parse().map_err(|_| Path::new(text))
}

fn unexpected() -> anyhow::Error {
    anyhow::anyhow!("the daemon answered something else than it was asked")
}

/// What the daemon said: the first line, and as a hint what it said to do.
pub(super) fn failed(error: &str) -> anyhow::Error {
    match error.split_once("\nHint: ") {
        Some((what, hint)) => hinted(what.to_owned(), hint.to_owned()),
        None => anyhow::anyhow!("{error}"),
    }
}
