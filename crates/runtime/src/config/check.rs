//! Every rule of a configuration. All are applied, so that one run shows all that is wrong.

use super::file::{ConfigFile, MountFile, PeerFile, TrustFile, TuningFile, VolumeFile};
use super::*;
use gavel_types::volume::is_volume_name;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

/// Collects problems; a wrong value is replaced by one that keeps the other rules quiet.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0
    }

    pub(super) fn add(
        &mut self,
        key: impl Into<String>,
        value: impl fmt::Display,
        rule: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(Problem { key: key.into(), value: value.to_string(), rule: rule.into(), hint: hint.into() });
    }
}

pub(super) fn config(file: ConfigFile, base: &Path) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    let cluster = file.cluster.parse().unwrap_or_else(|_| {
        let rule = "must be the cluster's id, 32 hexadecimal digits";
        problems.add("cluster", quoted(&file.cluster), rule, "copy it from the config of another node");
        ClusterId([0; 16])
    });
    node_id(&mut problems, "node", file.node);
    node_name(&mut problems, "name", &file.name);
    let data_dir = path(&mut problems, "data_dir", &file.data_dir, base);
    let listen = listen(&mut problems, &file.listen);
    let control_socket = match &file.control_socket {
        Some(given) => path(&mut problems, "control_socket", given, base),
        None => data_dir.join("control.sock"),
    };
    let socket_bytes = control_socket.as_os_str().as_bytes().len();
    if socket_bytes > SOCKET_PATH_BYTES_MAX {
        let rule =
            format!("must be at most {SOCKET_PATH_BYTES_MAX} bytes as an absolute path, this has {socket_bytes}");
        problems.add(
            "control_socket",
            quoted(&control_socket.display()),
            rule,
            "name a shorter path, such as one below /run",
        );
    }
    let trust = trust(&mut problems, &file.trust, base);
    let peers = peers(&mut problems, &file.peers, file.node, &file.name);
    let mounts = mounts(&mut problems, &file.mounts, &data_dir, base);
    let tuning = tuning(&mut problems, &file.tuning);
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    let (node, name) = (NodeId(file.node), file.name);
    Ok(Config { cluster, node, name, data_dir, listen, control_socket, trust, peers, mounts, tuning })
}

fn quoted(text: &impl ToString) -> String {
    format!("{:?}", text.to_string())
}

pub(super) fn node_id(problems: &mut Problems, key: &str, id: u64) {
    if id == 0 {
        problems.add(key, id, "must be 1 or more", "give every node a number of its own, starting at 1");
    } else if NodeId(id).is_client() {
        problems.add(key, id, "must be less than 2^32", "numbers from there on are those of clients");
    }
}

pub(super) fn node_name(problems: &mut Problems, key: &str, name: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.chars().all(allowed) {
        let rule = format!("must be 1 to {NODE_NAME_BYTES_MAX} letters, digits, '-', '_' or '.'");
        problems.add(key, quoted(&name), rule, "the machine's host name is a good one");
    }
}

pub(super) fn path(problems: &mut Problems, key: &str, text: &str, base: &Path) -> PathBuf {
    if text.is_empty() || text.contains('\0') {
        let rule = "must be a path";
        problems.add(key, quoted(&text), rule, "an absolute path, or one relative to the directory of the config file");
    }
    // Without the components that mean nothing, so that one directory has one spelling.
    base.join(text).components().collect()
}

fn listen(problems: &mut Problems, text: &str) -> SocketAddr {
    let hint = "such as \"192.168.1.10:7400\", or \"0.0.0.0:7400\" for all addresses of this machine";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => return address,
        Ok(_) => problems.add("listen", quoted(&text), "must name a port from 1 to 65535, 0 is none", hint),
        Err(_) => problems.add("listen", quoted(&text), "must be an IP address and a port", hint),
    }
    SocketAddr::from(([127, 0, 0, 1], 1))
}

pub(super) fn trust(problems: &mut Problems, file: &TrustFile, base: &Path) -> TrustPaths {
    let usual = TrustPaths::in_dir(&base.join("trust"));
    let mut one = |key: &str, given: &Option<String>, usual: PathBuf| match given {
        Some(text) => path(problems, &format!("trust.{key}"), text, base),
        None => usual,
    };
    TrustPaths {
        authority: one("authority", &file.authority, usual.authority),
        certificate: one("certificate", &file.certificate, usual.certificate),
        key: one("key", &file.key, usual.key),
    }
}

