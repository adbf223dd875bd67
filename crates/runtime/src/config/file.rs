//! The file's own types, converted by hand: names and shapes here are a format, not a program's convenience.

use super::{Config, Tuning};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub cluster: String,
    pub node: u64,
    pub name: String,
    pub data_dir: String,
    pub listen: String,
    pub control_socket: Option<String>,
    #[serde(default)]
    pub trust: TrustFile,
    #[serde(default)]
    pub peers: Vec<PeerFile>,
    #[serde(default)]
    pub mounts: Vec<MountFile>,
    #[serde(default)]
    pub tuning: TuningFile,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrustFile {
    pub authority: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerFile {
    pub id: u64,
    pub name: String,
    pub address: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MountFile {
    pub path: String,
    #[serde(default = "first_volume")]
    pub volume: VolumeFile,
    #[serde(default)]
    pub options: Vec<String>,
}

/// A volume's number, or its name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum VolumeFile {
    Number(u32),
    Name(String),
}

fn first_volume() -> VolumeFile {
    VolumeFile::Number(gavel_types::VolumeId::FIRST.0)
}

/// Numbers are signed here, so that a negative one is refused by its range and not as "not a number".
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TuningFile {
    pub term_ms: Option<i64>,
    pub election_ms: Option<i64>,
    pub heartbeat_ms: Option<i64>,
    pub inline_bytes_max: Option<i64>,
    pub dial_timeout_ms: Option<i64>,
    pub silence_ms: Option<i64>,
    pub collect_grace_ms: Option<i64>,
}

impl ConfigFile {
    pub(super) fn of(config: &Config) -> ConfigFile {
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let peer = |peer: &super::PeerConfig| PeerFile {
            id: peer.id.0,
            name: peer.name.clone(),
            address: peer.address.clone(),
        };
        let mount = |mount: &super::MountConfig| MountFile {
            path: text(&mount.path),
            volume: match &mount.volume {
                gavel_types::VolumeRef::Number(number) => VolumeFile::Number(number.0),
                gavel_types::VolumeRef::Name(name) => VolumeFile::Name(name.to_string()),
            },
            options: mount.options.iter().map(|option| option.name().to_owned()).collect(),
        };
        ConfigFile {
            cluster: config.cluster.to_string(),
            node: config.node.0,
            name: config.name.clone(),
            data_dir: text(&config.data_dir),
            listen: config.listen.to_string(),
            control_socket: Some(text(&config.control_socket)),
            trust: TrustFile {
                authority: Some(text(&config.trust.authority)),
                certificate: Some(text(&config.trust.certificate)),
                key: Some(text(&config.trust.key)),
            },
            peers: config.peers.iter().map(peer).collect(),
            mounts: config.mounts.iter().map(mount).collect(),
            tuning: TuningFile::of(&config.tuning),
        }
    }
}

impl TuningFile {
    /// Only what differs from the defaults, so that a later release may choose better ones.
    pub(super) fn of(tuning: &Tuning) -> TuningFile {
        let defaults = Tuning::default();
        let changed = |value: u64, default: u64| (value != default).then_some(value as i64);
        TuningFile {
            term_ms: changed(tuning.term_ms, defaults.term_ms),
            election_ms: changed(tuning.election_ms, defaults.election_ms),
            heartbeat_ms: changed(tuning.heartbeat_ms, defaults.heartbeat_ms),
            inline_bytes_max: changed(tuning.inline_bytes_max, defaults.inline_bytes_max),
            dial_timeout_ms: changed(tuning.dial_timeout_ms, defaults.dial_timeout_ms),
            silence_ms: changed(tuning.silence_ms, defaults.silence_ms),
            collect_grace_ms: changed(tuning.collect_grace_ms, defaults.collect_grace_ms),
        }
    }
}
