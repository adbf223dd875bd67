//! `gavel status`: how a node and its cluster are.

use crate::output::{hinted, print_json, table};
use clap::Args;
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{DaemonStatus, Reply, Request, ask};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long a daemon may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Says how a node and its cluster are, and what to do if they are not well.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel status --config /etc/gavel/gavel.toml\n  gavel status --config gavel.toml --json | jq .node.role"
)]
pub struct Status {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Asks the daemon at `socket` how it is.
///
/// # Errors
/// Why it did not say.
pub fn ask_status(socket: &Path) -> anyhow::Result<DaemonStatus> {
    match ask(socket, &Request::Status {}, PATIENCE)? {
        Reply::Status(status) => Ok(*status),
        Reply::Error(error) => Err(anyhow::anyhow!("{error}")),
        _ => Err(anyhow::anyhow!("the daemon at {} did not say how it is", socket.display())),
    }
}

/// A code, what it means, and what to do. Codes are stable.
pub fn verdict(status: &DaemonStatus) -> (&'static str, String) {
    let node = &status.node;
    if let Some(failure) = &node.failure {
        return ("FAILED", format!("the node has stopped: {failure}"));
    }
    if !node.quorum {
        let silent = node.without_quorum_ms.map_or(String::new(), |ms| format!(" for {} s", ms / 1000));
        let hint =
            "it refuses writes and reads that it cannot confirm. Check the other nodes and the network between them";
        return ("NO-QUORUM", format!("no majority of the cluster has answered{silent}; {hint}"));
    }
    if node.catching_up {
        return ("CATCHING-UP", "the node was away and fetches what it missed; nothing to do but wait".into());
    }
    if node.clock != "trusted" && node.role == "leader" {
        return ("CLOCK", format!("this leader's clock is {}; set the clocks right (NTP)", node.clock));
    }
    let silent: Vec<String> = node.peers.iter().filter(|peer| !peer.active).map(|peer| peer.node.to_string()).collect();
    if !silent.is_empty() {
        let silent = silent.join(", ");
        return ("DEGRADED", format!("the cluster works, but node {silent} does not answer; start it again"));
    }
    let conflicts = node.behind.conflicts;
    if conflicts > 0 {
        let hint = "they are kept: `gavel conflict list` shows them, `gavel conflict replay` and `drop` end them";
        return ("CONFLICTS", format!("{conflicts} changes that this node answered could not be committed; {hint}"));
    }
    ("OK", "the node is well".into())
}

impl Status {
    /// # Errors
    /// Why the node could not be asked.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)?;
        let status = ask_status(&config.control_socket).map_err(|error| {
            hinted(format!("{error}"), format!("start the node: gavel serve --config {}", self.config.display()))
        })?;
        if self.json {
            print_json(&status)?;
        } else {
            print(&status);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &DaemonStatus) {
    let (code, text) = verdict(status);
    let node = &status.node;
    println!("{code}: {text}\n");
    let leader = node.leader.map_or("none known".into(), |leader| format!("node {leader}"));
    println!("cluster  {}", status.cluster);
    println!("node     {} ({}), process {}, gavel {}", node.node, status.name, status.pid, status.version);
    println!("role     {} in term {}, leader {leader}", node.role, node.term);
    println!("log      applied {} of {} committed, last transaction {:#x}", node.applied, node.commit, node.tid);
    println!("blobs    {} ({} bytes)", status.blobs, status.blob_bytes);
    if node.behind.conflicts + node.behind.conflicts_beyond + node.behind.offered > 0 {
        let behind = &node.behind;
        let beyond = match behind.conflicts_beyond {
            0 => String::new(),
            beyond => format!(", and {beyond} that could not be kept (see the daemon's log)"),
        };
        let (conflicts, offered) = (behind.conflicts, behind.offered);
        println!("changes  {conflicts} conflicts (gavel conflict list){beyond}; {offered} wait to be committed");
    }
    for volume in &node.volumes {
        let state = if volume.state == "living" { String::new() } else { format!(", {}", volume.state) };
        let (id, name) = (volume.id, &volume.name);
        println!("volume   {id} ({name}): {} objects, {} bytes{state}", volume.objects, volume.bytes);
    }
    for mount in &status.mounts {
        println!("mount    {} (volume {})", mount.path.display(), mount.volume);
    }
    for txn in &status.transactions {
        let (id, age, uid, changes, start) = (&txn.id, txn.age_secs, txn.uid, txn.changes, &txn.start);
        let state = txn.state.word();
        println!("txn      {id}: {state}, {age} s old, user {uid}, {changes} records changed, keeps the state {start}");
    }
    let leases = &node.leases;
    println!("pending  {} changes answered and not committed yet ({} bytes)", leases.pending, leases.pending_bytes);
    if leases.lost > 0 {
        println!("lost     {} changes were answered, never synced, and could not be committed", leases.lost);
    }
    let sessions = node.sessions.iter().map(|session| {
        vec![
            format!("{:#x}", session.id),
            session.node.to_string(),
            format!("{:.1} s", f64::from(session.term_ms) / 1000.0),
            session.requests.to_string(),
            session.leases.to_string(),
            session.exclusive.to_string(),
            session.waited_for.to_string(),
        ]
    });
    let head = ["session", "node", "term", "requests", "ranges leased", "exclusively", "waited for"];
    println!("\n{}", table(&head, sessions.collect()));
}
