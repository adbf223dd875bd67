//! Which state an undo goes back to, if nobody says which.
//!
//! What is undone is the last *version* of a path: what transactions did to it and below it, from the last one back. A truncation is one with the
//! writing behind it, and removals below a directory are one, as long as none is more than [`RUN_GAP`] before the next.

use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::{Lived, Past, Rows};
use gavel_wire::{Attr, Kind, Record, Version, ViewError};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

/// Removals that are further apart than this, in nanoseconds, are not undone together; neither is a truncation with a writing.
pub const RUN_GAP: u64 = 10 * 1_000_000_000;
/// Most objects that are looked at to find the last change below a directory.
pub const OBJECTS_MAX: usize = 1_000_000;
/// Rows that are stepped over on the way from the attributes of one object to those of the next, before they are looked up instead: that costs about as much.
const STEPS_MAX: usize = 32;
/// Objects whose attributes are read by one range. With ranges up to the last of 10,000 files that were removed, finding the state to go back to took 0.6 s.
const BLOCK_OBJECTS: u64 = 64;

/// Why there is no state to go back to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UndoError {
    /// Nothing ever had this name.
    #[error("nothing in this directory has, or ever had, this name")]
    NeverWas,
    /// There are too many objects below it to find out.
    #[error("there are more than {OBJECTS_MAX} objects below it: say which state, with --at")]
    TooMany,
    /// The records could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What a transaction did to a path and to what is below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Did {
    /// It only removed names.
    Removed,
    /// It cut a file off at its beginning.
    Emptied,
    /// Anything else.
    Changed,
}

/// What transactions did.
type Deeds = BTreeMap<Tid, Did>;

/// The state before the last version of what `name` names, or named, in `parent`.
///
/// # Errors
/// [`UndoError`].
pub fn before_last_version(past: &dyn Past, volume: VolumeId, parent: ObjectId, name: &[u8]) -> Result<Tid, UndoError> {
    let key = Key::dirent(volume, parent, name);
    let mut deeds = Deeds::new();
    let mut last = None;
    for lived in past.versions(&KeyRange::one(&key)) {
        let lived = lived?;
        if let Record::Dirent(dirent) = lived.version.record {
            note(&mut deeds, lived.version.create, Did::Changed);
            if let Some(delete) = lived.delete {
                note(&mut deeds, delete, Did::Removed);
            }
            last = Some((dirent, lived.delete));
        }
    }
    let (dirent, ended) = last.ok_or(UndoError::NeverWas)?;
    let (seen, files, last) = (BTreeSet::new(), BTreeMap::new(), (Tid::ZERO, Vec::new()));
    let mut finding = Finding { past, volume, deeds, seen, files, last };
    // While an object has this name, what is done to it is done to the path; what was done when it was removed is the removal.
    finding.object(dirent.object, dirent.kind, ended)?;
    finding.last_changes()?;
    finding.last_files()?;
    let state = begin_of_last_version(&finding.deeds).ok_or(UndoError::NeverWas)?;
    Ok(Tid(state.0 - 1))
}

/// The first transaction of the last version.
fn begin_of_last_version(deeds: &Deeds) -> Option<Tid> {
    let mut back = deeds.iter().rev();
    let (mut begin, mut did) = back.next().map(|(tid, did)| (*tid, *did))?;
    for (&tid, &earlier) in back {
        let near = begin.0 - tid.0 <= RUN_GAP;
        let joins = match (earlier, did) {
            (Did::Removed, Did::Removed) => near,
            (Did::Emptied, Did::Changed) => near,
            _ => false,
        };
        if !joins {
            break;
        }
        (begin, did) = (tid, earlier);
    }
    Some(begin)
}

fn note(deeds: &mut Deeds, tid: Tid, did: Did) {
    let noted = deeds.entry(tid).or_insert(did);
    if *noted != did {
        *noted = Did::Changed;
    }
}

