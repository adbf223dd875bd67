//! From objects back to paths, as of a state.
//!
//! A directory knows its parent, a file knows nothing of its names. But whatever gives an object a name changes its attributes in the same
//! transaction, so the versions of the attributes say which transactions may have named it, and their change rows say the name. What was found is
//! remembered as a hint, and a hint is verified against the state that is asked about.

use crate::text::joined;
use crate::walk::attr;
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Dirent, Kind, Past, Record, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// Most names that are remembered: some 10 MiB.
const HINTS_MAX: usize = 32 * 1024;
/// Most transactions that are looked at to find the names of one object.
pub const LOOKUPS_MAX: usize = 4096;
/// Most names of a directory that are read to find that of a subdirectory.
pub const NAMES_SCANNED_MAX: usize = 1_000_000;
/// Most paths of directories that are remembered.
const PATHS_MAX: usize = 256;
/// Names read in one step.
const PAGE: usize = 1024;

/// A name in a directory.
pub type Place = (ObjectId, Box<[u8]>);

/// The names of an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Those that were found.
    pub places: Vec<Place>,
    /// They are all. If not, the search met one of its limits.
    pub complete: bool,
}

/// The transaction before `tid`, as far as states are concerned.
pub fn before(tid: Tid) -> Tid {
    Tid(tid.0.saturating_sub(1))
}

/// Directory and name of a dirent's key.
pub fn place(key: &Key) -> Option<Place> {
    match key.parts() {
        KeyParts::Dirent { name, .. } => Some((key.object(), name.into())),
        _ => None,
    }
}

/// What a dirent's key names as of `tid`.
///
/// # Errors
/// As the view's.
pub fn dirent(past: &dyn Past, tid: Tid, key: &Key) -> Result<Option<Dirent>, ViewError> {
    Ok(past.at(tid).get(key)?.and_then(|version| match version.record {
        Record::Dirent(dirent) => Some(dirent),
        _ => None,
    }))
}

/// Finds names, and remembers what it has found.
pub struct Names<'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    /// Names that objects had at some time.
    hints: BTreeMap<ObjectId, Vec<Key>>,
    count: usize,
    /// Transactions whose names are among the hints.
    read: BTreeSet<Tid>,
    /// Where directories were below a top as of a state: that does not change.
    paths: BTreeMap<(ObjectId, ObjectId, Tid), Option<Vec<u8>>>,
}

