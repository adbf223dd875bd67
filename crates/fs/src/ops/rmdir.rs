//! `rmdir`: an empty directory goes.
//!
//! Collides with whatever makes a name in it: that depends on the directory's firm half, which changes here, and this
//! depends on there being no name.

use super::Answer;
use crate::changes::Changes;
use crate::tree::Tree;
use crate::{FsError, Reply, Stop, name};
use gavel_types::ObjectId;
use gavel_wire::Kind;

pub(super) fn rmdir(tree: &Tree<'_>, parent: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    name::check(name)?;
    let dirent = tree.present(parent, name)?;
    if dirent.kind != Kind::Directory {
        return Err(FsError::NotDirectory.into());
    }
    if !tree.is_empty_directory(dirent.object)? {
        return Err(FsError::NotEmpty.into());
    }
    let attr = tree.named_attr(dirent.object)?;
    let mut changes = Changes::new(tree.volume());
    changes.delete_dirent(parent, name);
    changes.remove_directory(dirent.object, attr);
    changes.adjust_names(parent, -1, -1);
    Answer::write(changes, Reply::Empty)
}
