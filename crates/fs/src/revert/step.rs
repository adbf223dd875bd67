//! One plan in the making.

use super::{
    AHEAD_BYTES_MAX, NAMES_PAGE, ROWS_PAGE, Revert, STEP_BYTES_MAX, STEP_MUTATIONS_MAX, STEP_OBJECTS_MAX, Work,
};
use crate::changes::Changes;
use crate::tree::{damaged, is_removed};
use crate::{FsError, Stop};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, AttrDelta, Content, Dirent, Extent, Guard, Kind, Plan, Record, Version, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// What a row of a plan takes beside what it carries, roughly, in bytes.
const ROW_BYTES: usize = 96;

/// What a plan does to a directory's counters and times.
#[derive(Clone, Copy, Default)]
struct Counted {
    names: i64,
    subdirectories: i32,
    /// Its times of access and change of content, if they are to be other than the commit's.
    times: Option<(Timestamp, Timestamp)>,
}

pub(super) struct Making<'a> {
    revert: &'a mut Revert,
    now: &'a dyn View,
    then: &'a dyn View,
    ids: &'a [ObjectId],
    changes: Changes,
    guards: Vec<Guard>,
    counted: BTreeMap<ObjectId, Counted>,
    /// Names that this plan has removed.
    dropped: BTreeSet<(ObjectId, Box<[u8]>)>,
    /// Objects that this plan makes.
    fresh: BTreeSet<ObjectId>,
    /// Directories that this plan needs.
    guarded: BTreeSet<ObjectId>,
    /// What plans before this one make, as far as this one needs it.
    needed: BTreeSet<ObjectId>,
    /// Names that this plan makes in directories that plans before it make: the first one, and the end behind the last one.
    named: BTreeMap<ObjectId, KeyRange>,
    /// Links that this plan adds to and takes from objects that are there.
    links: BTreeMap<ObjectId, i64>,
    rows: usize,
    bytes: usize,
    took: usize,
}

