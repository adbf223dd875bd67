//! What the past must show: a model in plain memory that keeps every version, and its comparison with what replicas show of it.
//!
//! The model learns each transaction from the replica on which it is seen applied first, and never again: whatever became of the rows
//! there and elsewhere since (they were ended, flushed, copied by a change scan, lost in a crash and applied once more), every replica
//! has to show each state as the model has it. Three things need not be shown: states that the replica's own state says cannot be read
//! ([`VolumePast::can_read`]), versions, rows of the change index and authors of commits that only such states show, and objects that had a
//! class of which the state is not kept: but of these, all or nothing is shown.

use crate::dice::Dice;
use crate::machine::{Engine, Life};
use crate::world::World;
use gavel_store::records::Records;
use gavel_txn::State;
use gavel_txn::past::VolumePast;
use gavel_types::{Class, Key, KeyParts, KeyRange, ObjectId, Origin, SessionId, Tid, VolumeId};
use gavel_wire::past::{Lived, Past};
use gavel_wire::{Committed, Item, Record, Request, RequestBody, Version, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

const VOLUME: VolumeId = VolumeId::FIRST;
/// So many times of a thousand, when the world is looked at, a node is asked for some records of the past; and for more than that.
const GETS_PERMILLE: u32 = 400;
const SCANS_PERMILLE: u32 = 80;
/// Records that are asked for at once.
const GETS: usize = 4;
/// Whole states of each replica that are compared at the end, beside those of snapshots.
const LAST_STATES: usize = 4;
/// Draws of a key, until one of the first volume is found.
const KEY_DRAWS_MAX: usize = 20;
/// Draws of a state, until one is found that can be read.
const DRAWS_MAX: usize = 4;
/// Names that a listing is limited to, at most.
const LISTED_MAX: u64 = 20;

/// Every version there ever was.
#[derive(Debug, Default)]
pub(crate) struct PastModel {
    /// What became of each key: the transaction, and the version that it made (none: it ended the one before).
    keys: BTreeMap<Key, Vec<(Tid, Option<Version>)>>,
    /// What was changed, in the order of transactions, then keys.
    rows: Vec<(Tid, Key)>,
    /// Objects that have kept less than the volume at some time.
    less: BTreeSet<ObjectId>,
    /// Commits that were to change other volumes only. What is about one that has ended is passed over.
    elsewhere: BTreeSet<Tid>,
    /// Where clones come from: those that there ever were.
    pub(crate) origins: BTreeMap<VolumeId, Origin>,
    /// The last transaction that is in here.
    tid: Tid,
}

/// What a replica has to show.
struct Shown<'a> {
    /// The last transaction that it has applied.
    tid: Tid,
    past: &'a VolumePast,
    model: &'a PastModel,
}

impl Shown<'_> {
    /// May a view lack this record, because its object keeps less? Then it has no attributes of it either.
    fn may_lack(&self, view: &dyn View, key: &Key) -> Result<bool, ViewError> {
        Ok(self.less(key) && !self.past.is_whole(view.tid()) && view.get(&Key::attr(VOLUME, key.object()))?.is_none())
    }

    /// Has what this is about kept less than the volume at some time: the record's object, or, of who made a commit, all that the commit changed?
    fn less(&self, key: &Key) -> bool {
        let less = |key: &Key| self.model.less.contains(&key.object());
        match key.parts() {
            KeyParts::Commit { tid } => {
                let changed = self.model.between(Tid(tid.0 - 1), tid);
                changed.iter().any(|(_, key)| !is_commit(key))
                    && changed.iter().all(|(_, key)| is_commit(key) || less(key))
            }
            _ => less(key),
        }
    }

    fn can_read(&self, tid: Tid) -> bool {
        tid <= self.tid && self.past.can_read(tid)
    }

    /// Must what was there from `create` on, until `delete`, be there still? States that are kept between others are not all known here,
    /// but for those of snapshots: it may be that more is there than must be.
    fn needs(&self, key: &Key, create: Tid, delete: Option<Tid>) -> bool {
        if self.less(key) {
            return delete.is_none() && !is_commit(key);
        }
        let Some(delete) = delete else {
            // Of a commit, nothing may be left but the record of its author: then that goes, too.
            return !is_commit(key) || self.can_read(create);
        };
        let mut named = self.past.snapshots.values();
        self.can_read(create) || self.can_read(Tid(delete.0 - 1)) || named.any(|s| create <= s.tid && s.tid < delete)
    }
}

