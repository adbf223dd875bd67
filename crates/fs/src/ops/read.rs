//! `read`: what extents and holes make of a range of a file.

use super::Answer;
use crate::operation::Piece;
use crate::tree::{Tree, regular};
use crate::{Reply, Stop, extents};
use gavel_types::ObjectId;
use gavel_wire::{Content, Extent};
use std::ops::ControlFlow;

/// Most bytes that one read answers with; the rest of a longer one is left out. Well above what a kernel asks for
/// at a time: a short answer would be taken for the end of the file.
pub const READ_BYTES_MAX: u32 = 16 * 1024 * 1024;

pub(super) fn read(tree: &Tree<'_>, object: ObjectId, offset: u64, len: u32) -> Result<Answer, Stop> {
    let attr = tree.attr(object)?;
    regular(attr.firm.kind)?;
    let end = offset.saturating_add(u64::from(len.min(READ_BYTES_MAX))).min(attr.size);
    let mut pieces = Pieces { done: Vec::new(), bytes: Vec::new(), at: offset };
    extents::walk(tree, object, offset, end, |run| {
        if !run.is_zeros() {
            pieces.zeros_up_to(run.start);
            pieces.add(run.extent());
        }
        ControlFlow::Continue(())
    })?;
    pieces.zeros_up_to(end);
    pieces.close();
    Answer::read(Reply::Data(pieces.done))
}

/// An answer in the making: neighbours of a kind become one, so that its size follows the bytes, not the extents.
struct Pieces {
    done: Vec<Piece>,
    /// Bytes behind those that are done.
    bytes: Vec<u8>,
    /// The offset behind all of them.
    at: u64,
}

impl Pieces {
    fn zeros_up_to(&mut self, offset: u64) {
        if offset > self.at {
            self.close();
            self.done.push(Piece::Zeros(offset - self.at));
            self.at = offset;
        }
    }

    fn add(&mut self, Extent { len, content }: Extent) {
        match content {
            Content::Inline(bytes) => self.bytes.extend_from_slice(&bytes),
            Content::Blob { id, blob_len, offset } => {
                self.close();
                self.done.push(Piece::Blob { id, blob_len, offset, len: len as u32 });
            }
            Content::Zeros => return self.zeros_up_to(self.at + len),
        }
        self.at += len;
    }

    /// The bytes so far are a piece.
    fn close(&mut self) {
        if !self.bytes.is_empty() {
            self.done.push(Piece::Bytes(std::mem::take(&mut self.bytes).into_boxed_slice()));
        }
    }
}
