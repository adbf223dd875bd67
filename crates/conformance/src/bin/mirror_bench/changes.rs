//! What is done to the source: files are made, written to, renamed and removed, in turn.

use crate::figures::{Samples, secs};
use anyhow::{Context, Result};
use gavel_conformance::trees;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file is written to when so many came behind it, renamed when more, and removed at last.
const WRITTEN_BEHIND: u64 = 50;
const RENAMED_BEHIND: u64 = 100;
const REMOVED_BEHIND: u64 = 1_000;
/// Kinds of changes, that come in turn.
const KINDS: u64 = 4;
const FILE_BYTES: usize = 1_000;

/// Changes in a directory, one at a time.
pub(crate) struct Changes {
    dir: PathBuf,
    next: u64,
}

impl Changes {
    /// In a directory that is made for it. It has as many files as there will be, so that each change can be made.
    pub(crate) fn new(dir: &Path) -> Result<Changes> {
        std::fs::create_dir(dir).with_context(|| dir.display().to_string())?;
        let mut changes = Changes { dir: dir.to_owned(), next: 0 };
        while changes.next < REMOVED_BEHIND * KINDS {
            match changes.next % KINDS {
                0 | 2 => changes.one()?,
                _ => changes.next += 1,
            }
        }
        trees::settle(dir)?;
        Ok(changes)
    }

    fn file(&self, kind: char, number: u64) -> PathBuf {
        self.dir.join(format!("{kind}{number}"))
    }

    /// The next change.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) fn one(&mut self) -> Result<()> {
        let (kind, number) = (self.next % KINDS, self.next / KINDS);
        self.next += 1;
        match (kind, number) {
            (0, _) => std::fs::write(self.file('f', number), trees::noise(number, FILE_BYTES))?,
            (1, WRITTEN_BEHIND..) => {
                let file = OpenOptions::new().write(true).open(self.file('f', number - WRITTEN_BEHIND))?;
                file.write_all_at(&trees::noise(number + 1, FILE_BYTES / 2), 100)?;
            }
            (2, RENAMED_BEHIND..) => {
                let number = number - RENAMED_BEHIND;
                std::fs::rename(self.file('f', number), self.file('r', number))?;
            }
            (3, REMOVED_BEHIND..) => std::fs::remove_file(self.file('r', number - REMOVED_BEHIND))?,
            _ => {}
        }
        Ok(())
    }

    /// So many, as fast as possible, until all is committed.
    pub(crate) fn unpaced(&mut self, count: u64) -> Result<Duration> {
        let begun = Instant::now();
        (0..count).try_for_each(|_| self.one())?;
        trees::settle(&self.dir)?;
        Ok(begun.elapsed())
    }

    /// So many a second, while `more` says so. How many it was, and how long each took, in milliseconds.
    pub(crate) fn paced(&mut self, rate: u64, mut more: impl FnMut() -> bool) -> Result<(u64, Samples)> {
        let (begun, mut count, mut took) = (Instant::now(), 0, Samples::default());
        while more() {
            let due = Duration::from_secs_f64(count as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let at = Instant::now();
            self.one()?;
            took.add(secs(at.elapsed()) * 1e3);
            count += 1;
        }
        Ok((count, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_files_stays_the_same() -> Result<()> {
        let here = tempfile::tempdir()?;
        let mut changes = Changes::new(&here.path().join("changes"))?;
        let count = || std::fs::read_dir(here.path().join("changes")).map(Iterator::count);
        let before = count()?;
        changes.unpaced(4_000)?;
        assert_eq!(count()?, before);
        let mut left = 40;
        let (done, took) = changes.paced(400, || {
            left -= 1;
            left > 0
        })?;
        assert_eq!((done, took.0.len()), (39, 39));
        Ok(())
    }
}
