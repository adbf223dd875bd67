//! Retention: which past states of a volume stay, what would go, and states that mounts need.

use crate::host::asked::{self, Asked};
use crate::host::daemon::Daemon;
use crate::host::node::Input;
use gavel_txn::VolumePast;
use gavel_txn::prune::{Readable, Span};
use gavel_types::{At, BlobId, Key, Retention, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{Content, Ended, Record, Refusal, RequestBody};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the quorum may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a mount of a past state waits for the quorum to keep that state from being pruned.
const PIN_PATIENCE: Duration = Duration::from_secs(2);
/// A preview looks at so many versions at a time, and no longer than this in all.
const PREVIEW_PAGE: usize = 1024;
const PREVIEW_TIME: Duration = Duration::from_secs(20);
/// Most blobs of which a preview remembers that they were counted.
const PREVIEW_BLOBS_MAX: usize = 1_000_000;
/// Pins are compared with mounts so often; what is in no mount so many times in a row is let go of.
const KEEP_EVERY: Duration = Duration::from_secs(2);
const UNUSED_MAX: u32 = 3;

/// What is asked about the retention of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RetentionAsk {
    /// How is it?
    Show {},
    /// Set the policy.
    Set {
        /// As it is written.
        policy: String,
        /// Only say what would go.
        dry_run: bool,
    },
    /// Prune now, as the policy says.
    Prune {
        /// Only say what would go.
        dry_run: bool,
    },
}

/// The retention of a volume, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetentionStatus {
    /// The policy that is in force, or would be.
    pub policy: String,
    /// From which state on all are whole, as a transaction.
    pub horizon: String,
    /// The same as a time, to the second.
    pub horizon_time: String,
    /// States before the horizon that are kept.
    pub kept: u64,
    /// Of all states, those that have a name.
    pub snapshots: u64,
    /// Of all states, those that mounts need.
    pub pins: u64,
    /// Is what was pruned being removed?
    pub sweeping: bool,
    /// What would go, if that was asked.
    pub preview: Option<Preview>,
}

/// What pruning would remove.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    /// Where the horizon would be, as a time.
    pub horizon_time: String,
    /// States that would be kept before it.
    pub kept: u64,
    /// Versions that were looked at.
    pub looked_at: u64,
    /// Those of them that would go.
    pub versions: u64,
    /// Bytes of their rows on this replica, before compression.
    pub bytes: u64,
    /// Bytes of the blobs that they name. These are not returned yet: blobs are not collected, and other versions may name them.
    pub blob_bytes: u64,
    /// There is more than could be looked at in time: at least so much would go.
    pub partial: bool,
}

/// Answers a question about the retention of a volume.
///
/// # Errors
/// What went wrong, in words.
pub async fn ask(daemon: &Daemon, volume: VolumeId, ask: RetentionAsk) -> Result<RetentionStatus, String> {
    let past = of(daemon, volume)?;
    match ask {
        RetentionAsk::Show {} => Ok(status(&past)),
        RetentionAsk::Set { policy, dry_run } => {
            let policy: Retention =
                policy.parse().map_err(|e: gavel_types::retention::RetentionError| e.to_string())?;
            if dry_run {
                return previewed(daemon, volume, past, policy).await;
            }
            request(daemon, RequestBody::SetRetention { volume, policy }, PATIENCE).await.map_err(said)?;
            Ok(status(&of(daemon, volume)?))
        }
        RetentionAsk::Prune { dry_run: true } => {
            let policy = past.policy.clone();
            previewed(daemon, volume, past, policy).await
        }
        RetentionAsk::Prune { dry_run: false } => {
            request(daemon, RequestBody::Prune { volume }, PATIENCE).await.map_err(said)?;
            Ok(status(&of(daemon, volume)?))
        }
    }
}

fn of(daemon: &Daemon, volume: VolumeId) -> Result<VolumePast, String> {
    daemon.node.past.read().of(volume).cloned().ok_or_else(|| format!("there is no volume {volume}"))
}

fn status(past: &VolumePast) -> RetentionStatus {
    RetentionStatus {
        policy: past.policy.to_string(),
        horizon: past.horizon.to_string(),
        horizon_time: Timestamp::of_tid(past.horizon).to_string(),
        kept: past.kept.len() as u64,
        snapshots: past.snapshots.len() as u64,
        pins: past.pins.len() as u64,
        sweeping: past.pass.is_some(),
        preview: None,
    }
}

async fn previewed(
    daemon: &Daemon,
    volume: VolumeId,
    past: VolumePast,
    policy: Retention,
) -> Result<RetentionStatus, String> {
    let node = daemon.node.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut status = status(&past);
        status.policy = policy.to_string();
        let live = node.records.live(node.tid());
        let (horizon, kept) = past.plan_of(&policy, Tid(node.cluster_ns())).unwrap_or((past.horizon, past.kept));
        status.preview = Some(preview(&live, volume, Readable { horizon, kept: &kept })?);
        Ok(status)
    });
    work.await.map_err(|error| error.to_string())?
}

