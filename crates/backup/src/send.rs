//! A backup as a stream for a new mirror.

use crate::error::BackupError;
use crate::folder::Folder;
use crate::head::Backup;
use crate::repository::Repository;
use crate::view::BackupView;
use gavel_mirror::stream::{ROWS_BYTES_MAX, row_bytes};
use gavel_mirror::{Frame, Header, Row, StepHead, Totals};
use gavel_types::{BlobId, Tid};
use std::collections::BTreeSet;

/// Blobs that are remembered, so that they are sent once.
const SENT_BLOBS_MAX: usize = 65_536;

/// Gives out the frames of a stream that is the whole of a backup.
///
/// # Errors
/// As the folder's, and what `each` says: the stream is not over then.
pub fn send<F: Folder, E: From<BackupError>>(
    repository: &Repository<F>,
    backup: &Backup,
    mut each: impl FnMut(Frame) -> Result<(), E>,
) -> Result<Totals, E> {
    let view = BackupView::new(repository, backup);
    let (source, name, to) = (backup.source, backup.name.clone(), Some(backup.tid));
    let (partial, selection) = (None, backup.selection.clone());
    each(Frame::Header(Header { source, name, from: Tid::ZERO, partial, to, selection }))?;
    each(Frame::Step(StepHead { from: Tid::ZERO, to: backup.tid, single: false, author: None }))?;
    let (mut totals, mut sent, mut last) = (Totals::default(), BTreeSet::<BlobId>::new(), None);
    loop {
        let page = view.rows(last.as_ref())?;
        let Some((key, _)) = page.last() else { break };
        last = Some(key.clone());
        for blob in page.iter().filter_map(|(_, record)| record.blob()) {
            if sent.contains(&blob) {
                continue;
            }
            if sent.len() < SENT_BLOBS_MAX {
                sent.insert(blob);
            }
            each(Frame::Blob(view.blob(blob)?))?;
            totals.blobs += 1;
        }
        totals.rows += page.len() as u64;
        let volume = backup.source.volume;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (key, record) in page {
            let row = Row { key: key.in_volume(volume), record: Some(record) };
            bytes += row_bytes(&row);
            rows.push(row);
            if bytes >= ROWS_BYTES_MAX {
                bytes = 0;
                each(Frame::Rows(std::mem::take(&mut rows)))?;
            }
        }
        if !rows.is_empty() {
            each(Frame::Rows(rows))?;
        }
    }
    each(Frame::StepEnd(totals))?;
    each(Frame::End(backup.tid))?;
    Ok(totals)
}
