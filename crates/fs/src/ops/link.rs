//! `link`: one more name of a file.
//!
//! Two of one file do not collide, nor with a change of its content: the link count merges.

use super::Answer;
use crate::changes::{CHANGED, Changes};
use crate::tree::Tree;
use crate::{FsError, Reply, Stop, name};
use gavel_types::limits::LINKS_MAX;
use gavel_types::{Key, ObjectId};
use gavel_wire::{AttrDelta, Dirent, Kind, Record};

pub(super) fn link(tree: &Tree<'_>, object: ObjectId, parent: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    name::check(name)?;
    tree.vacant(parent, name)?;
    let kind = tree.firm(object)?.kind;
    if kind == Kind::Directory {
        return Err(FsError::NotPermitted.into());
    }
    if !tree.has_name(object)? {
        return Err(FsError::NotFound.into());
    }
    if links(tree, object)? >= LINKS_MAX {
        return Err(FsError::TooManyLinks.into());
    }
    let mut changes = Changes::new(tree.volume());
    changes.put_dirent(parent, name, Dirent { object, kind });
    changes.adjust(object, AttrDelta { nlink: 1, ..CHANGED });
    changes.adjust_names(parent, 1, 0);
    Answer::write(changes, Reply::Object(object))
}

/// The link count, without depending on it: the commit rule refuses a plan that goes over the limit anyhow.
fn links(tree: &Tree<'_>, object: ObjectId) -> Result<u32, Stop> {
    let found = tree.unguarded().get(&Key::attr(tree.volume(), object))?;
    Ok(match found.map(|version| version.record) {
        Some(Record::Attr(attr)) => attr.nlink,
        _ => 0,
    })
}
