//! The rows of a step of a copy that has a part of its source.

use super::walk::{IDS_MAX, Ids};
use super::{Counted, Part, Shown};
use crate::changed::{Changed, Gathered, Keys};
use crate::source::{Read, Step, changed_by};
use crate::stream::Row;
use crate::work::{Page, Queue};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid};
use gavel_wire::past::Past;
use gavel_wire::{Dirent, Kind, Record, View, ViewError};
use std::collections::{BTreeSet, VecDeque};

/// Directories that stand otherwise behind a step than before, of which each is walked by itself, at most.
pub const MOVED_MAX: usize = 65_536;

/// The rows of a step, as far as they were given out.
#[derive(Debug)]
pub struct PartRows {
    part: Part,
    /// The states that rows are taken from: what the copy has, what it is to have.
    old: Tid,
    new: Tid,
    /// None: there was nothing before.
    changed: Option<Changed>,
    gathered: Option<Gathered>,
    /// What may come in or go out without having changed; none: that is not known yet.
    walked: Option<Ids>,
    ids_max: usize,
    queue: Queue,
    /// What was read so far.
    pub read: Read,
}

impl PartRows {
    /// The rows of a step of a part.
    pub fn new(part: Part, step: Step) -> PartRows {
        PartRows::gathering(part, step, IDS_MAX)
    }

    /// The same, with so many ids gathered at a time.
    pub fn gathering(part: Part, step: Step, ids_max: usize) -> PartRows {
        let (changed, states) = (changed_by(step), (step.from, step.to));
        let gathered = changed.map(|changed| Gathered::new(part.volume, changed));
        let queue = Queue::new(part.volume, states, Some(part.selector.clone()));
        let (old, new) = states;
        PartRows { part, old, new, changed, gathered, walked: None, ids_max, queue, read: Read::default() }
    }

    /// What was found out of the part, for the next step.
    pub fn into_part(self) -> Part {
        self.part
    }

    /// Was the object in the copy before the step?
    ///
    /// # Errors
    /// As the past's.
    pub fn had(&mut self, past: &dyn Past, object: ObjectId) -> Result<bool, ViewError> {
        Ok(self.old != Tid::ZERO && self.part.has(past, self.old, object)?)
    }

