//! The configuration file of a client: who it is, where the peers are, where its cache is.

use super::check::{self, Problems};
use super::file::{PeerFile, TrustFile, TuningFile};
use super::{Config, ConfigError, PEERS_MAX, PeerConfig, Tuning};
use crate::net::{Limits, PeerAddress};
use crate::trust::{NodeTrust, TrustError, TrustPaths, files};
use gavel_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Range of `cache_bytes`.
pub const CACHE_BYTES: RangeInclusive<u64> = 0..=1 << 50;
/// `cache_bytes`, if the file does not say.
const CACHE_BYTES_USUAL: u64 = 4 << 30;

/// A client's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This client: [`NodeId::is_client`].
    pub client: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its cache is kept, and the number of its latest life.
    pub data_dir: PathBuf,
    /// Most bytes of blobs that are cached on disk.
    pub cache_bytes: u64,
    /// Its certificate and key, and the cluster's authority.
    pub trust: TrustPaths,
    /// The peers of the cluster, by id.
    pub peers: Vec<PeerConfig>,
    /// Times; as on the nodes.
    pub tuning: Tuning,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    cluster: String,
    client: u64,
    name: String,
    data_dir: String,
    cache_bytes: Option<u64>,
    #[serde(default)]
    trust: TrustFile,
    #[serde(default)]
    peers: Vec<PeerFile>,
    #[serde(default)]
    tuning: TuningFile,
}

impl ClientConfig {
    /// The configuration of a new client of the cluster that `node` belongs to, with its files in `home`.
    pub fn beside(node: &Config, client: NodeId, name: String, home: &Path) -> ClientConfig {
        ClientConfig {
            cluster: node.cluster,
            client,
            name,
            data_dir: home.join("data"),
            cache_bytes: CACHE_BYTES_USUAL,
            trust: TrustPaths::in_dir(home),
            peers: node.peers.clone(),
            tuning: node.tuning.clone(),
        }
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with all that is wrong.
    pub fn load(path: &Path) -> Result<ClientConfig, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let bytes = files::read_small(path).map_err(read)?;
        let absolute = std::path::absolute(path).map_err(read)?;
        ClientConfig::parse(&String::from_utf8_lossy(&bytes), &absolute)
    }

    /// Checks the text of a file that is, or will be, at the absolute path `path`. Touches no file.
    ///
    /// # Errors
    /// [`ConfigError`], with all that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<ClientConfig, ConfigError> {
        let file: ClientFile = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        let base = path.parent().unwrap_or(Path::new("/"));
        checked(file, base).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// The file's text; reading it gives this configuration again.
    pub fn to_toml(&self) -> String {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let peer =
            |peer: &PeerConfig| PeerFile { id: peer.id.0, name: peer.name.clone(), address: peer.address.clone() };
        let file = ClientFile {
            cluster: self.cluster.to_string(),
            client: self.client.0,
            name: self.name.clone(),
            data_dir: text(&self.data_dir),
            cache_bytes: Some(self.cache_bytes),
            trust: TrustFile {
                authority: Some(text(&self.trust.authority)),
                certificate: Some(text(&self.trust.certificate)),
                key: Some(text(&self.trust.key)),
            },
            peers: self.peers.iter().map(peer).collect(),
            tuning: TuningFile::of(&self.tuning),
        };
        let body = toml::to_string(&file).expect("strings, numbers and tables are TOML");
        format!("# Written by gavel; docs/formats/config.md describes every key.\n{body}")
    }

    /// Writes the configuration to `path`, replacing what is there.
    ///
    /// # Errors
    /// [`ConfigError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        files::replace(path, self.to_toml().as_bytes(), files::PUBLIC_MODE)
            .map_err(|source| ConfigError::Write { path: path.to_owned(), source })
    }

    /// Loads this client's certificate and key.
    ///
    /// # Errors
    /// As [`NodeTrust::load`].
    pub fn load_trust(&self, now: SystemTime) -> Result<NodeTrust, TrustError> {
        NodeTrust::load(&self.trust, self.cluster, self.client, now)
    }

    /// Where it can be asked.
    pub fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
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

fn checked(file: ClientFile, base: &Path) -> Result<ClientConfig, Vec<super::Problem>> {
    let mut problems = Problems::default();
    let cluster = file.cluster.parse().unwrap_or_else(|_| {
        let rule = "must be the cluster's id, 32 hexadecimal digits";
        problems.add("cluster", &file.cluster, rule, "copy it from the config of a node");
        ClusterId([0; 16])
    });
    let client = NodeId(file.client);
    if !client.is_client() {
        let rule = "must be 2^32 or more: smaller numbers are those of nodes";
        problems.add("client", file.client, rule, "`gavel client add` makes a client and its certificate");
    }
    check::node_name(&mut problems, "name", &file.name);
    let data_dir = check::path(&mut problems, "data_dir", &file.data_dir, base);
    let trust = check::trust(&mut problems, &file.trust, base);
    let cache_bytes = file.cache_bytes.unwrap_or(CACHE_BYTES_USUAL);
    if !CACHE_BYTES.contains(&cache_bytes) {
        let rule = format!("must be {} to {}", CACHE_BYTES.start(), CACHE_BYTES.end());
        problems.add("cache_bytes", cache_bytes, rule, "0 keeps nothing on disk");
    }
    if file.peers.is_empty() || file.peers.len() > PEERS_MAX {
        let rule = format!("must be 1 to {PEERS_MAX} peers");
        problems.add(
            "peers",
            format!("{} entries", file.peers.len()),
            rule,
            "copy [[peers]] from the config of a node",
        );
    }
    for (index, peer) in file.peers.iter().enumerate() {
        check::node_id(&mut problems, &format!("peers[{index}].id"), peer.id);
        check::node_name(&mut problems, &format!("peers[{index}].name"), &peer.name);
        check::peer_address(&mut problems, &format!("peers[{index}].address"), &peer.address);
    }
    check::unique(&mut problems, "peers", "id", file.peers.iter().map(|peer| peer.id.to_string()));
    let tuning = check::tuning(&mut problems, &file.tuning);
    if !problems.is_empty() {
        return Err(problems.into_list());
    }
    let peer = |peer: PeerFile| PeerConfig { id: NodeId(peer.id), name: peer.name, address: peer.address };
    let mut peers: Vec<PeerConfig> = file.peers.into_iter().map(peer).collect();
    peers.sort_by_key(|peer| peer.id);
    Ok(ClientConfig { cluster, client, name: file.name, data_dir, cache_bytes, trust, peers, tuning })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        cluster = "000102030405060708090a0b0c0d0e0f"
        client = 4294967300
        name = "desk"
        data_dir = "data"
        [[peers]]
        id = 1
        name = "a"
        address = "10.0.0.1:7400"
    "#;

    #[test]
    fn what_is_written_is_read_again() {
        let path = Path::new("/etc/gavel/client.toml");
        let config = ClientConfig::parse(TEXT, path).unwrap();
        assert_eq!((config.client, &config.data_dir), (NodeId(4_294_967_300), &PathBuf::from("/etc/gavel/data")));
        assert_eq!(ClientConfig::parse(&config.to_toml(), path).unwrap(), config);
    }

    #[test]
    fn a_nodes_number_and_no_peers_are_refused_by_name() {
        let text = TEXT.replace("4294967300", "3").replace("[[peers]]", "[tuning]");
        let text = text.split("[tuning]").next().unwrap();
        let error = ClientConfig::parse(text, Path::new("/c")).unwrap_err().to_string();
        assert!(error.contains("client = 3") && error.contains("peers = 0 entries"), "{error}");
    }
}
