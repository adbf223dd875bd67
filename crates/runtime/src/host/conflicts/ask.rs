//! What the control socket is asked about conflicts.

use crate::host::conflicts::words::{self, Paths};
use crate::host::conflicts::{Conflict, ConflictId, Why};
use crate::host::daemon::Daemon;
use gavel_client::{Answer, Tree, TreeError, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::VolumeId;
use gavel_wire::Content;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most bytes of a write that are shown.
pub const HEAD_BYTES: usize = 512;

/// A conflict, for `gavel conflict list`. Part of the machine-readable output: fields are only added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConflictLine {
    /// Its number.
    pub id: ConflictId,
    /// When it was answered: seconds since the epoch, by the cluster's clock.
    pub time: u64,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The volume.
    pub volume: u32,
    /// What it was, in words.
    pub what: String,
    /// Why it was not committed: `changed`, `depends`, `unknown`, `refused` or `too-many`; or `unreadable`, of a file that is damaged.
    pub code: String,
    /// The same in words.
    pub why: String,
}

/// A conflict with all that is known of it, for `gavel conflict show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConflictDetail {
    /// As in the list.
    pub line: ConflictLine,
    /// The operation, as the program has it.
    pub operation: String,
    /// How many bytes a write has.
    pub bytes: Option<u64>,
    /// The first of them.
    pub head: Option<Vec<u8>>,
    /// Why they can't be shown.
    pub unreadable: Option<String>,
}

/// All conflicts, oldest first.
pub async fn list(daemon: &Arc<Daemon>) -> Result<Vec<ConflictLine>, String> {
    let daemon = daemon.clone();
    run(move || {
        let ids = daemon.node.conflicts.ids();
        let read: Vec<_> = ids.into_iter().map(|id| (id, daemon.node.conflicts.get(id))).collect();
        lines(&daemon, &read)
    })
    .await
}

/// One conflict.
pub async fn show(daemon: &Arc<Daemon>, id: ConflictId) -> Result<ConflictDetail, String> {
    let conflict = one(daemon, id).await?;
    let (bytes, unreadable) = match words::content(&conflict.operation) {
        Some(Content::Inline(bytes)) => (Some(bytes.to_vec()), None),
        Some(Content::Blob { id, .. }) => match daemon.blobs.fetch(*id).await {
            Ok(bytes) => (Some(bytes.to_vec()), None),
            Err(error) => (None, Some(error.to_string())),
        },
        _ => (None, None),
    };
    let operation = match &conflict.operation {
        // Its bytes are shown apart.
        Operation::Write { object, offset, append, len, .. } => {
            format!("Write {{ object: {object}, offset: {offset}, append: {append}, len: {len} }}")
        }
        other => format!("{other:?}"),
    };
    let daemon = daemon.clone();
    let line = run(move || lines(&daemon, &[(id, Ok(Some(conflict)))])).await?.pop();
    Ok(ConflictDetail {
        line: line.ok_or_else(|| none(id))?,
        operation,
        bytes: bytes.as_ref().map(|bytes| bytes.len() as u64),
        head: bytes.map(|bytes| bytes[..bytes.len().min(HEAD_BYTES)].to_vec()),
        unreadable,
    })
}

/// Runs the operation of a conflict anew, on the present state, as the user who asked for it. It is dropped if that succeeds.
pub async fn replay(daemon: &Arc<Daemon>, id: ConflictId) -> Result<(), String> {
    let conflict = one(daemon, id).await?;
    let request = request_of(daemon, conflict.operation).await?;
    let (tell, told) = tokio::sync::oneshot::channel::<Result<Answer, TreeError>>();
    let tree = daemon.tree(conflict.volume, true);
    tree.submit(conflict.caller, request, Box::new(move |answer| drop(tell.send(answer))));
    match told.await {
        Ok(Ok(_)) => {}
        Ok(Err(TreeError::Fs(error))) => return Err(format!("it cannot be done on the present state: {error}")),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("the node is shutting down".into()),
    }
    let dropped = drop_one(daemon, id).await;
    dropped.map_err(|error| format!("it was done, but conflict {id} could not be dropped: {error}"))
}

