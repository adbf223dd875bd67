//! `getattr`: all attributes of an object.

use super::Answer;
use crate::tree::Tree;
use crate::{Reply, Stop};
use gavel_types::ObjectId;

pub(super) fn getattr(tree: &Tree<'_>, object: ObjectId) -> Result<Answer, Stop> {
    Answer::read(Reply::Attr(object, tree.attr(object)?))
}
