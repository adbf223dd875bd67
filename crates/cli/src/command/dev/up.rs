//! `gavel dev up`.

use super::cluster::{DevCluster, DevNode, NODES_MAX, wait_for};
use crate::command::init::{Planned, make_cluster};
use crate::command::status::ask_status;
use crate::output::{hinted, print_json, spinner};
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::{MountConfig, Tuning};
use gavel_types::VolumeId;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ExitCode};
use std::time::Duration;

/// Starts the cluster in a directory (makes it first if it is not there) and returns when all its mounts work. Nodes that run
/// already are left alone, so it also brings back nodes that were killed.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel dev up --dir /tmp/gavel --nodes 3\n  echo hello > /tmp/gavel/mnt/1/file && cat /tmp/gavel/mnt/3/file"
)]
pub struct Up {
    /// The directory: empty, missing, or a cluster made before
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How many nodes (1 to 9); of a cluster made before, all that it has
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// How long to wait for the mounts, in seconds
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Say what is up as JSON
    #[arg(long)]
    json: bool,
}

impl Up {
    /// # Errors
    /// Why it is not up.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(hinted(
                format!("--nodes {}: not a number of nodes", self.nodes),
                "give 1 to 9; 3 or 5 are best",
            ));
        }
        let cluster = match DevCluster::find(&self.dir)? {
            Some(cluster) => cluster,
            None => self.make()?,
        };
        let progress = spinner("starting nodes");
        let mut started: BTreeMap<u64, Child> = BTreeMap::new();
        for node in cluster.nodes().filter(|node| node.pid().is_none()) {
            // What a node that was killed has left mounted would be in the way of looking at the directory.
            for path in gavel_mount::table::stale_mounts_under(&node.mount)? {
                gavel_mount::table::unmount_path(&path, true)?;
            }
            started.insert(node.id, node.start()?);
        }
        progress.set_message("waiting for the mounts");
        for node in cluster.nodes() {
            self.wait(&node, started.get_mut(&node.id))?;
        }
        progress.finish_and_clear();
        let mounts: Vec<PathBuf> = cluster.nodes().map(|node| node.mount).collect();
        if self.json {
            print_json(&serde_json::json!({ "dir": cluster.dir, "mounts": mounts }))?;
        } else {
            println!("{} nodes are up; one tree is mounted at", cluster.nodes);
            mounts.iter().for_each(|mount| println!("  {}", mount.display()));
            println!("Look around:  gavel dev status --dir {}", self.dir.display());
            println!("Stop:         gavel dev down --dir {}", self.dir.display());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn make(&self) -> anyhow::Result<DevCluster> {
        let cluster = DevCluster::claim(&self.dir, self.nodes)?;
        // Held until all are chosen, so that no port is chosen twice.
        let doors: Vec<TcpListener> = (0..self.nodes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .context("finding free ports")?;
        let mut planned = Vec::new();
        for (node, door) in cluster.nodes().zip(&doors) {
            std::fs::create_dir_all(&node.mount)?;
            let mount = MountConfig { path: node.mount, volume: VolumeId::FIRST.into(), options: Vec::new(), at: None };
            let address = door.local_addr()?.to_string();
            planned.push(Planned { name: format!("dev{}", node.id), address, mounts: vec![mount] });
        }
        make_cluster(&cluster.dir, planned, &Tuning::default())?;
        Ok(cluster)
    }

    /// Waits until the node has a session and its mount answers.
    fn wait(&self, node: &DevNode, mut daemon: Option<&mut Child>) -> anyhow::Result<()> {
        let works = || {
            let ready = ask_status(&node.socket()).is_ok_and(|status| {
                status.node.session.is_some() && !status.node.volumes.is_empty() && !status.mounts.is_empty()
            });
            ready && std::fs::read_dir(&node.mount).is_ok()
        };
        let mut died = false;
        let up = wait_for(Duration::from_secs(self.timeout), || {
            died = daemon.as_mut().is_some_and(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            died || works()
        });
        if up && !died {
            return Ok(());
        }
        let what = if died { "has ended" } else { "does not answer" };
        let log = node.log();
        let what = format!("node {} {what}; the end of {} says:{}", node.id, log.display(), node.last_words());
        Err(hinted(
            what,
            format!("read {}, then try again or: gavel dev down --dir {}", log.display(), self.dir.display()),
        ))
    }
}
