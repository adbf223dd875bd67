//! Transactions of users, as a person runs them.

use crate::cluster::Cluster;
use crate::{command, mounts, wait};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

/// A transaction that collided with others: nothing was written.
pub const COLLIDED: i32 = 75;
/// Gavel could not do it: nothing was written.
pub const FAILED: i32 = 125;

const PATIENCE: Duration = Duration::from_secs(60);

/// `gavel txn run` of a shell script, in the mount of a node.
pub fn run_command(cluster: &Cluster, node: u64, words: &[&str], script: &str) -> Command {
    let mut command = cluster.gavel().command(["txn", "run"]);
    command.args(words).args(["--", "sh", "-euc", script]).current_dir(cluster.mount(node));
    command
}

/// Sees that nothing of a transaction is left on a node.
///
/// # Errors
/// What is left.
pub fn no_trace(cluster: &Cluster, node: u64) -> Result<()> {
    let places = cluster.home(node).join("data/transactions");
    wait::until("no mount of a transaction is left", PATIENCE, || mounts::under(&places).is_empty())?;
    wait::until("no place of a transaction is left", PATIENCE, || {
        std::fs::read_dir(&places).is_ok_and(|mut left| left.next().is_none())
    })?;
    let config = cluster.config(node);
    let words = [OsStr::new("txn"), "list".as_ref(), "--json".as_ref(), "--config".as_ref(), config.as_os_str()];
    let listed: Value = serde_json::from_str(&command::run(cluster.gavel().command(words), PATIENCE)?.ok()?)?;
    ensure!(listed == Value::Array(vec![]), "{listed}");
    Ok(())
}
