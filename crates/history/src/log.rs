//! What transactions did, in short: `+` a name that was made, `-` one that went, `R` one that became another, `M` an object that was changed.

use crate::history::{kind_name, unnamed};
use crate::names::{Names, Place, before, dirent};
use crate::transaction::{NameChange, Transaction, What, attrs, of_object};
use crate::walk::attr;
use gavel_types::{KeyParts, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Committed, Dirent, Kind, Past, Record, ViewError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most changes of one transaction that are told; how many there are beyond is said.
pub const CHANGES_SHOWN_MAX: usize = 1000;
/// Most transactions that are looked at for one page.
pub const PAGE_LOOKED_AT_MAX: usize = 1024;

/// What became of a path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Sign {
    /// It was made.
    #[serde(rename = "+")]
    Added,
    /// It went.
    #[serde(rename = "-")]
    Removed,
    /// What has it was changed.
    #[serde(rename = "M")]
    Modified,
    /// What has it had another one.
    #[serde(rename = "R")]
    Renamed,
    /// What it was is not kept: its directory keeps less than the volume.
    #[serde(rename = "?")]
    NotKept,
}

impl Sign {
    /// One character.
    pub fn as_char(self) -> char {
        match self {
            Sign::Added => '+',
            Sign::Removed => '-',
            Sign::Modified => 'M',
            Sign::Renamed => 'R',
            Sign::NotKept => '?',
        }
    }
}

/// A change of a path. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathChange {
    /// What became of it.
    pub sign: Sign,
    /// The path within the volume, behind the transaction (of what went: before it).
    pub path: String,
    /// The path before, of what was renamed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// The object.
    pub object: u64,
    /// Its kind.
    pub kind: String,
    /// What was done to the object itself.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changes: Vec<What>,
}

/// A transaction. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// The transaction.
    pub tid: String,
    /// The same as a time, to the second.
    pub time: String,
    /// Through which node.
    pub node: u64,
    /// For which user.
    pub uid: u32,
    /// What for, if somebody said so.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// What it did.
    pub changes: Vec<PathChange>,
    /// How many changes more.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub more: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a log is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Everything.
    Volume,
    /// A directory and what was below it then, wherever it was.
    Directory(ObjectId),
    /// One object that is no directory.
    Object(ObjectId),
}

impl Scope {
    /// What an object and what is below it make.
    pub fn of(object: ObjectId, kind: Kind) -> Scope {
        match (object, kind) {
            (ObjectId::ROOT, _) => Scope::Volume,
            (object, Kind::Directory) => Scope::Directory(object),
            (object, _) => Scope::Object(object),
        }
    }
}

/// A piece of a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogPage {
    /// The newest first.
    pub lines: Vec<LogLine>,
    /// How many transactions were looked at.
    pub looked_at: usize,
    /// Where to go on: the newest transaction that was not looked at, or a Tid behind it. None at the end.
    pub next: Option<Tid>,
}

/// The commits after `after`, up to and with `upto`, newest first: `limit` of them at most, and no more than [`PAGE_LOOKED_AT_MAX`] looked at.
///
/// # Errors
/// As the view's.
pub fn log(
    past: &dyn Past,
    volume: VolumeId,
    scope: Scope,
    (after, upto): (Tid, Tid),
    limit: usize,
) -> Result<LogPage, ViewError> {
    let mut page = LogPage::default();
    let mut names = Names::new(past, volume);
    let Some(first) = after.0.checked_add(1) else { return Ok(page) };
    for row in past.live_back(&KeyRange::commits(volume, Tid(first), upto)) {
        let (key, version) = row?;
        let (KeyParts::Commit { tid }, Record::Commit(committed)) = (key.parts(), version.record) else { continue };
        if page.lines.len() >= limit || page.looked_at >= PAGE_LOOKED_AT_MAX {
            page.next = Some(tid);
            break;
        }
        page.looked_at += 1;
        page.lines.extend(line(past, volume, &mut names, scope, tid, committed)?);
    }
    Ok(page)
}

