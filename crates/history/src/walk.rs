//! From paths to objects, as of a state.

use gavel_types::limits::NAME_BYTES_MAX;
use gavel_types::{Key, ObjectId, VolumeId};
use gavel_wire::{Attr, Dirent, Record, View, ViewError};

/// Where a path leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The directory that holds the last name; the root itself for the root.
    pub parent: ObjectId,
    /// What the last name names; none if there is no such name in that directory.
    pub object: Option<ObjectId>,
}

/// Why a path leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WalkError {
    /// A name before the last one is not there, or is no directory.
    #[error("{path}: no such directory")]
    NoDirectory {
        /// The path up to that name.
        path: String,
    },
    /// It is no path of names: a name is too long, or is `.` or `..`.
    #[error("{path}: not a path of a file")]
    NotAPath {
        /// The path.
        path: String,
    },
    /// The records could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Follows `path`, names with slashes between them, from the root of `volume`; symlinks are not followed. No name at all is the root.
///
/// # Errors
/// [`WalkError`].
pub fn walk(view: &dyn View, volume: VolumeId, path: &[u8]) -> Result<Place, WalkError> {
    let mut place = Place { parent: ObjectId::ROOT, object: Some(ObjectId::ROOT) };
    let mut behind = 0;
    for name in path.split(|byte| *byte == b'/') {
        let end = behind + name.len();
        if !name.is_empty() {
            if name == b"." || name == b".." || name.len() > NAME_BYTES_MAX || name.contains(&0) {
                return Err(WalkError::NotAPath { path: shown(path) });
            }
            let parent = place.object.ok_or_else(|| WalkError::NoDirectory { path: shown(&path[..behind]) })?;
            place = Place { parent, object: named(view, volume, parent, name)?.map(|dirent| dirent.object) };
        }
        behind = end + 1;
    }
    Ok(place)
}

/// What `name` names in directory `parent`. (What is no directory has no names.)
///
/// # Errors
/// As the view's.
pub fn named(view: &dyn View, volume: VolumeId, parent: ObjectId, name: &[u8]) -> Result<Option<Dirent>, ViewError> {
    let found = view.get(&Key::dirent(volume, parent, name))?;
    Ok(found.and_then(|version| match version.record {
        Record::Dirent(dirent) => Some(dirent),
        _ => None,
    }))
}

/// The attributes of an object.
///
/// # Errors
/// As the view's.
pub fn attr(view: &dyn View, volume: VolumeId, object: ObjectId) -> Result<Option<Attr>, ViewError> {
    let found = view.get(&Key::attr(volume, object))?;
    Ok(found.and_then(|version| match version.record {
        Record::Attr(attr) => Some(attr),
        _ => None,
    }))
}

/// A path as people read it.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
