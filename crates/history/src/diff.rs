//! How two states of a tree differ.
//!
//! If few records were changed between them, the change index says where to look. Otherwise both trees are walked side by side. Both ways find
//! the names that name something else ([`Found::gone`], [`Found::come`]) and the objects under kept names that differ ([`Found::kept`]), and [`finish`] makes
//! one account of these.
//!
//! Of objects that keep less than their volume, a state may have the name and nothing else (`Past::has_all`): how these differ is not known, and is told so.
//!
//! Directories are known by their object, so one that was moved is met once, with what it was before; of what lies below it only what changed
//! is told. Files are matched when all names are known: an object that lost a name and got one was renamed.

use crate::compare::{Aspect, Rows, Seen, differences};
use crate::find::HistoryError;
use crate::history::kind_name;
use crate::log::Sign;
use crate::names::{Names, dirent, place};
use crate::text::{escaped, joined};
use crate::walk::{attr, walk};
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Dirent, Kind, Past, Record, ViewError};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Most paths that two states may differ in.
pub const PATHS_MAX: usize = 1_000_000;
/// Most rows of the change index that are worked from: the keys that they name are held in memory.
pub const INDEX_ROWS_MAX: usize = 256 * 1024;
/// With no more rows than this, nobody asks how large the trees are.
const INDEX_ROWS_FEW: usize = 4096;

/// One of the two trees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// As of this state.
    pub tid: Tid,
    /// What has this path.
    pub path: Vec<u8>,
}

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What became of it.
    pub sign: Sign,
    /// The path in the new tree; of what is not there, in the old one.
    pub path: Vec<u8>,
    /// The path in the old tree, of what was renamed.
    pub from: Option<Vec<u8>>,
    /// What had the path in the old tree.
    pub old: Option<ObjectId>,
    /// What has it in the new one.
    pub new: Option<ObjectId>,
    /// What it is.
    pub kind: Kind,
    /// In what an object that is in both differs.
    pub aspects: Vec<Aspect>,
}

/// A difference, for people and programs. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiffLine {
    /// What became of it.
    pub sign: Sign,
    /// The path within the volume.
    pub path: String,
    /// The path in the old tree, of what was renamed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// What it is.
    pub kind: String,
    /// In what an object that is in both differs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub differs: Vec<Aspect>,
    /// The lines that differ, as in `diff -u`, if they were asked for, and it is a text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patch: Option<String>,
    /// Why there are no lines, if they were asked for: `binary`, `too-large`, or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub no_patch: Option<String>,
}

impl From<&Difference> for DiffLine {
    fn from(difference: &Difference) -> DiffLine {
        DiffLine {
            sign: difference.sign,
            path: escaped(&difference.path),
            from: difference.from.as_ref().map(|from| escaped(from)),
            kind: kind_name(difference.kind).into(),
            differs: difference.aspects.clone(),
            patch: None,
            no_patch: None,
        }
    }
}

/// How differences are to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As is quicker.
    Quicker,
    /// From the change index, if that can be.
    Index,
    /// From both trees.
    Trees,
}

/// How `new` differs from `old`, in the order of paths.
///
/// # Errors
/// [`HistoryError`]: neither path is there, or there are more than [`PATHS_MAX`] differences.
pub fn diff(
    past: &dyn Past,
    volume: VolumeId,
    old: &End,
    new: &End,
    way: Way,
) -> Result<Vec<Difference>, HistoryError> {
    let (top_old, top_new) = (top(past, volume, old)?, top(past, volume, new)?);
    let mut found = Found::new(past, volume, (old.tid, new.tid));
    match (top_old, top_new) {
        (None, None) => {
            let path = escaped(&new.path);
            return Err(HistoryError::NotSo { path, what: "in neither of the two states" });
        }
        (Some(a), Some(b)) if (a.kind, b.kind) == (Kind::Directory, Kind::Directory) => {
            (found.top_old, found.top_new) = (a.object, b.object);
            found.same(&[], a, b)?;
            let way =
                if a.object == b.object && found.complete { found.chosen(way, old.tid, new.tid)? } else { Way::Trees };
            if way != Way::Index || !found.search_index()? {
                found.clear();
                found.same(&[], a, b)?;
                found.walk(Job::Both(a.object, Vec::new(), b.object, Vec::new()))?;
            }
        }
        (a, b) => {
            found.top_old = a.map_or(ObjectId::VOLUME, |a| a.object);
            found.top_new = b.map_or(ObjectId::VOLUME, |b| b.object);
            match (a, b) {
                (Some(a), Some(b)) if a.object == b.object => drop(found.same(&[], a, b)?),
                (a, b) => {
                    a.map_or(Ok(()), |a| found.gone(Vec::new(), a, true))?;
                    b.map_or(Ok(()), |b| found.come(Vec::new(), b, true))?;
                }
            }
            found.walk_all()?;
        }
    }
    let mut all = finish(found)?;
    for difference in &mut all {
        // Paths so far are below the two tops.
        let whole = |top: &[u8], path: &[u8]| if path.is_empty() { trimmed(top) } else { joined(&trimmed(top), path) };
        let base = if difference.new.is_some() { &new.path } else { &old.path };
        difference.path = whole(base, &difference.path);
        difference.from = difference.from.as_ref().map(|from| whole(&old.path, from));
    }
    Ok(all)
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    names.join(&b'/')
}

