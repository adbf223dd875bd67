//! Volumes: what there is, and making, cloning, renaming, destroying and restoring them.

use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::node::{Input, NodeHandle};
use gavel_txn::past::{Past, VolumePast};
use gavel_txn::{Stage, VolumeCounts};
use gavel_types::limits::{CLONE_DEPTH_MAX, VOLUMES_MAX};
use gavel_types::{At, Timestamp, VolumeId, VolumeRef};
use gavel_wire::{Refusal, RequestBody};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the quorum may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a list waits for the quorum to say that it is up to date; without it, it is what this node knows.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(2);

/// What is asked about volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeAsk {
    /// Which are there?
    List {
        /// Those that were destroyed, not those that are used.
        destroyed: bool,
    },
    /// Make one.
    Create {
        /// What it is called.
        name: String,
        /// Permission bits of its root.
        mode: u16,
        /// Owner of its root.
        uid: u32,
        /// Group of its root.
        gid: u32,
    },
    /// Make one that begins with what another one shows.
    Clone {
        /// The other one.
        from: VolumeRef,
        /// What the new one is called.
        name: String,
        /// Which state; none: what is now, with all that this node has answered.
        at: Option<String>,
    },
    /// Give one another name.
    Rename {
        /// Which.
        volume: VolumeRef,
        /// The other name.
        name: String,
    },
    /// It is not to be used any more.
    Destroy {
        /// Which.
        volume: VolumeRef,
        /// It cannot be restored.
        now: bool,
    },
    /// What was destroyed is to be used again.
    Restore {
        /// Which.
        volume: VolumeRef,
        /// What it is called; none: as before.
        name: Option<String>,
    },
}

/// A volume, for people and programs. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeLine {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// `living`, `destroyed`, `ended` (it cannot be restored, and clones need some of it) or `going`.
    pub state: String,
    /// When it was made.
    pub made: String,
    /// Live objects; none while they are counted.
    pub objects: Option<u64>,
    /// Bytes of live files; none while they are counted.
    pub bytes: Option<u64>,
    /// Its retention policy.
    pub policy: String,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// Where it comes from, if it is a clone.
    pub origin: Option<OriginLine>,
    /// How many clones begin with states of it.
    pub clones: u64,
    /// When it was destroyed.
    pub destroyed: Option<String>,
    /// Until when it can be restored; none if it was not destroyed, if that is over, or if it stays until somebody says otherwise.
    pub restorable_until: Option<String>,
}

/// Where a clone comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OriginLine {
    /// The number of the volume.
    pub number: u32,
    /// What it is called now; none if it has gone.
    pub name: Option<String>,
    /// The state of it, as a transaction.
    pub at: String,
    /// The same as a time, to the second.
    pub time: String,
}

/// Answers a question about volumes: with those it is about.
///
/// # Errors
/// What went wrong, in words.
pub async fn ask(daemon: &Daemon, ask: VolumeAsk) -> Result<Vec<VolumeLine>, String> {
    confirm(&daemon.node).await;
    match ask {
        VolumeAsk::List { destroyed } => {
            let is_listed = |past: &VolumePast| past.is_living() != destroyed;
            lines(daemon, |_, past| is_listed(past)).await
        }
        VolumeAsk::Create { name, mode, uid, gid } => {
            let body = RequestBody::CreateVolume { name: name.as_str().into(), mode, uid, gid };
            ship(daemon, body, &name, None).await?;
            line(daemon, named(&daemon.node, &name)?).await
        }
        VolumeAsk::Clone { from, name, at } => {
            let from = living(&daemon.node, &from)?;
            let at = match at {
                Some(at) => {
                    let at: At = at.parse().map_err(|error: gavel_types::at::AtError| error.to_string())?;
                    let state = daemon.tree(from, false).state_at(&at).await;
                    Some(state.map_err(|error| format!("{at}: {error}"))?)
                }
                None => {
                    sync(daemon).await?;
                    let landed = daemon.tree(from, false).landed().await;
                    landed.map(|_| None).map_err(|error| error.to_string())?
                }
            };
            let body = RequestBody::CloneVolume { from, at, name: name.as_str().into() };
            ship(daemon, body, &name, Some(from)).await?;
            line(daemon, named(&daemon.node, &name)?).await
        }
        VolumeAsk::Rename { volume, name } => {
            let volume = living(&daemon.node, &volume)?;
            let body = RequestBody::RenameVolume { volume, name: name.as_str().into() };
            ship(daemon, body, &name, Some(volume)).await?;
            line(daemon, volume).await
        }
        VolumeAsk::Destroy { volume, now } => {
            let number = match living(&daemon.node, &volume) {
                Err(_) if now => destroyed(&daemon.node, &volume)?,
                found => found?,
            };
            sync(daemon).await?;
            let body = RequestBody::DestroyVolume { volume: number, now };
            ship(daemon, body, &volume.to_string(), Some(number)).await?;
            line(daemon, number).await
        }
        VolumeAsk::Restore { volume, name } => {
            let number = destroyed(&daemon.node, &volume)?;
            let called = name.clone().unwrap_or_else(|| name_of(&daemon.node, number));
            let body = RequestBody::RestoreVolume { volume: number, name: name.map(Into::into) };
            ship(daemon, body, &called, Some(number)).await?;
            line(daemon, number).await
        }
    }
}

