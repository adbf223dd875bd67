//! Who may follow a volume, and invitations: the file that a mirror's cluster is given.

use super::follow::{Unserved, knock};
use super::receive::{create, state};
use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::volumes;
use crate::trust::GuestTrust;
use gavel_mirror::Selector;
use gavel_txn::{Lineage, Mirror};
use gavel_types::{ClusterId, MirrorSource, NodeId, Selection, Tid, VolumeId, VolumeRef};
use gavel_wire::{Follow, FollowKey, Refusal, RequestBody};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the quorum may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The version of invitations.
const INVITATION_VERSION: u32 = 2;
/// What an invitation begins with, for whoever finds it.
const INVITATION_TEXT: &str = "# An invitation to follow a volume of a Gavel cluster (gavel mirror follow THIS --into VOLUME --config FILE).\n\
# Whoever has it can read that volume, or the part of it that is selected, and nothing else: keep it as you would keep a private key.\n\
# `gavel mirror dismiss` at the source makes it worthless. If the nodes are reached by other addresses from there, change them here.\n\n";

/// What an invitation says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    version: u32,
    cluster: String,
    volume: u32,
    volume_made: String,
    volume_name: String,
    name: String,
    key: String,
    authority: String,
    #[serde(default, skip_serializing_if = "Selection::is_all")]
    selection: Selection,
    peers: Vec<Peer>,
    /// Where the volume comes from, if it was a mirror and was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lineage: Option<Descent>,
}

/// A [`Lineage`], as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Descent {
    cluster: String,
    volume: u32,
    volume_made: String,
    departed: String,
    state: String,
}

impl Descent {
    fn of(lineage: Lineage) -> Descent {
        let Lineage { source, departed, state } = lineage;
        Descent {
            cluster: source.cluster.to_string(),
            volume: source.volume.0,
            volume_made: source.made.to_string(),
            departed: departed.to_string(),
            state: state.to_string(),
        }
    }

    fn read(self) -> Option<Lineage> {
        let source = source(&self.cluster, self.volume, &self.volume_made)?;
        Some(Lineage { source, departed: self.departed.parse().ok()?, state: self.state.parse().ok()? })
    }
}

fn source(cluster: &str, volume: u32, made: &str) -> Option<MirrorSource> {
    Some(MirrorSource { cluster: cluster.parse().ok()?, volume: VolumeId(volume), made: made.parse().ok()? })
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    id: u64,
    address: String,
}

/// Admits a mirror. Gives its invitation, which nobody keeps.
///
/// # Errors
/// What went wrong and what to do, in words.
pub async fn admit(
    daemon: &Daemon,
    volume: &VolumeRef,
    name: &str,
    (keep_for_ns, selection): (Option<u64>, Selection),
) -> Result<String, String> {
    Selector::new(selection.clone()).map_err(|error| error.to_string())?;
    let number = volumes::living(&daemon.node, volume)?;
    let path = &daemon.config().trust.authority;
    let authority = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut key = FollowKey([0; 32]);
    getrandom::fill(&mut key.0).map_err(|error| format!("drawing a random number: {error}"))?;
    let (name_there, key_hash) = (name.into(), key.hash());
    let admitted = selection.clone();
    let body = RequestBody::AdmitFollower { volume: number, name: name_there, key: key_hash, keep_for_ns, selection };
    request(&daemon.node, body, PATIENCE, "gavel mirror list").await.map_err(|asked| match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::Exists) => {
            format!("a mirror {name} is admitted to volume {volume} already\nHint: choose another name, or take that one's right away: gavel mirror dismiss {volume} --name {name}")
        }
        Asked::Refused(Refusal::BadName) => {
            format!("{name:?} is no name for a mirror: letters, digits, - _ and ., not like a time or a number")
        }
        Asked::Refused(Refusal::Full) => "as many mirrors are admitted as may be: dismiss one (gavel mirror list)".into(),
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    })?;
    let past = daemon.node.past.read();
    let made = past.of(number).ok_or("the volume is gone")?;
    let peers = daemon.config().peers.iter().map(|peer| Peer { id: peer.id.0, address: peer.address.clone() });
    let invitation = Invitation {
        version: INVITATION_VERSION,
        cluster: daemon.config().cluster.to_string(),
        volume: number.0,
        volume_made: made.made.to_string(),
        volume_name: made.name.to_string(),
        name: name.into(),
        key: key.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        authority,
        selection: admitted,
        peers: peers.collect(),
        lineage: made.mirror.as_ref().and_then(Mirror::lineage).map(Descent::of),
    };
    let text = toml::to_string(&invitation).map_err(|error| error.to_string())?;
    Ok(format!("{INVITATION_TEXT}{text}"))
}

