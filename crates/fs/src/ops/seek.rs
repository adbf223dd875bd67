//! `lseek` for data and holes.

use super::Answer;
use crate::operation::Seek;
use crate::tree::{Tree, regular};
use crate::{FsError, Reply, Stop, extents};
use gavel_types::ObjectId;
use std::ops::ControlFlow;

pub(super) fn seek(tree: &Tree<'_>, object: ObjectId, offset: u64, what: Seek) -> Result<Answer, Stop> {
    let attr = tree.attr(object)?;
    regular(attr.firm.kind)?;
    if offset >= attr.size {
        return Err(FsError::NoData.into());
    }
    let found = match what {
        Seek::Data => first_data(tree, object, offset, attr.size)?.ok_or(FsError::NoData)?,
        Seek::Hole => first_hole(tree, object, offset, attr.size)?,
    };
    Answer::read(Reply::Offset(found))
}

fn first_data(tree: &Tree<'_>, object: ObjectId, from: u64, size: u64) -> Result<Option<u64>, Stop> {
    let mut found = None;
    extents::walk(tree, object, from, size, |run| {
        if run.is_zeros() {
            return ControlFlow::Continue(());
        }
        found = Some(run.start);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

fn first_hole(tree: &Tree<'_>, object: ObjectId, from: u64, size: u64) -> Result<u64, Stop> {
    let mut at = from;
    extents::walk(tree, object, from, size, |run| {
        if run.start > at || run.is_zeros() {
            return ControlFlow::Break(());
        }
        at = run.end;
        ControlFlow::Continue(())
    })?;
    Ok(at)
}
