//! Copies of a part of a volume. `docs/protocols/mirroring.md`, "Parts of a volume", has the whole of it.
//!
//! - [`select`]: what a selection means
//! - [`walk`]: what is selected at or below a directory
//! - [`rows`]: the rows of a step
//! - [`compare`]: a step from a state that the source has no more
//!
//! Invariants:
//! 1. What is given out of a state follows from that state and the selection alone.
//! 2. No name, record or end of a record is given out that the selection does not show in one of the two states of a step.
//! 3. Memory follows neither the size of the part nor that of a step.

pub mod compare;
pub mod rows;
pub mod select;
pub mod walk;

use crate::scan::{Scan, named_attr};
use crate::source::Read;
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Dirent, Kind, Record, View, ViewError};
use select::{Footing, Selector};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Directories of which it is remembered where they stand.
const FOOTINGS_MAX: usize = 65_536;
/// Directories of which it is remembered how many names they show.
const COUNTED_MAX: usize = 4096;

/// What a selection shows of the states of a volume. It remembers what it has found out: that does not change.
#[derive(Debug)]
pub struct Part {
    volume: VolumeId,
    selector: Arc<Selector>,
    /// Where directories stand, as of states; none: they are not selected.
    footings: BTreeMap<(Tid, ObjectId), Option<Footing>>,
    /// How many names directories show, as of states.
    counted: BTreeMap<ObjectId, Counted>,
}

/// What a directory shows as of a state.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Tid,
    footing: Footing,
    names: Names,
}

/// How many names a directory shows, and how many of them are directories'.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Names {
    all: u64,
    directories: u32,
}

/// What is shown of an object that is in the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    attr: Attr,
    /// Where it stands, if it is a directory.
    footing: Option<Footing>,
}

impl Part {
    /// Of a volume.
    pub fn new(volume: VolumeId, selector: Arc<Selector>) -> Part {
        Part { volume, selector, footings: BTreeMap::new(), counted: BTreeMap::new() }
    }