impl<'a> Making<'a> {
    pub(super) fn new(
        revert: &'a mut Revert,
        now: &'a dyn View,
        then: &'a dyn View,
        ids: &'a [ObjectId],
    ) -> Making<'a> {
        let changes = Changes::new(revert.volume);
        let (counted, dropped, fresh, guarded, needed, named) = Default::default();
        let (links, guards, rows, bytes, took) = Default::default();
        Making {
            revert,
            now,
            then,
            ids,
            changes,
            guards,
            counted,
            dropped,
            fresh,
            guarded,
            needed,
            named,
            links,
            rows,
            bytes,
            took,
        }
    }

    /// Works until the plan is full or nothing is left.
    pub(super) fn run(&mut self) -> Result<(), Stop> {
        while !self.is_full() {
            match self.revert.work.pop() {
                Some(work) => self.work(work)?,
                None if self.revert.links.is_empty() => break,
                None => {
                    self.revert.late = true;
                    self.revert.work = std::mem::take(&mut self.revert.links);
                }
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let bytes_max = if self.revert.built.is_some() { AHEAD_BYTES_MAX } else { STEP_BYTES_MAX };
        self.rows >= STEP_MUTATIONS_MAX || self.bytes >= bytes_max || self.took >= STEP_OBJECTS_MAX
    }

    /// The plan, and how many ids it has taken.
    pub(super) fn into_plan(mut self) -> (Vec<Guard>, Plan, usize) {
        for (directory, Counted { names, subdirectories, times }) in std::mem::take(&mut self.counted) {
            let (atime, mtime) = match times {
                Some((atime, mtime)) => (Some(atime), mtime),
                None => (None, Timestamp::COMMIT),
            };
            let (mtime, ctime) = (Some(mtime), Some(Timestamp::COMMIT));
            let delta = AttrDelta { size: names, nlink: subdirectories, size_min: 0, atime, mtime, ctime };
            self.changes.adjust(directory, delta);
        }
        for object in std::mem::take(&mut self.needed) {
            // Nobody knows yet as of when it is there, so any time will do.
            self.guards.push(Guard::Unchanged { key: Key::attr(self.volume(), object), at: Tid::MAX });
        }
        self.guards.extend(std::mem::take(&mut self.named).into_values().map(|range| Guard::Empty { range }));
        (self.guards, self.changes.into_plan(), self.took)
    }

    fn volume(&self) -> VolumeId {
        self.revert.volume
    }

    fn work(&mut self, work: Work) -> Result<(), Stop> {
        match work {
            Work::Name { parent, of, name, then } => self.name((parent, of), name, then),
            Work::Make { parent, of, name, then } => self.make((parent, of), name, then),
            Work::Names { now, then, after } => self.names(now, then, after),
            Work::Times { now, then } => self.times(now, then),
            Work::Remove { parent, name, object } => self.remove(parent, name, object),
            Work::Bytes { now, then, from } => self.fill(now, then, from),
        }
    }

    /// Is it of a plan before this one that may not be committed yet?
    fn is_built(&self, object: ObjectId) -> bool {
        self.revert.built.as_ref().is_some_and(|built| built.contains(&object)) && !self.fresh.contains(&object)
    }

    /// Was it made on this way, so that nothing of it is to be looked for in the present?
    fn is_made(&self, object: ObjectId) -> bool {
        self.fresh.contains(&object) || self.is_built(object)
    }

    fn later(&mut self, work: Work) {
        self.revert.work.push(work);
    }

    fn name(
        &mut self,
        (parent, of): (ObjectId, Option<ObjectId>),
        name: Box<[u8]>,
        then: Option<Dirent>,
    ) -> Result<(), Stop> {
        if let Some(then) = then
            && self.then.get(&Key::attr(self.volume(), then.object))?.is_none()
        {
            self.revert.reverted.not_kept += 1;
            return Ok(());
        }
        let now = if self.is_made(parent) { None } else { dirent(self.now, self.volume(), parent, &name)? };
        match (now, then) {
            (None, None) => Ok(()),
            (None, Some(then)) => self.make((parent, of), name, then),
            (Some(now), Some(then)) if now == then => self.same(then),
            (Some(now), then) => {
                if let Some(then) = then {
                    self.later(Work::Make { parent, of, name: name.clone(), then });
                }
                self.drop(parent, name, now)
            }
        }
    }

    /// An object that was there is there still: it becomes what it was.
    fn same(&mut self, Dirent { object, kind }: Dirent) -> Result<(), Stop> {
        let key = Key::attr(self.volume(), object);
        let (now, then) = (version(self.now, &key)?, version(self.then, &key)?);
        let (now_attr, then_attr) = (as_attr(&key, &now)?, as_attr(&key, &then)?);
        if kind == Kind::Directory {
            self.later(Work::Times { now: object, then: object });
            self.later(Work::Names { now: object, then: Some(object), after: None });
        }
        // Whatever changes a file changes its attributes, and the owner, mode or attributes of a directory its time of change.
        if kind != Kind::Directory && then_attr.nlink > 1 {
            self.revert.made.insert(object, object);
        }
        let settled = now_attr.nlink > 1 && kind != Kind::Directory && !self.revert.settled.insert(object);
        if now.create == then.create || settled {
            return Ok(());
        }
        let mut attr = now_attr;
        (attr.firm.mode, attr.firm.uid, attr.firm.gid) = (then_attr.firm.mode, then_attr.firm.uid, then_attr.firm.gid);
        if kind != Kind::Directory {
            (attr.size, attr.atime, attr.mtime) = (then_attr.size, then_attr.atime, then_attr.mtime);
        }
        let xattrs = self.attributes_back(object)?;
        let refill = kind == Kind::File && !self.same_rows(&KeyRange::extents_behind(self.volume(), object, 0))?;
        if attr == now_attr && xattrs.is_empty() && !refill {
            return Ok(());
        }
        self.guards.push(Guard::Unchanged { key, at: self.now.tid() });
        // Of other names of it that this plan removes or makes, the attributes of now know nothing.
        let links = self.links.get(&object).copied().unwrap_or_default();
        attr.nlink = attr.nlink.saturating_add_signed(links as i32);
        attr.ctime = Timestamp::COMMIT;
        self.changes.put_attr(object, attr);
        self.rows += 1 + xattrs.len();
        self.bytes += 3 * ROW_BYTES;
        for (name, value) in xattrs {
            self.bytes += ROW_BYTES + name.len() + value.as_ref().map_or(0, |value| value.len());
            match value {
                Some(value) => self.changes.put_xattr(object, &name, &value),
                None => self.changes.delete_xattr(object, &name),
            }
        }
        if refill {
            self.changes.carve_tail(object, 0);
            self.later(Work::Bytes { now: object, then: object, from: 0 });
        }
        self.revert.reverted.changed += 1;
        Ok(())
    }

    /// What extended attributes of an object have to become.
    fn attributes_back(&self, object: ObjectId) -> Result<Back, Stop> {
        let range = KeyRange::xattrs(self.volume(), object);
        // At most 64 KiB of names each.
        let (now, then) = (self.now.scan(&range, usize::MAX)?, self.then.scan(&range, usize::MAX)?);
        let kept: BTreeMap<&Key, &Version> = now.iter().map(|(key, version)| (key, version)).collect();
        let mut back = Back::new();
        for (key, version) in &now {
            if !then.iter().any(|(other, _)| other == key) {
                back.insert(xattr(key, version)?.0, None);
            }
        }
        for (key, version) in &then {
            if kept.get(key).is_none_or(|now| now.create != version.create) {
                let (name, value) = xattr(key, version)?;
                back.insert(name, Some(value));
            }
        }
        Ok(back)
    }

    /// Has nothing in the range changed since then?
    fn same_rows(&self, range: &KeyRange) -> Result<bool, Stop> {
        let mut from = range.clone();
        loop {
            let (now, then) = (self.now.scan(&from, ROWS_PAGE)?, self.then.scan(&from, ROWS_PAGE)?);
            let same = now.len() == then.len()
                && now.iter().zip(&then).all(|((a, now), (b, then))| a == b && now.create == then.create);
            match now.last() {
                Some((last, _)) if same && now.len() == ROWS_PAGE => from.start = KeyRange::one(last).end,
                _ => return Ok(same),
            }
        }
    }

    /// A name that came later goes, and what it names, if it has no other.
    fn drop(&mut self, parent: ObjectId, name: Box<[u8]>, now: Dirent) -> Result<(), Stop> {
        if now.kind == Kind::Directory {
            self.later(Work::Remove { parent, name, object: now.object });
            self.later(Work::Names { now: now.object, then: None, after: None });
            return Ok(());
        }
        let at = self.now.tid();
        let key = Key::attr(self.volume(), now.object);
        let mut attr = as_attr(&key, &version(self.now, &key)?)?;
        let links = self.links.entry(now.object).or_default();
        attr.nlink = attr.nlink.saturating_add_signed(*links as i32);
        *links -= 1;
        self.guards.push(Guard::Unchanged { key, at });
        self.guards.push(Guard::Unchanged { key: Key::dirent(self.volume(), parent, &name), at });
        self.bytes += 4 * ROW_BYTES + 2 * name.len();
        self.changes.delete_dirent(parent, &name);
        self.changes.drop_link(now.object, &attr);
        self.count(parent, -1, 0);
        self.dropped.insert((parent, name));
        self.rows += 2;
        self.revert.reverted.removed += 1;
        Ok(())
    }

    fn remove(&mut self, parent: ObjectId, name: Box<[u8]>, object: ObjectId) -> Result<(), Stop> {
        let at = self.now.tid();
        let range = KeyRange::dirents(self.volume(), object);
        let left = self.now.scan(&range, self.dropped.len() + 1)?;
        let is_left = |key: &Key| match key.parts() {
            KeyParts::Dirent { name, .. } => !self.dropped.contains(&(object, name.into())),
            _ => true,
        };
        if left.iter().any(|(key, _)| is_left(key)) {
            // Somebody has made a name meanwhile.
            self.later(Work::Remove { parent, name, object });
            self.later(Work::Names { now: object, then: None, after: None });
            return Ok(());
        }
        let key = Key::attr(self.volume(), object);
        let attr = as_attr(&key, &version(self.now, &key)?)?;
        let dirent = Key::dirent(self.volume(), parent, &name);
        self.guards.push(Guard::Unchanged { key: dirent, at });
        self.guards.push(Guard::Unchanged { key, at });
        self.guards.push(Guard::Stable { range, at });
        self.bytes += 6 * ROW_BYTES + 2 * name.len();
        self.changes.delete_dirent(parent, &name);
        self.changes.remove_directory(object, Attr { size: 0, ..attr });
        self.counted.remove(&object);
        self.count(parent, -1, -1);
        self.dropped.insert((parent, name));
        self.rows += 3;
        self.revert.reverted.removed += 1;
        Ok(())
    }

    fn count(&mut self, directory: ObjectId, names: i64, subdirectories: i32) {
        let counted = self.counted.entry(directory).or_default();
        counted.names += names;
        counted.subdirectories += subdirectories;
    }

    /// Makes a name for what had it then.
    fn make(&mut self, (parent, of): (ObjectId, Option<ObjectId>), name: Box<[u8]>, then: Dirent) -> Result<(), Stop> {
        let key = Key::attr(self.volume(), then.object);
        let was = as_attr(&key, &version(self.then, &key)?)?;
        let linked = if then.kind == Kind::Directory || was.nlink < 2 { None } else { self.stands_for(then.object)? };
        if linked.is_none()
            && was.nlink > 1
            && then.kind != Kind::Directory
            && !self.revert.late
            && self.lives(then.object)?
        {
            self.revert.links.push(Work::Make { parent, of, name, then });
            return Ok(());
        }
        if self.revert.late
            && let Some(of) = of
        {
            self.later(Work::Times { now: parent, then: of });
        }
        let object = match linked {
            Some(object) => {
                self.changes
                    .adjust(object, AttrDelta { nlink: 1, ctime: Some(Timestamp::COMMIT), ..Default::default() });
                *self.links.entry(object).or_default() += 1;
                object
            }
            None => self.anew(parent, then, was)?,
        };
        if self.is_built(parent) {
            self.needed.insert(parent);
            self.keep_free(parent, &name);
        } else if !self.fresh.contains(&parent) {
            let at = self.now.tid();
            self.check_directory(parent)?;
            if self.guarded.insert(parent) {
                self.guards.push(Guard::Firm { key: Key::attr(self.volume(), parent), at });
            }
            if !self.dropped.contains(&(parent, name.clone())) {
                let range = KeyRange::one(&Key::dirent(self.volume(), parent, &name));
                self.guards.push(Guard::Empty { range });
            }
        }
        self.changes.put_dirent(parent, &name, Dirent { object, kind: then.kind });
        self.count(parent, 1, i32::from(then.kind == Kind::Directory));
        self.rows += 2;
        self.bytes += 2 * (ROW_BYTES + name.len());
        self.revert.reverted.made += 1;
        Ok(())
    }

    /// A name in a directory that a plan before this one makes must be free. Names come in the order of their keys, so all of one plan are told as one
    /// range, but for those that are made last.
    fn keep_free(&mut self, parent: ObjectId, name: &[u8]) {
        let one = KeyRange::one(&Key::dirent(self.volume(), parent, name));
        match self.named.get_mut(&parent) {
            _ if self.revert.late => self.guards.push(Guard::Empty { range: one }),
            Some(range) => {
                range.end = one.end.max(std::mem::take(&mut range.end));
                range.start = one.start.min(std::mem::take(&mut range.start));
            }
            None => drop(self.named.insert(parent, one)),
        }
    }

    /// Has the object a name now?
    fn lives(&self, object: ObjectId) -> Result<bool, Stop> {
        let key = Key::attr(self.volume(), object);
        let found = self.now.get(&key)?.map(|version| as_attr(&key, &version)).transpose()?;
        Ok(found.is_some_and(|attr| attr.nlink > 0))
    }

    fn check_directory(&self, directory: ObjectId) -> Result<(), Stop> {
        let key = Key::attr(self.volume(), directory);
        let found = self.now.get(&key)?.map(|version| as_attr(&key, &version)).transpose()?;
        match found {
            Some(attr) if attr.firm.kind == Kind::Directory && !is_removed(&attr.firm) => Ok(()),
            Some(attr) if attr.firm.kind != Kind::Directory => Err(FsError::NotDirectory.into()),
            _ => Err(FsError::NotFound.into()),
        }
    }

    /// What a further name of an object is to name: what was made for it, or itself, if it is there as it was.
    fn stands_for(&mut self, object: ObjectId) -> Result<Option<ObjectId>, Stop> {
        if let Some(made) = self.revert.made.get(&object).copied() {
            if made != object && self.revert.built.is_some() && !self.fresh.contains(&made) {
                self.needed.insert(made);
            }
            return Ok(Some(made));
        }
        let key = Key::attr(self.volume(), object);
        let Some(found) = self.now.get(&key)? else { return Ok(None) };
        let (attr, was) = (as_attr(&key, &found)?, as_attr(&key, &version(self.then, &key)?)?);
        let links = i64::from(attr.nlink) + self.links.get(&object).copied().unwrap_or_default();
        let same = (attr.firm, attr.size, attr.mtime) == (was.firm, was.size, was.mtime);
        let behind = KeyRange { start: KeyRange::one(&key).end, ..KeyRange::object(self.volume(), object) };
        if links < 1 || attr.nlink < 1 || !same || !self.same_rows(&behind)? {
            return Ok(None);
        }
        self.guards.push(Guard::Unchanged { key, at: self.now.tid() });
        self.revert.made.insert(object, object);
        Ok(Some(object))
    }

    /// Makes an object as it was, but for the names of a directory and the bytes of a file, which follow.
    fn anew(&mut self, parent: ObjectId, then: Dirent, was: Attr) -> Result<ObjectId, Stop> {
        let is_directory = then.kind == Kind::Directory;
        let object = self.ids.get(self.took).copied().ok_or(Stop::NeedObjectId)?;
        let mut attr = Attr { nlink: 1, allocated: 0, ctime: Timestamp::COMMIT, ..was };
        attr.firm.parent = ObjectId::VOLUME;
        if is_directory {
            (attr.nlink, attr.size, attr.firm.parent) = (2, 0, parent);
        }
        self.took += 1;
        self.fresh.insert(object);
        self.changes.put_attr(object, attr);
        self.rows += 1;
        self.bytes += 2 * ROW_BYTES;
        // Looking for rows of the past costs more than reading them: of most objects, all come at once.
        let mut rows = Vec::new();
        if !is_directory {
            rows = self.then.scan(&KeyRange::object(self.volume(), then.object), ROWS_PAGE)?;
        }
        if is_directory || rows.len() == ROWS_PAGE {
            rows = self.then.scan(&KeyRange::xattrs(self.volume(), then.object), usize::MAX)?;
            if let Some(built) = &mut self.revert.built {
                built.insert(object);
            }
            match then.kind {
                Kind::Directory => {
                    self.later(Work::Times { now: object, then: then.object });
                    self.later(Work::Names { now: object, then: Some(then.object), after: None });
                }
                _ => self.later(Work::Bytes { now: object, then: then.object, from: 0 }),
            }
        }
        for (key, version) in &rows {
            self.put_row(object, key, version)?;
        }
        if !is_directory && was.nlink > 1 {
            self.revert.made.insert(then.object, object);
        }
        Ok(object)
    }

    /// Puts what an object had beside its attributes.
    fn put_row(&mut self, object: ObjectId, key: &Key, version: &Version) -> Result<(), Stop> {
        match (key.parts(), &version.record) {
            (KeyParts::Attr, Record::Attr(_)) => return Ok(()),
            (KeyParts::Extent { .. }, Record::Extent(_)) => return self.put_extent(object, key, version).map(drop),
            (KeyParts::Xattr { name }, Record::Xattr(value)) => {
                self.changes.put_xattr(object, name, value);
                self.bytes += ROW_BYTES + name.len() + value.len();
            }
            (KeyParts::Target, Record::Target(target)) => {
                self.changes.put_target(object, target);
                self.bytes += ROW_BYTES + target.len();
            }
            _ => return Err(damaged(key)),
        }
        self.rows += 1;
        Ok(())
    }

    /// Puts a run of bytes where there is a hole now. Gives the offset behind it.
    fn put_extent(&mut self, object: ObjectId, key: &Key, version: &Version) -> Result<u64, Stop> {
        let (KeyParts::Extent { end }, Record::Extent(Extent { len, content })) = (key.parts(), &version.record) else {
            return Err(damaged(key));
        };
        let start = end.checked_sub(*len).ok_or_else(|| damaged(key))?;
        self.changes.fill(object, start, *len, content.clone());
        self.rows += 1;
        self.bytes += ROW_BYTES
            + match content {
                Content::Inline(bytes) => bytes.len(),
                _ => 0,
            };
        Ok(end)
    }

    /// Puts the bytes that a file had from `from` on, where there is a hole now.
    fn fill(&mut self, now: ObjectId, then: ObjectId, from: u64) -> Result<(), Stop> {
        let mut from = from;
        if self.is_built(now) {
            self.needed.insert(now);
        }
        loop {
            let page = self.then.scan(&KeyRange::extents_behind(self.volume(), then, from), ROWS_PAGE)?;
            for (key, version) in &page {
                from = self.put_extent(now, key, version)?;
                if self.is_full() {
                    self.later(Work::Bytes { now, then, from });
                    return Ok(());
                }
            }
            if page.len() < ROWS_PAGE {
                return Ok(());
            }
        }
    }

    /// A page of a directory's names, those of now and of then side by side.
    fn names(&mut self, now: ObjectId, then: Option<ObjectId>, after: Option<Box<[u8]>>) -> Result<(), Stop> {
        let behind = |directory: ObjectId| {
            let all = KeyRange::dirents(self.volume(), directory);
            match &after {
                Some(name) => {
                    KeyRange { start: KeyRange::one(&Key::dirent(self.volume(), directory, name)).end, ..all }
                }
                None => all,
            }
        };
        let here = if self.is_made(now) { Vec::new() } else { page(self.now, &behind(now))? };
        let there = match then {
            Some(then) => page(self.then, &behind(then))?,
            None => Vec::new(),
        };
        // Behind the end of a full page there are more, which must be compared with what is there on the other side.
        let ends = [&here, &there].into_iter().filter(|page| page.len() == NAMES_PAGE).filter_map(|page| page.last());
        let end = ends.map(|(place, _)| place.clone()).min();
        let within = |place: &Position| end.as_ref().is_none_or(|end| place <= end);
        let mut names: BTreeMap<Position, (Option<Dirent>, Option<Dirent>)> = BTreeMap::new();
        for (place, dirent) in here.into_iter().filter(|(place, _)| within(place)) {
            names.entry(place).or_default().0 = Some(dirent);
        }
        for (place, dirent) in there.into_iter().filter(|(place, _)| within(place)) {
            names.entry(place).or_default().1 = Some(dirent);
        }
        if let Some((_, last)) = end {
            self.later(Work::Names { now, then, after: Some(last) });
        }
        for ((_, name), (of_now, of_then)) in names.into_iter().rev() {
            if of_now != of_then || !self.is_unchanged(of_then)? {
                self.later(Work::Name { parent: now, of: then, name, then: of_then });
            }
        }
        Ok(())
    }

    /// Is what this name has named all along what it was? (Of a directory nobody knows yet.)
    fn is_unchanged(&self, dirent: Option<Dirent>) -> Result<bool, Stop> {
        let Some(Dirent { object, kind }) = dirent else { return Ok(true) };
        if kind == Kind::Directory {
            return Ok(false);
        }
        let key = Key::attr(self.volume(), object);
        // What is not kept is told when its turn comes.
        let Some(was) = self.then.get(&key)? else { return Ok(false) };
        Ok(version(self.now, &key)?.create == was.create)
    }

    fn times(&mut self, now: ObjectId, then: ObjectId) -> Result<(), Stop> {
        let key = Key::attr(self.volume(), then);
        let was = as_attr(&key, &version(self.then, &key)?)?;
        let times = (was.atime, was.mtime);
        let touched = self.counted.contains_key(&now) || self.is_made(now);
        let key = Key::attr(self.volume(), now);
        let stays = !touched && {
            let is = as_attr(&key, &version(self.now, &key)?)?;
            (is.atime, is.mtime) == times
        };
        if !stays {
            if self.is_built(now) {
                self.needed.insert(now);
            }
            self.counted.entry(now).or_default().times = Some(times);
            self.rows += 1;
        }
        Ok(())
    }
}

/// A name's place in the order of directories.
type Position = (u64, Box<[u8]>);

fn page(view: &dyn View, range: &KeyRange) -> Result<Vec<(Position, Dirent)>, Stop> {
    let found = view.scan(range, NAMES_PAGE)?;
    let named = found.iter().map(|(key, version)| match (key.parts(), &version.record) {
        (KeyParts::Dirent { cookie, name }, Record::Dirent(dirent)) => Ok(((cookie.0, name.into()), *dirent)),
        _ => Err(damaged(key)),
    });
    named.collect()
}

fn dirent(view: &dyn View, volume: VolumeId, parent: ObjectId, name: &[u8]) -> Result<Option<Dirent>, Stop> {
    let key = Key::dirent(volume, parent, name);
    match view.get(&key)?.map(|version| version.record) {
        None => Ok(None),
        Some(Record::Dirent(dirent)) => Ok(Some(dirent)),
        Some(_) => Err(damaged(&key)),
    }
}

/// What must be there, because a name says so.
fn version(view: &dyn View, key: &Key) -> Result<Version, Stop> {
    view.get(key)?.ok_or_else(|| ViewError::Damaged { what: format!("{key:?} (a name leads there)") }.into())
}

fn as_attr(key: &Key, version: &Version) -> Result<Attr, Stop> {
    match &version.record {
        Record::Attr(attr) => Ok(*attr),
        _ => Err(damaged(key)),
    }
}

/// A name and a value.
type Named = (Box<[u8]>, Box<[u8]>);

/// What extended attributes are to become, by their names; none: they go.
type Back = BTreeMap<Box<[u8]>, Option<Box<[u8]>>>;

fn xattr(key: &Key, version: &Version) -> Result<Named, Stop> {
    match (key.parts(), &version.record) {
        (KeyParts::Xattr { name }, Record::Xattr(value)) => Ok((name.into(), value.clone())),
        _ => Err(damaged(key)),
    }
}