    /// The next rows: about `bytes_max` of them, one at least. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Vec<Row>>, ViewError> {
        let mut page = Page::new(bytes_max);
        while !page.is_full() {
            if !self.queue.go_on(past, &mut page, &mut self.read)? && !self.next_object(past)? {
                break;
            }
        }
        Ok(page.some())
    }

    /// What is to be done for the next object. False if there is none.
    fn next_object(&mut self, past: &dyn Past) -> Result<bool, ViewError> {
        let mut walked = match self.walked.take() {
            Some(walked) => walked,
            None => self.begin(past)?,
        };
        let below = walked.peek(past, &mut self.part, &mut self.read)?;
        let changed = match &mut self.gathered {
            Some(gathered) => gathered.peek(past, &mut self.read)?,
            None => None,
        };
        let next = below.into_iter().chain(changed).min();
        if below == next {
            walked.take();
        }
        self.walked = Some(walked);
        let Some(object) = next else { return Ok(false) };
        let keys = match &mut self.gathered {
            Some(gathered) if changed == next => gathered.take(),
            _ => Some(VecDeque::new()),
        };
        self.object(past, object, keys)?;
        Ok(true)
    }

    /// Which directories are to be walked: those that stand otherwise than before.
    fn begin(&mut self, past: &dyn Past) -> Result<Ids, ViewError> {
        let Some(changed) = self.changed else {
            return Ok(Ids::new(vec![ObjectId::ROOT], vec![self.new], self.ids_max));
        };
        let tops = match self.renamed(past, changed)? {
            Some(renamed) => renamed,
            None => vec![ObjectId::ROOT],
        };
        Ok(Ids::new(tops, vec![self.old, self.new], self.ids_max))
    }

    /// Directories that stand otherwise than before, and may have names that have not changed; none: too many.
    fn renamed(&mut self, past: &dyn Past, changed: Changed) -> Result<Option<Vec<ObjectId>>, ViewError> {
        let range = KeyRange::of_objects(self.part.volume);
        let mut renamed = BTreeSet::new();
        for touched in changed.touched(past, &range) {
            let key = touched?.key;
            self.read.changes += 1;
            if !range.contains(&key) || !matches!(key.parts(), KeyParts::Dirent { .. }) {
                continue;
            }
            for state in [self.old, self.new] {
                // What has no part of the copy in it gives nothing to it, and takes nothing out.
                if self.part.footing(past, state, key.object(), &mut self.read)?.is_some()
                    && let Some(Dirent { object, kind: Kind::Directory }) = self.dirent(&*past.at(state), &key)?
                {
                    renamed.insert(object);
                }
            }
            if renamed.len() > MOVED_MAX {
                return Ok(None);
            }
        }
        let mut otherwise = Vec::new();
        for directory in renamed {
            let (part, read) = (&mut self.part, &mut self.read);
            let stood = part.footing(past, self.old, directory, read)?;
            let stands = part.footing(past, self.new, directory, read)?;
            // What was made or removed between has no names but those that have changed with it.
            if stood != stands
                && part.attr(&*past.at(self.old), directory, read)?.is_some()
                && part.attr(&*past.at(self.new), directory, read)?.is_some()
            {
                otherwise.push(directory);
            }
        }
        Ok(Some(otherwise))
    }

    fn dirent(&mut self, state: &dyn View, key: &Key) -> Result<Option<Dirent>, ViewError> {
        self.read.records += 1;
        Ok(state.get(key)?.and_then(|version| match version.record {
            Record::Dirent(dirent) => Some(dirent),
            _ => None,
        }))
    }

    fn object(&mut self, past: &dyn Past, object: ObjectId, keys: Keys) -> Result<(), ViewError> {
        let old = match self.old {
            Tid::ZERO => None,
            old => self.part.shown(past, old, object, &mut self.read)?,
        };
        let keys = match keys {
            Some(keys) => Some(self.selected(past, (object, old), keys)?),
            None => None,
        };
        let new = self.part.shown(past, self.new, object, &mut self.read)?;
        match (old, new, keys) {
            (None, None, _) => {}
            (Some(old), None, _) => {
                self.queue.attr(object, Some(old.attr));
                self.queue.end_all(object, old.footing);
                self.queue.attr(object, None);
            }
            (None, Some(new), _) => {
                self.queue.attr(object, Some(new.attr));
                self.queue.put_all(object, new.footing);
            }
            (Some(old), Some(new), Some(keys)) if old.footing == new.footing => {
                if !keys.is_empty() || old.attr != new.attr {
                    self.queue.attr(object, Some(new.attr));
                    self.queue.put(keys, true, new.footing);
                }
            }
            (Some(old), Some(new), _) => {
                self.queue.attr(object, Some(new.attr));
                self.queue.end_all(object, old.footing);
                self.queue.put_all(object, new.footing);
            }
        }
        Ok(())
    }

    /// Which of the records that have changed are shown in one of the states, if the object stands in both as it did. Of a directory, how many names it shows
    /// now follows from how many it did.
    fn selected(
        &mut self,
        past: &dyn Past,
        (object, old): (ObjectId, Option<Shown>),
        mut keys: VecDeque<Key>,
    ) -> Result<VecDeque<Key>, ViewError> {
        keys.retain(|key| key.parts() != KeyParts::Attr);
        let Some(footing) = old.and_then(|old| old.footing) else { return Ok(keys) };
        let stands = self.part.footing(past, self.new, object, &mut self.read)?;
        if stands != Some(footing) || !self.part.selector.may_hide(footing) {
            return Ok(keys);
        }
        let mut names = self.part.count(past, self.old, (object, footing), &mut self.read)?;
        let (before, behind, mut selected) = (past.at(self.old), past.at(self.new), VecDeque::new());
        for key in keys {
            self.read.records += 2;
            let shown = |found: &Record| self.part.selector.shows(Some(footing), &key, found);
            let was = before.get(&key)?.map(|version| version.record).filter(shown);
            let is = behind.get(&key)?.map(|version| version.record).filter(shown);
            if let Some(Record::Dirent(dirent)) = &was {
                names.remove(dirent);
            }
            if let Some(Record::Dirent(dirent)) = &is {
                names.add(dirent);
            }
            if was.is_some() || is.is_some() {
                selected.push_back(key);
            }
        }
        self.part.remember(object, Counted { at: self.new, footing, names });
        Ok(selected)
    }
}