impl PastModel {
    /// Learns what a replica has applied, up to `upto`.
    ///
    /// # Errors
    /// In words, what no transaction can have done.
    pub(crate) fn learn(&mut self, records: &Records<Engine>, state: &State) -> Result<(), String> {
        let upto = state.tid;
        if upto <= self.tid {
            return Ok(());
        }
        self.origins.extend(state.past.origins());
        // As they are stored: what a clone inherits is worked out here.
        let (rows, _) = records.changes(self.tid, upto, 0, usize::MAX).map_err(|error| error.to_string())?;
        for row in rows {
            self.add(row.tid, row.key, row.version)?;
        }
        self.tid = upto;
        Ok(())
    }

    /// Is it known that a transaction has changed other volumes than the first only?
    pub(crate) fn is_elsewhere(&self, tid: Tid) -> bool {
        self.elsewhere.contains(&tid)
    }

    pub(crate) fn add(&mut self, tid: Tid, key: Key, version: Option<Version>) -> Result<(), String> {
        if let KeyParts::Commit { tid: signed } = key.parts()
            && signed != tid
        {
            return Err(format!("transaction {tid} says who made {signed}"));
        }
        if version.as_ref().is_some_and(|version| version.create != tid) {
            return Err(format!("transaction {tid} made {version:?} of {key:?}"));
        }
        let versions = self.keys.entry(key.clone()).or_default();
        let lived = versions.last().is_some_and(|(_, version)| version.is_some());
        if version.is_none() && !lived {
            return Err(format!("transaction {tid} ended {key:?}, which was not there"));
        }
        if let Some(Version { record: Record::Attr(attr), .. }) = &version
            && attr.firm.class != Class::VOLUME
        {
            self.less.insert(key.object());
        }
        versions.push((tid, version));
        self.rows.push((tid, key));
        Ok(())
    }

    /// What transactions after `after`, up to and with `upto`, changed.
    pub(crate) fn between(&self, after: Tid, upto: Tid) -> &[(Tid, Key)] {
        let from = self.rows.partition_point(|(tid, _)| *tid <= after);
        let to = self.rows.partition_point(|(tid, _)| *tid <= upto);
        &self.rows[from..to.max(from)]
    }

    /// What the transaction made of the key.
    fn made(&self, tid: Tid, key: &Key) -> Option<&Option<Version>> {
        let versions = self.keys.get(key)?;
        let place = versions.binary_search_by_key(&tid, |(tid, _)| *tid).ok()?;
        Some(&versions[place].1)
    }

    /// What became of a key: by which transaction, and the version that it made; none: it ended the one before.
    pub(crate) fn versions(&self, key: &Key) -> &[(Tid, Option<Version>)] {
        self.keys.get(key).map_or(&[], |versions| versions)
    }

    pub(crate) fn within(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Key, &[(Tid, Option<Version>)])> {
        let bounds = (Bound::Included(&*range.start), Bound::Excluded(&*range.end));
        self.keys.range::<[u8], _>(bounds).map(|(key, versions)| (key, &versions[..]))
    }

    /// The state as of a Tid.
    pub(crate) fn at(&self, range: &KeyRange, tid: Tid) -> impl DoubleEndedIterator<Item = (&Key, &Version)> {
        self.within(range).filter_map(move |(key, versions)| Some((key, visible(versions, tid)?)))
    }

    /// All versions in a range, as they are as of `tid`.
    fn lived(&self, range: &KeyRange, tid: Tid) -> impl Iterator<Item = (&Key, &Version, Option<Tid>)> {
        self.within(range).flat_map(move |(key, versions)| {
            let come = &versions[..versions.partition_point(|(at, _)| *at <= tid)];
            come.iter().enumerate().filter_map(move |(place, (_, version))| {
                let delete = come.get(place + 1).map(|(at, _)| *at);
                Some((key, version.as_ref()?, delete))
            })
        })
    }

    /// Compares what a view shows of a range, as far as `limit` rows.
    fn check_scan(&self, view: &dyn View, range: &KeyRange, limit: usize, shown: &Shown<'_>) -> Result<(), String> {
        let tid = view.tid();
        let found = view.scan(range, limit).map_err(|error| error.to_string())?;
        let full = found.len() == limit;
        let found = found.iter().map(|(key, version)| (key, version));
        let may_lack = |key: &Key| shown.may_lack(view, key).unwrap_or(false);
        compare(found, self.at(range, tid), full, shown, &may_lack)
            .map_err(|what| format!("the state as of {tid} {what}"))
    }

