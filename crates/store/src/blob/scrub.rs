//! Reading everything, to find damage before somebody needs the bytes.

use super::index::Sealed;
use super::{BlobError, BlobStore, Way};
use gavel_types::{BlobId, Tid};
use std::sync::Arc;

/// Most damaged blobs that one report lists; run again after repairing those.
pub const SCRUB_REPORT_MAX: usize = 10_000;

/// A blob of which no good copy is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBlob {
    /// The blob.
    pub id: BlobId,
    /// The segment's file.
    pub file: String,
    /// Where, in bytes from the file's start.
    pub offset: u64,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Blobs looked at.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs to be replaced, at most [`SCRUB_REPORT_MAX`].
    pub damaged: Vec<DamagedBlob>,
    /// Bytes that a segment lost together with the names of what was in them: those blobs count as absent.
    pub lost_bytes: u64,
    /// Everything was looked at: the caller did not stop the scrub, and the list had room.
    pub complete: bool,
}

impl BlobStore {
    /// Reads and verifies every blob that is listed when it is called. `go_on` is asked after each, may wait, and
    /// ends the scrub with `false`.
    ///
    /// # Errors
    /// [`BlobError::Disk`] if an index that had to be rebuilt could not be.
    pub fn scrub(&self, mut go_on: impl FnMut(&ScrubReport) -> bool) -> Result<ScrubReport, BlobError> {
        let mut report = ScrubReport { lost_bytes: self.active_lost_bytes(), ..ScrubReport::default() };
        let (sealed, fresh) = {
            let catalog = self.catalog.read();
            (Arc::clone(&catalog.sealed), catalog.fresh.keys().copied().collect::<Vec<BlobId>>())
        };
        if !self.scrub_list(&fresh, &mut report, &mut go_on)? {
            return Ok(report);
        }
        for segment in sealed.iter() {
            report.lost_bytes += segment.lost_bytes;
            let names = self.names_in(segment)?;
            if !self.scrub_list(&names, &mut report, &mut go_on)? {
                return Ok(report);
            }
        }
        report.complete = true;
        Ok(report)
    }

    /// Looks at some blobs. False: the scrub ends here.
    fn scrub_list(
        &self,
        names: &[BlobId],
        report: &mut ScrubReport,
        go_on: &mut impl FnMut(&ScrubReport) -> bool,
    ) -> Result<bool, BlobError> {
        for id in names {
            match self.get_taken_since(*id, Tid::ZERO, Way::Scrub) {
                Ok(bytes) => report.bytes += bytes.map_or(0, |bytes| bytes.len() as u64),
                Err(BlobError::Damaged { id, file, offset }) => report.damaged.push(DamagedBlob { id, file, offset }),
                Err(error) => return Err(error),
            }
            report.checked += 1;
            if report.damaged.len() >= SCRUB_REPORT_MAX || !go_on(report) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every blob that a sealed segment lists.
    fn names_in(&self, segment: &Arc<Sealed>) -> Result<Vec<BlobId>, BlobError> {
        match self.read_names(segment) {
            Err(BlobError::IndexDamaged { .. }) => self.read_names(&self.rebuild_index(segment)?),
            other => other,
        }
    }

    fn read_names(&self, segment: &Arc<Sealed>) -> Result<Vec<BlobId>, BlobError> {
        let mut names = Vec::new();
        for number in 0..segment.blocks() {
            let block = segment.block(&self.disk, &self.handles, number)?;
            names.extend(block.into_iter().map(|(id, _)| id));
        }
        Ok(names)
    }
}