fn top(past: &dyn Past, volume: VolumeId, end: &End) -> Result<Option<Dirent>, HistoryError> {
    let view = past.at(end.tid);
    let object = match walk(&*view, volume, &end.path) {
        Ok(place) => place.object,
        Err(crate::WalkError::NoDirectory { .. }) => None,
        Err(crate::WalkError::NotAPath { path }) => return Err(HistoryError::NotAPath { path }),
        Err(crate::WalkError::View(error)) => return Err(error.into()),
    };
    let Some(object) = object else { return Ok(None) };
    Ok(attr(&*view, volume, object)?.map(|attr| Dirent { object, kind: attr.firm.kind }))
}

/// A directory that is to be walked: with its path, in the old tree, in the new one, or in both.
enum Job {
    Both(ObjectId, Vec<u8>, ObjectId, Vec<u8>),
    Old(ObjectId, Vec<u8>),
    New(ObjectId, Vec<u8>),
}

/// What was found so far. Paths are below the tops of their trees.
struct Found<'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    old: Tid,
    new: Tid,
    top_old: ObjectId,
    top_new: ObjectId,
    names: Names<'p>,
    /// Names in the old tree that name nothing or something else in the new one.
    gone: BTreeMap<Vec<u8>, Dirent>,
    /// Names in the new tree that named nothing or something else in the old one.
    come: BTreeMap<Vec<u8>, Dirent>,
    /// Names that name the same object, and in what that differs.
    kept: BTreeMap<Vec<u8>, (Dirent, Vec<Aspect>)>,
    /// Names that name the same object, of which one of the two states keeps nothing.
    unknown: BTreeMap<Vec<u8>, Dirent>,
    /// Both states have all objects.
    complete: bool,
    jobs: Vec<Job>,
}

