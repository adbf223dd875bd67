//! Snapshots: names for states, given by people or by a schedule.

use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use gavel_txn::{Scheduled, VolumePast};
use gavel_types::{Schedule, Tid, Timestamp, VolumeId};
use gavel_wire::{Refusal, RequestBody};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the quorum may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to become of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SnapshotChange {
    /// Name a state.
    Create {
        /// The name.
        name: String,
        /// What for.
        note: String,
        /// Which state; none: what is now, with all that this node has answered.
        at: Option<String>,
    },
    /// Take the name away; what only it kept may be pruned.
    Delete {
        /// The name.
        name: String,
    },
    /// Give it another name.
    Rename {
        /// The name.
        from: String,
        /// The other name.
        to: String,
    },
    /// Say what it is for.
    Note {
        /// The name.
        name: String,
        /// What for; nothing is said if it is empty.
        note: String,
    },
}

/// A snapshot, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotLine {
    /// Its name.
    pub name: String,
    /// The state, as a transaction.
    pub tid: String,
    /// The same as a time, to the second.
    pub time: String,
    /// When it got its name.
    pub named: String,
    /// What for.
    pub note: String,
    /// A schedule has made it, and takes it away when it has made enough newer ones.
    pub scheduled: bool,
}

/// What is asked about the snapshots of a volume that are made by themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleAsk {
    /// When are they made?
    Show {},
    /// Make them so.
    Set {
        /// As it is written.
        schedule: String,
    },
    /// Make no more.
    Clear {},
}

/// The schedule of a volume, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// As it is written; nothing: there is none.
    pub schedule: String,
    /// Its rules.
    pub rules: Vec<RuleLine>,
}

/// A rule of a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleLine {
    /// As it is written.
    pub rule: String,
    /// So many snapshots of it are there.
    pub made: u64,
    /// The newest of these.
    pub newest: Option<String>,
    /// There was no room for the last one that was due: the cluster has too many snapshots.
    pub missed: bool,
    /// When the next one is due, as a time, to the second.
    pub next: String,
}

/// The snapshots of a volume, oldest state first.
///
/// # Errors
/// What went wrong, in words.
pub async fn list(daemon: &Daemon, volume: VolumeId) -> Result<Vec<SnapshotLine>, String> {
    let past = daemon.node.past.read();
    let past = past.of(volume).ok_or_else(|| no_volume(volume))?;
    let mut all: Vec<_> = past.snapshots.iter().collect();
    all.sort_by_key(|(_, snapshot)| snapshot.tid);
    Ok(all.into_iter().map(|(name, snapshot)| line(name, snapshot)).collect())
}

fn line(name: &str, snapshot: &gavel_txn::Snapshot) -> SnapshotLine {
    let time = |tid| Timestamp::of_tid(tid).to_string();
    SnapshotLine {
        name: name.into(),
        tid: snapshot.tid.to_string(),
        time: time(snapshot.tid),
        named: time(snapshot.named),
        note: snapshot.note.to_string(),
        scheduled: snapshot.every_ns.is_some(),
    }
}

fn no_volume(volume: VolumeId) -> String {
    format!("there is no volume {volume}")
}