fn peers(problems: &mut Problems, files: &[PeerFile], node: u64, name: &str) -> Vec<PeerConfig> {
    if files.len() > PEERS_MAX {
        let rule = format!("at most {PEERS_MAX} peers are supported");
        problems.add("peers", format!("{} entries", files.len()), rule, "further machines can mount as clients");
    }
    for (index, peer) in files.iter().enumerate() {
        node_id(problems, &format!("peers[{index}].id"), peer.id);
        node_name(problems, &format!("peers[{index}].name"), &peer.name);
        peer_address(problems, &format!("peers[{index}].address"), &peer.address);
    }
    unique(problems, "peers", "id", files.iter().map(|peer| peer.id.to_string()));
    unique(problems, "peers", "name", files.iter().map(|peer| quoted(&peer.name)));
    unique(problems, "peers", "address", files.iter().map(|peer| quoted(&peer.address)));
    match files.iter().find(|peer| peer.id == node) {
        // Zero has been reported already.
        None if node == 0 => {}
        None => {
            let listed: Vec<_> = files.iter().map(|peer| peer.id.to_string()).collect();
            let rule = format!("must be the id of one of the peers (listed: {})", or_none(&listed.join(", ")));
            problems.add("node", node, rule, "list this node under [[peers]] as well, the same on all nodes");
        }
        Some(own) if own.name != name => {
            let rule = format!("must be the name that [[peers]] gives to node {node}, {:?}", own.name);
            problems.add("name", quoted(&name), rule, "make the two agree");
        }
        Some(_) => {}
    }
    let mut peers: Vec<_> = files
        .iter()
        .map(|peer| PeerConfig { id: NodeId(peer.id), name: peer.name.clone(), address: peer.address.clone() })
        .collect();
    peers.sort_by_key(|peer| peer.id);
    peers
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}

pub(super) fn peer_address(problems: &mut Problems, key: &str, text: &str) {
    let hint = "where the other nodes reach this peer, such as \"192.168.1.10:7400\" or \"alpha.example:7400\"";
    let host_and_port = text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    let problem = match (host_and_port, text.parse::<SocketAddr>()) {
        (Some((_, Ok(0))), _) => "must name a port from 1 to 65535, 0 is none",
        (_, Ok(address)) if address.ip().is_unspecified() => "must be an address that others can connect to",
        (_, Ok(_)) => return,
        (Some((host, Ok(_))), Err(_)) if is_host_name(host) => return,
        _ => "must be a host and a port",
    };
    problems.add(key, quoted(&text), problem, hint);
}

/// Letters, digits and hyphens in labels; what is all digits and dots is a broken address, not a name.
fn is_host_name(host: &str) -> bool {
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    host.len() <= 253 && host.split('.').all(label) && host.chars().any(|c| c.is_ascii_alphabetic())
}

/// Reports every value that occurs again, at its later place.
pub(super) fn unique(problems: &mut Problems, list: &str, key: &str, values: impl Iterator<Item = String>) {
    let mut first = BTreeMap::new();
    for (index, value) in values.enumerate() {
        if let Some(earlier) = first.get(&value) {
            let rule = format!("must be unique, {list}[{earlier}] has the same");
            problems.add(format!("{list}[{index}].{key}"), value, rule, "change one of the two");
        } else {
            first.insert(value, index);
        }
    }
}

fn mounts(problems: &mut Problems, files: &[MountFile], data_dir: &Path, base: &Path) -> Vec<MountConfig> {
    if files.len() > MOUNTS_MAX {
        let rule = format!("at most {MOUNTS_MAX} mounts are supported");
        problems.add("mounts", format!("{} entries", files.len()), rule, "mount a directory above, once");
    }
    let mut mounts = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let at = |key: &str| format!("mounts[{index}].{key}");
        let path = path(problems, &at("path"), &file.path, base);
        if path.starts_with(data_dir) || data_dir.starts_with(&path) {
            let rule = format!("must not hide, or be inside, data_dir ({})", data_dir.display());
            problems.add(at("path"), quoted(&file.path), rule, "mount somewhere else");
        }
        let volume = volume(problems, &at("volume"), &file.volume);
        let options = options(problems, &at("options"), &file.options);
        mounts.push(MountConfig { path, volume, options, at: None });
    }
    unique(problems, "mounts", "path", mounts.iter().map(|mount| quoted(&mount.path.display())));
    mounts
}

fn volume(problems: &mut Problems, key: &str, file: &VolumeFile) -> VolumeRef {
    match file {
        VolumeFile::Number(0) => {
            problems.add(key, 0, "must be 1 or more", "1 is the volume that every cluster starts with");
        }
        VolumeFile::Number(number) => return VolumeId(*number).into(),
        VolumeFile::Name(name) if is_volume_name(name) => return VolumeRef::Name(name.as_str().into()),
        VolumeFile::Name(name) => {
            let rule = "must be a letter or `_`, then letters, digits, `-`, `_` and `.`, 64 bytes at most; or a number";
            problems.add(key, quoted(name), rule, "`gavel volume list` says what the volumes are called");
        }
    }
    VolumeId::FIRST.into()
}