impl<'p> Names<'p> {
    /// Nothing is known yet.
    pub fn new(past: &'p dyn Past, volume: VolumeId) -> Names<'p> {
        Names { past, volume, hints: BTreeMap::new(), count: 0, read: BTreeSet::new(), paths: BTreeMap::new() }
    }

    /// `object` had this name at some time.
    pub fn hint(&mut self, object: ObjectId, key: Key) {
        if self.count >= HINTS_MAX {
            self.hints.clear();
            self.read.clear();
            self.count = 0;
        }
        let keys = self.hints.entry(object).or_default();
        if !keys.contains(&key) {
            keys.push(key);
            self.count += 1;
        }
    }

    /// The names of `object` as of `tid`.
    ///
    /// # Errors
    /// As the view's.
    pub fn of(&mut self, object: ObjectId, tid: Tid) -> Result<Found, ViewError> {
        let Some(attr) = attr(&*self.past.at(tid), self.volume, object)? else {
            return Ok(Found { places: Vec::new(), complete: true });
        };
        let directory = attr.firm.kind == Kind::Directory;
        let wanted = match directory {
            true => usize::from(attr.firm.parent != ObjectId::VOLUME && object != ObjectId::ROOT),
            false => attr.nlink as usize,
        };
        let mut found = Vec::new();
        let hinted = self.hints.get(&object).cloned().unwrap_or_default();
        self.verify(object, tid, hinted, &mut found)?;
        let mut left = LOOKUPS_MAX;
        for likely in [true, false] {
            if found.len() < wanted {
                self.search(object, tid, likely, (wanted, &mut left), &mut found)?;
            }
        }
        if directory && found.len() < wanted {
            found.extend(self.scan(attr.firm.parent, object, tid)?);
        }
        let complete = found.len() >= wanted;
        // In whatever order they were found: answers do not depend on what was asked before.
        found.sort();
        Ok(Found { places: found.iter().filter_map(place).collect(), complete })
    }

    /// Which of these names the object has as of `tid`.
    fn verify(&self, object: ObjectId, tid: Tid, keys: Vec<Key>, found: &mut Vec<Key>) -> Result<(), ViewError> {
        for key in keys {
            if !found.contains(&key) && dirent(self.past, tid, &key)?.is_some_and(|dirent| dirent.object == object) {
                found.push(key);
            }
        }
        Ok(())
    }

    /// Looks at transactions that changed the object's attributes, from the first on: at those that are likely to have named it (what only names
    /// an object changes no times of its content), or at the others.
    fn search(
        &mut self,
        object: ObjectId,
        tid: Tid,
        likely: bool,
        (wanted, left): (usize, &mut usize),
        found: &mut Vec<Key>,
    ) -> Result<(), ViewError> {
        let mut last: Option<Attr> = None;
        let past = self.past;
        for lived in past.versions(&KeyRange::one(&Key::attr(self.volume, object))) {
            let lived = lived?;
            let Record::Attr(attr) = lived.version.record else { continue };
            let create = lived.version.create;
            if create > tid || found.len() >= wanted || *left == 0 {
                break;
            }
            let may_name = last.is_none_or(|last| {
                last.mtime == attr.mtime || last.nlink != attr.nlink || last.firm.parent != attr.firm.parent
            });
            last = Some(attr);
            if may_name == likely && !self.read.contains(&create) {
                *left -= 1;
                let keys = self.read_names(create, object)?;
                self.verify(object, tid, keys, found)?;
            }
        }
        Ok(())
    }

    /// Makes hints of the names that a transaction made; gives those of `object`.
    fn read_names(&mut self, tid: Tid, object: ObjectId) -> Result<Vec<Key>, ViewError> {
        let mut own = Vec::new();
        for row in self.past.touched(before(tid), tid) {
            let row = row?;
            if row.key.volume() != self.volume || !row.made || place(&row.key).is_none() {
                continue;
            }
            if let Some(dirent) = dirent(self.past, tid, &row.key)? {
                if dirent.object == object {
                    own.push(row.key.clone());
                }
                self.hint(dirent.object, row.key);
            }
        }
        self.read.insert(tid);
        Ok(own)
    }

    /// The name of a subdirectory, by looking at all names of its parent.
    fn scan(&mut self, parent: ObjectId, object: ObjectId, tid: Tid) -> Result<Option<Key>, ViewError> {
        let view = self.past.at(tid);
        let mut range = KeyRange::dirents(self.volume, parent);
        for _ in 0..NAMES_SCANNED_MAX / PAGE {
            let page = view.scan(&range, PAGE)?;
            let own = |record: &Record| matches!(record, Record::Dirent(dirent) if dirent.object == object);
            if let Some((key, _)) = page.iter().find(|(_, version)| own(&version.record)) {
                let key = key.clone();
                self.hint(object, key.clone());
                return Ok(Some(key));
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range.start = KeyRange::one(last).end,
                _ => break,
            }
        }
        Ok(None)
    }

    /// The path of a directory below `top`, as of `tid`: nothing for `top` itself, none if it is not at or below `top` then (or is not found).
    ///
    /// # Errors
    /// As the view's.
    pub fn below(&mut self, top: ObjectId, directory: ObjectId, tid: Tid) -> Result<Option<Vec<u8>>, ViewError> {
        let question = (top, directory, tid);
        if let Some(path) = self.paths.get(&question) {
            return Ok(path.clone());
        }
        let path = self.climb(top, directory, tid)?;
        if self.paths.len() >= PATHS_MAX {
            self.paths.clear();
        }
        self.paths.insert(question, path.clone());
        Ok(path)
    }

    fn climb(&mut self, top: ObjectId, directory: ObjectId, tid: Tid) -> Result<Option<Vec<u8>>, ViewError> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut here = directory;
        while here != top {
            if here == ObjectId::ROOT || names.len() > DEPTH_MAX {
                return Ok(None);
            }
            let Some((parent, name)) = self.of(here, tid)?.places.pop() else { return Ok(None) };
            names.push(name);
            here = parent;
        }
        names.reverse();
        Ok(Some(names.join(&b'/')))
    }

    /// The path of a name, from the root of the volume, as of `tid`; none if its directory has no path then.
    ///
    /// # Errors
    /// As the view's.
    pub fn path(&mut self, place: &Place, tid: Tid) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.below(ObjectId::ROOT, place.0, tid)?.map(|directory| joined(&directory, &place.1)))
    }

    /// The same as text: what can't be placed is named by its directory's number.
    ///
    /// # Errors
    /// As the view's.
    pub fn shown(&mut self, place: &Place, tid: Tid) -> Result<String, ViewError> {
        let path = self.path(place, tid)?;
        let text = path.map(|path| crate::text::escaped(&path));
        Ok(text.unwrap_or_else(|| format!("<directory {}>/{}", place.0, crate::text::escaped(&place.1))))
    }
}
