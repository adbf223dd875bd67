//! The history of a path: each transaction that changed its name, or an object that had it.
//!
//! What counts is, of each object that had the name, everything from its making to the moment in which it lost the name: so a rename is followed
//! back to the name before, and a file that replaced another one comes with what was done to it under its other name.
//!
//! Every operation that changes anything of an object changes its attributes, too (if only `ctime`). So the versions of the attributes, which lie
//! together in the order of time, say which transactions are to be looked at, whatever else the object has.

use crate::find::{HistoryError, find};
use crate::names::{Names, Place, before};
use crate::staged::adopter;
use crate::text::escaped;
use crate::transaction::{Transaction, What, attrs, author, of_object};
use gavel_types::{Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Dirent, Kind, Past, Record, ViewError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most lines of one answer.
pub const LINES_MAX: usize = 100_000;
/// Most names of a directory that one line tells of.
pub const NAMES_SHOWN_MAX: usize = 1000;

/// A transaction that changed what is asked about. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The transaction.
    pub tid: String,
    /// The same as a time, to the second.
    pub time: String,
    /// Through which node; none if the quorum did it by itself.
    pub node: Option<u64>,
    /// For which user.
    pub uid: Option<u32>,
    /// What for, if somebody said so.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// The path behind it; the path before it if it has none any more.
    pub path: String,
    /// The object.
    pub object: u64,
    /// Its kind.
    pub kind: String,
    /// What was done.
    pub changes: Vec<What>,
    /// The size behind it, in bytes (of a directory: its names); none if the path is gone.
    pub size: Option<u64>,
}

/// The history of a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// The newest first.
    pub lines: Vec<HistoryLine>,
    /// There are older ones.
    pub more: bool,
}

/// What a kind is called.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
    }
}

/// An object that had the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tenant {
    object: ObjectId,
    kind: Kind,
    /// The transaction that gave it the name.
    since: Tid,
    /// The one that took it away, if that is not later than what is asked about.
    until: Option<Tid>,
}

/// What became of `path` up to and with `at`, the newest `limit` transactions (at most [`LINES_MAX`]).
///
/// # Errors
/// [`HistoryError`].
pub fn history(past: &dyn Past, volume: VolumeId, path: &[u8], at: Tid, limit: usize) -> Result<History, HistoryError> {
    let limit = limit.clamp(1, LINES_MAX);
    let had = find(past, volume, path, at)?;
    let tenants = match &had.place {
        Some(place) => tenants(past, volume, place, at, limit + 1)?,
        None => vec![Tenant { object: had.object, kind: had.kind, since: Tid::ZERO, until: None }],
    };
    let mut wanted = transactions(past, volume, &tenants, at, limit + 1)?;
    let mut told = Teller { past, volume, names: Names::new(past, volume), place: had.place, current: BTreeMap::new() };
    let more = wanted.len() > limit;
    if more {
        wanted.pop_first();
    }
    let mut lines = Vec::new();
    for (tid, number) in wanted.into_iter().rev() {
        lines.push(told.line(tid, &tenants[number])?);
    }
    Ok(History { lines, more })
}

/// The last `most` objects that had a name up to `at`, the first one first.
fn tenants(past: &dyn Past, volume: VolumeId, place: &Place, at: Tid, most: usize) -> Result<Vec<Tenant>, ViewError> {
    let mut all: VecDeque<Tenant> = VecDeque::new();
    for lived in past.versions(&KeyRange::one(&Key::dirent(volume, place.0, &place.1))) {
        let lived = lived?;
        let Record::Dirent(dirent) = lived.version.record else { continue };
        if lived.version.create > at {
            break;
        }
        let until = lived.delete.filter(|delete| *delete <= at);
        match all.back_mut() {
            // The name was written anew, for the same object.
            Some(last) if last.object == dirent.object && last.until == Some(lived.version.create) => {
                last.until = until
            }
            _ => all.push_back(Tenant { object: dirent.object, kind: dirent.kind, since: lived.version.create, until }),
        }
        if all.len() > most {
            all.pop_front();
        }
    }
    Ok(all.into())
}

/// The newest transactions that changed one of the tenants until it lost the name: at most `most`, each with the tenant's number.
fn transactions(
    past: &dyn Past,
    volume: VolumeId,
    tenants: &[Tenant],
    at: Tid,
    most: usize,
) -> Result<BTreeSet<(Tid, usize)>, ViewError> {
    let mut wanted = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (number, tenant) in tenants.iter().enumerate().rev() {
        let last = tenant.until.unwrap_or(at);
        if wanted.len() >= most && wanted.first().is_some_and(|(oldest, _)| *oldest > last) {
            break;
        }
        // It had the name twice: all that was done to it is there already.
        if !seen.insert(tenant.object) {
            continue;
        }
        let replaced = tenants.get(number + 1).is_some_and(|next| Some(next.since) == tenant.until);
        for tid in changes_of(past, volume, tenant.object, last, most)? {
            // That line is told of what replaced it.
            if !(replaced && tid == last) {
                wanted.insert((tid, number));
            }
        }
        while wanted.len() > most {
            wanted.pop_first();
        }
    }
    Ok(wanted)
}

