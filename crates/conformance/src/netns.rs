//! Machines and a switch between them, as network namespaces: `tests/netcut.rs` says what for. Two groups of machines have a switch each, and a
//! cable between the switches: `tests/mirror_long.rs`.
//!
//! ```text
//!   namespace PREFIX-1        namespace PREFIX-hub        namespace PREFIX-2
//!     eth0 10.91.7.1  ──────── v1 ── bridge ── v2 ────────  eth0 10.91.7.2
//!                                      │ trunk
//!                             namespace PREFIX-far        namespace PREFIX-3
//!                                    bridge ── v3 ────────  eth0 10.91.7.3
//! ```
//! Nothing is changed in the machine's own network.

use crate::command::run;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

const PREFIX: &str = "gavelct";
const HUB: &str = "gavelct-hub";
const FAR_HUB: &str = "gavelct-far";
const PATIENCE: Duration = Duration::from_secs(20);
const NODES_MAX: u64 = 9;

/// The namespaces. Dropped, they are gone; so there is one network at a time ([`crate::turn`]).
#[derive(Debug)]
pub struct Network {
    /// The last namespace at the first switch; those behind it are at the second one.
    near: u64,
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
        let network = Network { near: nodes.min(NODES_MAX) };
        network.switch(HUB)?;
        (1..=network.near).try_for_each(|node| network.plug_in(node))?;
        Ok(network)
    }

    /// Makes two groups of so many namespaces. They are connected by one cable ([`Network::part`]). The numbers of the second group follow those of the
    /// first.
    ///
    /// # Errors
    /// If this machine can't.
    pub fn of_two(near: u64, far: u64) -> Result<Network> {
        let network = Network::new(near)?;
        network.switch(FAR_HUB)?;
        ip(&format!("link add trunk netns {HUB} type veth peer name trunk netns {FAR_HUB}"))?;
        for hub in [HUB, FAR_HUB] {
            ip(&format!("-n {hub} link set trunk master hub up"))?;
        }
        (near + 1..=(near + far).min(NODES_MAX)).try_for_each(|node| network.plug_in(node))?;
        Ok(network)
    }

    fn switch(&self, name: &str) -> Result<()> {
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link add hub type bridge"))?;
        ip(&format!("-n {name} link set hub up")).map(drop)
    }

    fn hub(&self, node: u64) -> &'static str {
        if node <= self.near { HUB } else { FAR_HUB }
    }

    fn plug_in(&self, node: u64) -> Result<()> {
        let (name, hub) = (namespace(node), self.hub(node));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add v{node} netns {hub} type veth peer name eth0 netns {name}"))?;
        ip(&format!("-n {hub} link set v{node} master hub up"))?;
        ip(&format!("-n {name} address add {}/24 dev eth0", self.address(node)))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set eth0 up")).map(drop)
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
        ip(&format!("-n {} link set v{node} down", self.hub(node))).map(drop)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn heal(&self, node: u64) -> Result<()> {
        ip(&format!("-n {} link set v{node} up", self.hub(node))).map(drop)
    }

    /// Pulls the cable between the two groups.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn part(&self) -> Result<()> {
        ip(&format!("-n {HUB} link set trunk down")).map(drop)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn join(&self) -> Result<()> {
        ip(&format!("-n {HUB} link set trunk up")).map(drop)
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
