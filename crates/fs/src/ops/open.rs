//! `open`: the object is there and can be opened; truncates it if asked to.

use super::Answer;
use super::setattr;
use crate::changes::Changes;
use crate::tree::Tree;
use crate::{FsError, Reply, Stop};
use gavel_types::ObjectId;
use gavel_wire::Kind;

/// Truncation of what holds no bytes does nothing, as in `open(2)`.
pub(super) fn open(tree: &Tree<'_>, object: ObjectId, truncate: bool, kill_suidgid: bool) -> Result<Answer, Stop> {
    let kind = tree.firm(object)?.kind;
    if kind == Kind::Directory {
        return Err(FsError::IsDirectory.into());
    }
    if !truncate || kind != Kind::File {
        return Answer::read(Reply::Object(object));
    }
    let attr = tree.attr(object)?;
    if let Some(part) = setattr::truncate_partly(tree, object, &attr, 0)? {
        return Ok(part);
    }
    let mut changes = Changes::new(tree.volume());
    let truncated = setattr::truncate(&mut changes, object, attr, 0, kill_suidgid);
    changes.put_attr(object, truncated);
    Answer::write(changes, Reply::Object(object))
}
