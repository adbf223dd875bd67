//! A file mapped into memory.
#![allow(unsafe_code)] // mmap(2) has no safe form: the file may shrink or change under the mapping.

use anyhow::{Result, ensure};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use std::fs::File;
use std::ptr::NonNull;

/// A shared mapping. Whoever has one sees to it that the file keeps its length: a look behind its end ends the process.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
    writable: bool,
}

// SAFETY: the memory is only used by volatile loads and stores, and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of a file, for reading.
    ///
    /// # Errors
    /// If it is empty or can't be mapped.
    pub fn of(file: &File) -> Result<Mapping> {
        Mapping::with(file, ProtFlags::READ)
    }

    /// Maps all of a file, which is open for that, for writing, too.
    ///
    /// # Errors
    /// If it is empty or can't be mapped.
    pub fn writable(file: &File) -> Result<Mapping> {
        Mapping::with(file, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn with(file: &File, access: ProtFlags) -> Result<Mapping> {
        let bytes = usize::try_from(file.metadata()?.len())?;
        ensure!(bytes > 0, "an empty file can't be mapped");
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
        let at = NonNull::new(at.cast::<u8>()).expect("mmap gives no null without MAP_FIXED");
        Ok(Mapping { at, bytes, writable: access.contains(ProtFlags::WRITE) })
    }

    /// Stores bytes at an offset.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(self.writable && offset + bytes.len() <= self.bytes, "outside of what can be written");
        for (at, byte) in (offset..).zip(bytes) {
            // SAFETY: within the mapping, which can be written and lives as long as self.
            unsafe { self.at.add(at).write_volatile(*byte) };
        }
    }

    /// Has what was stored written to the file.
    ///
    /// # Errors
    /// If it can't be.
    pub fn save(&self) -> Result<()> {
        // SAFETY: just what was mapped.
        unsafe { msync(self.at.as_ptr().cast(), self.bytes, MsyncFlags::SYNC)? };
        Ok(())
    }

    /// What it shows at this moment.
    pub fn look(&self) -> Vec<u8> {
        // SAFETY: within the mapping, which lives as long as self. Others change the bytes meanwhile: hence volatile.
        (0..self.bytes).map(|offset| unsafe { self.at.add(offset).read_volatile() }).collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: just what was mapped, and nobody looks at it any more.
        let unmapped = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_is_written_to_the_file() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, "before")?;
        let mapping = Mapping::of(file.as_file())?;
        assert_eq!(mapping.look(), b"before");
        rustix::io::pwrite(file.as_file(), b"after ", 0)?;
        assert_eq!(mapping.look(), b"after ");
        let writable = Mapping::writable(&std::fs::File::options().read(true).write(true).open(file.path())?)?;
        writable.store(1, b"nyh");
        writable.save()?;
        assert_eq!(mapping.look(), b"anyhr ");
        Ok(())
    }
}