impl<'p> Found<'p> {
    fn new(past: &'p dyn Past, volume: VolumeId, (old, new): (Tid, Tid)) -> Found<'p> {
        let (top_old, top_new) = (ObjectId::ROOT, ObjectId::ROOT);
        let names = Names::new(past, volume);
        let (gone, come, kept, unknown, jobs) = Default::default();
        let complete = past.has_all(volume, old) && past.has_all(volume, new);
        Found { past, volume, old, new, top_old, top_new, names, gone, come, kept, unknown, complete, jobs }
    }

    fn clear(&mut self) {
        (self.gone, self.come, self.kept, self.unknown, self.jobs) = Default::default();
    }

    fn check_limit(&self) -> Result<(), HistoryError> {
        if self.gone.len() + self.come.len() + self.kept.len() + self.unknown.len() < PATHS_MAX {
            return Ok(());
        }
        let what = "the two states differ in too many paths".into();
        Err(HistoryError::TooMuch {
            what,
            limit: PATHS_MAX,
            advice: "name a directory further down, or states that are closer",
        })
    }

    /// A name is not in the new tree. `deep`: what is below it is to be walked, unless the directory is in the new tree elsewhere.
    fn gone(&mut self, path: Vec<u8>, dirent: Dirent, deep: bool) -> Result<(), HistoryError> {
        self.check_limit()?;
        if deep && dirent.kind == Kind::Directory && self.place_of(dirent.object, self.new)?.is_none() {
            self.jobs.push(Job::Old(dirent.object, path.clone()));
        }
        self.gone.insert(path, dirent);
        Ok(())
    }

    /// A name was not in the old tree. `deep`: what is below it is to be walked, beside what was below it before if the directory was elsewhere.
    fn come(&mut self, path: Vec<u8>, dirent: Dirent, deep: bool) -> Result<(), HistoryError> {
        self.check_limit()?;
        if deep && dirent.kind == Kind::Directory {
            let was = self.place_of(dirent.object, self.old)?;
            self.jobs.push(match was {
                Some(was) => Job::Both(dirent.object, was, dirent.object, path.clone()),
                None => Job::New(dirent.object, path.clone()),
            });
        }
        self.come.insert(path, dirent);
        Ok(())
    }

    /// Where a directory is below the top, if it is.
    fn place_of(&mut self, directory: ObjectId, tid: Tid) -> Result<Option<Vec<u8>>, ViewError> {
        let top = if tid == self.old { self.top_old } else { self.top_new };
        Ok(self.names.below(top, directory, tid)?.filter(|path| !path.is_empty()))
    }

    /// A name names the same object in both trees, or an object that stands in its place. False if it is not known what it was.
    fn same(&mut self, path: &[u8], a: Dirent, b: Dirent) -> Result<bool, HistoryError> {
        let lacks = |object, tid| Ok::<bool, ViewError>(attr(&*self.past.at(tid), self.volume, object)?.is_none());
        if !self.complete && (lacks(a.object, self.old)? || lacks(b.object, self.new)?) {
            self.check_limit()?;
            self.unknown.insert(path.to_vec(), b);
            return Ok(false);
        }
        let aspects = self.compare(a.object, b.object)?;
        if !aspects.is_empty() {
            self.check_limit()?;
            self.kept.insert(path.to_vec(), (b, aspects));
        }
        Ok(true)
    }

    fn compare(&self, a: ObjectId, b: ObjectId) -> Result<Vec<Aspect>, ViewError> {
        let (a, b) = (Seen { object: a, tid: self.old }, Seen { object: b, tid: self.new });
        differences(self.past, self.volume, a, b)
    }

    fn walk(&mut self, job: Job) -> Result<(), HistoryError> {
        self.jobs.push(job);
        self.walk_all()
    }

    fn walk_all(&mut self) -> Result<(), HistoryError> {
        while let Some(job) = self.jobs.pop() {
            match job {
                Job::Old(directory, path) => self.side_by_side(Some((directory, path)), None)?,
                Job::New(directory, path) => self.side_by_side(None, Some((directory, path)))?,
                Job::Both(a, was, b, is) => self.side_by_side(Some((a, was)), Some((b, is)))?,
            }
        }
        Ok(())
    }

    /// The names of a directory in both trees, in the order of keys.
    fn side_by_side(
        &mut self,
        old: Option<(ObjectId, Vec<u8>)>,
        new: Option<(ObjectId, Vec<u8>)>,
    ) -> Result<(), HistoryError> {
        let (before, after) = (self.past.at(self.old), self.past.at(self.new));
        let volume = self.volume;
        let rows = |view, end: &Option<(ObjectId, Vec<u8>)>| {
            end.as_ref().map(|(directory, _)| Listing(Rows::new(view, KeyRange::dirents(volume, *directory))))
        };
        let (mut a, mut b) = (rows(&*before, &old), rows(&*after, &new));
        let (was, is) = (old.map(|old| old.1).unwrap_or_default(), new.map(|new| new.1).unwrap_or_default());
        let next = |listing: &mut Option<Listing<'_>>| listing.as_mut().map_or(Ok(None), Listing::next);
        let (mut x, mut y) = (next(&mut a)?, next(&mut b)?);
        loop {
            let order = match (&x, &y) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) => x.order.cmp(&y.order),
            };
            match (order, x.as_ref(), y.as_ref()) {
                (Ordering::Equal, Some(x), Some(y)) if x.dirent.object == y.dirent.object => {
                    let path = joined(&is, &y.name);
                    if self.same(&path, x.dirent, y.dirent)? && y.dirent.kind == Kind::Directory {
                        self.jobs.push(Job::Both(x.dirent.object, joined(&was, &x.name), y.dirent.object, path));
                    }
                }
                _ => {
                    if let (Ordering::Less | Ordering::Equal, Some(x)) = (order, &x) {
                        self.gone(joined(&was, &x.name), x.dirent, true)?;
                    }
                    if let (Ordering::Greater | Ordering::Equal, Some(y)) = (order, &y) {
                        self.come(joined(&is, &y.name), y.dirent, true)?;
                    }
                }
            }
            if order != Ordering::Greater {
                x = next(&mut a)?;
            }
            if order != Ordering::Less {
                y = next(&mut b)?;
            }
        }
    }

    /// Which way is quicker?
    fn chosen(&self, way: Way, old: Tid, new: Tid) -> Result<Way, ViewError> {
        if way != Way::Quicker {
            return Ok(way);
        }
        let (from, to) = (old.min(new), old.max(new));
        let mut rows = 0;
        for row in self.past.touched(from, to).take(INDEX_ROWS_MAX + 1) {
            row?;
            rows += 1;
        }
        let short = rows <= INDEX_ROWS_FEW || rows <= INDEX_ROWS_MAX && !self.smaller_than(rows)?;
        Ok(if short { Way::Index } else { Way::Trees })
    }

    /// Are there fewer names in both trees than that?
    fn smaller_than(&self, most: usize) -> Result<bool, ViewError> {
        let mut count = 0;
        for (top, tid) in [(self.top_old, self.old), (self.top_new, self.new)] {
            let view = self.past.at(tid);
            let mut directories = vec![top];
            while let Some(directory) = directories.pop() {
                let mut listing = Listing(Rows::new(&*view, KeyRange::dirents(self.volume, directory)));
                while let Some(listed) = listing.next()? {
                    count += 1;
                    if count >= most {
                        return Ok(false);
                    }
                    directories.extend((listed.dirent.kind == Kind::Directory).then_some(listed.dirent.object));
                }
            }
        }
        Ok(true)
    }

    /// Looks where the change index says. False if that says too little: the names of an object could not be found.
    fn search_index(&mut self) -> Result<bool, HistoryError> {
        let (mut keys, mut objects) = (BTreeSet::new(), BTreeSet::new());
        for (number, row) in self.past.touched(self.old.min(self.new), self.old.max(self.new)).enumerate() {
            let row = row?;
            if number >= INDEX_ROWS_MAX {
                return Ok(false);
            }
            if row.key.volume() == self.volume && row.key.object() != ObjectId::VOLUME {
                match place(&row.key) {
                    Some(_) => drop(keys.insert(row.key)),
                    None => drop(objects.insert(row.key.object())),
                }
            }
        }
        for key in &keys {
            self.name_changed(key)?;
        }
        for object in objects {
            if !self.object_changed(object)? {
                return Ok(false);
            }
        }
        self.walk_all()?;
        Ok(true)
    }

    fn name_changed(&mut self, key: &Key) -> Result<(), HistoryError> {
        let (a, b) = (dirent(self.past, self.old, key)?, dirent(self.past, self.new, key)?);
        let Some((directory, name)) = place(key).filter(|_| a.map(|a| a.object) != b.map(|b| b.object)) else {
            return Ok(());
        };
        for dirent in [a, b].into_iter().flatten() {
            self.names.hint(dirent.object, key.clone());
        }
        if let Some(a) = a
            && let Some(path) = self.names.below(self.top_old, directory, self.old)?
        {
            // What is below it has rows of its own, unless it was moved away.
            let deep = attr(&*self.past.at(self.new), self.volume, a.object)?.is_some();
            self.gone(joined(&path, &name), a, deep)?;
        }
        if let Some(b) = b
            && let Some(path) = self.names.below(self.top_new, directory, self.new)?
        {
            let moved = b.kind == Kind::Directory && attr(&*self.past.at(self.old), self.volume, b.object)?.is_some();
            let deep = moved && self.place_of(b.object, self.old)?.is_none();
            self.come(joined(&path, &name), b, deep)?;
        }
        Ok(())
    }

    /// False if the object's names could not be found.
    fn object_changed(&mut self, object: ObjectId) -> Result<bool, HistoryError> {
        let was = attr(&*self.past.at(self.old), self.volume, object)?;
        let Some((_, is)) = was.zip(attr(&*self.past.at(self.new), self.volume, object)?) else { return Ok(true) };
        let aspects = self.compare(object, object)?;
        if aspects.is_empty() || object == self.top_new {
            return Ok(true);
        }
        let found = self.names.of(object, self.new)?;
        for (directory, name) in found.places {
            if let Some(path) = self.names.below(self.top_new, directory, self.new)? {
                self.check_limit()?;
                let dirent = Dirent { object, kind: is.firm.kind };
                self.kept.insert(joined(&path, &name), (dirent, aspects.clone()));
            }
        }
        Ok(found.complete)
    }
}