    fn check_get(&self, view: &dyn View, key: &Key, shown: &Shown<'_>) -> Result<(), String> {
        let tid = view.tid();
        let found = view.get(key).map_err(|error| error.to_string())?;
        let expected = self.keys.get(key).and_then(|versions| visible(versions, tid));
        let lacking = shown.may_lack(view, key).map_err(|error| error.to_string())?;
        let pruned = |version: &Version| found.is_none() && (lacking || !shown.needs(key, version.create, None));
        if found.as_ref() == expected || expected.is_some_and(pruned) {
            return Ok(());
        }
        Err(format!("{key:?} as of {tid} is {found:?}, and was {expected:?}"))
    }

    /// A view of what is kept shows what is there, and refuses the rest.
    fn check_kept(&self, kept: &dyn View, view: &dyn View, key: &Key) -> Result<(), String> {
        let tid = view.tid();
        let was = self.keys.get(key).and_then(|versions| visible(versions, tid));
        match kept.get(key) {
            Ok(found) if found.as_ref() == was || is_commit(key) => Ok(()),
            Err(ViewError::Pruned { object, .. }) if view.get(&Key::attr(VOLUME, object)) == Ok(None) => Ok(()),
            found => Err(format!("{key:?} as of {tid} is shown as {found:?}, and was {was:?}")),
        }
    }

    /// All versions of a range are those that were; none is missing that can be read.
    fn check_versions(&self, past: &dyn Past, range: &KeyRange, shown: &Shown<'_>) -> Result<(), String> {
        let mut expected = self.lived(range, shown.tid);
        for row in past.versions(range) {
            let Lived { key, version, delete } = row.map_err(|error| error.to_string())?;
            loop {
                let Some((wanted, was, ended)) = expected.next() else {
                    return Err(format!(
                        "{key:?} has {version:?} until {delete:?} among its versions, which never was"
                    ));
                };
                if (wanted, was, ended) == (&key, &version, delete) {
                    break;
                }
                if shown.needs(wanted, was.create, ended) {
                    let found = (version, delete);
                    return Err(format!(
                        "{wanted:?} lacks its version {was:?} until {ended:?}; behind it {key:?} has {found:?}"
                    ));
                }
            }
        }
        match expected.find(|(key, was, ended)| shown.needs(key, was.create, *ended)) {
            Some((key, was, ended)) => Err(format!("{key:?} lacks its version {was:?} until {ended:?}")),
            None => Ok(()),
        }
    }

    /// What transactions changed is what they changed then; nothing is missing that can be read.
    fn check_changes(&self, past: &dyn Past, after: Tid, upto: Tid, shown: &Shown<'_>) -> Result<(), String> {
        let mut expected = self.between(after, upto).iter().filter(|(_, key)| key.volume() == VOLUME);
        for row in past.changes(after, upto) {
            let row = row.map_err(|error| error.to_string())?;
            if row.key.volume() != VOLUME {
                continue;
            }
            loop {
                let Some((tid, key)) = expected.next() else {
                    return Err(format!("transaction {} changed {:?}, which it never did", row.tid, row.key));
                };
                if (*tid, key) == (row.tid, &row.key) {
                    break;
                }
                self.check_missing(*tid, key, shown)?;
            }
            let made = self.made(row.tid, &row.key).and_then(Option::as_ref);
            // What it made may be gone, and what it ended kept.
            let less = shown.less(&row.key);
            let gone = row.version.is_none() && (less || !shown.can_read(row.tid));
            if row.version.as_ref() != made && !gone {
                return Err(format!("transaction {} made {:?} of {:?}, not {made:?}", row.tid, row.version, row.key));
            }
        }
        expected.try_for_each(|(tid, key)| self.check_missing(*tid, key, shown))
    }

    /// May the change index lack this row?
    fn check_missing(&self, tid: Tid, key: &Key, shown: &Shown<'_>) -> Result<(), String> {
        let made = self.made(tid, key).is_some_and(Option::is_some);
        // The state that shows what it made, or the last one that shows what it ended.
        let needed = shown.can_read(if made { tid } else { Tid(tid.0 - 1) });
        if needed && !shown.less(key) {
            Err(format!("transaction {tid} changed {key:?}, and the change index does not say so"))
        } else {
            Ok(())
        }
    }

