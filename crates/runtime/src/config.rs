//! A node's configuration file: what it says, what it may say, and what is wrong with it.
//!
//! The file is TOML ([its description](../../../docs/formats/config.md)). Reading it touches nothing but the file;
//! [`Config::prepare`] then makes and tries the directories. Everything that is wrong is
//! reported at once, each with its key, its value, what is allowed and a hint.
//!
//! Invariants:
//! 1. A [`Config`] that exists satisfies every rule of this file: there is no other way to get one than [`Config::parse`].
//! 2. Paths in it do not depend on the directory in which the program runs: they are relative to the file's directory.
//! 3. An unknown key is an error: a misspelt one must not silently mean the default.

use crate::net::{Limits, PeerAddress};
use crate::trust::{NodeTrust, TrustError, TrustPaths, files};
pub use client::ClientConfig;
use gavel_types::limits::INLINE_BYTES_MAX;
use gavel_types::{At, ClusterId, NodeId, VolumeId, VolumeRef};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

mod check;
pub mod client;
mod file;
#[cfg(test)]
mod tests;

/// Most peers of a cluster.
pub const PEERS_MAX: usize = 31;
/// Most mounts of one node.
pub const MOUNTS_MAX: usize = 64;
/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 63;
/// Longest path of a Unix socket, in bytes (108 in the kernel, with its NUL).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// An election must wait for this many heartbeats, or one lost packet costs a leader.
pub const ELECTION_HEARTBEATS_MIN: u64 = 3;
/// A session must outlive this many elections, or a change of leader costs every session.
pub const TERM_ELECTIONS_MIN: u64 = 2;
/// Range of `term_ms`.
pub const TERM_MS: RangeInclusive<u64> = 1_000..=60_000;
/// Range of `election_ms`.
pub const ELECTION_MS: RangeInclusive<u64> = 100..=30_000;
/// Range of `heartbeat_ms`.
pub const HEARTBEAT_MS: RangeInclusive<u64> = 10..=10_000;
/// Range of `inline_bytes_max`.
pub const INLINE_BYTES: RangeInclusive<u64> = 0..=INLINE_BYTES_MAX as u64;
/// Range of `dial_timeout_ms`.
pub const DIAL_TIMEOUT_MS: RangeInclusive<u64> = 50..=10_000;
/// Range of `silence_ms`.
pub const SILENCE_MS: RangeInclusive<u64> = 1_000..=60_000;
/// Range of [`Tuning::collect_grace_ms`].
pub const COLLECT_GRACE_MS: RangeInclusive<u64> = 1_000..=86_400_000;

/// A node's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// This node's name, for people.
    pub name: String,
    /// Where everything that this node stores is kept.
    pub data_dir: PathBuf,
    /// Where it listens for other nodes.
    pub listen: SocketAddr,
    /// Where it listens for `gavel status` and the like.
    pub control_socket: PathBuf,
    /// Its certificate and key, and the cluster's authority.
    pub trust: TrustPaths,
    /// All peers of the cluster, this node among them, by id.
    pub peers: Vec<PeerConfig>,
    /// What is mounted when the node starts.
    pub mounts: Vec<MountConfig>,
    /// Times and sizes.
    pub tuning: Tuning,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its id.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where the others reach it: `host:port`.
    pub address: String,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountConfig {
    /// The directory to mount at.
    pub path: PathBuf,
    /// The volume to mount. Of what is mounted, its number.
    pub volume: VolumeRef,
    /// How.
    pub options: Vec<MountOption>,
    /// Which state of it; none: the present, in which things can be changed.
    pub at: Option<At>,
}

/// How a volume is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MountOption {
    /// `ro`: nothing can be written through this mount.
    ReadOnly,
    /// `sync`: every operation waits until the quorum has it.
    Sync,
    /// `allow_other`: users other than the one who mounts may use it.
    AllowOther,
    /// `nosuid`: set-user-id and set-group-id bits have no effect.
    NoSuid,
    /// `nodev`: device nodes do not work.
    NoDev,
    /// `noexec`: programs cannot be run.
    NoExec,
    /// `local_locks`: locks of files hold among the programs of this mount only.
    LocalLocks,
    /// `local_opens`: the kernel opens files without asking; `local_locks` with it.
    LocalOpens,
}