/// Takes a mirror's right away: what it holds of the past is let go of, its connections end.
///
/// # Errors
/// What went wrong, in words.
pub async fn dismiss(daemon: &Daemon, volume: &VolumeRef, name: &str) -> Result<(), String> {
    let number = volumes::living(&daemon.node, volume)?;
    let body = RequestBody::DismissFollower { volume: number, name: name.into() };
    request(&daemon.node, body, PATIENCE, "gavel mirror list").await.map_err(|asked| match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::Missing) => {
            format!("no mirror {name} is admitted to volume {volume}: `gavel mirror list` says which are")
        }
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    })
}

/// What an invitation says.
pub(super) struct Invited {
    /// The volume that may be followed.
    pub(super) source: MirrorSource,
    /// What it was called.
    pub(super) name: String,
    /// Which part of it.
    pub(super) selection: Selection,
    /// How it is followed.
    pub(super) follow: Follow,
    /// Where it comes from, if it departed from another one.
    pub(super) lineage: Option<Lineage>,
}

/// What an invitation is to.
///
/// # Errors
/// That it is none, and why.
pub(super) fn read(text: &str) -> Result<Invited, String> {
    let bad = |cause: String| format!("not an invitation: {cause}\nHint: `gavel mirror admit` at the source makes one");
    let read: Invitation = toml::from_str(text).map_err(|error| bad(error.message().to_owned()))?;
    if read.version != INVITATION_VERSION {
        return Err(bad(format!("it has version {}, and this program knows {INVITATION_VERSION}", read.version)));
    }
    let cluster: ClusterId = read.cluster.parse().map_err(|_| bad("its `cluster` is no cluster's id".into()))?;
    let made: Tid = read.volume_made.parse().map_err(|_| bad("its `volume_made` is no transaction".into()))?;
    let descends = read.lineage.is_some();
    let lineage = read.lineage.and_then(Descent::read);
    if descends && lineage.is_none() {
        return Err(bad("its `lineage` names no volume, or no transaction".into()));
    }
    let key: ClusterKey = read.key.parse().map_err(|()| bad("its `key` does not have 64 hexadecimal digits".into()))?;
    if !read.selection.is_sound() {
        return Err(bad("its `selection` is none".into()));
    }
    let peers = read.peers.into_iter().map(|peer| (NodeId(peer.id), peer.address.into())).collect();
    let follow = Follow {
        peers,
        authority: read.authority.into(),
        name: read.name.into(),
        key: FollowKey(key.0),
        paused: false,
    };
    if !follow.is_bounded() {
        return Err(bad("it has no peers, or too many, or something in it is too long".into()));
    }
    GuestTrust::new(&follow.authority, Path::new("(the invitation)"), cluster, SystemTime::now())
        .map_err(|error| bad(error.to_string()))?;
    let source = MirrorSource { cluster, volume: VolumeId(read.volume), made };
    Ok(Invited { source, name: read.volume_name, selection: read.selection, follow, lineage })
}

struct ClusterKey([u8; 32]);

impl std::str::FromStr for ClusterKey {
    type Err = ();

    fn from_str(text: &str) -> Result<ClusterKey, ()> {
        let mut key = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        Ok(ClusterKey(key))
    }
}

/// A mirror follows from now on what an invitation is to. It is made, if it is not there. One peer of the source at least must answer, and let it.
///
/// # Errors
/// What went wrong and what to do, in words.
pub async fn follow(daemon: &Arc<Daemon>, text: &str, into: &VolumeRef) -> Result<VolumeId, String> {
    let Invited { source, selection, follow, .. } = read(text)?;
    if let Ok(volume) = volumes::living(&daemon.node, into) {
        is_free(daemon, volume, (source, &selection))?;
    }
    is_served(&follow, source).await?;
    let volume = match (volumes::living(&daemon.node, into), into) {
        (Ok(volume), _) => volume,
        (Err(_), VolumeRef::Name(name)) => {
            create(daemon, name, source, selection).await?;
            volumes::living(&daemon.node, into)?
        }
        (Err(cause), _) => return Err(cause),
    };
    set(daemon, volume, Some(follow)).await?;
    Ok(volume)
}

/// Is the volume a mirror of that source which follows nobody?
fn is_free(daemon: &Daemon, volume: VolumeId, (source, selection): (MirrorSource, &Selection)) -> Result<(), String> {
    let past = daemon.node.past.read();
    let past = past.of(volume).ok_or("the volume is gone")?;
    match past.mirror.as_ref().filter(|_| past.is_mirror()) {
        None => Err(format!("volume {} is no mirror\nHint: name one that is not there yet: it is made", past.name)),
        Some(mirror) if mirror.source != source => Err(format!(
            "mirror {} is of volume {} of cluster {}, and the invitation is to volume {} of cluster {}\nHint: name a volume that is not there yet: it is made",
            past.name, mirror.source.volume, mirror.source.cluster, source.volume, source.cluster
        )),
        Some(mirror) if mirror.selection != *selection => Err(format!(
            "mirror {} has {} of its source, and the invitation is to {selection}\nHint: name a volume that is not there yet: it is made",
            past.name, mirror.selection
        )),
        Some(mirror) if mirror.follow.is_some() => {
            Err(format!("mirror {0} follows its source already\nHint: gavel mirror remove {0} ends that", past.name))
        }
        Some(_) => Ok(()),
    }
}