fn options(problems: &mut Problems, key: &str, names: &[String]) -> Vec<MountOption> {
    let mut options = Vec::new();
    for name in names {
        match MountOption::ALL.iter().find(|(_, known)| known == name) {
            Some((option, _)) => options.push(*option),
            None => {
                let known: Vec<_> = MountOption::ALL.iter().map(|(_, known)| *known).collect();
                let rule = format!("must be among {}", known.join(", "));
                problems.add(key, quoted(name), rule, "remove it, or correct its spelling");
            }
        }
    }
    options.sort();
    options.dedup();
    options
}

pub(super) fn tuning(problems: &mut Problems, file: &TuningFile) -> Tuning {
    let usual = Tuning::default();
    let found = problems.0.len();
    let mut one = |key: &str, given: Option<i64>, usual: u64, range: RangeInclusive<u64>| match given {
        None => usual,
        Some(value) => u64::try_from(value).ok().filter(|value| range.contains(value)).unwrap_or_else(|| {
            let rule = format!("must be {} to {}", range.start(), range.end());
            problems.add(format!("tuning.{key}"), value, rule, format!("leave it out for the default, {usual}"));
            usual
        }),
    };
    let tuning = Tuning {
        term_ms: one("term_ms", file.term_ms, usual.term_ms, TERM_MS),
        election_ms: one("election_ms", file.election_ms, usual.election_ms, ELECTION_MS),
        heartbeat_ms: one("heartbeat_ms", file.heartbeat_ms, usual.heartbeat_ms, HEARTBEAT_MS),
        inline_bytes_max: one("inline_bytes_max", file.inline_bytes_max, usual.inline_bytes_max, INLINE_BYTES),
        dial_timeout_ms: one("dial_timeout_ms", file.dial_timeout_ms, usual.dial_timeout_ms, DIAL_TIMEOUT_MS),
        silence_ms: one("silence_ms", file.silence_ms, usual.silence_ms, SILENCE_MS),
        collect_grace_ms: one("collect_grace_ms", file.collect_grace_ms, usual.collect_grace_ms, COLLECT_GRACE_MS),
    };
    // A value that was replaced would only confuse when compared with others.
    if problems.0.len() == found {
        tuning_ratios(problems, &tuning);
    }
    tuning
}

fn tuning_ratios(problems: &mut Problems, tuning: &Tuning) {
    let election_min = ELECTION_HEARTBEATS_MIN * tuning.heartbeat_ms;
    if tuning.election_ms < election_min {
        let rule = format!(
            "must be at least {ELECTION_HEARTBEATS_MIN} x tuning.heartbeat_ms ({}), that is {election_min}",
            tuning.heartbeat_ms
        );
        let hint = "with less, one lost packet costs a leader; 10 heartbeats are usual";
        problems.add("tuning.election_ms", tuning.election_ms, rule, hint);
    }
    let term_min = TERM_ELECTIONS_MIN * tuning.election_ms;
    if tuning.term_ms < term_min {
        let rule = format!(
            "must be at least {TERM_ELECTIONS_MIN} x tuning.election_ms ({}), that is {term_min}",
            tuning.election_ms
        );
        problems.add("tuning.term_ms", tuning.term_ms, rule, "with less, a change of leader costs every session");
    }
}

/// What is wrong with the directories of this machine. Makes those that are this node's own.
pub(super) fn directories(config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    own_directory(&mut problems, "data_dir", &config.data_dir);
    match config.control_socket.parent() {
        Some(parent) if parent != config.data_dir => own_directory(&mut problems, "control_socket", parent),
        _ => {}
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        let key = format!("mounts[{index}].path");
        let shown = quoted(&mount.path.display());
        match std::fs::symlink_metadata(&mount.path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => problems.add(key, shown, "must be a directory", "a mount hides a directory; name one"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = format!("mkdir -p {}", mount.path.display());
                problems.add(key, shown, "must be a directory, and there is none", hint);
            }
            // Such as a mount whose daemon died: the mount itself deals with that.
            Err(_) => {}
        }
    }
    problems.0
}

/// Makes the directory if it is missing, and writes a file in it to see whether that works.
fn own_directory(problems: &mut Problems, key: &str, dir: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let tried = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| {
        let probe = dir.join(format!(".gavel-probe-{}", std::process::id()));
        std::fs::write(&probe, b"probe")?;
        std::fs::remove_file(&probe)
    });
    if let Err(error) = tried {
        let rule = format!("must be a directory that this user can write to: {error}");
        let hint = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "make room, or name another directory"
            }
            _ => "change its owner or mode, or name another directory",
        };
        problems.add(key, quoted(&dir.display()), rule, hint);
    }
}
