//! What a transaction comes to: for each record what the base had and what there is to be, not the steps between.
//!
//! Counters and times of directories merge with what others do meanwhile, and so do writes to parts of a file that nothing was read of.

use super::Transaction;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId};
use gavel_wire::{Attr, AttrDelta, Guard, Kind, Mutation, Plan, Record, Version, View, ViewError};
use std::collections::BTreeSet;

/// A transaction as one commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folded {
    /// What it depends on.
    pub guards: Vec<Guard>,
    /// What it writes.
    pub plan: Plan,
}

impl Transaction {
    /// What it comes to. `base` is the view at its start.
    ///
    /// # Errors
    /// As the view's.
    pub fn fold(&self, base: &dyn View) -> Result<Folded, ViewError> {
        let nameless = self.nameless();
        let mut mutations = Vec::new();
        for (key, version) in self.layer.laid(&KeyRange::volume(self.volume)) {
            if nameless.contains(&super::guards::owner(key)) {
                continue;
            }
            match key.parts() {
                KeyParts::Attr => self.fold_attr(base, key, version, &mut mutations)?,
                // Behind everything else: a plan's last mutations see that the object lost its names.
                KeyParts::Orphan { .. } | KeyParts::Commit { .. } | KeyParts::Boundary => {}
                KeyParts::Extent { .. } if !self.made.contains(&key.object()) => {}
                _ => {
                    let before = base.get(key)?;
                    // Others may have changed what is as it was at the start, unless it is depended on, or known to nobody else: then it is put so.
                    let stays = self.made.contains(&key.object()) || self.guards.has(key);
                    match (version, before) {
                        (Some(version), Some(before)) if stays && version.record == before.record => {}
                        (Some(version), _) => put(key, version, &mut mutations),
                        (None, None) if stays => {}
                        (None, _) => mutations.push(Mutation::Delete { key: key.clone() }),
                    }
                }
            }
        }
        self.fold_bytes(&mut mutations);
        for (key, version) in self.layer.laid(&KeyRange::orphans_from(self.volume, ObjectId(0))) {
            if let (KeyParts::Orphan { object }, Some(_)) = (key.parts(), version)
                && !nameless.contains(&object)
                && base.get(key)?.is_none()
            {
                mutations.push(Mutation::Orphan { volume: self.volume, object });
            }
        }
        Ok(Folded { guards: self.guards.to_guards(self.at), plan: Plan { mutations } })
    }

    /// The objects that it made and that have no name any more: they never reach the commit.
    pub(super) fn nameless(&self) -> BTreeSet<ObjectId> {
        self.made.iter().copied().filter(|object| self.is_nameless(*object)).collect()
    }

    pub(super) fn is_nameless(&self, object: ObjectId) -> bool {
        match self.layer.get(&Key::attr(self.volume, object)).flatten() {
            Some(version) => attr_of(version).is_some_and(|attr| attr.nlink == 0),
            None => false,
        }
    }

    fn fold_attr(
        &self,
        base: &dyn View,
        key: &Key,
        version: Option<&Version>,
        mutations: &mut Vec<Mutation>,
    ) -> Result<(), ViewError> {
        let object = key.object();
        let Some((version, attr)) = version.and_then(|version| Some((version, attr_of(version)?))) else {
            return Ok(());
        };
        let before = base.get(key)?;
        let Some(before) = before.as_ref().and_then(attr_of) else {
            put(key, version, mutations);
            return Ok(());
        };
        // Who has replaced attributes has depended on all of them. (Of a directory, who has only listed it has, too, and its firm half is the same.)
        let directory = attr.firm.kind == Kind::Directory;
        if self.guards.is_whole(object) && (!directory || before.firm != attr.firm) {
            put(key, version, mutations);
            return Ok(());
        }
        let delta = self.delta(object, before, attr);
        mutations.push(Mutation::Adjust { volume: self.volume, object, delta });
        Ok(())
    }

    fn delta(&self, object: ObjectId, before: &Attr, attr: &Attr) -> AttrDelta {
        let directory = attr.firm.kind == Kind::Directory;
        let merging = self.merging.get(&object).copied().unwrap_or_default();
        // Others may have changed a directory later than this did: its times are the commit's, unless they were set by hand. A file has the times
        // that programs of the transaction saw.
        let time = |asked: Option<_>, is| if directory { asked } else { asked.map(|_| is) };
        AttrDelta {
            nlink: (i64::from(attr.nlink) - i64::from(before.nlink)) as i32,
            size: if directory { attr.size as i64 - before.size as i64 } else { 0 },
            // Whatever others have cut off meanwhile.
            size_min: merging.size_min,
            atime: time(merging.atime, attr.atime),
            mtime: time(merging.mtime, attr.mtime),
            ctime: time(merging.ctime, attr.ctime),
        }
    }

    /// The bytes of files that were there: of each run that was written, what is there now. Those of files that have lost their last name, too: others may have
    /// them open, and their attributes say how many there are.
    fn fold_bytes(&self, mutations: &mut Vec<Mutation>) {
        for (object, runs) in &self.written {
            let (volume, object) = (self.volume, *object);
            mutations.extend(runs.iter().map(|(start, end)| Mutation::Carve { volume, object, start, end }));
            for (start, end) in runs.iter() {
                for (key, version) in self.layer.laid(&KeyRange::extents_behind(volume, object, start)) {
                    let (KeyParts::Extent { end: extent_end }, Some(version)) = (key.parts(), version) else {
                        continue;
                    };
                    // What was not written here lies outside of all runs, as a whole.
                    if extent_end > end {
                        break;
                    }
                    put(key, version, mutations);
                }
            }
        }
    }
}

fn put(key: &Key, version: &Version, mutations: &mut Vec<Mutation>) {
    mutations.push(Mutation::Put { key: key.clone(), record: version.record.clone() });
}

fn attr_of(version: &Version) -> Option<&Attr> {
    match &version.record {
        Record::Attr(attr) => Some(attr),
        _ => None,
    }
}