    /// The live versions, from the last key to the first.
    fn check_back(&self, past: &dyn Past, range: &KeyRange, shown: &Shown<'_>) -> Result<(), String> {
        let found: Result<Vec<_>, _> = past.live_back(range).collect();
        let found = found.map_err(|error| error.to_string())?;
        let found = found.iter().map(|(key, version)| (key, version));
        compare(found, self.at(range, shown.tid).rev(), false, shown, &|_| false)
            .map_err(|what| format!("the live state, from its end, {what}"))
    }

    /// A transaction was seen in the log.
    pub(crate) fn see(&mut self, tid: Tid, item: &Item) {
        if let Item::Request(Request { body: RequestBody::Commit { plan, .. }, .. }) = item
            && !gavel_txn::expand::volumes_of(&plan.mutations).contains(&VOLUME)
        {
            self.elsewhere.insert(tid);
        }
    }

    /// Who made a transaction stands beside what it changed, and nowhere else. `node` is the session's, if it is known.
    ///
    /// # Errors
    /// In words, if it is not so.
    pub(crate) fn check_author(
        &self,
        tid: Tid,
        item: &Item,
        sessions: &BTreeMap<SessionId, gavel_types::NodeId>,
    ) -> Result<(), String> {
        let volumes: BTreeSet<VolumeId> =
            self.between(Tid(tid.0 - 1), tid).iter().map(|(_, key)| key.volume()).collect();
        let changed = !volumes.is_empty();
        let signed = volumes.iter().map(|volume| match self.made(tid, &Key::commit(*volume, tid)) {
            Some(Some(Version { record: Record::Commit(committed), .. })) => Some(committed),
            _ => None,
        });
        let signed: Vec<Option<&Committed>> = signed.collect();
        if signed.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("transaction {tid} is said to be of {signed:?}"));
        }
        let signed = signed.first().copied().flatten();
        let request = match item {
            Item::Request(request) => Some((&request.body, sessions.get(&request.session))),
            _ => None,
        };
        let right = match (request, signed) {
            (
                Some((RequestBody::Commit { author, .. } | RequestBody::Adopt { author, .. }, node)),
                Some(Committed { node: by, uid, note, .. }),
            ) => node.is_none_or(|node| node == by) && (*uid, note) == (author.uid, &author.note),
            // One without guards whose blobs were collected ends its session: what that changes is nobody's.
            (Some((RequestBody::Commit { guards, .. }, _)), None) => !changed || guards.is_empty(),
            (_, signed) => signed.is_none(),
        };
        if right { Ok(()) } else { Err(format!("transaction {tid} is said to be of {signed:?}, and is {item:?}")) }
    }

    /// What a replica has to show.
    fn shown<'s>(&'s self, state: &'s State) -> Option<Shown<'s>> {
        Some(Shown { tid: state.tid, past: state.past.of(VOLUME)?, model: self })
    }

    /// A state that there is at `shown.tid`: of one of the last transactions or of any, or the one before it, or one between two.
    fn draw(&self, dice: &mut Dice, shown: &Shown<'_>) -> Option<Tid> {
        let come = self.rows.partition_point(|(tid, _)| *tid <= shown.tid) as u64;
        (0..DRAWS_MAX).find_map(|_| {
            let back = if dice.permille(300) { dice.below(come.min(30)) } else { dice.below(come) };
            let (tid, _) = self.rows.get(come.checked_sub(1 + back)? as usize)?;
            let next = self.rows.get((come - back) as usize).map_or(shown.tid, |(next, _)| *next);
            let drawn = match dice.below(4) {
                0 => Tid(tid.0 - 1),
                1 => Tid(tid.0 + dice.below(next.0.saturating_sub(tid.0))),
                _ => *tid,
            };
            shown.can_read(drawn).then_some(drawn)
        })
    }

    /// A state that a replica has.
    pub(crate) fn draw_for(&self, dice: &mut Dice, life: &Life) -> Option<Tid> {
        self.draw(dice, &self.shown(life.node.server.state())?)
    }

    fn draw_key(&self, dice: &mut Dice) -> Option<&Key> {
        let drawn = |dice: &mut Dice| self.rows.get(dice.below(self.rows.len() as u64) as usize).map(|(_, key)| key);
        (0..KEY_DRAWS_MAX).find_map(|_| drawn(dice).filter(|key| key.volume() == VOLUME))
    }

    /// A key, everything of an object, or everything.
    fn draw_range(&self, dice: &mut Dice) -> KeyRange {
        let Some(key) = self.draw_key(dice) else { return KeyRange::volume(VOLUME) };
        match dice.below(4) {
            0 => KeyRange::one(key),
            1 => KeyRange::volume(VOLUME),
            // The records without an object of their own are most of all rows.
            _ if key.object() == ObjectId::VOLUME => KeyRange::one(key),
            _ => KeyRange::object(VOLUME, key.object()),
        }
    }

    /// Some records of some past states.
    fn check_some(&self, life: &Life, dice: &mut Dice) -> Result<(), String> {
        let Some(shown) = self.shown(life.node.server.state()) else { return Ok(()) };
        for _ in 0..GETS {
            let (Some(tid), Some(key)) = (self.draw(dice, &shown), self.draw_key(dice)) else { return Ok(()) };
            let view = life.records.at(tid);
            self.check_get(&view, key, &shown)?;
            self.check_kept(&life.records.kept_at(tid), &view, key)?;
        }
        Ok(())
    }

    /// A past state as a whole, and the past of some range.
    fn check_more(&self, life: &Life, dice: &mut Dice) -> Result<(), String> {
        let Some(shown) = self.shown(life.node.server.state()) else { return Ok(()) };
        let past = life.records.past(shown.tid);
        let range = self.draw_range(dice);
        match dice.below(6) {
            0 => self.check_versions(&past, &range, &shown),
            1 => self.check_back(&past, &range, &shown),
            2 => {
                let (Some(one), Some(other)) = (self.draw(dice, &shown), self.draw(dice, &shown)) else {
                    return Ok(());
                };
                self.check_changes(&past, one.min(other), one.max(other), &shown)
            }
            3 => self.check_state(life, KeyRange::volume(VOLUME), usize::MAX, dice, &shown),
            _ => self.check_state(life, range, 1 + dice.below(LISTED_MAX) as usize, dice, &shown),
        }
    }

    fn check_state(
        &self,
        life: &Life,
        range: KeyRange,
        limit: usize,
        dice: &mut Dice,
        shown: &Shown<'_>,
    ) -> Result<(), String> {
        let Some(tid) = self.draw(dice, shown) else { return Ok(()) };
        self.check_scan(&life.records.at(tid), &range, limit, shown)
    }

    /// The whole past: its versions, its changes, and some states; those of snapshots among them.
    fn check_all(&self, life: &Life, dice: &mut Dice) -> Result<(), String> {
        let Some(shown) = self.shown(life.node.server.state()) else { return Ok(()) };
        let everything = KeyRange::volume(VOLUME);
        let past = life.records.past(shown.tid);
        self.check_versions(&past, &everything, &shown)?;
        self.check_changes(&past, Tid::ZERO, shown.tid, &shown)?;
        self.check_back(&past, &everything, &shown)?;
        let drawn = (0..LAST_STATES).filter_map(|_| self.draw(dice, &shown));
        let states: BTreeSet<Tid> = drawn.chain(shown.past.snapshots.values().map(|snapshot| snapshot.tid)).collect();
        states.into_iter().try_for_each(|tid| self.check_scan(&life.records.at(tid), &everything, usize::MAX, &shown))
    }
}

