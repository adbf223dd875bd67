//! `unlink`: a name of anything but a directory goes.
//!
//! With the last name the object becomes an orphan: its records stay for those who have it open.

use super::Answer;
use crate::changes::Changes;
use crate::tree::Tree;
use crate::{FsError, Reply, Stop, name};
use gavel_types::ObjectId;
use gavel_wire::Kind;

pub(super) fn unlink(tree: &Tree<'_>, parent: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    name::check(name)?;
    let dirent = tree.present(parent, name)?;
    if dirent.kind == Kind::Directory {
        return Err(FsError::IsDirectory.into());
    }
    let attr = tree.named_attr(dirent.object)?;
    let mut changes = Changes::new(tree.volume());
    changes.delete_dirent(parent, name);
    changes.drop_link(dirent.object, &attr);
    changes.adjust_names(parent, -1, 0);
    Answer::write(changes, Reply::Empty)
}
