//! `copy_file_range`: one file shares the extents of another.
//!
//! Bytes in blobs stay where they are; inline bytes are copied in the plan. Holes stay holes. The system call may copy
//! less than it was asked for, so a call that meets many extents stops behind some of them.

use super::Answer;
use super::write::{end_of, modify};
use crate::changes::Changes;
use crate::tree::{Tree, regular};
use crate::{FsError, Reply, Stop, extents, privileges};
use gavel_types::ObjectId;
use gavel_types::limits::{INLINE_BYTES_MAX, REQUEST_BYTES_MAX};
use gavel_wire::Extent;
use std::ops::ControlFlow;

/// Most bytes that one call copies, holes too: what the kernel is told of them has 32 bits.
pub const COPY_BYTES_MAX: u64 = 1 << 30;
/// Most extents that one call copies.
pub const COPY_EXTENTS_MAX: usize = 4096;
/// Most inline bytes that one call copies.
pub const COPY_INLINE_BYTES_MAX: u64 = 1024 * 1024;
/// Most bytes of an extent in a request, besides inline bytes.
const EXTENT_BYTES_MAX: usize = 128;
const _: () =
    assert!(COPY_EXTENTS_MAX * EXTENT_BYTES_MAX + COPY_INLINE_BYTES_MAX as usize <= REQUEST_BYTES_MAX * 3 / 4);
const _: () = assert!(INLINE_BYTES_MAX as u64 <= COPY_INLINE_BYTES_MAX);

/// A file and an offset in it.
type Place = (ObjectId, u64);

pub(super) fn copy_range(tree: &Tree<'_>, from: Place, to: Place, len: u64) -> Result<Answer, Stop> {
    let source = tree.attr(from.0)?;
    regular(source.firm.kind)?;
    let target = tree.firm(to.0)?;
    regular(target.kind)?;
    let len = len.min(source.size.saturating_sub(from.1));
    if from.0 == to.0 && from.1 < to.1.saturating_add(len) && to.1 < from.1.saturating_add(len) {
        return Err(FsError::Invalid.into());
    }
    if len == 0 {
        return Answer::read(Reply::Written { len: 0, offset: to.1 });
    }
    end_of(to.1, len)?;
    let (copied, runs) = runs(tree, from, len.min(COPY_BYTES_MAX))?;
    let mut changes = Changes::new(tree.volume());
    let end = end_of(to.1, copied)?;
    changes.carve(to.0, to.1, end);
    for (start, Extent { len, content }) in runs {
        changes.fill(to.0, start - from.1 + to.1, len, content);
    }
    modify(tree, &mut changes, to.0, &target, end, privileges::taken_from(tree.cx.caller))?;
    Answer::write(changes, Reply::Written { len: copied, offset: to.1 })
}

/// How many of `len` bytes can be copied at once, and the extents among them with their offsets in the source.
fn runs(tree: &Tree<'_>, from: Place, len: u64) -> Result<(u64, Vec<(u64, Extent)>), Stop> {
    let mut runs = Vec::new();
    let mut inline_bytes = 0;
    let mut copied = len;
    extents::walk(tree, from.0, from.1, from.1 + len, |run| {
        inline_bytes += run.inline_bytes();
        if runs.len() == COPY_EXTENTS_MAX || inline_bytes > COPY_INLINE_BYTES_MAX {
            copied = run.start - from.1;
            return ControlFlow::Break(());
        }
        runs.push((run.start, run.extent()));
        ControlFlow::Continue(())
    })?;
    Ok((copied, runs))
}