struct Finding<'a> {
    past: &'a dyn Past,
    volume: VolumeId,
    deeds: Deeds,
    seen: BTreeSet<ObjectId>,
    /// The files, and when they lost their names: looked at in the order of their ids, which is that of their rows.
    files: BTreeMap<ObjectId, Option<Tid>>,
    /// The files that were changed last, and by which transaction.
    last: (Tid, Vec<(ObjectId, Option<Tid>)>),
}

impl Finding<'_> {
    /// Notes what was done to an object, up to when it lost the name that leads there (none: it has it).
    fn object(&mut self, object: ObjectId, kind: Kind, ended: Option<Tid>) -> Result<(), UndoError> {
        if !self.seen.insert(object) {
            return Ok(());
        }
        if self.seen.len() > OBJECTS_MAX {
            return Err(UndoError::TooMany);
        }
        match kind {
            Kind::Directory => self.directory(object, ended),
            _ => {
                self.files.insert(object, ended);
                Ok(())
            }
        }
    }

    /// Notes the last change of each file.
    fn last_changes(&mut self) -> Result<(), UndoError> {
        let files = std::mem::take(&mut self.files);
        let Some((last, _)) = files.last_key_value() else { return Ok(()) };
        let mut attributes = Attributes::new(self.past, self.volume, *last);
        for (object, ended) in files {
            let until = ended.map_or(self.past.tid(), |ended| Tid(ended.0.saturating_sub(1)));
            let found = attributes.at(object, until)?;
            self.last_change(object, ended, found)?;
        }
        Ok(())
    }

    /// Notes the last change of a file: what was before it ends no run that this one does not end, and begins none, unless the file is the one that was changed
    /// last of all ([`Finding::last_files`]).
    fn last_change(&mut self, object: ObjectId, ended: Option<Tid>, found: Option<Version>) -> Result<(), UndoError> {
        let Some(found) = found else { return Ok(()) };
        // It may only have got or lost another name there, which leaves the time of its content behind that of its change.
        let may_be_a_link = match &found.record {
            Record::Attr(attr) => found.firm != found.create && attr.mtime != attr.ctime,
            _ => false,
        };
        if may_be_a_link {
            return self.file(object, ended);
        }
        note(&mut self.deeds, found.create, Did::Changed);
        match found.create.cmp(&self.last.0) {
            Ordering::Less => {}
            Ordering::Equal => self.last.1.push((object, ended)),
            Ordering::Greater => self.last = (found.create, vec![(object, ended)]),
        }
        Ok(())
    }

    /// Looks at the whole past of the files that were changed last: they may have been emptied before.
    fn last_files(&mut self) -> Result<(), UndoError> {
        let (tid, files) = std::mem::take(&mut self.last);
        if self.deeds.last_key_value().is_some_and(|(last, _)| *last == tid) {
            for (object, ended) in files {
                self.file(object, ended)?;
            }
        }
        Ok(())
    }

    /// Notes all changes of a file.
    fn file(&mut self, object: ObjectId, ended: Option<Tid>) -> Result<(), UndoError> {
        let mut before: Option<Attr> = None;
        let range = KeyRange::one(&Key::attr(self.volume, object));
        let found = self.past.versions(&range).collect::<Result<Vec<_>, _>>()?;
        for lived in found {
            let Record::Attr(attr) = lived.version.record else { continue };
            let create = lived.version.create;
            // Gaining and losing names changes the attributes, too: that is told by the names.
            let only_links = before.is_some_and(|before| {
                let Attr { nlink, ctime, .. } = before;
                attr.nlink != nlink && before == Attr { nlink, ctime, ..attr }
            });
            if attr.nlink > 0 && !only_links && ended.is_none_or(|ended| create < ended) {
                let emptied = attr.size == 0 && before.is_some_and(|before| before.size > 0);
                note(&mut self.deeds, create, if emptied { Did::Emptied } else { Did::Changed });
            }
            before = Some(attr);
        }
        Ok(())
    }

    fn directory(&mut self, object: ObjectId, ended: Option<Tid>) -> Result<(), UndoError> {
        let within = |tid: Tid| ended.is_none_or(|ended| tid < ended);
        let mut below: BTreeMap<ObjectId, (Kind, Option<Tid>)> = BTreeMap::new();
        let range = KeyRange::dirents(self.volume, object);
        for lived in self.past.versions(&range) {
            let lived = lived?;
            let (KeyParts::Dirent { .. }, Record::Dirent(dirent)) = (lived.key.parts(), &lived.version.record) else {
                continue;
            };
            if within(lived.version.create) {
                note(&mut self.deeds, lived.version.create, Did::Changed);
            }
            if let Some(delete) = lived.delete.filter(|delete| within(*delete)) {
                note(&mut self.deeds, delete, Did::Removed);
            }
            below.insert(dirent.object, (dirent.kind, lived.delete));
        }
        self.own_attributes(object, ended)?;
        for (object, (kind, ended)) in below {
            self.object(object, kind, ended)?;
        }
        Ok(())
    }

    /// Mode, owner: what of a directory is not its names.
    fn own_attributes(&mut self, object: ObjectId, ended: Option<Tid>) -> Result<(), UndoError> {
        let range = KeyRange::one(&Key::attr(self.volume, object));
        let found = self.past.versions(&range).collect::<Result<Vec<_>, _>>()?;
        for lived in found {
            let create = lived.version.create;
            if lived.version.firm == create && ended.is_none_or(|ended| create < ended) {
                note(&mut self.deeds, create, Did::Changed);
            }
        }
        Ok(())
    }
}