/// What this node knows of volumes is no older than this call, unless no quorum answers.
pub(super) async fn confirm(node: &NodeHandle) {
    let (reply, answer) = oneshot::channel();
    node.inbox.push(Input::Confirm(Vec::new(), reply));
    let _ = tokio::time::timeout(CONFIRM_PATIENCE, answer).await;
}

/// What this node has answered is to be in what is cloned or destroyed.
async fn sync(daemon: &Daemon) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, daemon.node.sync()).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("what this node has answered could not be committed in time; nothing was done: try again".into()),
    }
}

/// The living volume that is meant, as far as this node knows.
///
/// # Errors
/// That there is none, and what to do, in words.
pub fn living(node: &NodeHandle, volume: &VolumeRef) -> Result<VolumeId, String> {
    let past = node.past.read();
    let found = match volume {
        VolumeRef::Name(name) => past.named(name),
        VolumeRef::Number(number) => past.of(*number).filter(|past| past.is_living()).map(|_| *number),
    };
    found.ok_or_else(|| match meant(&past, volume).first() {
        Some((number, destroyed)) if matches!(destroyed.stage, Stage::Destroyed { .. }) => format!(
            "volume {volume} was destroyed; it can be restored: gavel volume restore {number}, or {} if no other was called so",
            destroyed.name
        ),
        Some(_) => format!("volume {volume} was destroyed, and cannot be restored any more"),
        None => format!("there is no volume {volume}: `gavel volume list` says which there are"),
    })
}

/// The volumes that are not used and may be meant.
fn meant<'p>(past: &'p Past, volume: &VolumeRef) -> Vec<(VolumeId, &'p VolumePast)> {
    let is_meant = |number: VolumeId, past: &VolumePast| match volume {
        VolumeRef::Name(name) => past.name == *name,
        VolumeRef::Number(wanted) => *wanted == number,
    };
    past.volumes().filter(|(number, past)| !past.is_living() && is_meant(*number, past)).collect()
}

/// The volume that is meant, and was destroyed.
fn destroyed(node: &NodeHandle, volume: &VolumeRef) -> Result<VolumeId, String> {
    let past = node.past.read();
    let meant = meant(&past, volume);
    let can_be: Vec<VolumeId> = meant
        .iter()
        .filter(|(_, past)| matches!(past.stage, Stage::Destroyed { .. }))
        .map(|(number, _)| *number)
        .collect();
    let living = match volume {
        VolumeRef::Name(name) => past.named(name).is_some(),
        VolumeRef::Number(number) => past.of(*number).is_some_and(VolumePast::is_living),
    };
    match can_be[..] {
        [number] => Ok(number),
        [] if living => Err(format!("volume {volume} was not destroyed")),
        [] if !meant.is_empty() => Err(format!("volume {volume} cannot be restored any more")),
        [] => Err(format!("no volume {volume} was destroyed: `gavel volume list --destroyed` says which were")),
        _ => {
            let numbers: Vec<String> = can_be.iter().map(ToString::to_string).collect();
            Err(format!(
                "{} volumes called {volume} were destroyed: name one by its number, {}",
                can_be.len(),
                numbers.join(" or ")
            ))
        }
    }
}

fn named(node: &NodeHandle, name: &str) -> Result<VolumeId, String> {
    let found = node.past.read().named(name);
    found.ok_or_else(|| format!("volume {name} was made, and is called something else or destroyed by now"))
}

