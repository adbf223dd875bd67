//! From paths to what had them, whether it is there or not.

use crate::names::before;
use crate::walk::shown;
use gavel_types::limits::NAME_BYTES_MAX;
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Dirent, Kind, Past, Record, ViewError};

/// Most names that are looked up to find one path: directories of one name may have come and gone, and each is searched.
pub const TRIES_MAX: usize = 4096;

/// Why history could not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HistoryError {
    /// Nothing ever had this path.
    #[error("{path}: nothing has ever had this path, as of then")]
    NeverThere {
        /// The path.
        path: String,
    },
    /// It is no path of names.
    #[error("{path}: not a path of a file: a name is too long, or is `.` or `..`")]
    NotAPath {
        /// The path.
        path: String,
    },
    /// What is asked about is a directory, or is not.
    #[error("{path}: {what}")]
    NotSo {
        /// The path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// There is more than one question may deal with.
    #[error("{what}, more than the {limit} that one question may deal with: {advice}")]
    TooMuch {
        /// Of what.
        what: String,
        /// The limit.
        limit: usize,
        /// How to ask for less.
        advice: &'static str,
    },
    /// The records could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What had a path, at last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Had {
    /// The directory that holds the last name; none for the root itself.
    pub place: Option<(ObjectId, Box<[u8]>)>,
    /// What had the name.
    pub object: ObjectId,
    /// Its kind.
    pub kind: Kind,
    /// The last state, up to the one that was asked about, in which it had the path.
    pub last: Tid,
    /// It has the path in the state that was asked about.
    pub there: bool,
}

/// What had `path`, names with slashes between them, as of `at` or at last before that.
///
/// Each directory on the way is taken as of the last state in which the next name existed in it.
///
/// # Errors
/// [`HistoryError`].
pub fn find(past: &dyn Past, volume: VolumeId, path: &[u8], at: Tid) -> Result<Had, HistoryError> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let bad = |name: &&[u8]| *name == b"." || *name == b".." || name.len() > NAME_BYTES_MAX || name.contains(&0);
    if names.iter().any(bad) {
        return Err(HistoryError::NotAPath { path: shown(path) });
    }
    let mut search = Search { past, volume, left: TRIES_MAX };
    let root = Had { place: None, object: ObjectId::ROOT, kind: Kind::Directory, last: at, there: true };
    match search.below(root, &names)? {
        Some(had) => Ok(had),
        None if search.left == 0 => Err(HistoryError::TooMuch {
            what: format!("{}: directories of these names have come and gone", shown(path)),
            limit: TRIES_MAX,
            advice: "name a state in which it was there with --at",
        }),
        None => Err(HistoryError::NeverThere { path: shown(path) }),
    }
}

struct Search<'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    left: usize,
}

impl Search<'_> {
    /// Follows the names below `from`, as of the last state in which that was there.
    fn below(&mut self, from: Had, names: &[&[u8]]) -> Result<Option<Had>, ViewError> {
        let Some((name, rest)) = names.split_first() else { return Ok(Some(from)) };
        let key = Key::dirent(self.volume, from.object, name);
        let mut upto = Some(from.last);
        while let Some(at) = upto {
            if self.left == 0 {
                return Ok(None);
            }
            self.left -= 1;
            let Some((dirent, create, last)) = self.latest(&key, at)? else { return Ok(None) };
            let had = Had {
                place: Some((from.object, (*name).into())),
                object: dirent.object,
                kind: dirent.kind,
                last,
                there: from.there && last == from.last,
            };
            if let Some(found) = self.below(had, rest)? {
                return Ok(Some(found));
            }
            upto = create.0.checked_sub(1).map(Tid);
        }
        Ok(None)
    }

    /// The last version of the name that was visible at `at` or before: what it named, since when, and the last state that shows it.
    fn latest(&self, key: &Key, at: Tid) -> Result<Option<(Dirent, Tid, Tid)>, ViewError> {
        let dirent = |record| match record {
            Record::Dirent(dirent) => Some(dirent),
            _ => None,
        };
        // It mostly is there: then there is no need to read how it came to that.
        if let Some(version) = self.past.at(at).get(key)? {
            return Ok(dirent(version.record).map(|found| (found, version.create, at)));
        }
        let mut latest = None;
        for lived in self.past.versions(&KeyRange::one(key)) {
            let lived = lived?;
            if lived.version.create > at {
                break;
            }
            let last = lived.delete.map_or(at, before).min(at);
            latest = dirent(lived.version.record).map(|found| (found, lived.version.create, last));
        }
        Ok(latest)
    }
}
