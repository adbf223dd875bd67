//! Memory for large records that are read: used again and again, because memory that is fresh has to be cleared by the kernel first.

use crate::disk::{AlignedBuffer, DIRECT_ALIGN};
use bytes::Bytes;
use gavel_types::limits::WRITE_BYTES_MAX;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a buffer that is used again: room for the record of a blob that was written at once, wherever it begins.
const BUFFER_BYTES: usize = WRITE_BYTES_MAX + 2 * DIRECT_ALIGN;
/// For records of fewer bytes than this, such a buffer would be a waste while it is in use.
pub(super) const LARGE_BYTES_MIN: usize = WRITE_BYTES_MAX / 2;
/// Most buffers that are kept while nobody uses them.
const FREE_MAX: usize = 16;

type Free = Arc<Mutex<Vec<AlignedBuffer>>>;

/// Buffers that wait to be used.
#[derive(Debug, Default)]
pub(super) struct Buffers(Free);

impl Buffers {
    /// One of at least so many bytes, whatever they are.
    pub(super) fn take(&self, bytes: usize) -> Lent {
        if bytes > BUFFER_BYTES {
            return Lent { buffer: Some(AlignedBuffer::new(bytes)), home: None };
        }
        let buffer = self.0.lock().pop().unwrap_or_else(|| AlignedBuffer::new(BUFFER_BYTES));
        Lent { buffer: Some(buffer), home: Some(self.0.clone()) }
    }
}

/// A buffer that is in use.
pub(super) struct Lent {
    /// None when it has been given back.
    buffer: Option<AlignedBuffer>,
    home: Option<Free>,
}

impl Lent {
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], AlignedBuffer::as_mut_slice)
    }

    /// A part of it; the buffer is given back when nobody has the bytes any more.
    pub(super) fn into_bytes(self, part: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(part)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], AlignedBuffer::as_slice)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(buffer), Some(home)) = (self.buffer.take(), &self.home) {
            let mut free = home.lock();
            if free.len() < FREE_MAX {
                free.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_part_of_it_is_dropped() {
        let buffers = Buffers::default();
        let mut lent = buffers.take(LARGE_BYTES_MIN);
        lent.as_mut_slice()[10..15].copy_from_slice(b"gavel");
        let bytes = lent.into_bytes(10..15);
        let part = bytes.slice(2..);
        drop(bytes);
        assert_eq!((&part[..], buffers.0.lock().len()), (&b"vel"[..], 0));
        drop(part);
        assert_eq!(buffers.0.lock().len(), 1);
        drop(buffers.take(1));
        assert_eq!(buffers.0.lock().len(), 1, "it is used again");
        drop(buffers.take(BUFFER_BYTES + 1));
        drop((0..2 * FREE_MAX).map(|_| buffers.take(1)).collect::<Vec<_>>());
        assert_eq!(buffers.0.lock().len(), FREE_MAX);
    }
}