fn name_of(node: &NodeHandle, volume: VolumeId) -> String {
    node.past.read().of(volume).map_or_else(|| volume.to_string(), |past| past.name.to_string())
}

async fn line(daemon: &Daemon, volume: VolumeId) -> Result<Vec<VolumeLine>, String> {
    lines(daemon, |number, _| number == volume).await
}

async fn lines(daemon: &Daemon, is_listed: impl Fn(VolumeId, &VolumePast) -> bool) -> Result<Vec<VolumeLine>, String> {
    let (reply, status) = oneshot::channel();
    daemon.node.inbox.push(Input::Status(reply));
    let status = status.await.map_err(|_| "the node is shutting down".to_owned())?;
    let counts = status
        .volumes
        .iter()
        .map(|volume| (VolumeId(volume.id), VolumeCounts { objects: volume.objects, bytes: volume.bytes }));
    let counts: BTreeMap<VolumeId, VolumeCounts> = counts.collect();
    let past = daemon.node.past.read();
    let listed = past.volumes().filter(|(number, past)| is_listed(*number, past));
    Ok(listed.map(|(number, volume)| line_of(&past, number, volume, counts.get(&number).copied())).collect())
}

fn line_of(past: &Past, number: VolumeId, volume: &VolumePast, counts: Option<VolumeCounts>) -> VolumeLine {
    let time = |tid| Timestamp::of_tid(tid).to_string();
    let counts = counts.filter(|_| !volume.is_being_counted());
    let (destroyed, until) = match volume.stage {
        Stage::Living | Stage::Going => (None, None),
        Stage::Destroyed { at } => (Some(at), volume.restorable_until(at)),
        Stage::Ended { at } => (Some(at), None),
    };
    let origin = volume.origin.map(|origin| OriginLine {
        number: origin.volume.0,
        name: past.of(origin.volume).map(|origin| origin.name.to_string()),
        at: origin.at.to_string(),
        time: time(origin.at),
    });
    VolumeLine {
        number: number.0,
        name: volume.name.to_string(),
        state: state_name(volume.stage).into(),
        made: time(volume.made),
        objects: counts.map(|counts| counts.objects),
        bytes: counts.map(|counts| counts.bytes),
        policy: volume.policy.to_string(),
        snapshots: volume.snapshots.len() as u64,
        origin,
        clones: volume.clones.values().map(|clones| clones.len() as u64).sum(),
        destroyed: destroyed.map(time),
        restorable_until: until.map(time),
    }
}

/// What a stage is called.
pub fn state_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Living => "living",
        Stage::Destroyed { .. } => "destroyed",
        Stage::Ended { .. } => "ended",
        Stage::Going => "going",
    }
}

async fn ship(daemon: &Daemon, body: RequestBody, name: &str, about: Option<VolumeId>) -> Result<(), String> {
    let cloning = matches!(body, RequestBody::CloneVolume { .. });
    let asked = request(&daemon.node, body, PATIENCE, "gavel volume list").await;
    asked.map_err(|asked| match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(refusal) => said(&daemon.node.past.read(), refusal, name, about.filter(|_| cloning)),
    })
}

fn said(past: &Past, refusal: Refusal, name: &str, origin: Option<VolumeId>) -> String {
    match refusal {
        Refusal::Exists => format!("there is a volume {name} already: choose another name"),
        Refusal::Missing => format!("volume {name} is not there any more: `gavel volume list` says which there are"),
        Refusal::BadName => format!(
            "{name:?} cannot be a volume's name: a letter or `_`, then letters, digits, `-`, `_` and `.`, {} bytes at most",
            gavel_types::limits::SNAPSHOT_NAME_BYTES_MAX
        ),
        Refusal::Pruned => "this state is not kept any more".into(),
        Refusal::Full if past.volumes().count() >= VOLUMES_MAX => format!(
            "there are {VOLUMES_MAX} volumes already, destroyed ones among them: `gavel volume destroy --now` makes room"
        ),
        Refusal::Full if origin.is_some_and(|origin| past.depth(origin) >= CLONE_DEPTH_MAX) => format!(
            "it would be a clone of a clone, {CLONE_DEPTH_MAX} times over, and that is the most: make a new volume, and copy the files there"
        ),
        Refusal::Full => "the policies of all volumes keep too many states already, or too many files of this one are open and removed: \
             shorten some policies (`gavel retention set`), or close such files"
            .into(),
        refusal => format!("refused: {refusal:?}"),
    }
}
