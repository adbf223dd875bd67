//! Contents that were written in small pieces leave the memory while a transaction goes on: they become parts of blobs, many to a blob, and what lies side by side in a file that it made
//! becomes one extent.

use super::Transaction;
use super::journal::Event;
use super::pack::{PACK_BLOB_BYTES_MAX, PACK_BYTES_MIN};
use bytes::Bytes;
use gavel_types::{BlobId, Key, KeyParts, KeyRange};
use gavel_wire::{Change, Content, Extent, Record, Version};
use std::collections::BTreeSet;

/// So many bytes of small contents more than after the last time, and they are spilled.
pub const SPILL_FROM_BYTES: usize = 16 * 1024 * 1024;

/// Pieces that lie side by side: the key of each, the last one's version, and where it ends.
#[derive(Default)]
struct Run {
    keys: Vec<Key>,
    last: Option<Version>,
    bytes: Vec<u8>,
    end: u64,
}

/// What becomes one blob.
#[derive(Default)]
struct Filling {
    bytes: Vec<u8>,
    /// The key of each extent, its version, and its bytes.
    extents: Vec<(Key, Version, usize)>,
}

/// What spilling comes to.
#[derive(Default)]
struct Spilled {
    blobs: Vec<Bytes>,
    changes: Vec<Change>,
    /// Pieces that are parts of others now.
    joined: Vec<Key>,
}

impl Transaction {
    /// Moves small contents to blobs, if there are many. Gives the blobs, which must be on a majority before the commit; until then they are to be had from whoever called this.
    pub fn spill_if_due(&mut self) -> Vec<Bytes> {
        if self.weighed.inline < self.spilled_at + SPILL_FROM_BYTES {
            return Vec::new();
        }
        if let Some(events) = &mut self.events {
            events.push(Event::Spilled);
        }
        self.spill()
    }

    /// The same, however few there are. What it does follows from what the transaction holds alone.
    pub(super) fn spill(&mut self) -> Vec<Bytes> {
        let (mut spilled, mut filling, mut run) = (Spilled::default(), Filling::default(), Run::default());
        for (key, version) in self.layer.laid(&KeyRange::volume(self.volume)) {
            let Some((piece, version, end)) = piece(key, version) else { continue };
            // Of a file that was there, what lies beside a piece may be no part of what was written.
            let joins = self.made.contains(&key.object())
                && run.keys.last().is_some_and(|last| last.object() == key.object())
                && run.end + piece.len() as u64 == end
                && run.bytes.len() + piece.len() <= PACK_BLOB_BYTES_MAX;
            if !joins {
                filling.take(std::mem::take(&mut run), &mut spilled);
            }
            run.keys.push(key.clone());
            run.last = Some(version.clone());
            run.bytes.extend_from_slice(piece);
            run.end = end;
        }
        filling.take(run, &mut spilled);
        filling.close(&mut spilled);
        // Nobody else knows the file, so nothing shows below them.
        spilled.joined.iter().for_each(|key| self.lift(key));
        self.weighed = self.weigh(&spilled.changes, &BTreeSet::new());
        self.plans += 1;
        self.layer.lay(self.plans, spilled.changes);
        self.spilled_at = self.weighed.inline;
        spilled.blobs
    }

    /// Forgets what it holds of a key.
    pub(super) fn lift(&mut self, key: &Key) {
        let mut weighed = self.weighed;
        if let Some(version) = self.layer.get(key) {
            weighed.take_off(self.classes(&BTreeSet::new()), key, version);
        }
        self.weighed = weighed;
        self.layer.lift(self.plans, [key]);
    }
}

/// Small contents that the layer holds for a key, and where they end.
fn piece<'l>(key: &Key, version: Option<&'l Version>) -> Option<(&'l [u8], &'l Version, u64)> {
    match (key.parts(), version) {
        (
            KeyParts::Extent { end },
            Some(version @ Version { record: Record::Extent(Extent { content: Content::Inline(bytes), .. }), .. }),
        ) => Some((bytes, version, end)),
        _ => None,
    }
}

impl Filling {
    /// Takes a run in; what is too small to gain by it stays as it is.
    fn take(&mut self, run: Run, spilled: &mut Spilled) {
        let Run { mut keys, last, bytes, .. } = run;
        let (Some(key), Some(version)) = (keys.pop(), last) else { return };
        if bytes.len() < PACK_BYTES_MIN {
            return;
        }
        if self.bytes.len() + bytes.len() > PACK_BLOB_BYTES_MAX {
            self.close(spilled);
        }
        self.bytes.extend_from_slice(&bytes);
        self.extents.push((key, version, bytes.len()));
        spilled.joined.extend(keys);
    }

    /// What was taken in is one blob now.
    fn close(&mut self, spilled: &mut Spilled) {
        let Filling { bytes, extents } = std::mem::take(self);
        if extents.is_empty() {
            return;
        }
        let bytes = Bytes::from(bytes);
        let (id, blob_len) = (BlobId::of(&bytes), bytes.len() as u32);
        let mut offset = 0;
        for (key, version, len) in extents {
            let record = Record::Extent(Extent { len: len as u64, content: Content::Blob { id, blob_len, offset } });
            offset += len as u32;
            spilled.changes.push(Change {
                tid: version.create,
                key,
                old: None,
                new: Some(Version { record, ..version }),
            });
        }
        spilled.blobs.push(bytes);
    }
}