/// Changes a snapshot. Gives what was made, if something was.
///
/// # Errors
/// What went wrong, in words.
pub async fn change(daemon: &Daemon, volume: VolumeId, change: SnapshotChange) -> Result<Option<SnapshotLine>, String> {
    match change {
        SnapshotChange::Create { name, note, at } => {
            let tree = daemon.tree(volume, false);
            // What this node has answered is to be in it, and what others have.
            daemon.node.sync().await.map_err(|error| error.to_string())?;
            let at = match at {
                Some(at) => Some(tree.state_named(&at).await?),
                None => tree.landed().await.map(|_| None).map_err(|error| error.to_string())?,
            };
            let body = RequestBody::Snapshot { volume, name: name.as_str().into(), note: note.into(), at };
            ask(daemon, body).await.map_err(|refusal| said(&name, refusal))?;
            let made =
                daemon.node.past.read().of(volume).and_then(|past| Some(line(&name, past.snapshots.get(&*name)?)));
            Ok(made)
        }
        SnapshotChange::Delete { name } => {
            let body = RequestBody::DropSnapshot { volume, name: name.as_str().into() };
            ask(daemon, body).await.map_err(|refusal| said(&name, refusal)).map(|()| None)
        }
        SnapshotChange::Rename { from, to } => {
            let body = RequestBody::RenameSnapshot { volume, from: from.as_str().into(), to: to.as_str().into() };
            let about = |refusal: &Asked| if matches!(refusal, Asked::Refused(Refusal::Missing)) { from } else { to };
            ask(daemon, body).await.map_err(|refusal| said(&about(&refusal), refusal)).map(|()| None)
        }
        SnapshotChange::Note { name, note } => {
            let body = RequestBody::NoteSnapshot { volume, name: name.as_str().into(), note: note.into() };
            ask(daemon, body).await.map_err(|refusal| said(&name, refusal)).map(|()| None)
        }
    }
}

/// Answers a question about the schedule of a volume.
///
/// # Errors
/// What went wrong, in words.
pub async fn schedule(daemon: &Daemon, volume: VolumeId, about: ScheduleAsk) -> Result<ScheduleStatus, String> {
    let schedule = match about {
        ScheduleAsk::Show {} => None,
        ScheduleAsk::Clear {} => Some(Schedule::default()),
        ScheduleAsk::Set { schedule } => {
            Some(schedule.parse().map_err(|error: gavel_types::schedule::ScheduleError| error.to_string())?)
        }
    };
    if let Some(schedule) = schedule {
        let body = RequestBody::SetSchedule { volume, schedule };
        let asked = request(&daemon.node, body, PATIENCE, "gavel snapshot schedule show").await;
        asked.map_err(|asked| match asked {
            Asked::Failed(cause) => cause,
            Asked::Refused(Refusal::Missing) => no_volume(volume),
            Asked::Refused(refusal) => format!("refused: {refusal:?}"),
        })?;
    }
    let past = daemon.node.past.read();
    let past = past.of(volume).ok_or_else(|| no_volume(volume))?;
    let rules = past.schedule.iter().map(|scheduled| rule_line(past, scheduled)).collect();
    let all = Schedule { rules: past.schedule.iter().map(|scheduled| scheduled.rule).collect() };
    Ok(ScheduleStatus { schedule: all.to_string(), rules })
}

fn rule_line(past: &VolumePast, scheduled: &Scheduled) -> RuleLine {
    let Scheduled { rule, last, missed } = scheduled;
    let made = past.snapshots.iter().filter(|(_, snapshot)| snapshot.every_ns == Some(rule.every_ns));
    RuleLine {
        rule: Schedule { rules: vec![*rule] }.to_string(),
        made: made.clone().count() as u64,
        newest: made.max_by_key(|(_, snapshot)| snapshot.tid).map(|(name, _)| name.to_string()),
        missed: *missed,
        next: Timestamp::of_tid(Tid(last.0.saturating_add(rule.every_ns))).to_string(),
    }
}

async fn ask(daemon: &Daemon, body: RequestBody) -> Result<(), Asked> {
    request(&daemon.node, body, PATIENCE, "gavel snapshot list").await
}

fn said(name: &str, asked: Asked) -> String {
    match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::Exists) => format!("there is a snapshot {name} already"),
        Asked::Refused(Refusal::Missing) => format!("there is no snapshot {name}"),
        Asked::Refused(Refusal::Full) => {
            format!(
                "there are {} snapshots already, and no more are kept: delete some",
                gavel_types::limits::SNAPSHOTS_MAX
            )
        }
        Asked::Refused(Refusal::Pruned) => "this state is not kept any more".into(),
        Asked::Refused(Refusal::BadName) => format!(
            "{name:?} cannot be a snapshot's name: a letter or `_`, then letters, digits, `-`, `_` and `.`, {} bytes at most, with a note of at most {}",
            gavel_types::limits::SNAPSHOT_NAME_BYTES_MAX,
            gavel_types::limits::NOTE_BYTES_MAX
        ),
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}
