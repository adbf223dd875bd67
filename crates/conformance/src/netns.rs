//! Three machines and a switch between them, as network namespaces: `tests/netcut.rs` says what for.
//!
//! ```text
//!   namespace PREFIX-1        namespace PREFIX-hub        namespace PREFIX-2
//!     eth0 10.91.7.1  ──────── v1 ── bridge ── v2 ────────  eth0 10.91.7.2
//! ```
//! Nothing is changed in the machine's own network.

use crate::command::run;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

const PREFIX: &str = "gavelct";
const HUB: &str = "gavelct-hub";
const PATIENCE: Duration = Duration::from_secs(20);
const NODES_MAX: u64 = 9;

/// The namespaces. Dropped, they are gone; so there is one network at a time ([`crate::turn`]).
#[derive(Debug)]
pub struct Network {
    _made: (),
}

fn ip(arguments: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(command, PATIENCE)?.ok()
}

fn namespace(node: u64) -> String {
    format!("{PREFIX}-{node}")
}

impl Network {
    /// Makes so many namespaces, each connected to all others.
    ///
    /// # Errors
    /// If this machine can't.
    pub fn new(nodes: u64) -> Result<Network> {
        let network = Network { _made: () };
        ip(&format!("netns add {HUB}"))?;
        ip(&format!("-n {HUB} link add hub type bridge"))?;
        ip(&format!("-n {HUB} link set hub up"))?;
        for node in 1..=nodes.min(NODES_MAX) {
            let name = namespace(node);
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add v{node} netns {HUB} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {HUB} link set v{node} master hub up"))?;
            ip(&format!("-n {name} address add {}/24 dev eth0", network.address(node)))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Ok(network)
    }

    /// A node's address.
    pub fn address(&self, node: u64) -> String {
        format!("10.91.7.{node}")
    }

    /// A command that runs its arguments with the node's network, and everything else as it is here: mounts that are
    /// made there are seen here (`ip netns exec` would hide them).
    pub fn enter(&self, node: u64) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", namespace(node))).arg("--");
        command
    }

    /// Pulls the node's cable.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn cut(&self, node: u64) -> Result<()> {
        ip(&format!("-n {HUB} link set v{node} down")).map(drop)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn heal(&self, node: u64) -> Result<()> {
        ip(&format!("-n {HUB} link set v{node} up")).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        clear();
    }
}

/// Removes all namespaces of tests.
pub(crate) fn clear() {
    let names = ip("netns list").unwrap_or_default();
    let ours = names.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with(PREFIX));
    for name in ours {
        if let Err(error) = ip(&format!("netns del {name}")) {
            eprintln!("network namespace {name} stays behind: {error:#}");
        }
    }
}