/// A name in a directory.
struct Listed {
    /// Its place in the order of the directory, whichever directory that is.
    order: Vec<u8>,
    name: Vec<u8>,
    dirent: Dirent,
}

struct Listing<'v>(Rows<'v>);

impl Listing<'_> {
    fn next(&mut self) -> Result<Option<Listed>, ViewError> {
        for row in self.0.by_ref() {
            let (key, version) = row?;
            if let (Some((_, name)), Record::Dirent(dirent)) = (place(&key), version.record) {
                return Ok(Some(Listed { order: key.as_bytes()[12..].to_vec(), name: name.into(), dirent }));
            }
        }
        Ok(None)
    }
}

/// One account of all that was found.
fn finish(mut found: Found<'_>) -> Result<Vec<Difference>, HistoryError> {
    let (gone, come, kept) =
        (std::mem::take(&mut found.gone), std::mem::take(&mut found.come), std::mem::take(&mut found.kept));
    let unknown = std::mem::take(&mut found.unknown);
    let pairs = pairs(&gone, &come);
    let moved = |from: &Vec<u8>, path: &Vec<u8>| from != path && gone[from].kind == Kind::Directory;
    let moved: BTreeSet<&[u8]> =
        pairs.iter().filter(|(path, from)| moved(from, path)).map(|(_, from)| &from[..]).collect();
    // What was below a directory that was moved would be elsewhere now: of what has its path instead, it says nothing.
    let stayed = |path: &[u8]| {
        let mut above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end]);
        !above.any(|above| moved.contains(above))
    };
    let mut all = Vec::new();
    let mut told: BTreeSet<&Vec<u8>> = pairs.values().copied().collect();
    for (path, dirent) in &come {
        let both = (Some(dirent.object), Some(dirent.object));
        let old = gone.get(path).filter(|old| old.kind == dirent.kind && !told.contains(path) && stayed(path));
        match (pairs.get(path), old) {
            (Some(from), _) => {
                let aspects = found.compare(dirent.object, dirent.object)?;
                let renamed = *from != path || !stayed(path);
                let from = renamed.then(|| from.to_vec());
                if from.is_some() || !aspects.is_empty() {
                    let sign = if renamed { Sign::Renamed } else { Sign::Modified };
                    all.push(Difference { from, aspects, ..alone(sign, path, both, dirent.kind) });
                }
            }
            // What stands in the place of another of its kind is a change of that.
            (None, Some(old)) => {
                told.extend(gone.get_key_value(path).map(|(path, _)| path));
                let aspects = found.compare(old.object, dirent.object)?;
                if !aspects.is_empty() {
                    let both = (Some(old.object), Some(dirent.object));
                    all.push(Difference { aspects, ..alone(Sign::Modified, path, both, dirent.kind) });
                }
            }
            (None, None) => all.push(alone(Sign::Added, path, (None, both.1), dirent.kind)),
        }
    }
    for (path, dirent) in &gone {
        // What got the name by a rename has replaced it, which is told by that.
        let replaced = pairs.contains_key(path) && stayed(path);
        if !told.contains(path) && !replaced {
            all.push(alone(Sign::Removed, path, (Some(dirent.object), None), dirent.kind));
        }
    }
    for (path, (dirent, aspects)) in kept.into_iter().filter(|(path, _)| !come.contains_key(path)) {
        let both = (Some(dirent.object), Some(dirent.object));
        all.push(Difference { aspects, ..alone(Sign::Modified, &path, both, dirent.kind) });
    }
    for (path, dirent) in unknown {
        let both = (Some(dirent.object), Some(dirent.object));
        all.push(alone(Sign::NotKept, &path, both, dirent.kind));
    }
    all.sort_by(|a, b| (&a.path, a.sign != Sign::Removed).cmp(&(&b.path, b.sign != Sign::Removed)));
    Ok(all)
}

/// The new names of objects that lost one, with the one that they lost: the same path if it is among them.
fn pairs<'f>(
    gone: &'f BTreeMap<Vec<u8>, Dirent>,
    come: &'f BTreeMap<Vec<u8>, Dirent>,
) -> BTreeMap<&'f Vec<u8>, &'f Vec<u8>> {
    let mut lost: BTreeMap<ObjectId, Vec<&Vec<u8>>> = BTreeMap::new();
    for (path, dirent) in gone.iter().rev() {
        lost.entry(dirent.object).or_default().push(path);
    }
    let mut pairs = BTreeMap::new();
    for same in [true, false] {
        for (path, dirent) in come {
            let Some(names) = lost.get_mut(&dirent.object).filter(|_| !pairs.contains_key(path)) else { continue };
            let from = match same {
                true => names.iter().position(|name| *name == path).map(|at| names.remove(at)),
                false => names.pop(),
            };
            pairs.extend(from.map(|from| (path, from)));
        }
    }
    pairs
}

fn alone(sign: Sign, path: &[u8], (old, new): (Option<ObjectId>, Option<ObjectId>), kind: Kind) -> Difference {
    Difference { sign, path: path.to_vec(), from: None, old, new, kind, aspects: Vec::new() }
}