/// Does a peer of the source let us in?
///
/// # Errors
/// Why none does, in words.
pub(super) async fn is_served(follow: &Follow, source: MirrorSource) -> Result<(), String> {
    let mut unreached = Vec::new();
    for (peer, address) in &follow.peers {
        match knock(follow, source, (Tid::ZERO, None), (*peer, address), true).await {
            Ok(_) => return Ok(()),
            Err(Unserved::Refused(why)) => return Err(format!("node {peer} of the source refuses: {why}")),
            Err(Unserved::Unreached(why)) => unreached.push(why),
        }
    }
    Err(format!(
        "no node of the source can be reached: {}\nHint: are these addresses right from here? They stand in the invitation, and may be changed there",
        unreached.join("; ")
    ))
}

/// What a mirror follows, from now on.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn set(daemon: &Daemon, volume: VolumeId, follow: Option<Follow>) -> Result<(), String> {
    let body = RequestBody::FollowMirror { volume, follow: follow.map(Box::new) };
    request(&daemon.node, body, PATIENCE, "gavel mirror list").await.map_err(|asked| match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::NotMirror) => format!("volume {volume} is no mirror"),
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    })
}

/// What a mirror follows.
fn followed(daemon: &Daemon, volume: VolumeId) -> Result<Follow, String> {
    let past = daemon.node.past.read();
    let past = past.of(volume).ok_or("the volume is gone")?;
    let follow = past.mirror.as_ref().and_then(|mirror| mirror.follow.as_deref()).cloned();
    follow.ok_or_else(|| format!("volume {} follows nobody: `gavel mirror follow` begins that", past.name))
}

/// A mirror stands still, or goes on.
///
/// # Errors
/// What went wrong, in words.
pub async fn pause(daemon: &Daemon, volume: VolumeId, paused: bool) -> Result<(), String> {
    let follow = followed(daemon, volume)?;
    set(daemon, volume, Some(Follow { paused, ..follow })).await
}

/// A mirror follows nobody any more, and forgets the invitation. It stays a mirror. Gives the state that it shows.
///
/// # Errors
/// What went wrong, in words.
pub async fn remove(daemon: &Daemon, volume: VolumeId) -> Result<Tid, String> {
    followed(daemon, volume)?;
    set(daemon, volume, None).await?;
    Ok(state(daemon, volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_invitation_is_refused_by_name() {
        let good = Invitation {
            version: INVITATION_VERSION,
            cluster: "07".repeat(16),
            volume: 1,
            volume_made: "0x5".into(),
            volume_name: "main".into(),
            name: "copy".into(),
            key: "08".repeat(32),
            authority: "none".into(),
            selection: Selection::default(),
            peers: vec![Peer { id: 1, address: "h:1".into() }],
            lineage: None,
        };
        let refused = |change: &dyn Fn(&mut Invitation), word: &str| {
            let mut bad = good.clone();
            change(&mut bad);
            let said = read(&toml::to_string(&bad).unwrap()).map(drop).unwrap_err();
            assert!(said.contains(word) && said.starts_with("not an invitation"), "{said}");
        };
        refused(&|bad| bad.version = 1, "version 1");
        let descent = |departed: &str| Descent {
            cluster: "09".repeat(16),
            volume: 3,
            volume_made: "0x5".into(),
            departed: departed.into(),
            state: "0x7".into(),
        };
        refused(&|bad| bad.lineage = Some(descent("today")), "`lineage`");
        refused(&|bad| bad.lineage = Some(Descent { cluster: "x".into(), ..descent("0x6") }), "`lineage`");
        let source = MirrorSource { cluster: ClusterId([9; 16]), volume: VolumeId(3), made: Tid(5) };
        let lineage = Lineage { source, departed: Tid(6), state: Tid(7) };
        assert_eq!((Descent::of(lineage), descent("0x6").read()), (descent("0x6"), Some(lineage)));
        refused(&|bad| bad.cluster = "x".into(), "`cluster`");
        refused(&|bad| bad.volume_made = "today".into(), "`volume_made`");
        refused(&|bad| bad.key = "0".into(), "`key`");
        refused(&|bad| bad.peers.clear(), "no peers");
        refused(&|_| {}, "certificate");
        assert!(read("a = 1").map(drop).unwrap_err().starts_with("not an invitation"));
    }
}
