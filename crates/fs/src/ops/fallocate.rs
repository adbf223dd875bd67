//! `fallocate`: reserves room, or makes holes or zeros.
//!
//! Nothing is really set aside: what is reserved is counted as allocated, reads as zeros, and is told apart from a hole.
//! Making holes and zeros depends on nothing but the file being there; reserving depends on the extents in its
//! range, for it must not touch the data between the holes.

use super::Answer;
use super::write::{end_of, modify};
use crate::changes::Changes;
use crate::operation::Allocate;
use crate::tree::{Tree, regular};
use crate::{FsError, Reply, Stop, extents, privileges};
use gavel_types::ObjectId;
use gavel_types::limits::REQUEST_BYTES_MAX;
use gavel_wire::Content;
use std::ops::ControlFlow;

/// Most holes that one operation fills. It must be done whole or not at all, and in one request; a file with more
/// holes than this in the range is refused ([`FsError::TooLarge`]) and can be reserved in parts.
pub const RESERVE_HOLES_MAX: usize = 16 * 1024;
/// Most bytes of one extent of zeros in a request: its key, its length, and what tells them apart.
const ZEROS_BYTES_MAX: usize = 64;
const _: () = assert!(RESERVE_HOLES_MAX * ZEROS_BYTES_MAX <= REQUEST_BYTES_MAX / 2);

pub(super) fn fallocate(
    tree: &Tree<'_>,
    object: ObjectId,
    offset: u64,
    len: u64,
    how: Allocate,
) -> Result<Answer, Stop> {
    let firm = tree.firm(object)?;
    regular(firm.kind)?;
    if len == 0 {
        return Err(FsError::Invalid.into());
    }
    let asked = end_of(offset, len)?;
    let end = match how {
        Allocate::Reserve { .. } => asked,
        Allocate::PunchHole | Allocate::ZeroRange { .. } => extents::hole_of_one_plan(tree, object, offset, asked)?,
    };
    let mut changes = Changes::new(tree.volume());
    let keep_size = match how {
        Allocate::Reserve { keep_size } => {
            for (start, end) in holes(tree, object, offset, end)? {
                changes.fill(object, start, end - start, Content::Zeros);
            }
            keep_size
        }
        Allocate::PunchHole => {
            changes.carve(object, offset, end);
            true
        }
        Allocate::ZeroRange { keep_size } => {
            changes.carve(object, offset, end);
            changes.fill(object, offset, end - offset, Content::Zeros);
            keep_size
        }
    };
    let size_min = if keep_size { 0 } else { end };
    modify(tree, &mut changes, object, &firm, size_min, privileges::taken_from(tree.cx.caller))?;
    Answer::write(changes, if end < asked { Reply::Partly } else { Reply::Empty })
}

/// What no extent covers of `from..to`.
fn holes(tree: &Tree<'_>, object: ObjectId, from: u64, to: u64) -> Result<Vec<(u64, u64)>, Stop> {
    let mut holes = Vec::new();
    let mut at = from;
    extents::walk(tree, object, from, to, |run| {
        if run.start > at {
            holes.push((at, run.start));
        }
        at = run.end;
        if holes.len() < RESERVE_HOLES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if holes.len() >= RESERVE_HOLES_MAX {
        return Err(FsError::TooLarge.into());
    }
    if at < to {
        holes.push((at, to));
    }
    Ok(holes)
}