/// The commits after `after`, up to and with `upto`, oldest first: `limit` are looked at, at most. The second value is the last transaction that
/// all has been told of.
///
/// # Errors
/// As the view's.
pub fn feed(
    past: &dyn Past,
    volume: VolumeId,
    scope: Scope,
    (after, upto): (Tid, Tid),
    limit: usize,
) -> Result<(Vec<LogLine>, Tid), ViewError> {
    let Some(first) = after.0.checked_add(1).filter(|_| after < upto) else { return Ok((Vec::new(), after)) };
    let mut names = Names::new(past, volume);
    let rows = past.at(upto).scan(&KeyRange::commits(volume, Tid(first), upto), limit)?;
    let reached = match rows.last().map(|(key, _)| key.parts()) {
        Some(KeyParts::Commit { tid }) if rows.len() >= limit => tid,
        _ => upto,
    };
    let mut lines = Vec::new();
    for (key, version) in rows {
        let (KeyParts::Commit { tid }, Record::Commit(committed)) = (key.parts(), version.record) else { continue };
        lines.extend(line(past, volume, &mut names, scope, tid, committed)?);
    }
    Ok((lines, reached))
}

fn line<'p>(
    past: &'p dyn Past,
    volume: VolumeId,
    names: &mut Names<'p>,
    scope: Scope,
    tid: Tid,
    committed: Committed,
) -> Result<Option<LogLine>, ViewError> {
    if !concerns(past, volume, names, scope, (tid, &committed.staged))? {
        return Ok(None);
    }
    let transaction = Transaction::read(past, volume, tid)?;
    let mut summary = Summary { past, volume, names, scope, tid, changes: Vec::new(), count: 0 };
    summary.of_names(&transaction)?;
    summary.of_objects(&transaction)?;
    let Summary { changes, count, .. } = summary;
    let told = count > 0 || scope == Scope::Volume;
    Ok(told.then(|| LogLine {
        tid: tid.to_string(),
        time: Timestamp::of_tid(tid).to_string(),
        node: committed.node.0,
        uid: committed.uid,
        note: committed.note.into(),
        more: count - changes.len() as u64,
        changes,
    }))
}