/// Looks through the versions that have ended, some at a time.
fn preview(live: &dyn Ended, volume: VolumeId, readable: Readable<'_>) -> Result<Preview, String> {
    let begun = Instant::now();
    let horizon_time = Timestamp::of_tid(readable.horizon).to_string();
    let mut found = Preview { horizon_time, kept: readable.kept.len() as u64, ..Preview::default() };
    let mut blobs: BTreeSet<BlobId> = BTreeSet::new();
    let mut after: Option<(Key, Tid)> = None;
    loop {
        let from = after.as_ref().map(|(key, tid)| (key, *tid));
        let page = live.ended_from(volume, from, PREVIEW_PAGE).map_err(|error| error.to_string())?;
        found.looked_at += page.len() as u64;
        for (key, delete, version) in &page {
            if readable.shows(Span { create: version.create, delete: Some(*delete) }) {
                continue;
            }
            found.versions += 1;
            // The version's row, and two rows of the change index.
            let keys = 3 * (1 + key.as_bytes().len() + size_of::<Tid>());
            found.bytes += (keys + version.encode().len()) as u64;
            if let Record::Extent(extent) = &version.record
                && let Content::Blob { id, blob_len, .. } = &extent.content
                && blobs.len() < PREVIEW_BLOBS_MAX
                && blobs.insert(*id)
            {
                found.blob_bytes += u64::from(*blob_len);
            }
        }
        let full = page.len() == PREVIEW_PAGE;
        after = page.into_iter().next_back().map(|(key, delete, _)| (key, delete));
        found.partial = full && begun.elapsed() > PREVIEW_TIME;
        if !full || found.partial {
            return Ok(found);
        }
    }
}

async fn request(daemon: &Daemon, body: RequestBody, patience: Duration) -> Result<(), Asked> {
    asked::request(&daemon.node, body, patience, "gavel retention show").await
}

fn said(asked: Asked) -> String {
    match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::BadPolicy) => "this policy keeps too many states".into(),
        Asked::Refused(Refusal::Missing) => "there is no such volume".into(),
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}

/// A mount needs this state: it must not be pruned. If no quorum can be asked, [`keep_pins`] goes on trying.
///
/// # Errors
/// If it is gone, or too many are needed, in words.
pub(super) async fn pin(daemon: &Daemon, volume: VolumeId, at: Tid) -> Result<(), String> {
    match request(daemon, RequestBody::Pin { volume, at }, PIN_PATIENCE).await {
        Err(Asked::Refused(Refusal::Full)) => {
            Err(format!("{} states are needed by mounts already", gavel_types::limits::PINS_MAX))
        }
        Err(Asked::Refused(_)) => Err("this state is not kept any more".into()),
        Ok(()) | Err(Asked::Failed(_)) => Ok(()),
    }
}

/// Keeps the session's pins to what is mounted: a new session has none, and a mount that has ended needs none.
pub(super) async fn keep_pins(daemon: std::sync::Weak<Daemon>) {
    let mut unused: BTreeMap<(VolumeId, Tid), u32> = BTreeMap::new();
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        let Some(daemon) = daemon.upgrade() else { return };
        if daemon.node.stopped.borrow().is_some() {
            return;
        }
        keep_pins_once(&daemon, &mut unused).await;
    }
}

async fn keep_pins_once(daemon: &Arc<Daemon>, unused: &mut BTreeMap<(VolumeId, Tid), u32>) {
    let mounts = daemon.mounter.mounts();
    let state = |mount: &crate::config::MountConfig| match mount.at {
        Some(At::Tid(at)) => Some((mount.volume, at)),
        _ => None,
    };
    let needed: BTreeSet<(VolumeId, Tid)> = mounts.iter().filter_map(state).collect();
    if needed.is_empty() && daemon.node.past.read().volumes().all(|(_, past)| past.pins.is_empty()) {
        return;
    }
    let (reply, status) = oneshot::channel();
    daemon.node.inbox.push(Input::Status(reply));
    let Ok(Some(session)) = status.await.map(|status| status.session) else { return };
    let pinned = pins_of(daemon, SessionId(session));
    for (volume, at) in needed.difference(&pinned) {
        if let Err(error) = pin(daemon, *volume, *at).await {
            tracing::warn!(%volume, %at, %error, "what is mounted as of a past state cannot be read any more");
        }
    }
    unused.retain(|state, _| pinned.contains(state) && !needed.contains(state));
    for (volume, at) in pinned.difference(&needed) {
        let times = unused.entry((*volume, *at)).or_default();
        *times += 1;
        if *times >= UNUSED_MAX {
            // If it does not come to that, the next round tries again.
            let _ = request(daemon, RequestBody::Unpin { volume: *volume, at: *at }, PIN_PATIENCE).await;
        }
    }
}

fn pins_of(daemon: &Daemon, session: SessionId) -> BTreeSet<(VolumeId, Tid)> {
    let past = daemon.node.past.read();
    let mine = |(volume, past): (VolumeId, &VolumePast)| -> Vec<(VolumeId, Tid)> {
        let pins = past.pins.iter().filter(|(_, sessions)| sessions.contains(&session));
        pins.map(|(at, _)| (volume, *at)).collect()
    };
    past.volumes().flat_map(mine).collect()
}
