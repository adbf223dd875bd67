//! What a workload sees: one round in one directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::Result;

use super::measure::Measure;
use super::place::Place;

/// How much each workload does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Empty files that are created, listed, renamed and removed.
    pub(super) files: usize,
    /// Files and bytes of the source tree.
    pub(super) tree_files: usize,
    pub(super) tree_bytes: u64,
    /// Times that a file is opened, read and closed.
    pub(super) opens: usize,
    /// Bytes that are written and read in sequence.
    pub(super) sequence_bytes: u64,
    /// The file, and the calls, of random reads and writes.
    pub(super) random_bytes: u64,
    pub(super) random_calls: usize,
    /// Appends with fsync, of each writer: with one, and with several.
    pub(super) syncs_alone: usize,
    pub(super) syncs_each: usize,
    /// Transactions of the database.
    pub(super) transactions: usize,
    /// Bytes of the repository, and times that its status is asked for.
    pub(super) repository_bytes: u64,
    pub(super) status_calls: usize,
    /// Crates of the workspace that is built.
    pub(super) crates: usize,
    /// Changes that are looked for on another mount, and turns of each ping-pong.
    pub(super) changes: usize,
    /// Seconds of writing before and after a fault.
    pub(super) seconds_before_fault: u64,
    pub(super) seconds_after_fault: u64,
}

impl Sizes {
    /// As in docs/benchmarks.md.
    pub(super) const fn full() -> Self {
        Self {
            files: 10_000,
            tree_files: 5_000,
            tree_bytes: 50_000_000,
            opens: 20_000,
            sequence_bytes: 1 << 30,
            random_bytes: 256 << 20,
            random_calls: 10_000,
            syncs_alone: 500,
            syncs_each: 100,
            transactions: 1_000,
            repository_bytes: 20_000_000,
            status_calls: 20,
            crates: 16,
            changes: 300,
            seconds_before_fault: 3,
            seconds_after_fault: 20,
        }
    }

    /// Enough to see that everything works.
    pub(super) const fn quick() -> Self {
        Self {
            files: 400,
            tree_files: 300,
            tree_bytes: 3_000_000,
            opens: 500,
            sequence_bytes: 16 << 20,
            random_bytes: 4 << 20,
            random_calls: 500,
            syncs_alone: 20,
            syncs_each: 5,
            transactions: 50,
            repository_bytes: 1_000_000,
            status_calls: 3,
            crates: 2,
            changes: 20,
            seconds_before_fault: 1,
            seconds_after_fault: 6,
        }
    }
}

/// What a turn tells the session while it runs.
pub(super) enum Told {
    /// A step came to its end.
    Measured { id: &'static str, measures: Vec<Measure>, daemon_cpu_seconds: f64 },
    /// A step failed; why comes with the end of the turn.
    FailedIn(&'static str),
    /// A step cannot be done here.
    Skipped { id: &'static str, reason: String },
    /// The turn is over.
    Over(Result<()>),
}

/// One round of one family of workloads in one directory.
pub(super) struct Turn {
    pub(super) place: Arc<Place>,
    /// A directory of its own, fresh and empty, by the path of each mount.
    pub(super) homes: Vec<PathBuf>,
    /// Inputs, on a local disk outside of what is measured.
    pub(super) scratch: PathBuf,
    pub(super) round: u64,
    pub(super) sizes: Sizes,
    pub(super) wanted: BTreeSet<&'static str>,
    pub(super) tell: Sender<Told>,
}

impl Turn {
    /// The fresh directory, on the first mount.
    pub(super) fn home(&self) -> &Path {
        &self.homes[0]
    }

    /// Whether the figures of this workload were asked for.
    pub(super) fn wants(&self, id: &str) -> bool {
        self.wanted.contains(id)
    }

    /// Whether any of these was asked for.
    pub(super) fn wants_any(&self, ids: &[&str]) -> bool {
        ids.iter().any(|id| self.wants(id))
    }

    /// Does the work of `id`, after writing back what is dirty on the machine, and reports what it measured.
    ///
    /// To be called for work that later steps need, even if its figures were not asked for.
    pub(super) fn step(&self, id: &'static str, work: impl FnOnce() -> Result<Vec<Measure>>) -> Result<()> {
        let outcome = self.measured_step(id, work);
        if outcome.is_err() {
            let _ = self.tell.send(Told::FailedIn(id));
        }
        outcome
    }

    fn measured_step(&self, id: &'static str, work: impl FnOnce() -> Result<Vec<Measure>>) -> Result<()> {
        rustix::fs::sync();
        self.place.check_mounted()?;
        let before = self.place.usage().cpu_seconds;
        let measures = work()?;
        self.place.check_mounted()?;
        let daemon_cpu_seconds = self.place.usage().cpu_seconds - before;
        if self.wants(id) {
            // Nobody listens any more once the session has given this turn up.
            let _ = self.tell.send(Told::Measured { id, measures, daemon_cpu_seconds });
        }
        Ok(())
    }

    /// A step that nothing later needs: done only if asked for.
    pub(super) fn step_if_wanted(&self, id: &'static str, work: impl FnOnce() -> Result<Vec<Measure>>) -> Result<()> {
        if self.wants(id) { self.step(id, work) } else { Ok(()) }
    }

    /// The same after dropping caches; skipped where that is not possible.
    pub(super) fn step_when_cold(&self, id: &'static str, work: impl FnOnce() -> Result<Vec<Measure>>) -> Result<()> {
        if !self.wants(id) {
            return Ok(());
        }
        match Place::cannot_be_cold() {
            Some(reason) => self.skip(id, reason),
            None => {
                self.place.make_cold()?;
                self.step(id, work)?;
            }
        }
        Ok(())
    }

    /// Says why a step is not done here.
    pub(super) fn skip(&self, id: &'static str, reason: impl Into<String>) {
        if self.wants(id) {
            let _ = self.tell.send(Told::Skipped { id, reason: reason.into() });
        }
    }
}

/// Does the work and answers with the seconds it took.
pub(super) fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let started = Instant::now();
    let done = work()?;
    Ok((started.elapsed().as_secs_f64(), done))
}
