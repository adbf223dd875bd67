//! Contents of files as of states, compared line by line.

use crate::host::daemon::Daemon;
use gavel_client::{TreeError, TreeRequest};
use gavel_fs::Operation;
use gavel_history::compare::Aspect;
use gavel_history::diff::{DiffLine, Difference};
use gavel_history::patch::{Patch, TEXT_BYTES_MAX, patch};
use gavel_types::{ObjectId, Tid, VolumeId};
use gavel_wire::Kind;
use std::sync::Arc;

/// What a file that is not there is called.
const NOTHING: &str = "/dev/null";

/// Why there are no bytes.
enum Lacking {
    TooLarge,
    Failed(TreeError),
}

impl From<TreeError> for Lacking {
    fn from(error: TreeError) -> Lacking {
        Lacking::Failed(error)
    }
}

/// Adds the lines that differ, if it is a file whose bytes differ.
pub(super) async fn compare(
    daemon: &Arc<Daemon>,
    volume: VolumeId,
    (old, new): (Tid, Tid),
    difference: &Difference,
    line: &mut DiffLine,
) {
    let one_sided = difference.old.is_none() || difference.new.is_none();
    if difference.kind != Kind::File || !one_sided && !difference.aspects.contains(&Aspect::Content) {
        return;
    }
    let read = async {
        let before = bytes(daemon, volume, difference.old, old).await?;
        Ok((before, bytes(daemon, volume, difference.new, new).await?))
    };
    let (before, after) = match read.await {
        Ok(both) => both,
        Err(Lacking::TooLarge) => return line.no_patch = Some("too-large".into()),
        Err(Lacking::Failed(error)) => return line.no_patch = Some(error.to_string()),
    };
    let name = |side: &str, path: &str, there: bool| if there { format!("{side}/{path}") } else { NOTHING.into() };
    let old_name = name("a", line.from.as_ref().unwrap_or(&line.path), difference.old.is_some());
    let new_name = name("b", &line.path, difference.new.is_some());
    let compared = tokio::task::spawn_blocking(move || patch(&before, &after, &old_name, &new_name)).await;
    match compared {
        Ok(Patch::Same) => {}
        Ok(Patch::Binary) => line.no_patch = Some("binary".into()),
        Ok(Patch::Text(text)) => line.patch = Some(text),
        Err(error) => line.no_patch = Some(error.to_string()),
    }
}

/// The bytes of a file as of a state; none of what is not there.
async fn bytes(daemon: &Arc<Daemon>, volume: VolumeId, object: Option<ObjectId>, at: Tid) -> Result<Vec<u8>, Lacking> {
    let Some(object) = object else { return Ok(Vec::new()) };
    let tree = daemon.tree(volume, false);
    let attr = tree.read_past(at, TreeRequest::Operation(Operation::Getattr { object })).await?;
    let size = match attr.reply {
        gavel_fs::Reply::Attr(_, attr) => attr.size,
        _ => attr.attr.map_or(0, |attr| attr.size),
    };
    if size > TEXT_BYTES_MAX {
        return Err(Lacking::TooLarge);
    }
    Ok(tree.read_past(at, TreeRequest::Read { object, offset: 0, len: size as u32 }).await?.data.into())
}
