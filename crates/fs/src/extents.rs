//! Walks over the extents of a file, a page at a time.

use crate::Stop;
use crate::tree::{Tree, damaged};
use gavel_types::limits::INLINE_BYTES_MAX;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId};
use gavel_wire::{Content, Extent, Record, Version};
use std::ops::ControlFlow;

/// Extents held in memory at a time: with 16 KiB in each, 1 MiB.
const PAGE: usize = 64;
/// Most extents that one plan cuts off a file: whoever applies it holds them in memory, 64 MiB at most.
const CUT_EXTENTS_MAX: usize = 4096;

/// The part of an extent that lies in the range walked over.
pub(crate) struct Run<'a> {
    /// Its first byte's offset in the file.
    pub(crate) start: u64,
    /// The offset behind its last byte.
    pub(crate) end: u64,
    /// Where the whole extent starts.
    extent_start: u64,
    extent: &'a Extent,
}

impl Run<'_> {
    /// The bytes of this part.
    pub(crate) fn extent(&self) -> Extent {
        self.extent.slice(self.start - self.extent_start, self.end - self.extent_start)
    }

    /// Bytes that the part carries itself.
    pub(crate) fn inline_bytes(&self) -> u64 {
        if matches!(self.extent.content, Content::Inline(_)) { self.end - self.start } else { 0 }
    }

    /// Allocated, but nothing but zeros.
    pub(crate) fn is_zeros(&self) -> bool {
        self.extent.content == Content::Zeros
    }
}

/// Shows `visit` what extents hold of `from..to`, in order, until it breaks off.
///
/// The operation depends on the extents that were shown and on the holes before and between them; if `visit` did
/// not break off, on those behind them too.
pub(crate) fn walk(
    tree: &Tree<'_>,
    object: ObjectId,
    from: u64,
    to: u64,
    mut visit: impl FnMut(Run<'_>) -> ControlFlow<()>,
) -> Result<(), Stop> {
    let mut behind = from;
    let all = KeyRange::extents_behind(tree.volume(), object, from);
    if from >= to {
        return Ok(());
    }
    // Mostly, extents are as large as they get: more than these need not be read.
    let mut limit = ((to - from).div_ceil(INLINE_BYTES_MAX as u64) as usize).min(PAGE);
    loop {
        let range = KeyRange::extents_behind(tree.volume(), object, behind);
        let page = tree.unguarded().scan(&range, limit)?;
        for (key, version) in &page {
            let (extent, start, end) = checked(key, version)?;
            let shown = start < to && {
                let run = Run { start: start.max(from), end: end.min(to), extent_start: start, extent };
                visit(run).is_continue()
            };
            if !shown || end >= to {
                // What would be put into the range now, in front of this extent, ends before it.
                return tree.depend_on(&KeyRange { start: all.start, end: KeyRange::one(key).end });
            }
            behind = end;
        }
        if page.len() < limit {
            return tree.depend_on(&all);
        }
        limit = PAGE;
    }
}

/// How far a file of `size` bytes that is to be cut to `to` can be cut by one plan: to that, unless there are too many
/// extents behind it.
pub(crate) fn cut_of_one_plan(tree: &Tree<'_>, object: ObjectId, size: u64, to: u64) -> Result<u64, Stop> {
    if to >= size || few_behind(tree, object, to)? {
        return Ok(to);
    }
    let mut last = (size - to) / 2;
    while last > 0 {
        if few_behind(tree, object, size - last)? {
            return Ok(size - last);
        }
        last /= 2;
    }
    // They lie behind the end of the file.
    Ok(to)
}

/// How far into `from..to` one plan can cut out what there is.
pub(crate) fn hole_of_one_plan(tree: &Tree<'_>, object: ObjectId, from: u64, to: u64) -> Result<u64, Stop> {
    let (mut behind, mut seen) = (from, 0);
    while behind < to && seen < CUT_EXTENTS_MAX {
        let page = tree.unguarded().scan(&KeyRange::extents_behind(tree.volume(), object, behind), PAGE)?;
        seen += page.len();
        match page.last() {
            Some((key, version)) if page.len() == PAGE => behind = checked(key, version)?.2,
            _ => return Ok(to),
        }
    }
    Ok(behind.min(to))
}

/// Can one plan take all extents behind `from`?
fn few_behind(tree: &Tree<'_>, object: ObjectId, from: u64) -> Result<bool, Stop> {
    let (mut behind, mut seen) = (from, 0);
    while seen <= CUT_EXTENTS_MAX {
        let page = tree.unguarded().scan(&KeyRange::extents_behind(tree.volume(), object, behind), PAGE)?;
        seen += page.len();
        match page.last() {
            Some((key, version)) if page.len() == PAGE => behind = checked(key, version)?.2,
            _ => return Ok(seen <= CUT_EXTENTS_MAX),
        }
    }
    Ok(false)
}

/// An extent with its start and end. Nothing that is cut out of it later can be out of its bounds.
fn checked<'a>(key: &Key, version: &'a Version) -> Result<(&'a Extent, u64, u64), Stop> {
    let (KeyParts::Extent { end }, Record::Extent(extent)) = (key.parts(), &version.record) else {
        return Err(damaged(key));
    };
    let sound = extent.len > 0
        && match &extent.content {
            Content::Inline(bytes) => bytes.len() as u64 == extent.len,
            Content::Blob { blob_len, offset, .. } => {
                u64::from(*offset).checked_add(extent.len).is_some_and(|end| end <= u64::from(*blob_len))
            }
            Content::Zeros => true,
        };
    match end.checked_sub(extent.len) {
        Some(start) if sound => Ok((extent, start, end)),
        _ => Err(damaged(key)),
    }
}
