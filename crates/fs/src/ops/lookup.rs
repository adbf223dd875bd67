//! `lookup`: what a name names.

use super::Answer;
use crate::tree::Tree;
use crate::{Reply, Stop, name};
use gavel_types::ObjectId;

/// Depends on the name alone; if it is not there, on the directory being one, too.
pub(super) fn lookup(tree: &Tree<'_>, parent: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    name::check(name)?;
    Answer::read(Reply::Object(tree.present(parent, name)?.object))
}