/// Can a transaction have changed anything in the scope? Found out mostly from its keys, so that what was done elsewhere costs little.
fn concerns<'p>(
    past: &'p dyn Past,
    volume: VolumeId,
    names: &mut Names<'p>,
    scope: Scope,
    (tid, staged): (Tid, &[Tid]),
) -> Result<bool, ViewError> {
    let parts = || staged.iter().copied().chain([tid]);
    let top = match scope {
        Scope::Volume => return Ok(true),
        Scope::Object(only) => {
            let object = KeyRange::object(volume, only);
            return Ok(parts().any(|part| past.touched_at(part, &object).next().is_some()));
        }
        Scope::Directory(top) => top,
    };
    let (mut directories, mut objects, mut named) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for row in parts().flat_map(|part| past.touched(before(part), part)) {
        let row = row?;
        if row.key.volume() != volume || row.key.object() == ObjectId::VOLUME {
            continue;
        }
        match row.key.parts() {
            KeyParts::Dirent { .. } => {
                directories.insert(row.key.object());
                let made = if row.made { dirent(past, tid, &row.key)? } else { None };
                named.extend(made.map(|made| made.object));
            }
            _ => drop(objects.insert(row.key.object())),
        }
    }
    if objects.contains(&top) {
        return Ok(true);
    }
    // What left the scope left a directory that is still in it, or its top: that was changed by it.
    for directory in &directories {
        if names.below(top, *directory, tid)?.is_some() {
            return Ok(true);
        }
    }
    // What got a name is told of by that name.
    for object in objects.iter().filter(|object| !directories.contains(object) && !named.contains(object)) {
        let found = names.of(*object, tid)?;
        for (directory, _) in &found.places {
            if names.below(top, *directory, tid)?.is_some() {
                return Ok(true);
            }
        }
        if !found.complete {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Summary<'a, 'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    names: &'a mut Names<'p>,
    scope: Scope,
    tid: Tid,
    changes: Vec<PathChange>,
    /// How many there are, with those that are not told.
    count: u64,
}

impl Summary<'_, '_> {
    /// Is a name in the scope?
    fn covers(&mut self, place: &Place, object: ObjectId, tid: Tid) -> Result<bool, ViewError> {
        Ok(match self.scope {
            Scope::Volume => true,
            Scope::Directory(top) => object == top || self.names.below(top, place.0, tid)?.is_some(),
            Scope::Object(only) => object == only,
        })
    }

    fn tell(
        &mut self,
        sign: Sign,
        (place, tid): (&Place, Tid),
        from: Option<&Place>,
        dirent: Dirent,
        changes: Vec<What>,
    ) -> Result<(), ViewError> {
        self.count += 1;
        if self.changes.len() < CHANGES_SHOWN_MAX {
            let path = self.names.shown(place, tid)?;
            let from = from.map(|from| self.names.shown(from, before(self.tid))).transpose()?;
            let kind = kind_name(dirent.kind).into();
            self.changes.push(PathChange { sign, path, from, object: dirent.object.0, kind, changes });
        }
        Ok(())
    }

    fn of_names(&mut self, transaction: &Transaction) -> Result<(), ViewError> {
        let renames = transaction.renames();
        let moved: BTreeSet<&Place> = renames.values().copied().collect();
        let (tid, earlier) = (self.tid, before(self.tid));
        for change in &transaction.names {
            let Some(new) = change.new else { continue };
            let from = renames.get(&change.place).copied();
            let covered = self.covers(&change.place, new.object, tid)?
                || match from {
                    Some(from) => self.covers(from, new.object, earlier)?,
                    None => false,
                };
            if covered {
                let sign = if from.is_some() { Sign::Renamed } else { Sign::Added };
                let mut changes = self.done_to(new.object, transaction)?;
                let replaced = change.old.filter(|_| !moved.contains(&change.place));
                changes.extend(replaced.map(|old| What::Replaced { object: old.object.0 }));
                self.tell(sign, (&change.place, tid), from, new, changes)?;
            }
        }
        for change in &transaction.names {
            if let NameChange { place, old: Some(old), new: None } = change
                && !moved.contains(place)
                && self.covers(place, old.object, earlier)?
            {
                self.tell(Sign::Removed, (place, earlier), None, *old, Vec::new())?;
            }
        }
        Ok(())
    }

    fn done_to(&self, object: ObjectId, transaction: &Transaction) -> Result<Vec<What>, ViewError> {
        let Some(touch) = transaction.objects.get(&object) else { return Ok(Vec::new()) };
        let new = attr(&*self.past.at(self.tid), self.volume, object)?;
        // All the names that it has were made here: so was it.
        let made = transaction.lost(object).next().is_none()
            && new.is_some_and(|new| {
                new.firm.kind == Kind::Directory || transaction.gained(object).count() == new.nlink as usize
            });
        let old = if made { None } else { attr(&*self.past.at(before(self.tid)), self.volume, object)? };
        Ok(of_object(old.as_ref(), new.as_ref(), touch))
    }

    /// Objects that were changed, and got no name by it.
    fn of_objects(&mut self, transaction: &Transaction) -> Result<(), ViewError> {
        let gained: BTreeSet<ObjectId> =
            transaction.names.iter().filter_map(|change| Some(change.new?.object)).collect();
        for (object, touch) in transaction.objects.iter().filter(|(object, _)| !gained.contains(object)) {
            let (old, new) = attrs(self.past, self.volume, *object, self.tid)?;
            // What is there neither before nor behind has come and gone within the transaction.
            let Some(attr) = new.filter(|_| old.is_some()) else { continue };
            let mut changes = of_object(old.as_ref(), new.as_ref(), touch);
            let lost = transaction.lost(*object).next().is_some();
            if lost {
                changes.retain(|what| !matches!(what, What::Times));
            }
            if changes.is_empty() {
                // Its names have changed, or it lost one; or nothing but the time of the change.
                if touch.names > 0 || lost {
                    continue;
                }
                changes.push(What::Touched);
            }
            // What has lost its last name is told of by that.
            if !(lost && attr.nlink == 0) {
                self.modified(Dirent { object: *object, kind: attr.firm.kind }, changes)?;
            }
        }
        Ok(())
    }

    fn modified(&mut self, dirent: Dirent, changes: Vec<What>) -> Result<(), ViewError> {
        let found = self.names.of(dirent.object, self.tid)?;
        for place in &found.places {
            if self.covers(place, dirent.object, self.tid)? {
                return self.tell(Sign::Modified, (place, self.tid), None, dirent, changes);
            }
        }
        // Without a name it is told of where everything is; if its names are not all known, everywhere.
        let own = matches!(self.scope, Scope::Volume) || self.scope == Scope::Object(dirent.object);
        let top = self.scope == Scope::Directory(dirent.object);
        if own || top || !found.complete {
            self.count += 1;
            let path = if dirent.object == ObjectId::ROOT { String::new() } else { unnamed(dirent.object) };
            if self.changes.len() < CHANGES_SHOWN_MAX {
                let (object, kind) = (dirent.object.0, kind_name(dirent.kind).into());
                self.changes.push(PathChange { sign: Sign::Modified, path, from: None, object, kind, changes });
            }
        }
        Ok(())
    }
}