    /// Is the object in the copy, as of a state?
    ///
    /// # Errors
    /// As the past's.
    pub fn has(&mut self, past: &dyn Past, tid: Tid, object: ObjectId) -> Result<bool, ViewError> {
        let read = &mut Read::default();
        let Some(attr) = self.attr(&*past.at(tid), object, read)? else { return Ok(false) };
        match attr.firm.kind {
            Kind::Directory => Ok(self.footing(past, tid, object, read)?.is_some()),
            kind => {
                for (key, _) in names(past, (self.volume, object), tid, read)? {
                    if self.stands(past, tid, (&key, kind), read)?.is_some() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn attr(&self, state: &dyn View, object: ObjectId, read: &mut Read) -> Result<Option<Attr>, ViewError> {
        named_attr(state, (self.volume, object), read)
    }

    /// Where a directory stands, as of a state; none if it is not selected, or not there.
    fn footing(
        &mut self,
        past: &dyn Past,
        tid: Tid,
        directory: ObjectId,
        read: &mut Read,
    ) -> Result<Option<Footing>, ViewError> {
        let (mut way, mut here) = (Vec::new(), directory);
        let mut footing = loop {
            if here == ObjectId::ROOT {
                break Some(self.selector.root());
            }
            if let Some(known) = self.footings.get(&(tid, here)) {
                break *known;
            }
            if way.len() > DEPTH_MAX {
                return Err(ViewError::Damaged {
                    what: format!("{:?} (it is below itself)", Key::attr(self.volume, here)),
                });
            }
            // A directory has one name.
            let Some((key, _)) = names(past, (self.volume, here), tid, read)?.pop() else { break None };
            way.push((here, key.clone()));
            here = key.object();
        };
        if self.footings.len() + way.len() > FOOTINGS_MAX {
            self.footings.clear();
        }
        for (object, key) in way.into_iter().rev() {
            footing = footing.and_then(|above| self.selector.child(above, name_of(&key)?, Kind::Directory));
            self.footings.insert((tid, object), footing);
        }
        Ok(footing)
    }

    /// Where what this key names stands; none if the name is not selected.
    fn stands(
        &mut self,
        past: &dyn Past,
        tid: Tid,
        (key, kind): (&Key, Kind),
        read: &mut Read,
    ) -> Result<Option<Footing>, ViewError> {
        let above = self.footing(past, tid, key.object(), read)?;
        Ok(above.and_then(|above| self.selector.child(above, name_of(key)?, kind)))
    }

    /// What is shown of an object as of a state; none if it is not in the copy.
    fn shown(
        &mut self,
        past: &dyn Past,
        tid: Tid,
        object: ObjectId,
        read: &mut Read,
    ) -> Result<Option<Shown>, ViewError> {
        let Some(mut attr) = self.attr(&*past.at(tid), object, read)? else { return Ok(None) };
        if attr.firm.kind == Kind::Directory {
            let Some(footing) = self.footing(past, tid, object, read)? else { return Ok(None) };
            if self.selector.may_hide(footing) {
                self.count(past, tid, (object, footing), read)?.set(&mut attr);
            }
            return Ok(Some(Shown { attr, footing: Some(footing) }));
        }
        attr.nlink = 0;
        for (key, _) in names(past, (self.volume, object), tid, read)? {
            attr.nlink += u32::from(self.stands(past, tid, (&key, attr.firm.kind), read)?.is_some());
        }
        Ok(Some(Shown { attr, footing: None }).filter(|shown| shown.attr.nlink > 0))
    }

    /// How many names a directory shows.
    fn count(
        &mut self,
        past: &dyn Past,
        tid: Tid,
        (directory, footing): (ObjectId, Footing),
        read: &mut Read,
    ) -> Result<Names, ViewError> {
        let state = past.at(tid);
        let mut names = Names::default();
        if let Some(leading_on) = self.selector.leading_on(footing) {
            for name in leading_on {
                read.records += 1;
                let found = state.get(&Key::dirent(self.volume, directory, name))?;
                if let Some(Record::Dirent(dirent)) = found.map(|version| version.record)
                    && self.selector.child(footing, name, dirent.kind).is_some()
                {
                    names.add(&dirent);
                }
            }
            return Ok(names);
        }
        // No name comes or goes without the attributes of its directory.
        read.records += 1;
        let since = state.get(&Key::attr(self.volume, directory))?.map(|version| version.create);
        if let (Some(counted), Some(since)) = (self.counted.get(&directory), since)
            && counted.footing == footing
            && since <= counted.at
            && counted.at <= tid
        {
            return Ok(counted.names);
        }
        let mut scan = Scan::new(KeyRange::dirents(self.volume, directory));
        while let Some((key, version)) = scan.next(past, tid, read)? {
            if let Record::Dirent(dirent) = &version.record
                && self.selector.shows(Some(footing), &key, &version.record)
            {
                names.add(dirent);
            }
        }
        self.remember(directory, Counted { at: tid, footing, names });
        Ok(names)
    }

    fn remember(&mut self, directory: ObjectId, counted: Counted) {
        if self.counted.len() >= COUNTED_MAX && !self.counted.contains_key(&directory) {
            self.counted.clear();
        }
        self.counted.insert(directory, counted);
    }
}

impl Names {
    fn add(&mut self, dirent: &Dirent) {
        self.all += 1;
        self.directories += u32::from(dirent.kind == Kind::Directory);
    }

    fn remove(&mut self, dirent: &Dirent) {
        self.all = self.all.saturating_sub(1);
        self.directories = self.directories.saturating_sub(u32::from(dirent.kind == Kind::Directory));
    }

    fn set(self, attr: &mut Attr) {
        attr.size = self.all;
        attr.nlink = 2 + self.directories;
    }
}

/// The names of an object as of a state, and since when it has each.
fn names(
    past: &dyn Past,
    (volume, object): (VolumeId, ObjectId),
    tid: Tid,
    read: &mut Read,
) -> Result<Vec<(Key, Tid)>, ViewError> {
    let (state, mut found) = (past.at(tid), Vec::new());
    for key in past.names_of(volume, object) {
        let key = key?;
        read.records += 1;
        if let Some(version) = state.get(&key)?.filter(|version| version.record.names() == Some(object)) {
            found.push((key, version.create));
        }
    }
    Ok(found)
}

fn name_of(key: &Key) -> Option<&[u8]> {
    match key.parts() {
        KeyParts::Dirent { name, .. } => Some(name),
        _ => None,
    }
}
