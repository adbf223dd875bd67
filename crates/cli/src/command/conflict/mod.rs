//! `gavel conflict`: changes that a node answered and could not commit.

mod drop;
mod list;
mod replay;
mod show;

use crate::output::hinted;
use clap::{Args, Subcommand};
use gavel_runtime::config::Config;
use gavel_runtime::host::conflicts::ask::ConflictLine;
use gavel_runtime::host::control::{Reply, Request, ask};
use gavel_types::Timestamp;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a daemon may take: a replay waits for the cluster.
const PATIENCE: Duration = Duration::from_secs(30);

/// Changes that a node answered while it was cut off or stood still, and could not commit afterwards, because another node had changed the same thing. They are
/// kept on this node until they are replayed or dropped.
#[derive(Subcommand)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel conflict list --config /etc/gavel/gavel.toml\n  gavel conflict show 3 --config /etc/gavel/gavel.toml\n  \
gavel conflict replay 3 --config /etc/gavel/gavel.toml")]
pub enum Conflict {
    /// Say which there are
    List(list::List),
    /// Say all that is known of one
    Show(show::Show),
    /// Run one anew on the present state, as the user who asked for it; it is dropped if that succeeds
    Replay(replay::Replay),
    /// Forget some: what they would have changed is lost
    Drop(drop::Drop),
}

impl Conflict {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Conflict::List(list) => list.run(),
            Conflict::Show(show) => show.run(),
            Conflict::Replay(replay) => replay.run(),
            Conflict::Drop(drop) => drop.run(),
        }
    }
}

/// Which node is asked.
#[derive(Args)]
struct Node {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Node {
    /// Asks the node. What it could not do is an error.
    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let config = Config::load(&self.config)?;
        match ask(&config.control_socket, request, PATIENCE) {
            Ok(Reply::Error(error)) => Err(anyhow::anyhow!("{error}")),
            Ok(reply) => Ok(reply),
            Err(error) => Err(hinted(
                error.to_string(),
                format!("start the node: gavel serve --config {}", self.config.display()),
            )),
        }
    }

    fn list(&self) -> anyhow::Result<Vec<ConflictLine>> {
        match self.ask(&Request::Conflicts {})? {
            Reply::Conflicts(lines) => Ok(lines),
            _ => Err(anyhow::anyhow!("the daemon did not say which conflicts there are")),
        }
    }
}

/// Seconds since the epoch as a date and a time, UTC.
fn time(secs: u64) -> String {
    Timestamp { secs: secs as i64, nanos: 0 }.to_string().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(time(4_102_444_800), "2100-01-01 00:00:00Z");
    }
}