/// The last `most` transactions up to `last` that changed an object.
fn changes_of(
    past: &dyn Past,
    volume: VolumeId,
    object: ObjectId,
    last: Tid,
    most: usize,
) -> Result<VecDeque<Tid>, ViewError> {
    let mut all: VecDeque<Tid> = VecDeque::new();
    let mut adopted = None;
    for lived in past.versions(&KeyRange::one(&Key::attr(volume, object))) {
        let create = lived?.version.create;
        if create > last {
            break;
        }
        if all.is_empty() && adopted.is_none() {
            adopted = adopter(past, volume, create)?;
        }
        // What was staged was done by the commit.
        let tid = adopted.filter(|adopted| create < *adopted).unwrap_or(create);
        if all.back() != Some(&tid) {
            all.push_back(tid);
        }
        if all.len() > most {
            all.pop_front();
        }
    }
    Ok(all)
}

struct Teller<'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    names: Names<'p>,
    /// The name that is asked about; none for the root.
    place: Option<Place>,
    /// The name that an object had behind the transaction that comes next, going back.
    current: BTreeMap<ObjectId, Option<Place>>,
}

impl Teller<'_> {
    fn line(&mut self, tid: Tid, tenant: &Tenant) -> Result<HistoryLine, ViewError> {
        let object = tenant.object;
        let (old, new) = attrs(self.past, self.volume, object, tid)?;
        let after = self.current.entry(object).or_insert_with(|| self.place.clone()).clone();
        let of = (object, after.as_ref());
        let transaction = Transaction::read_of(self.past, self.volume, tid, of, (old.as_ref(), new.as_ref()))?;
        let mut changes = Vec::new();
        let path = self.own_names(tid, tenant, &transaction, (old.as_ref(), new.as_ref()), after, &mut changes)?;
        let touch = transaction.objects.get(&object).cloned().unwrap_or_default();
        let mut own = of_object(old.as_ref(), new.as_ref(), &touch);
        if changes.iter().any(|what| matches!(what, What::Removed { .. })) {
            own.retain(|what| !matches!(what, What::Times));
        }
        own.append(&mut changes);
        if tenant.kind == Kind::Directory {
            self.entries(tid, object, &transaction, &mut own)?;
        }
        if own.is_empty() {
            own.push(What::Touched);
        }
        let gone = tenant.until.is_some_and(|until| until <= tid);
        let committed = author(self.past, self.volume, tid)?;
        Ok(HistoryLine {
            tid: tid.to_string(),
            time: Timestamp::of_tid(tid).to_string(),
            node: committed.as_ref().map(|committed| committed.node.0),
            uid: committed.as_ref().map(|committed| committed.uid),
            note: committed.map(|committed| committed.note.into()).unwrap_or_default(),
            path,
            object: object.0,
            kind: kind_name(tenant.kind).into(),
            changes: own,
            size: new.filter(|_| !gone).map(|attr| attr.size),
        })
    }

    /// What became of the object's names, and its path behind that.
    fn own_names(
        &mut self,
        tid: Tid,
        tenant: &Tenant,
        transaction: &Transaction,
        (old, new): (Option<&Attr>, Option<&Attr>),
        after: Option<Place>,
        changes: &mut Vec<What>,
    ) -> Result<String, ViewError> {
        let object = tenant.object;
        let renames = transaction.renames();
        let moved: BTreeSet<&Place> = renames.values().copied().collect();
        let by = |new: Option<Dirent>| new.map(|new| What::ReplacedBy { object: new.object.0 });
        let mut earlier = after.clone();
        for change in transaction.gained(object) {
            let to = self.names.shown(&change.place, tid)?;
            let from = renames.get(&change.place);
            match from {
                Some(from) => changes.push(What::Renamed { from: self.names.shown(from, before(tid))?, to }),
                None => changes.extend(old.is_some().then_some(What::Linked { path: to })),
            }
            if Some(&change.place) == after.as_ref() {
                earlier = match from {
                    Some(from) => Some((*from).clone()),
                    None => self.names.of(object, before(tid))?.places.pop(),
                };
            }
            let replaced = change.old.filter(|_| !moved.contains(&change.place));
            changes.extend(replaced.map(|old| What::Replaced { object: old.object.0 }));
        }
        let last = new.is_none_or(|new| new.nlink == 0);
        for change in transaction.lost(object).filter(|change| !moved.contains(&change.place)) {
            let path = self.names.shown(&change.place, before(tid))?;
            changes.push(if last { What::Removed { path } } else { What::Unlinked { path } });
            changes.extend(by(change.new));
        }
        self.current.insert(object, earlier);
        let Some(place) = after else { return Ok(if object == ObjectId::ROOT { "".into() } else { unnamed(object) }) };
        let then = if tenant.until == Some(tid) { before(tid) } else { tid };
        self.names.shown(&place, then)
    }

    /// What became of a directory's own names.
    fn entries(
        &mut self,
        tid: Tid,
        directory: ObjectId,
        transaction: &Transaction,
        changes: &mut Vec<What>,
    ) -> Result<(), ViewError> {
        let mut own = transaction.names.iter().filter(|change| change.place.0 == directory);
        for change in own.by_ref().take(NAMES_SHOWN_MAX) {
            let name = escaped(&change.place.1);
            let elsewhere = |other: &&crate::transaction::NameChange| other.place != change.place;
            changes.push(match (change.old, change.new) {
                (_, Some(new)) => {
                    let from = transaction.lost(new.object).find(elsewhere);
                    let from = from.map(|from| self.names.shown(&from.place, before(tid))).transpose()?;
                    match (change.old, from) {
                        (Some(_), None) => What::NameReplaced { name },
                        (_, from) => What::NameAdded { name, from },
                    }
                }
                (Some(old), None) => {
                    let to = transaction.gained(old.object).find(elsewhere);
                    let to = to.map(|to| self.names.shown(&to.place, tid)).transpose()?;
                    What::NameRemoved { name, to }
                }
                (None, None) => continue,
            });
        }
        let left = own.count() as u64;
        changes.extend((left > 0).then_some(What::More { count: left }));
        Ok(())
    }
}

