//! Where the bytes below a path are: of what lives there, and of what was removed from there.
//!
//! From the path down, all versions of all objects are read. An object counts if it lives below the path, or has no name any more and once had one in a directory that counts.
//! What was moved away counts where it is now.

use super::{BLOBS_MAX, Classes, Named, OBJECTS_MAX, Pace, Tally};
use crate::host::node::NodeHandle;
use gavel_history::walk::{self, walk};
use gavel_types::{BlobId, Key, KeyRange, ObjectId, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Dirent, Record, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// What lies below a path.
pub(super) struct Below<'a, P> {
    node: &'a NodeHandle,
    past: P,
    volume: VolumeId,
    tally: Tally,
    blobs: BTreeMap<BlobId, Named>,
    seen: BTreeSet<ObjectId>,
    /// Seen, and not looked at yet.
    to_do: Vec<ObjectId>,
}

/// Counts what lies below `path`, and itself.
///
/// # Errors
/// What went wrong, in words.
pub(super) fn count(
    node: &NodeHandle,
    volume: VolumeId,
    path: &[u8],
    classes: &Classes,
    pace: &mut Pace,
) -> Result<Tally, String> {
    let past = node.records.past(node.tid());
    let top = top(&past, volume, path)?;
    let mut below = Below {
        node,
        past,
        volume,
        tally: Tally::default(),
        blobs: BTreeMap::new(),
        seen: BTreeSet::from([top]),
        to_do: vec![top],
    };
    below.all(classes, pace).map_err(|error| error.to_string())
}

/// What has the path now; if nothing has, what had it last. The directory in which that was must be there.
fn top(past: &impl Past, volume: VolumeId, path: &[u8]) -> Result<ObjectId, String> {
    let missing = || format!("{}: nothing has, or ever had, this name", walk::shown(path));
    let place = walk(&*past.at(past.tid()), volume, path).map_err(|error| error.to_string())?;
    if let Some(object) = place.object {
        return Ok(object);
    }
    let name = path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).ok_or_else(missing)?;
    let mut last = None;
    for lived in past.versions(&KeyRange::one(&Key::dirent(volume, place.parent, name))) {
        if let Record::Dirent(dirent) = lived.map_err(|error| error.to_string())?.version.record {
            last = Some(dirent.object);
        }
    }
    last.ok_or_else(missing)
}

impl<P: Past> Below<'_, P> {
    fn all(&mut self, classes: &Classes, pace: &mut Pace) -> Result<Tally, ViewError> {
        while let Some(object) = self.to_do.pop().filter(|_| pace.in_time()) {
            self.object(object, classes, pace)?;
        }
        for (blob, mut named) in std::mem::take(&mut self.blobs) {
            named.elsewhere = pace.in_time() && self.is_elsewhere(blob, pace)?;
            self.tally.add(&named);
        }
        Ok(std::mem::take(&mut self.tally))
    }

    fn object(&mut self, object: ObjectId, classes: &Classes, pace: &mut Pace) -> Result<(), ViewError> {
        let mut below: BTreeMap<ObjectId, bool> = BTreeMap::new();
        for lived in self.past.versions(&KeyRange::object(self.volume, object)) {
            let lived = lived?;
            let class = classes.of(lived.version.create, lived.delete);
            self.tally.version(class, &lived);
            if let Record::Dirent(Dirent { object, .. }) = lived.version.record {
                *below.entry(object).or_default() |= lived.delete.is_none();
            }
            if let Some(blob) = lived.version.blob() {
                let is_known = self.blobs.contains_key(&blob);
                match Named::of(&lived).filter(|_| is_known || self.blobs.len() < BLOBS_MAX) {
                    Some(named) => self.blobs.entry(blob).or_insert(named).add(class, &lived),
                    None => pace.give_up(),
                }
            }
            if !pace.in_time() {
                break;
            }
        }
        for (object, is_there) in below {
            if !self.seen.contains(&object) && (is_there || !self.lives(object)?) {
                if self.seen.len() >= OBJECTS_MAX {
                    pace.give_up();
                    return Ok(());
                }
                self.seen.insert(object);
                self.to_do.push(object);
            }
        }
        Ok(())
    }

    /// Has the object a name now?
    fn lives(&self, object: ObjectId) -> Result<bool, ViewError> {
        let found = self.node.replica().get(&Key::attr(self.volume, object))?;
        Ok(found.is_some_and(|version| matches!(version.record, Record::Attr(attr) if attr.nlink > 0)))
    }

    /// Does anything else name the blob, in this volume or another one?
    fn is_elsewhere(&self, blob: BlobId, pace: &mut Pace) -> Result<bool, ViewError> {
        let mut found = false;
        let each = |key: &Key| {
            found |= key.volume() != self.volume || !self.seen.contains(&key.object());
            !found && pace.in_time()
        };
        self.node.records.each_name_of(blob, each)?;
        Ok(found)
    }
}
