//! `write`: bytes at an offset, or at the end.
//!
//! Two overwrites do not collide, whatever they overlap: each cuts its range out of the extents as they are when it
//! is applied, and the size merges. An append depends on the size, but if it is shipped: then it goes behind the end that it finds. Behind the old end a hole is left: nothing is to be
//! zeroed there, since truncation cuts the extents and room reserved behind the end holds zeros.

use super::Answer;
use crate::changes::{Changes, MODIFIED};
use crate::privileges::{self, CAPABILITIES};
use crate::tree::{Tree, regular};
use crate::{FsError, Reply, Stop};
use gavel_types::limits::{BLOB_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, WRITE_BYTES_MAX};
use gavel_types::{Key, ObjectId, Timestamp};
use gavel_wire::{AttrDelta, Content, Firm, Record, Version};

/// Where to write.
pub(super) enum At {
    Offset(u64),
    End,
}

pub(super) fn write(
    tree: &Tree<'_>,
    object: ObjectId,
    at: At,
    len: u32,
    content: &Content,
    kill_suidgid: bool,
) -> Result<Answer, Stop> {
    let (firm, offset) = match at {
        At::Offset(offset) => (tree.firm(object)?, offset),
        At::End => {
            let attr = tree.attr(object)?;
            (attr.firm, attr.size)
        }
    };
    regular(firm.kind)?;
    let len = u64::from(len);
    check_content(len, content)?;
    if len == 0 {
        return Answer::read(Reply::Written { len, offset });
    }
    let end = end_of(offset, len)?;
    let mut changes = Changes::new(tree.volume());
    changes.carve(object, offset, end);
    changes.fill(object, offset, len, content.clone());
    modify(tree, &mut changes, object, &firm, end, kill_suidgid)?;
    Answer::write(changes, Reply::Written { len, offset })
}

/// Writes behind the end that the file has when the plan is applied.
pub(super) fn append(
    tree: &Tree<'_>,
    object: ObjectId,
    len: u32,
    content: &Content,
    kill_suidgid: bool,
) -> Result<Answer, Stop> {
    // Near the longest that a file can be, it depends on the size whether there is room.
    let known = tree.unguarded().get(&Key::attr(tree.volume(), object))?;
    if matches!(known, Some(Version { record: Record::Attr(attr), .. }) if attr.size > FILE_BYTES_MAX / 2) {
        return write(tree, object, At::End, len, content, kill_suidgid);
    }
    let firm = tree.firm(object)?;
    regular(firm.kind)?;
    let len = u64::from(len);
    check_content(len, content)?;
    if len == 0 {
        return Answer::read(Reply::Appended { len });
    }
    let mut changes = Changes::new(tree.volume());
    // If this replaces the attributes, it is with the size that the view shows.
    modify(tree, &mut changes, object, &firm, 0, kill_suidgid)?;
    changes.append(object, len, content.clone());
    Answer::write(changes, Reply::Appended { len })
}

/// The offset behind `len` bytes at `offset`.
pub(super) fn end_of(offset: u64, len: u64) -> Result<u64, FsError> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(FsError::TooLarge),
    }
}

/// What every change of a file's content does besides: the file is at least `size_min` long, its times are the
/// commit's, and what gives privileges goes (the mode's bits if `kill`).
pub(super) fn modify(
    tree: &Tree<'_>,
    changes: &mut Changes,
    object: ObjectId,
    firm: &Firm,
    size_min: u64,
    kill: bool,
) -> Result<(), Stop> {
    changes.delete_xattr(object, CAPABILITIES);
    let mode = if kill { privileges::after_write(firm.mode) } else { firm.mode };
    if mode == firm.mode {
        changes.adjust(object, AttrDelta { size_min, ..MODIFIED });
    } else {
        let mut attr = tree.attr(object)?;
        attr.firm.mode = mode;
        attr.size = attr.size.max(size_min);
        attr.mtime = Timestamp::COMMIT;
        attr.ctime = Timestamp::COMMIT;
        changes.put_attr(object, attr);
    }
    Ok(())
}

/// Is this content for so many bytes, within the bounds of extents?
fn check_content(len: u64, content: &Content) -> Result<(), FsError> {
    let sound = len <= WRITE_BYTES_MAX as u64
        && match content {
            Content::Inline(bytes) => bytes.len() as u64 == len && bytes.len() <= INLINE_BYTES_MAX,
            Content::Blob { blob_len, offset, .. } => {
                *blob_len as usize <= BLOB_BYTES_MAX && u64::from(*offset) + len <= u64::from(*blob_len)
            }
            Content::Zeros => true,
        };
    if sound { Ok(()) } else { Err(FsError::Invalid) }
}