/// The version that is visible at a Tid.
fn visible(versions: &[(Tid, Option<Version>)], tid: Tid) -> Option<&Version> {
    let come = versions.partition_point(|(at, _)| *at <= tid);
    versions[..come].last()?.1.as_ref()
}

fn is_commit(key: &Key) -> bool {
    matches!(key.parts(), KeyParts::Commit { .. })
}

/// Compares rows with what they must be, both in the same order. `full`: more may follow.
fn compare<'r>(
    mut found: impl Iterator<Item = (&'r Key, &'r Version)>,
    expected: impl Iterator<Item = (&'r Key, &'r Version)>,
    full: bool,
    shown: &Shown<'_>,
    may_lack: &dyn Fn(&Key) -> bool,
) -> Result<(), String> {
    let mut next = found.next();
    for (key, version) in expected {
        match next {
            Some((there, _)) if there == key && next == Some((key, version)) => next = found.next(),
            None if full => return Ok(()),
            _ if !shown.needs(key, version.create, None) || may_lack(key) => {}
            Some(row) => return Err(format!("has {row:?} where {key:?} was {version:?}")),
            None => return Err(format!("lacks {key:?}, which was {version:?}")),
        }
    }
    match next {
        Some(row) => Err(format!("has {row:?}, which was not there")),
        None => Ok(()),
    }
}

