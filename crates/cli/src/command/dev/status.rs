//! `gavel dev status`.

use super::cluster::DevCluster;
use crate::command::status::{ask_status, verdict};
use crate::output::{print_json, table};
use clap::Args;
use gavel_runtime::host::control::DaemonStatus;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Says how the nodes of a throw-away cluster are.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel dev status --dir /tmp/gavel\n  gavel dev status --dir /tmp/gavel --json | jq '.nodes[] | select(.status.node.role==\"leader\") | .pid'"
)]
pub struct DevStatus {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct NodeLine {
    node: u64,
    pid: Option<u32>,
    mount: PathBuf,
    config: PathBuf,
    log: PathBuf,
    verdict: String,
    status: Option<DaemonStatus>,
}

impl DevStatus {
    /// # Errors
    /// If there is no cluster.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = DevCluster::open(&self.dir)?;
        let mut lines = Vec::new();
        for node in cluster.nodes() {
            let status = ask_status(&node.socket()).ok();
            let verdict = match (&status, node.pid()) {
                (Some(status), _) => verdict(status).0,
                (None, Some(_)) => "SILENT",
                (None, None) => "DOWN",
            };
            lines.push(NodeLine {
                node: node.id,
                pid: node.pid(),
                mount: node.mount.clone(),
                config: node.config(),
                log: node.log(),
                verdict: verdict.into(),
                status,
            });
        }
        if self.json {
            print_json(&serde_json::json!({ "dir": cluster.dir, "nodes": lines }))?;
        } else {
            let rows = lines.iter().map(row).collect();
            println!("{}", table(&["node", "state", "role", "applied", "pid", "mount"], rows));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(line: &NodeLine) -> Vec<String> {
    let of = |text: &dyn Fn(&DaemonStatus) -> String| line.status.as_ref().map_or("-".into(), text);
    vec![
        line.node.to_string(),
        line.verdict.clone(),
        of(&|status| status.node.role.clone()),
        of(&|status| status.node.applied.to_string()),
        line.pid.map_or("-".into(), |pid| pid.to_string()),
        line.mount.display().to_string(),
    ]
}