impl MountOption {
    /// All of them, with their names.
    pub const ALL: [(MountOption, &'static str); 8] = [
        (MountOption::ReadOnly, "ro"),
        (MountOption::Sync, "sync"),
        (MountOption::AllowOther, "allow_other"),
        (MountOption::NoSuid, "nosuid"),
        (MountOption::NoDev, "nodev"),
        (MountOption::NoExec, "noexec"),
        (MountOption::LocalLocks, "local_locks"),
        (MountOption::LocalOpens, "local_opens"),
    ];

    /// Its name in a config file.
    pub fn name(self) -> &'static str {
        let found = MountOption::ALL.iter().find(|(option, _)| *option == self);
        found.map(|(_, name)| *name).expect("ALL has every variant")
    }
}

/// Times and sizes that may be changed. Nodes of one cluster should agree on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a session lives without a refresh, in milliseconds.
    pub term_ms: u64,
    /// How long a follower waits for its leader before it calls an election, in milliseconds.
    pub election_ms: u64,
    /// How often a leader is heard, in milliseconds.
    pub heartbeat_ms: u64,
    /// Longest run of file bytes that is kept in a record instead of a blob.
    pub inline_bytes_max: u64,
    /// How long a TCP connection to a peer may take to be made, in milliseconds: more than the round trip time.
    pub dial_timeout_ms: u64,
    /// How long a peer's process may be silent before its connections are given up, in milliseconds.
    pub silence_ms: u64,
    /// How long the bytes of a larger write stay that nothing names any more, in milliseconds: longer than any change waits to be committed.
    pub collect_grace_ms: u64,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            term_ms: 5_000,
            election_ms: 1_000,
            heartbeat_ms: 100,
            inline_bytes_max: INLINE_BYTES_MAX as u64,
            dial_timeout_ms: 300,
            silence_ms: 5_000,
            collect_grace_ms: 60_000,
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `tuning.election_ms` or `peers[1].address`.
    pub key: String,
    /// Its value, as it stands in the file.
    pub value: String,
    /// What it should be.
    pub rule: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}\n    Hint: {}", self.key, self.value, self.rule, self.hint)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the config: {source}\nHint: `gavel init` makes one; name another with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("{}: cannot write the config: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not TOML, lacks a key, or has one that does not exist.
    #[error("{}: {detail}\nHint: docs/formats/config.md lists every key", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and cause.
        detail: String,
    },
    /// The file says something that cannot be.
    #[error("{}: {}{}", path.display(), count(problems), list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, in the order of the file's description.
        problems: Vec<Problem>,
    },
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".to_owned(),
        several => format!("{several} problems"),
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let bytes = files::read_small(path).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            detail: format!("not UTF-8 text: {error}"),
        })?;
        let absolute = std::path::absolute(path).map_err(read)?;
        Config::parse(&text, &absolute)
    }

    /// Checks the text of a config file that is, or will be, at the absolute path `path`. Touches no file.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let file: file::ConfigFile = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        let base = path.parent().unwrap_or(Path::new("/"));
        check::config(file, base).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Writes the configuration to `path`, replacing what is there.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        files::replace(path, self.to_toml().as_bytes(), files::PUBLIC_MODE)
            .map_err(|source| ConfigError::Write { path: path.to_owned(), source })
    }

    /// The file's text; reading it gives this configuration again.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(&file::ConfigFile::of(self)).expect("strings, numbers and tables are TOML");
        format!("# Written by gavel; docs/formats/config.md describes every key.\n{body}")
    }

    /// Makes the directories that are missing, and tries whether they can be used. `path` only names the config in errors.
    pub fn prepare(&self, path: &Path) -> Result<(), ConfigError> {
        match check::directories(self) {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ConfigError::Invalid { path: path.to_owned(), problems }),
        }
    }

    /// Loads this node's certificate and key.
    pub fn load_trust(&self, now: SystemTime) -> Result<NodeTrust, TrustError> {
        NodeTrust::load(&self.trust, self.cluster, self.node, now)
    }

    /// The transport's list of peers.
    pub fn peer_addresses(&self) -> Vec<PeerAddress> {
        self.peers.iter().map(|peer| PeerAddress { id: peer.id, address: peer.address.clone() }).collect()
    }

    /// The transport's limits.
    pub fn transport_limits(&self) -> Limits {
        self.tuning.transport_limits()
    }
}

impl Tuning {
    /// The transport's limits.
    fn transport_limits(&self) -> Limits {
        let silence_max = Duration::from_millis(self.silence_ms);
        let defaults = Limits::default();
        Limits {
            dial_timeout: Duration::from_millis(self.dial_timeout_ms),
            silence_max,
            unacknowledged_max: defaults.unacknowledged_max.min(silence_max),
            ..defaults
        }
    }
}