/// Forgets these conflicts; none of them if one is not there.
pub async fn drop_some(daemon: &Arc<Daemon>, ids: Vec<ConflictId>) -> Result<(), String> {
    if let Some(id) = ids.iter().find(|id| !daemon.node.conflicts.ids().contains(id)) {
        return Err(format!("{}; none was dropped", none(*id)));
    }
    for id in ids {
        drop_one(daemon, id).await?;
    }
    Ok(())
}

/// The operation, as a program would ask for it: bytes in a blob are stored on a majority anew.
async fn request_of(daemon: &Daemon, operation: Operation) -> Result<TreeRequest, String> {
    match operation {
        Operation::Write { object, offset, append, content: Content::Blob { id, .. }, kill_suidgid, .. } => {
            let data = daemon.blobs.fetch(id).await.map_err(|error| error.to_string())?.to_vec();
            Ok(TreeRequest::Write { object, offset, append, data, kill_suidgid })
        }
        operation => Ok(TreeRequest::Operation(operation)),
    }
}

async fn drop_one(daemon: &Arc<Daemon>, id: ConflictId) -> Result<(), String> {
    let daemon = daemon.clone();
    let held = daemon.node.conflicts.get(id).ok().flatten().and_then(|conflict| conflict.blob());
    run(move || match daemon.node.conflicts.forget(id) {
        Ok(true) => {
            held.into_iter().for_each(|blob| daemon.blobs.in_use.let_go(blob));
            Ok(())
        }
        Ok(false) => Err(none(id)),
        Err(error) => Err(error.to_string()),
    })
    .await
}

async fn one(daemon: &Arc<Daemon>, id: ConflictId) -> Result<Conflict, String> {
    let daemon = daemon.clone();
    run(move || match daemon.node.conflicts.get(id) {
        Ok(Some(conflict)) => Ok(conflict),
        Ok(None) => Err(none(id)),
        Err(error) => Err(error.to_string()),
    })
    .await
}

fn none(id: ConflictId) -> String {
    format!("there is no conflict {id}")
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

type Read = (ConflictId, std::io::Result<Option<Conflict>>);

fn lines(daemon: &Daemon, read: &[Read]) -> Result<Vec<ConflictLine>, String> {
    let view = daemon.node.latest();
    let whole = |(_, conflict): &Read| conflict.as_ref().ok().and_then(|conflict| conflict.clone());
    let mut volumes: Vec<VolumeId> = read.iter().filter_map(whole).map(|conflict| conflict.volume).collect();
    volumes.sort_unstable();
    volumes.dedup();
    let of = |volume| {
        let objects = read.iter().filter_map(whole).filter(move |conflict| conflict.volume == volume);
        objects.flat_map(|conflict| words::named(&conflict)).collect::<Vec<_>>()
    };
    let paths: Vec<(VolumeId, Paths<'_>)> =
        volumes.iter().map(|volume| (*volume, Paths::of(&view, *volume, of(*volume)))).collect();
    let line = |(id, conflict): &Read| match conflict {
        Ok(Some(conflict)) => {
            let (_, paths) = paths.iter().find(|(volume, _)| *volume == conflict.volume)?;
            Some(line(*id, conflict, paths))
        }
        // Dropped meanwhile.
        Ok(None) => None,
        Err(error) => Some(unreadable(*id, error.to_string())),
    };
    Ok(read.iter().filter_map(line).collect())
}

fn line(id: ConflictId, conflict: &Conflict, paths: &Paths<'_>) -> ConflictLine {
    let Caller { uid, gid } = conflict.caller;
    let code = match conflict.why {
        Why::Changed { .. } => "changed",
        Why::Depends => "depends",
        Why::Unknown => "unknown",
        Why::Refused => "refused",
        Why::TooMany => "too-many",
    };
    ConflictLine {
        id,
        time: conflict.time.0 / 1_000_000_000,
        uid,
        gid,
        volume: conflict.volume.0,
        what: words::what(&conflict.operation, paths),
        code: code.into(),
        why: words::why(&conflict.why, paths),
    }
}

fn unreadable(id: ConflictId, why: String) -> ConflictLine {
    let (code, what) = ("unreadable".into(), "its file cannot be read".into());
    ConflictLine { id, time: 0, uid: 0, gid: 0, volume: 0, what, code, why }
}
