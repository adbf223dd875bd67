//! A directory of a test, with everything that lives in it: processes, mounts, files. All of it goes on drop.

use crate::{mounts, process};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the directories of tests begin.
pub(crate) const PREFIX: &str = "gavel-conformance-";
/// How often files that a dying process still makes are removed anew.
const REMOVALS_MAX: u32 = 5;

/// A directory below the temporary directory.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new() -> Result<Place> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().context("making a directory")?;
        // The kernel's table of mounts has real paths.
        let path = dir.path().canonicalize()?;
        let _kept = dir.keep();
        Ok(Place { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// Ends all processes that have something to do with `dir`, takes off all mounts in it, and removes it. In this order: a
/// system call that waits for a daemon ends with the daemon.
pub(crate) fn clear(dir: &Path) {
    for pid in process::mentioning(dir) {
        if let Err(error) = process::kill(pid) {
            eprintln!("{}: {error:#}", dir.display());
        }
    }
    mounts::take_off(dir);
    if !mounts::under(dir).is_empty() {
        eprintln!("{}: left as it is, something is still mounted there", dir.display());
        return;
    }
    for attempt in 1..=REMOVALS_MAX {
        match std::fs::remove_dir_all(dir) {
            Err(error) if dir.exists() && attempt == REMOVALS_MAX => {
                eprintln!("{}: cannot remove: {error}", dir.display());
            }
            Err(_) if dir.exists() => std::thread::sleep(Duration::from_millis(100)),
            _ => return,
        }
    }
}
