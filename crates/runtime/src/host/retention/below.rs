//! Directories that keep less of their past than their volume.

use super::{Counting, PATIENCE, PREVIEW_PAGE, PREVIEW_TIME, Preview, RetentionStatus, of, request, said, status};
use crate::host::asked;
use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use gavel_fs::{Reclass, Reclassing};
use gavel_history::walk::{self, walk};
use gavel_txn::VolumePast;
use gavel_txn::prune::Readable;
use gavel_types::{Class, Key, KeyRange, ObjectId, Retention, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Author, Dirent, Kind, Record, RequestBody, View, ViewError};
use std::time::Instant;

/// So often one plan may collide with what others do.
const COLLISIONS_MAX: u32 = 100;

/// The policy of a path.
pub(super) fn show(daemon: &Daemon, volume: VolumeId, path: &[u8]) -> Result<RetentionStatus, String> {
    let past = of(daemon, volume)?;
    let (_, attr) = found(&daemon.node, volume, path)?;
    Ok(status_of(&past, attr.firm.class))
}

/// Gives a path, and what lies below it, a policy; none: that of the volume.
///
/// # Errors
/// What went wrong, in words. What was done until then is done: whole plans, from the top down.
pub(super) async fn set(
    daemon: &Daemon,
    volume: VolumeId,
    path: &[u8],
    policy: Option<Retention>,
    uid: u32,
) -> Result<RetentionStatus, String> {
    let (object, _) = found(&daemon.node, volume, path)?;
    let class = match policy {
        None => Class::VOLUME,
        Some(_) if of(daemon, volume)?.origin.is_some() => {
            return Err(
                "this volume is a clone: it keeps the same everywhere; set its own policy, without --dir".into()
            );
        }
        Some(policy) => {
            let body = RequestBody::DefineClass { volume, policy: policy.clone() };
            request(daemon, body, PATIENCE).await.map_err(said)?;
            of(daemon, volume)?.class_of(&policy).ok_or("the policy was not taken: try again")?
        }
    };
    let mut reclass = Reclass::new(volume, object, class);
    let mut collisions = 0;
    loop {
        let mut next = reclass.clone();
        let view = daemon.node.latest();
        let step = next.step(&view).map_err(|error| error.to_string())?;
        let Reclassing::Commit { guards, plan } = step else { break };
        let author = Author::user(uid);
        if plan.mutations.is_empty() || asked::commit(&daemon.node, guards, plan, author, view.tid(), PATIENCE).await? {
            (reclass, collisions) = (next, 0);
        } else if collisions == COLLISIONS_MAX {
            return Err(
                "others change the same files all the time: some have the policy, others not yet; try again".into()
            );
        } else {
            collisions += 1;
        }
    }
    Ok(RetentionStatus { changed: Some(reclass.changed()), ..status_of(&of(daemon, volume)?, class) })
}

/// What would go of what lies there now, if it had this policy. (What was removed from there is not looked for.)
pub(super) async fn preview(
    daemon: &Daemon,
    volume: VolumeId,
    path: Vec<u8>,
    policy: Option<Retention>,
) -> Result<RetentionStatus, String> {
    let past = of(daemon, volume)?;
    let node = daemon.node.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (object, _) = found(&node, volume, &path)?;
        let pruned = match policy.clone() {
            None => past.pruned(Tid(node.cluster_ns())),
            // As if the whole volume had it: what the volume keeps beside does not matter to what lies below a directory.
            Some(policy) => VolumePast { policy, ..past.clone() }.pruned(Tid(node.cluster_ns())),
        };
        let preview = count_below(&node, volume, object, pruned.readable()).map_err(|error| error.to_string())?;
        let policy = policy.unwrap_or_else(|| past.policy.clone());
        Ok(RetentionStatus { policy: policy.to_string(), preview: Some(preview), ..status(&past) })
    });
    work.await.map_err(|error| error.to_string())?
}

/// Looks through the versions of all that lies below an object, and of itself.
fn count_below(
    node: &NodeHandle,
    volume: VolumeId,
    top: ObjectId,
    readable: Readable<'_>,
) -> Result<Preview, ViewError> {
    let begun = Instant::now();
    let (past, live) = (node.records.past(node.tid()), node.replica());
    let mut counting = Counting::new(readable);
    let mut count = |object| {
        for row in past.versions(&KeyRange::object(volume, object)) {
            let row = row?;
            if let Some(delete) = row.delete {
                counting.count(readable, &row.key, delete, &row.version);
            }
        }
        Ok::<bool, ViewError>(begun.elapsed() <= PREVIEW_TIME)
    };
    let mut in_time = count(top)?;
    let mut names = vec![KeyRange::dirents(volume, top)];
    while let Some(mut range) = names.pop().filter(|_| in_time) {
        let page = live.scan(&range, PREVIEW_PAGE)?;
        if let Some((last, _)) = page.last().filter(|_| page.len() == PREVIEW_PAGE) {
            range.start = KeyRange::one(last).end;
            names.push(range);
        }
        for (_, version) in page {
            let Record::Dirent(Dirent { object, kind }) = version.record else { continue };
            in_time = in_time && count(object)?;
            names.extend((kind == Kind::Directory).then(|| KeyRange::dirents(volume, object)));
        }
    }
    counting.found.partial = !in_time;
    Ok(counting.found)
}

fn status_of(past: &VolumePast, class: Class) -> RetentionStatus {
    let whole = status(past);
    match past.classes.get(&class) {
        None => whole,
        Some(of_class) => RetentionStatus {
            policy: of_class.policy.to_string(),
            horizon: of_class.horizon.to_string(),
            horizon_time: gavel_types::Timestamp::of_tid(of_class.horizon).to_string(),
            kept: of_class.kept.len() as u64,
            ..whole
        },
    }
}

/// What has a path now.
fn found(node: &NodeHandle, volume: VolumeId, path: &[u8]) -> Result<(ObjectId, Attr), String> {
    let view = node.latest();
    let place = walk(&view, volume, path).map_err(|error| error.to_string())?;
    let missing = || format!("{}: there is nothing of this name", walk::shown(path));
    let object = place.object.ok_or_else(missing)?;
    let version = view.get(&Key::attr(volume, object)).map_err(|error| error.to_string())?;
    match version.map(|version| version.record) {
        Some(Record::Attr(attr)) => Ok((object, attr)),
        _ => Err(missing()),
    }
}
