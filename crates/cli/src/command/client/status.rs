//! `gavel client status`.

use crate::output::{hinted, print_json};
use clap::Args;
use gavel_runtime::config::ClientConfig;
use gavel_runtime::host::client::ClientStatus;
use gavel_runtime::host::control::{Reply, Request, ask};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a client may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says how a running client is: which node it asks, for how long it may answer by itself, what it has cached.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel client status --config /etc/gavel-client/client.toml")]
pub struct Status {
    /// The client's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// For programs: JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// # Errors
    /// Why it can't be said.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = ClientConfig::load(&self.config)?;
        let status = match ask(&config.control_socket(), &Request::Status {}, PATIENCE) {
            Ok(Reply::Client(status)) => *status,
            Ok(_) => return Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
            Err(error) => {
                let start = format!("start it: gavel mount --client --config {} DIR", self.config.display());
                return Err(hinted(error.to_string(), start));
            }
        };
        match self.json {
            true => print_json(&status)?,
            false => print(&status),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &ClientStatus) {
    println!("client {} ({}) of cluster {}", status.client, status.name, status.cluster);
    match (status.session, status.may_answer_ms) {
        (None, _) => println!("  it has no session: no node answers, or no majority of them is up"),
        (Some(_), None) => println!("  it has a session, and may answer nothing by itself at the moment"),
        (Some(_), Some(left)) => println!("  it may answer by itself what it holds leases over, for {left} ms more"),
    }
    println!("  asks node {} first; it took another one {} times", status.peer, status.switches);
    println!("  reads: {} under leases, {} confirmed by the quorum", status.reads_leased, status.reads_confirmed);
    println!("  changes shipped: {}", status.commits);
    let cache = &status.cache;
    println!(
        "  blobs: {} fetched from nodes; {} cached on disk, {} of {} bytes, found there {} times",
        status.blobs_fetched, cache.blobs, cache.bytes, cache.bytes_max, cache.hits
    );
    println!(
        "  past states: {} questions asked of nodes; {} answers cached on disk, found there {} times",
        status.past_asked, status.past.blobs, status.past.hits
    );
    status.mounts.iter().for_each(|mount| println!("  mounted at {}", mount.display()));
}