impl World {
    /// Some node's past, perhaps.
    pub(crate) fn check_past_now_and_then(&mut self) {
        let machine = self.past_dice.below(self.lives.len() as u64) as usize;
        if self.past_dice.permille(GETS_PERMILLE) {
            self.check_past_of(machine, PastModel::check_some);
        }
        if self.past_dice.permille(SCANS_PERMILLE) {
            self.check_past_of(machine, PastModel::check_more);
            self.check_past_of(machine, PastModel::check_aside);
        }
    }

    /// A node has come back, or has caught up: what it shows of the past is what it was.
    pub(crate) fn check_past_behind_a_break(&mut self, machine: usize) {
        self.check_past_of(machine, PastModel::check_some);
        self.check_past_of(machine, PastModel::check_more);
        self.check_past_of(machine, PastModel::check_aside);
    }

    /// The whole past of every replica that runs.
    pub(crate) fn check_whole_past(&mut self) {
        for machine in 0..self.lives.len() {
            self.check_past_of(machine, PastModel::check_all);
            self.check_past_of(machine, PastModel::check_all_aside);
        }
    }

    fn check_past_of(&mut self, machine: usize, check: fn(&PastModel, &Life, &mut Dice) -> Result<(), String>) {
        // Between two states there is no past.
        let Some(life) = self.lives[machine].as_ref().filter(|life| !life.node.server.is_catching_up()) else { return };
        if let Err(what) = check(&self.judge.past, life, &mut self.past_dice) {
            self.wrong(format!("the past of n{machine}: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_store::engine::MemEngine;
    use gavel_store::records::Identity;
    use gavel_types::{ClusterId, LogIndex, NodeId};
    use gavel_wire::{Change, Entry};
    use std::sync::Arc;

    /// The first state that can be read.
    const FIRST: u64 = 50;
    const LAST: Tid = Tid(90);

    fn records(changes: &[Change]) -> Records<Engine> {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        let records = Records::open(Arc::new(MemEngine::new()), identity).unwrap().0;
        records.apply(changes, &[]).unwrap();
        records
    }

    /// The changes of one key: made at each of `tids`, each version ending the one before that is there.
    fn changes(tids: &[u64]) -> Vec<Change> {
        let key = Key::target(VOLUME, ObjectId(9));
        let version =
            |tid: &u64| Version { create: Tid(*tid), firm: Tid(*tid), record: Record::Target(Box::new([*tid as u8])) };
        let old = |place: usize| place.checked_sub(1).map(|before| version(&tids[before]));
        let change = |(place, tid): (usize, &u64)| Change {
            tid: Tid(*tid),
            key: key.clone(),
            old: old(place),
            new: Some(version(tid)),
        };
        tids.iter().enumerate().map(change).collect()
    }

    /// What is found wrong with a replica that holds `held`, if all of `made` was made.
    fn wrong(made: &[u64], held: &[u64]) -> Result<(), String> {
        let (mut state, mut model) = (State::default(), PastModel::default());
        let item = Item::CreateVolume { volume: VOLUME, mode: 0o755, uid: 0, gid: 0 };
        let entry = Entry { tid: Tid(FIRST), items: vec![item] };
        gavel_txn::apply(&mut state, &records(&[]).live(Tid::ZERO), LogIndex(1), Some(&entry)).unwrap();
        model.learn(&records(&changes(made)), &State { tid: LAST, ..State::default() }).unwrap();
        let shown = Shown { tid: LAST, past: state.past.of(VOLUME).unwrap(), model: &model };
        let replica = records(&changes(held));
        let (past, everything) = (replica.past(LAST), KeyRange::volume(VOLUME));
        model.check_versions(&past, &everything, &shown)?;
        model.check_changes(&past, Tid::ZERO, LAST, &shown)?;
        model.check_back(&past, &everything, &shown)?;
        model.check_scan(&replica.at(Tid(FIRST)), &everything, usize::MAX, &shown)
    }

    #[test]
    fn what_only_unreadable_states_show_may_be_gone_and_nothing_else() {
        assert_eq!(wrong(&[10, 20, 40, 60], &[10, 20, 40, 60]), Ok(()));
        assert!(wrong(&[20, 40, 60], &[40, 60]).is_ok(), "the first version ended before anything that can be read");
        assert!(wrong(&[20, 40, 60], &[20, 60]).is_err(), "a version that is visible at {FIRST}");
        assert!(wrong(&[20, 60, 70], &[20, 70]).is_err(), "a version that lived within what can be read");
        assert!(wrong(&[20, 60], &[20]).is_err(), "the live version");
        assert!(wrong(&[20, 60], &[20, 55, 60]).is_err(), "a version that never was");
    }
}
