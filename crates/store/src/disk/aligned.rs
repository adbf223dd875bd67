//! Memory as direct I/O wants it.

use super::DIRECT_ALIGN;
use std::fmt;

/// Bytes that begin at a multiple of [`DIRECT_ALIGN`] in memory. Their number never changes.
pub struct AlignedBuffer {
    /// Longer than what is used, by what it takes to begin at a multiple. Never grows: it would move.
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Zeros, as many as `length`, rounded up to a multiple of [`DIRECT_ALIGN`].
    pub fn new(length: usize) -> AlignedBuffer {
        let length = length.next_multiple_of(DIRECT_ALIGN);
        let memory = vec![0; length + DIRECT_ALIGN];
        let start = memory.as_ptr().addr().next_multiple_of(DIRECT_ALIGN) - memory.as_ptr().addr();
        AlignedBuffer { memory, start, length }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("length", &self.length).finish_non_exhaustive()
    }
}