/// The attributes of objects that are asked for in the order of their ids. What was made together lies together, so the way to the next one is mostly a
/// few steps. No more than [`BLOCK_OBJECTS`] are read at a time: a store may step over all that was removed in a range to find that nothing lives there.
struct Attributes<'a> {
    past: &'a dyn Past,
    volume: VolumeId,
    last: ObjectId,
    /// The last object of `rows`.
    end: ObjectId,
    rows: Option<Peekable<Rows<'a, Lived>>>,
}

impl<'a> Attributes<'a> {
    /// `last` is the last one that is asked for.
    fn new(past: &'a dyn Past, volume: VolumeId, last: ObjectId) -> Attributes<'a> {
        Attributes { past, volume, last, end: ObjectId(0), rows: None }
    }

    /// The attributes of `object` as of `at`.
    fn at(&mut self, object: ObjectId, at: Tid) -> Result<Option<Version>, ViewError> {
        let key = Key::attr(self.volume, object);
        let past = self.past;
        let rows = match self.rows.take().filter(|_| object <= self.end) {
            Some(mut rows) => step_to(&mut rows, &key)?.then_some(rows),
            None => None,
        };
        let mut rows = match rows {
            Some(rows) => rows,
            None => {
                self.end = ObjectId(object.0.saturating_add(BLOCK_OBJECTS - 1)).min(self.last);
                past.versions(&KeyRange::objects(self.volume, object, self.end)).peekable()
            }
        };
        for _ in 0..STEPS_MAX {
            let of_key = |row: &Result<Lived, ViewError>| row.as_ref().map_or(true, |lived| lived.key == key);
            let Some(row) = rows.next_if(of_key) else {
                self.rows = Some(rows);
                return Ok(None);
            };
            let Lived { version, delete, .. } = row?;
            if delete.is_none_or(|delete| at < delete) {
                self.rows = Some(rows);
                return Ok((version.create <= at).then_some(version));
            }
        }
        past.at(at).get(&key)
    }
}

/// Steps to the rows of `key`, or behind where they would be; false if that is too far.
fn step_to(rows: &mut Peekable<Rows<'_, Lived>>, key: &Key) -> Result<bool, ViewError> {
    for _ in 0..STEPS_MAX {
        let before = |row: &Result<Lived, ViewError>| row.as_ref().map_or(true, |lived| lived.key < *key);
        match rows.next_if(before) {
            Some(row) => drop(row?),
            None => return Ok(true),
        }
    }
    Ok(false)
}
