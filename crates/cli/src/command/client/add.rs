//! `gavel client add`: makes a client.

use super::CONFIG_FILE;
use crate::output::{hinted, print_json};
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::{ClientConfig, Config};
use gavel_runtime::trust::{Authority, TrustPaths};
use gavel_types::NodeId;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// Numbers of clients are drawn from this many.
const NUMBERS: u64 = 1 << 40;

/// Makes a directory with a new client's certificate, key and configuration. Bring it to the client's machine, and run
/// `gavel mount --client --config client.toml DIR` there. No node has to be told.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel client add --authority cluster --node cluster/node/1/gavel.toml --name desk --dir desk"
)]
pub struct Add {
    /// The directory with the cluster's `authority.crt` and `authority.key`
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// The configuration of a node, to copy from it where the nodes are
    #[arg(long, value_name = "FILE")]
    node: PathBuf,
    /// The client's name, for people
    #[arg(long, default_value = "client")]
    name: String,
    /// Where to put everything; made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Say what was made as JSON
    #[arg(long)]
    json: bool,
}

impl Add {
    /// # Errors
    /// Why there is no client.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let node = Config::load(&self.node)?;
        let now = SystemTime::now();
        let authority = Authority::load(&self.authority, now)?;
        if authority.cluster() != node.cluster {
            let what = format!("{} and {} are of different clusters", self.authority.display(), self.node.display());
            return Err(hinted(what, "give the authority of the node's cluster"));
        }
        std::fs::create_dir_all(&self.dir).with_context(|| format!("making {}", self.dir.display()))?;
        let dir = self.dir.canonicalize().with_context(|| self.dir.display().to_string())?;
        let client = draw()?;
        authority.issue(client, now)?.save(&TrustPaths::in_dir(&dir))?;
        let file = dir.join(CONFIG_FILE);
        let config = ClientConfig::beside(&node, client, self.name, &dir);
        // What is written is checked as if a person had written it.
        ClientConfig::parse(&config.to_toml(), &file)?;
        config.save(&file)?;
        if self.json {
            print_json(&serde_json::json!({ "config": file, "client": client.0 }))?;
        } else {
            println!("Client {client} is ready in {}.", dir.display());
            println!("Bring that directory to its machine and run there:");
            println!("  gavel mount --client --config {} DIR", file.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A number that no other client has, as good as surely: nobody keeps a list of them.
fn draw() -> anyhow::Result<NodeId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("drawing a number: {error}"))?;
    Ok(NodeId(NodeId::CLIENTS_FROM.0 + u64::from_le_bytes(bytes) % NUMBERS))
}
