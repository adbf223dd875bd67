//! What is selected at or below directories, as ids in their order.
//!
//! Trees are walked in the order of names, and ids are wanted in theirs. So each walk gathers the next so many ids, and what has more of them is walked again.

use super::{Part, name_of};
use crate::scan::PAGE_ROWS;
use crate::source::Read;
use gavel_types::{Key, KeyRange, ObjectId, Tid};
use gavel_wire::past::Past;
use gavel_wire::{Kind, Record, Version, View, ViewError};
use std::collections::{BTreeSet, VecDeque};

/// Ids that are gathered at a time, at most.
pub const IDS_MAX: usize = 1 << 20;

/// The ids of all that is selected at or below some directories, in some states.
#[derive(Debug)]
pub(super) struct Ids {
    /// The directories.
    tops: Vec<ObjectId>,
    /// The states.
    states: Vec<Tid>,
    gathered: VecDeque<ObjectId>,
    /// The last one that was gathered; all behind it are still to come, unless it is over.
    last: ObjectId,
    over: bool,
    max: usize,
}

impl Ids {
    pub(super) fn new(tops: Vec<ObjectId>, states: Vec<Tid>, max: usize) -> Ids {
        let over = tops.is_empty() || states.is_empty();
        Ids { tops, states, gathered: VecDeque::new(), last: ObjectId::VOLUME, over, max }
    }

    /// The next id, without taking it.
    pub(super) fn peek(
        &mut self,
        past: &dyn Past,
        part: &mut Part,
        read: &mut Read,
    ) -> Result<Option<ObjectId>, ViewError> {
        if self.gathered.is_empty() && !self.over {
            self.gather(past, part, read)?;
        }
        Ok(self.gathered.front().copied())
    }

    pub(super) fn take(&mut self) {
        self.gathered.pop_front();
    }

    fn gather(&mut self, past: &dyn Past, part: &mut Part, read: &mut Read) -> Result<(), ViewError> {
        let (mut ids, mut more) = (BTreeSet::new(), false);
        for state in self.states.clone() {
            for top in self.tops.clone() {
                walk(past, part, (state, top), read, &mut |id| {
                    if id > self.last {
                        ids.insert(id);
                    }
                    if ids.len() > self.max {
                        ids.pop_last();
                        more = true;
                    }
                })?;
            }
        }
        self.last = ids.last().copied().unwrap_or(self.last);
        self.over = !more;
        self.gathered = ids.into_iter().collect();
        Ok(())
    }
}

/// Tells of a directory and all that is selected below it, as of a state. What has several names there is told of several times.
fn walk(
    past: &dyn Past,
    part: &mut Part,
    (tid, top): (Tid, ObjectId),
    read: &mut Read,
    each: &mut impl FnMut(ObjectId),
) -> Result<(), ViewError> {
    let Some(footing) = part.footing(past, tid, top, read)? else { return Ok(()) };
    each(top);
    let (state, volume) = (past.at(tid), part.volume);
    // What is left of each directory, the one that is walked last.
    let mut left = vec![(KeyRange::dirents(volume, top), footing)];
    while let Some((mut range, footing)) = left.pop() {
        let page = match part.selector.leading_on(footing) {
            // Of its other names nothing is to be read.
            Some(names) => found(&*state, &range, &names, read)?,
            None => {
                let page = state.scan(&range, PAGE_ROWS)?;
                read.rows += page.len() as u64;
                if let Some((last, _)) = page.last().filter(|_| page.len() == PAGE_ROWS) {
                    range.start = KeyRange::one(last).end;
                    left.push((range, footing));
                }
                page
            }
        };
        for (key, version) in &page {
            let (Some(name), Record::Dirent(dirent)) = (name_of(key), &version.record) else { continue };
            let Some(below) = part.selector.child(footing, name, dirent.kind) else { continue };
            each(dirent.object);
            if dirent.kind == Kind::Directory {
                left.push((KeyRange::dirents(volume, dirent.object), below));
            }
        }
    }
    Ok(())
}

/// The names of a directory that are among these.
fn found(
    state: &dyn View,
    directory: &KeyRange,
    names: &[&[u8]],
    read: &mut Read,
) -> Result<Vec<(Key, Version)>, ViewError> {
    let Some((volume, object)) = directory.of_object() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in names {
        read.records += 1;
        let key = Key::dirent(volume, object, name);
        found.extend(state.get(&key)?.map(|version| (key, version)));
    }
    Ok(found)
}