/// How an object is called whose name is not known.
pub fn unnamed(object: ObjectId) -> String {
    format!("<object {object}>")
}

/// A name that was in a directory and is not there any more. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemovedLine {
    /// The transaction that took it away.
    pub tid: String,
    /// The same as a time, to the second.
    pub time: String,
    /// Through which node; none if the quorum did it by itself.
    pub node: Option<u64>,
    /// For which user.
    pub uid: Option<u32>,
    /// The name.
    pub name: String,
    /// The object that had it.
    pub object: u64,
    /// Its kind.
    pub kind: String,
    /// Its size before, in bytes.
    pub size: Option<u64>,
    /// The path that the object got instead, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// The last state in which the name was there: for `--at`, and behind `@@`.
    pub last: String,
}

/// The names that were in a directory before `at` and are not there then: those that went last first, `limit` of them at most. True if there
/// are more. All names that ever were in the directory are read, but no more than `limit` kept.
///
/// # Errors
/// [`HistoryError`].
pub fn removed(
    past: &dyn Past,
    volume: VolumeId,
    path: &[u8],
    at: Tid,
    limit: usize,
) -> Result<(Vec<RemovedLine>, bool), HistoryError> {
    let limit = limit.clamp(1, LINES_MAX);
    let had = find(past, volume, path, at)?;
    if had.kind != Kind::Directory {
        let path = escaped(path);
        return Err(HistoryError::NotSo { path, what: "not a directory: only those have names that can be removed" });
    }
    let mut gone: BTreeMap<(Tid, Key), (ObjectId, Kind)> = BTreeMap::new();
    let mut candidate: Option<(Tid, Key, ObjectId, Kind)> = None;
    let mut total = 0_usize;
    let mut keep = |candidate: Option<(Tid, Key, ObjectId, Kind)>| {
        if let Some((tid, key, object, kind)) = candidate {
            total += 1;
            gone.insert((tid, key), (object, kind));
            if gone.len() > limit {
                gone.pop_first();
            }
        }
    };
    for lived in past.versions(&KeyRange::dirents(volume, had.object)) {
        let lived = lived?;
        if candidate.as_ref().is_some_and(|(_, key, ..)| *key != lived.key) {
            keep(candidate.take());
        }
        let Record::Dirent(dirent) = lived.version.record else { continue };
        if lived.version.create <= at {
            let ended = lived.delete.filter(|delete| *delete <= at);
            candidate = ended.map(|tid| (tid, lived.key, dirent.object, dirent.kind));
        }
    }
    keep(candidate);
    let mut names = Names::new(past, volume);
    let lines = gone
        .iter()
        .rev()
        .map(|((tid, key), (object, kind))| removed_line(past, volume, &mut names, (*tid, key), (*object, *kind)));
    let lines = lines.collect::<Result<Vec<_>, ViewError>>()?;
    Ok((lines, total > limit))
}

fn removed_line(
    past: &dyn Past,
    volume: VolumeId,
    names: &mut Names<'_>,
    (tid, key): (Tid, &Key),
    (object, kind): (ObjectId, Kind),
) -> Result<RemovedLine, ViewError> {
    let committed = author(past, volume, tid)?;
    let transaction = Transaction::read(past, volume, tid)?;
    let to = transaction.gained(object).next().map(|change| names.shown(&change.place, tid)).transpose()?;
    let (old, _) = attrs(past, volume, object, tid)?;
    let name = crate::names::place(key).map(|place| escaped(&place.1)).unwrap_or_default();
    Ok(RemovedLine {
        tid: tid.to_string(),
        time: Timestamp::of_tid(tid).to_string(),
        node: committed.as_ref().map(|committed| committed.node.0),
        uid: committed.as_ref().map(|committed| committed.uid),
        name,
        object: object.0,
        kind: kind_name(kind).into(),
        size: old.map(|old| old.size),
        to,
        last: before(tid).to_string(),
    })
}
