//! One test with a cluster at a time, on the whole machine.

use crate::{machine, netns, place};
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;

/// The lock, in the temporary directory.
const LOCK_FILE: &str = "gavel-conformance.lock";

/// Held while a test has its turn.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for this test's turn, and removes what a test that was killed has left. None if such tests can't run here;
    /// the reason is on standard error.
    ///
    /// # Errors
    /// If there can be no lock.
    pub fn take() -> Result<Option<Turn>> {
        if !machine::can_mount() {
            return Ok(None);
        }
        let path = std::env::temp_dir().join(LOCK_FILE);
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        flock(&lock, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
        // Whoever made it held the lock, and does not any more.
        for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(place::PREFIX) {
                let path = entry.path();
                eprintln!("{}: left behind by a test that was killed; removing it", path.display());
                place::clear(&path.canonicalize().unwrap_or(path));
            }
        }
        netns::clear();
        Ok(Some(Turn { _lock: lock }))
    }
}
