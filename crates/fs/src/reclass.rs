//! Gives an object, and all that lies below it if it is a directory, another class: how long their past is kept.
//!
//! As [`crate::Revert`], it is a change like any other, in bounded plans with guards over the present. A directory is listed in a view behind
//! the plan that has changed it: what is made there in between has the new class already.

use crate::Stop;
use crate::changes::Changes;
use crate::tree::damaged;
use gavel_types::{Class, Key, KeyParts, KeyRange, ObjectId, Timestamp, VolumeId};
use gavel_wire::{Attr, Guard, Kind, Plan, Record, View};
use std::collections::BTreeSet;

/// Most objects that one step looks at: whoever applies its plan does nothing else meanwhile.
pub const STEP_OBJECTS_MAX: usize = 1024;
/// Names read of a directory at a time.
const NAMES_PAGE: usize = 256;

/// Something left to do. What is done next is last.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Work {
    /// The object that was named.
    Top(ObjectId),
    /// The names of a directory behind one of them.
    Names { directory: ObjectId, after: Option<Key> },
}

/// The way through a tree, as far as it has been gone. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Reclass {
    volume: VolumeId,
    class: Class,
    work: Vec<Work>,
    changed: u64,
}

/// What comes of a step.
#[derive(Clone, PartialEq, Debug)]
pub enum Reclassing {
    /// Ship this, if it changes anything. If it is committed, go on with [`Reclass::step`] on a view that holds it; if it collided, run this step again
    /// with the [`Reclass`] from before it.
    Commit {
        /// What was read.
        guards: Vec<Guard>,
        /// What to write.
        plan: Plan,
    },
    /// All have the class.
    Done,
}

impl Reclass {
    /// Gives `object` and what lies below it this class.
    pub fn new(volume: VolumeId, object: ObjectId, class: Class) -> Reclass {
        Reclass { volume, class, work: vec![Work::Top(object)], changed: 0 }
    }

    /// The next plan.
    ///
    /// # Errors
    /// [`Stop::View`].
    pub fn step(&mut self, now: &dyn View) -> Result<Reclassing, Stop> {
        let mut step = Step { now, changes: Changes::new(self.volume), guards: Vec::new(), objects: BTreeSet::new() };
        let mut below = Vec::new();
        let mut looked = 0;
        while looked < STEP_OBJECTS_MAX {
            match self.work.pop() {
                None if looked == 0 => return Ok(Reclassing::Done),
                None => break,
                Some(Work::Top(object)) => {
                    looked += 1;
                    if self.change(&mut step, object)? == Some(Kind::Directory) {
                        below.push(Work::Names { directory: object, after: None });
                    }
                }
                Some(Work::Names { directory, after }) => {
                    looked += 1 + self.names(&mut step, directory, after, &mut below)?
                }
            }
        }
        self.work.extend(below);
        Ok(Reclassing::Commit { guards: step.guards, plan: step.changes.into_plan() })
    }

    /// How many objects have been given the class, by the plan that was made last too.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// A page of names: what they name is changed, and what lies below comes later. Says how many there were.
    fn names(
        &mut self,
        step: &mut Step<'_>,
        directory: ObjectId,
        after: Option<Key>,
        below: &mut Vec<Work>,
    ) -> Result<usize, Stop> {
        let mut range = KeyRange::dirents(self.volume, directory);
        if let Some(after) = after {
            range.start = KeyRange::one(&after).end;
        }
        let page = step.now.scan(&range, NAMES_PAGE)?;
        for (key, version) in &page {
            let (KeyParts::Dirent { .. }, Record::Dirent(dirent)) = (key.parts(), &version.record) else {
                return Err(damaged(key));
            };
            if self.change(step, dirent.object)? == Some(Kind::Directory) {
                below.push(Work::Names { directory: dirent.object, after: None });
            }
        }
        if let Some((last, _)) = page.last().filter(|_| page.len() == NAMES_PAGE) {
            self.work.push(Work::Names { directory, after: Some(last.clone()) });
        }
        Ok(page.len())
    }

    /// One object; says what it is, if it is there.
    fn change(&mut self, step: &mut Step<'_>, object: ObjectId) -> Result<Option<Kind>, Stop> {
        let key = Key::attr(self.volume, object);
        let Some(found) = step.now.get(&key)? else { return Ok(None) };
        let Record::Attr(mut attr) = found.record else { return Err(damaged(&key)) };
        let kind = attr.firm.kind;
        if attr.firm.class != self.class && step.objects.insert(object) {
            attr = Attr { ctime: Timestamp::COMMIT, ..attr };
            attr.firm.class = self.class;
            step.guards.push(Guard::Unchanged { key, at: step.now.tid() });
            step.changes.put_attr(object, attr);
            self.changed += 1;
        }
        Ok(Some(kind))
    }
}

/// One plan in the making.
struct Step<'v> {
    now: &'v dyn View,
    changes: Changes,
    guards: Vec<Guard>,
    /// What it changes: a file may have several names.
    objects: BTreeSet<ObjectId>,
}
