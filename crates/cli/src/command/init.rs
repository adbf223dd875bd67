//! `gavel init`: makes a new cluster.

use crate::output::{hinted, print_json};
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::{Config, MountConfig, PeerConfig, Tuning};
use gavel_runtime::trust::{self, TrustPaths};
use gavel_types::NodeId;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// The name of a node's configuration file.
pub const CONFIG_FILE: &str = "gavel.toml";

/// Makes the cluster's certificate authority and, for each node, a directory with its certificate, key and configuration.
/// Bring each directory to its machine, and run `gavel serve --config gavel.toml` there. The authority's key
/// (`authority.key`) is needed only to issue certificates: keep it offline.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel init --dir cluster --node a=10.0.0.1:7400 --node b=10.0.0.2:7400 --node c=10.0.0.3:7400"
)]
pub struct Init {
    /// Where to put everything; made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A node: its name, and where the others reach it. Give one for each; an odd number of them is best
    #[arg(long = "node", value_name = "NAME=HOST:PORT", required = true)]
    nodes: Vec<String>,
    /// Say what was made as JSON
    #[arg(long)]
    json: bool,
}

/// A node that is to be.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// What it mounts.
    pub mounts: Vec<MountConfig>,
}

/// Makes a cluster in `dir`: certificates, and a directory `node/N` for each node. Gives the nodes' configuration files.
///
/// # Errors
/// Why not; some files may have been made.
pub fn make_cluster(dir: &Path, nodes: Vec<Planned>, tuning: &Tuning) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let now = SystemTime::now();
    let authority = trust::Authority::create(now)?;
    authority.save(&dir)?;
    let peers: Vec<PeerConfig> = (1..)
        .zip(&nodes)
        .map(|(id, node)| PeerConfig { id: NodeId(id), name: node.name.clone(), address: node.address.clone() })
        .collect();
    let mut files = Vec::new();
    for (peer, node) in peers.iter().zip(nodes) {
        let home = dir.join("node").join(peer.id.to_string());
        std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let paths = TrustPaths::in_dir(&home);
        authority.issue(peer.id, now)?.save(&paths)?;
        let listen = node.address.to_socket_addrs().ok().and_then(|mut found| found.next());
        let listen = listen.ok_or_else(|| {
            hinted(format!("{}: not an address that can be looked up", node.address), "write it as HOST:PORT")
        })?;
        let config = Config {
            cluster: authority.cluster(),
            node: peer.id,
            name: peer.name.clone(),
            data_dir: home.join("data"),
            listen,
            control_socket: home.join("control.sock"),
            trust: paths,
            peers: peers.clone(),
            mounts: node.mounts,
            tuning: tuning.clone(),
        };
        let file = home.join(CONFIG_FILE);
        // What is written is checked as if a person had written it.
        Config::parse(&config.to_toml(), &file)?;
        config.save(&file)?;
        files.push(file);
    }
    Ok(files)
}

impl Init {
    /// # Errors
    /// Why the cluster could not be made.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let (name, address) = node.split_once('=').ok_or_else(|| {
                hinted(format!("--node {node}: not a node"), "write it as NAME=HOST:PORT, such as a=10.0.0.1:7400")
            })?;
            nodes.push(Planned { name: name.into(), address: address.into(), mounts: Vec::new() });
        }
        let files = make_cluster(&self.dir, nodes, &Tuning::default())?;
        if self.json {
            print_json(&serde_json::json!({ "configs": files }))?;
        } else {
            println!("A cluster of {} nodes is ready in {}.", files.len(), self.dir.display());
            println!("Bring each directory below to its machine and run there:");
            files.iter().for_each(|file| println!("  gavel serve --config {}", file.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}
