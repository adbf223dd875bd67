//! Retention: which past states of a volume stay, what would go, and states that mounts need.
//!
//! - [`below`]: directories that keep less than their volume

pub mod below;

use crate::host::asked::{self, Asked};
use crate::host::daemon::Daemon;
use crate::host::node::Input;
use gavel_store::engine::Engine;
use gavel_store::records::Records;
use gavel_txn::prune::{Keeping, Readable, Span};
use gavel_txn::{Follower, VolumePast, prune_step};
use gavel_types::retention::CLASSES_MAX;
use gavel_types::{At, BlobId, Key, ObjectId, Retention, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{Content, Ended, Record, Refusal, RequestBody, Version, ViewError};
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
    /// How is it of one path?
    ShowOf {
        /// The path within the volume, as bytes.
        path: Vec<u8>,
    },
    /// Set the policy of a path, and of all that lies below it.
    SetOf {
        /// The path within the volume, as bytes.
        path: Vec<u8>,
        /// As it is written; none: that of the volume.
        policy: Option<String>,
        /// Only say what would go.
        dry_run: bool,
        /// The user.
        uid: u32,
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
    /// Policies that directories of the volume may have, beside its own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub others: Vec<String>,
    /// Objects whose policy was changed, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed: Option<u64>,
    /// Of all states, those that have a name.
    pub snapshots: u64,
    /// Of all states, those that mounts need.
    pub pins: u64,
    /// Mirrors in other clusters that history waits for: by name, the state that each has come to, and how long.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub waits_for: Vec<String>,
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
    /// Bytes of the blobs that only they name.
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
            let policy = parsed(&policy)?;
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
        RetentionAsk::ShowOf { path } => below::show(daemon, volume, &path),
        RetentionAsk::SetOf { path, policy, dry_run, uid } => {
            let policy = policy.as_deref().map(parsed).transpose()?;
            match dry_run {
                true => below::preview(daemon, volume, path, policy).await,
                false => below::set(daemon, volume, &path, policy, uid).await,
            }
        }
    }
}

fn parsed(policy: &str) -> Result<Retention, String> {
    policy.parse().map_err(|error: gavel_types::retention::RetentionError| error.to_string())
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
        others: past.classes.values().map(|class| class.policy.to_string()).collect(),
        changed: None,
        snapshots: past.snapshots.len() as u64,
        pins: past.pins.len() as u64,
        waits_for: past.followers.iter().filter_map(|(name, follower)| waits_for(name, follower)).collect(),
        sweeping: past.pass.is_some() && !past.is_being_counted(),
        preview: None,
    }
}

/// As far as is known without a clock: one that is away for longer than that is not waited for.
fn waits_for(name: &str, follower: &Follower) -> Option<String> {
    let limit = follower.keep_for_ns.map_or("for ever".into(), |ns| format!("for {} s", ns / 1_000_000_000));
    (follower.at != Tid::ZERO).then(|| format!("{name}, {limit} since {}", Timestamp::of_tid(follower.at)))
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
        let pruned = VolumePast { policy, ..past }.pruned(Tid(node.cluster_ns()));
        let counting = preview(&live, volume, &pruned.keeping())?;
        status.preview = Some(counting.finish(&node.records).map_err(|error| error.to_string())?);
        Ok(status)
    });
    work.await.map_err(|error| error.to_string())?
}

/// Counts what would go.
struct Counting {
    found: Preview,
    /// Blobs that versions which would go name: how many of them, and the blob's bytes.
    blobs: BTreeMap<BlobId, (usize, u32)>,
}

impl Counting {
    fn new(readable: Readable<'_>) -> Counting {
        let horizon_time = Timestamp::of_tid(readable.horizon).to_string();
        let found = Preview { horizon_time, kept: readable.kept.len() as u64, ..Preview::default() };
        Counting { found, blobs: BTreeMap::new() }
    }

    /// A version that has ended.
    fn count(&mut self, readable: Readable<'_>, key: &Key, delete: Tid, version: &Version) {
        self.found.looked_at += 1;
        if readable.shows(Span { create: version.create, delete: Some(delete) }) {
            return;
        }
        self.found.versions += 1;
        // The version's row, and two rows of the change index.
        let keys = 3 * (1 + key.as_bytes().len() + size_of::<Tid>());
        self.found.bytes += (keys + version.encode().len()) as u64;
        if let Record::Extent(extent) = &version.record
            && let Content::Blob { id, blob_len, .. } = &extent.content
            && (self.blobs.len() < PREVIEW_BLOBS_MAX || self.blobs.contains_key(id))
        {
            self.blobs.entry(*id).or_insert((0, *blob_len)).0 += 1;
        }
    }

    /// All of it: of blobs, those that nothing else names.
    fn finish<E: Engine>(mut self, records: &Records<E>) -> Result<Preview, ViewError> {
        for (blob, (gone, bytes)) in self.blobs {
            if records.names(blob, gone + 1)? == gone {
                self.found.blob_bytes += u64::from(bytes);
            }
        }
        Ok(self.found)
    }
}

/// Looks through the versions that have ended, some at a time.
fn preview(live: &dyn Ended, volume: VolumeId, keeping: &Keeping<'_>) -> Result<Counting, String> {
    let begun = Instant::now();
    let mut counting = Counting::new(keeping.volume);
    let mut of_object = (ObjectId::VOLUME, keeping.volume);
    let mut after: Option<(Key, Tid)> = None;
    loop {
        let from = after.as_ref().map(|(key, tid)| (key, *tid));
        let page = live.ended_from(volume, from, PREVIEW_PAGE).map_err(|error| error.to_string())?;
        for (key, delete, version) in &page {
            if of_object.0 != key.object() {
                let readable = prune_step::readable_of(live, keeping, volume, key.object());
                of_object = (key.object(), readable.map_err(|error| error.to_string())?);
            }
            counting.count(of_object.1, key, *delete, version);
        }
        let full = page.len() == PREVIEW_PAGE;
        after = page.into_iter().next_back().map(|(key, delete, _)| (key, delete));
        counting.found.partial = full && begun.elapsed() > PREVIEW_TIME;
        if !full || counting.found.partial {
            return Ok(counting);
        }
    }
}

async fn request(daemon: &Daemon, body: RequestBody, patience: Duration) -> Result<(), Asked> {
    asked::request(&daemon.node, body, patience, "gavel retention show").await
}

fn said(asked: Asked) -> String {
    match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::BadPolicy) => {
            "this policy keeps too many states, or all policies of the cluster together would".into()
        }
        Asked::Refused(Refusal::Full) => format!(
            "directories of a volume have {CLASSES_MAX} different policies at most; `gavel retention show` lists them: use one of these"
        ),
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
        Some(At::Tid(at)) => Some((mount.volume.number()?, at)),
        _ => None,
    };
    let mut needed: BTreeSet<(VolumeId, Tid)> = mounts.iter().filter_map(state).collect();
    needed.extend(daemon.transactions.starts());
    needed.extend(daemon.sending.states());
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
