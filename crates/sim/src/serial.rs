//! Are transactions and plain operations on the shared tree strictly serializable, and transactions atomic and durable?
//!
//! Each is recorded with what it read and wrote, when it was called and when it returned. At the end, the versions of each cell are put in the order of the
//! commits that made them, and it is looked for a cycle ([`crate::cycles`]). Beside that, transactions are whole or not there at all, once; all
//! that one read is of the state at its start; and whatever committed would have read the same just before its commit.
//!
//! A value may have been written more than once: a file gets a name that it had before, a name is absent once more. Who read it depends on the first
//! that may be meant, and comes before what followed the last. Those that were over before it was called, or begun after it returned, are not meant.

use crate::cycles::{Graph, Node, Why};
use crate::jobs::StandsOn;
use crate::past_check::PastModel;
use crate::rest::VOLUME;
use crate::shared::{Access, Cell, Seen, value_of};
use gavel_client::transaction::commit;
use gavel_types::{BlobId, Key, KeyParts, KeyRange, ObjectId, Tid};
use gavel_wire::{Content, Record, Version};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Where in the order of commits: its Tid, and which of the plans in it.
type Place = (Tid, u64);

/// A plain operation that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) what: String,
    pub(crate) machine: usize,
    pub(crate) life: u64,
    pub(crate) stands_on: StandsOn,
    /// The commit that it came to, if it was shipped.
    pub(crate) tid: Option<Tid>,
    pub(crate) called: u64,
    /// None: what it was told may have been lost since.
    pub(crate) returned: Option<u64>,
    pub(crate) access: Access,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It was told to be committed; none: it had changed nothing.
    Committed(Option<Tid>),
    /// It was told that nothing was written, or never asked for it.
    Not,
    /// Nobody knows.
    Unknown,
}

/// A transaction that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) machine: usize,
    pub(crate) called: u64,
    pub(crate) returned: Option<u64>,
    /// What it read that it had not written, and as of which state.
    pub(crate) reads: Vec<(Cell, Seen, Tid)>,
    /// What it left of what it wrote.
    pub(crate) writes: BTreeMap<Cell, u64>,
    /// Objects that it made.
    pub(crate) made: BTreeSet<ObjectId>,
    /// A part of it was shipped before its commit.
    pub(crate) staged: bool,
    /// The state that it began at, and the last commit that anybody was told of before.
    pub(crate) began: (Tid, Tid),
    /// The last plan that its node had accepted when it was begun, in which life: all up to it had landed.
    pub(crate) behind: (u64, u64),
    pub(crate) end: End,
}

/// All that was recorded.
#[derive(Debug, Default)]
pub(crate) struct Serial {
    plain: Vec<Plain>,
    ended: Vec<Ended>,
    /// What plans became: by machine, life and number. Those that were lost became something only when they were offered again.
    landed: BTreeMap<(usize, u64, u64), Tid>,
    offered: BTreeMap<(usize, u64, u64), Tid>,
    /// The values that blobs stand for.
    blobs: BTreeMap<BlobId, u64>,
    large: BTreeSet<ObjectId>,
}

/// Who is in the graph.
#[derive(Debug)]
struct Entry {
    what: String,
    called: Option<u64>,
    returned: Option<u64>,
    reads: Vec<(Cell, Seen)>,
    writes: Vec<(Cell, u64)>,
    place: Option<Place>,
}

/// A version of a cell.
#[derive(Clone, Copy, Debug)]
struct Made {
    place: Place,
    value: u64,
    /// Who made it; none: it was so in the beginning.
    by: Option<usize>,
}

type Versions = BTreeMap<Cell, Vec<Made>>;

impl Serial {
    /// A plain operation was answered.
    pub(crate) fn answered(&mut self, plain: Plain) {
        self.plain.push(plain);
    }

    /// A transaction has ended.
    pub(crate) fn ended(&mut self, ended: Ended) {
        self.ended.push(ended);
    }

    /// Bytes that stand for `value` were written to a large file.
    pub(crate) fn wrote_large(&mut self, object: ObjectId, bytes: &[u8], value: u64) {
        self.large.insert(object);
        self.blobs.insert(BlobId::of(bytes), value);
    }

    /// A plan was committed.
    pub(crate) fn landed(&mut self, machine: usize, life: u64, number: u64, tid: Tid) {
        self.landed.insert((machine, life, number), tid);
    }

    /// A plan that had been lost was committed.
    pub(crate) fn offered(&mut self, machine: usize, life: u64, number: u64, tid: Tid) {
        self.offered.insert((machine, life, number), tid);
    }

    /// As [`crate::models::History::lose`].
    pub(crate) fn lose(&mut self, machine: usize, life: u64, first: u64, since: u64) {
        let told_since = |plain: &Plain| {
            (plain.machine, plain.life) == (machine, life) && plain.returned.is_some_and(|returned| returned >= since)
        };
        self.plain.retain(|plain| !(told_since(plain) && plain.stands_on == StandsOn::View));
        for plain in self.plain.iter_mut().filter(|plain| told_since(plain)) {
            if matches!(plain.stands_on, StandsOn::Plan(number) if number >= first) {
                plain.returned = None;
            }
        }
    }

    /// Looks at everything. `past` has every version that there ever was.
    ///
    /// # Errors
    /// What must not be, in words.
    pub(crate) fn check(&self, past: &PastModel) -> Result<(), String> {
        let committed = self.find_committed(past)?;
        let past = &self.seen(past, &committed);
        past.check_unseen()?;
        for (number, ended) in self.ended.iter().enumerate() {
            match committed.get(&number) {
                Some(tid) => self.check_whole(past, ended, *tid)?,
                None => self.check_nowhere(past, ended)?,
            }
        }
        let mut entries = self.entries(past, &committed);
        let versions = self.versions(past, &mut entries)?;
        check_cycles(&entries, &versions)?;
        self.check_starts(past)?;
        check_order(&entries, &versions)
    }

    /// Objects of transactions that were staged, and the commits that adopted them; none: there was no commit.
    ///
    /// # Errors
    /// As [`Serial::check`].
    pub(crate) fn staged(&self, past: &PastModel) -> Result<BTreeMap<ObjectId, Option<Tid>>, String> {
        let committed = self.find_committed(past)?;
        let staged = self.ended.iter().enumerate().filter(|(_, ended)| ended.staged);
        let objects = staged.flat_map(|(number, ended)| {
            let from = committed.get(&number).copied();
            ended.made.iter().map(move |object| (*object, from))
        });
        Ok(objects.collect())
    }

    /// What anybody can see: what a transaction made is there from its commit on, whenever it was written.
    fn seen<'a>(&self, past: &'a PastModel, committed: &BTreeMap<usize, Tid>) -> SeenPast<'a> {
        let made = self.ended.iter().enumerate().flat_map(|(number, ended)| {
            let from = committed.get(&number).copied();
            ended.made.iter().map(move |object| (*object, from))
        });
        SeenPast { past, from: made.collect() }
    }

    /// Each transaction is in the history as it was told, and once. Gives which transaction made which commit.
    fn find_committed(&self, past: &PastModel) -> Result<BTreeMap<usize, Tid>, String> {
        let mut found: BTreeMap<&str, Vec<Tid>> = BTreeMap::new();
        for (key, versions) in past.within(&KeyRange::commits(VOLUME, Tid(1), Tid(u64::MAX - 1))) {
            // The record may be pruned since: what it said when it was made is here.
            let note = versions.iter().find_map(|(_, version)| match version {
                Some(Version { record: Record::Commit(committed), .. }) => Some(&*committed.note),
                _ => None,
            });
            if let (KeyParts::Commit { tid }, Some(note)) = (key.parts(), note) {
                found.entry(note).or_default().push(tid);
            }
        }
        let mut committed = BTreeMap::new();
        for (number, ended) in self.ended.iter().enumerate() {
            let tids = found.get(&*commit::note("", &ended.id)).map_or(&[][..], |tids| tids);
            let right = match ended.end {
                End::Committed(Some(tid)) => *tids == [tid],
                End::Committed(None) | End::Not => tids.is_empty(),
                End::Unknown => tids.len() <= 1,
            };
            if !right {
                return Err(format!("transaction {} ended as {:?}, and is committed at {tids:?}", ended.id, ended.end));
            }
            committed.extend(tids.first().map(|tid| (number, *tid)));
        }
        Ok(committed)
    }

    /// What a commit has changed is what its transaction left.
    fn check_whole(&self, past: &SeenPast<'_>, ended: &Ended, tid: Tid) -> Result<(), String> {
        for (cell, value) in &ended.writes {
            let there = self.value_at(past, cell, tid);
            // Of a file that has lost its last name, nothing is there if nobody has it open.
            let gone = matches!(cell, Cell::Bytes(object) | Cell::Xattr(object, _) if is_gone(past, *object, tid));
            if there != *value && !(gone && there == 0) {
                return Err(format!("transaction {} left {value} in {cell:?}, and its commit {tid} {there}", ended.id));
            }
        }
        let changed = past.past.between(Tid(tid.0 - 1), tid).iter().filter(|(_, key)| key.volume() == VOLUME);
        for cell in changed.filter_map(|(_, key)| Cell::of(key)) {
            let gone = |object| is_gone(past, object, tid);
            let expected = match cell {
                Cell::Name(..) => ended.writes.contains_key(&cell),
                Cell::Bytes(object) | Cell::Xattr(object, _) => ended.writes.contains_key(&cell) || gone(object),
            };
            if !expected {
                return Err(format!("the commit {tid} of transaction {} changed {cell:?}, which it did not", ended.id));
            }
        }
        Ok(())
    }

    /// Nothing of it is anywhere: neither a value that only it wrote nor an object that it made.
    fn check_nowhere(&self, past: &SeenPast<'_>, ended: &Ended) -> Result<(), String> {
        for (cell, value) in ended.writes.iter().filter(|(_, value)| **value != 0) {
            let only = !matches!(cell, Cell::Name(..)) || ended.made.contains(&ObjectId(*value));
            let mut there = self.history(past, cell);
            if only && there.any(|(_, there)| there == *value) {
                return Err(format!("transaction {} was not committed, and left {value} in {cell:?}", ended.id));
            }
        }
        // What was staged of it, and only that, may have been there for a while.
        let left = |object: &&ObjectId| {
            let range = KeyRange::object(VOLUME, **object);
            let lives = |(_, last): &(Tid, Option<Version>)| last.is_some();
            let mut records = past.past.within(&range);
            records.any(|(_, versions)| !ended.staged || versions.last().is_some_and(lives))
        };
        match ended.made.iter().find(left) {
            Some(object) => Err(format!("transaction {} was not committed, and left object {object}", ended.id)),
            None => Ok(()),
        }
    }

    /// All that a transaction read is of one state, which was behind all that was known to be committed when it began.
    fn check_starts(&self, past: &SeenPast<'_>) -> Result<(), String> {
        for ended in &self.ended {
            let (start, known) = ended.began;
            if start < known {
                return Err(format!("transaction {} began at {start}, behind {known}, which was known", ended.id));
            }
            let (life, last) = ended.behind;
            let own = self.landed.range((ended.machine, life, 0)..=(ended.machine, life, last));
            if let Some((plan, tid)) = own.max_by_key(|(_, tid)| **tid).filter(|(_, tid)| **tid > start) {
                return Err(format!("transaction {} began at {start}, behind {plan:?} at {tid}", ended.id));
            }
            for (cell, seen, at) in told(past, ended) {
                let there = self.value_at(past, &cell, at);
                if !seen.fits(there) {
                    return Err(format!("transaction {} as of {at} read {seen:?} in {cell:?}, not {there}", ended.id));
                }
            }
        }
        Ok(())
    }

    fn entries(&self, past: &SeenPast<'_>, committed: &BTreeMap<usize, Tid>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (number, ended) in self.ended.iter().enumerate() {
            let tid = committed.get(&number);
            // What was not committed was not done; one that has only read ends without a commit.
            if tid.is_none() && ended.end != End::Committed(None) {
                continue;
            }
            let writes = ended.writes.iter().filter(|_| tid.is_some());
            entries.push(Entry {
                what: format!("transaction {} (n{}, {})", ended.id, ended.machine, tid.unwrap_or(&ended.began.0)),
                called: Some(ended.called),
                returned: ended.returned,
                reads: told(past, ended).map(|(cell, seen, _)| (cell, seen)).collect(),
                writes: writes.map(|(cell, value)| (*cell, *value)).collect(),
                place: tid.map(|tid| (*tid, 0)),
            });
        }
        for plain in &self.plain {
            let place = match plain.stands_on {
                StandsOn::View => None,
                StandsOn::Commit => plain.tid.map(|tid| (tid, 0)),
                StandsOn::Plan(number) => {
                    let plan = (plain.machine, plain.life, number);
                    let tid = self.landed.get(&plan).or_else(|| self.offered.get(&plan));
                    tid.map(|tid| (*tid, number))
                }
            };
            // What is lost was not done; if it was, its commit is one that nobody knows.
            if place.is_none() && !plain.access.writes.is_empty() {
                continue;
            }
            let value = |cell: &Cell| place.map_or(0, |(tid, _)| self.value_at(past, cell, tid));
            let writes = plain.access.writes.iter();
            entries.push(Entry {
                what: match place {
                    Some((tid, _)) => format!("n{} {} ({tid})", plain.machine, plain.what),
                    None => format!("n{} {}", plain.machine, plain.what),
                },
                called: Some(plain.called),
                returned: plain.returned,
                reads: plain.access.reads.clone(),
                writes: writes.map(|(cell, wrote)| (*cell, wrote.unwrap_or_else(|| value(cell)))).collect(),
                place,
            });
        }
        entries
    }

    /// The versions of all cells, in order. Commits that nobody knows become entries.
    fn versions(&self, past: &SeenPast<'_>, entries: &mut Vec<Entry>) -> Result<Versions, String> {
        let mut made: BTreeMap<Cell, BTreeMap<Place, (u64, usize)>> = BTreeMap::new();
        let mut by_tid: BTreeMap<Tid, usize> = BTreeMap::new();
        for (number, entry) in entries.iter().enumerate() {
            for (cell, _) in &entry.reads {
                made.entry(*cell).or_default();
            }
            let Some(place) = entry.place else { continue };
            let last = by_tid.entry(place.0).or_insert(number);
            if entries[*last].place < entry.place {
                *last = number;
            }
            for (cell, value) in &entry.writes {
                made.entry(*cell).or_default().insert(place, (*value, number));
            }
        }
        let mut versions = Versions::new();
        for (cell, mut made) in made {
            for (tid, value) in self.history(past, &cell) {
                let known = made.range((tid, 0)..=(tid, u64::MAX)).next_back().map(|(_, (known, _))| *known);
                if known.is_none() {
                    let by = *by_tid.entry(tid).or_insert_with(|| {
                        entries.push(unknown(tid));
                        entries.len() - 1
                    });
                    made.insert((tid, u64::MAX), (value, by));
                }
            }
            for (place, (value, by)) in &made {
                let last = made.range((place.0, place.1)..=(place.0, u64::MAX)).count() == 1;
                let there = self.value_at(past, &cell, place.0);
                let gone =
                    matches!(cell, Cell::Bytes(object) | Cell::Xattr(object, _) if is_gone(past, object, place.0));
                if last && place.1 < u64::MAX && there != *value && !gone {
                    return Err(format!("{} wrote {value} to {cell:?}, and {there} was committed", entries[*by].what));
                }
            }
            let first = Made { place: (Tid::ZERO, 0), value: 0, by: None };
            let rest = made.into_iter().map(|(place, (value, by))| Made { place, value, by: Some(by) });
            versions.insert(cell, std::iter::once(first).chain(rest).collect());
        }
        Ok(versions)
    }

    /// What became of a cell.
    fn history(&self, past: &SeenPast<'_>, cell: &Cell) -> impl Iterator<Item = (Tid, u64)> + use<> {
        let versions = past.versions(&self.key(cell));
        let value = |version: &Option<Version>| version.as_ref().map_or(0, |version| self.value(version));
        let values: Vec<(Tid, u64)> = versions.iter().map(|(tid, version)| (*tid, value(version))).collect();
        values.into_iter()
    }

    fn value_at(&self, past: &SeenPast<'_>, cell: &Cell, tid: Tid) -> u64 {
        past.at(&self.key(cell), tid).map_or(0, |version| self.value(version))
    }

    fn key(&self, cell: &Cell) -> Key {
        cell.key(VOLUME, matches!(cell, Cell::Bytes(object) if self.large.contains(object)))
    }

    fn value(&self, version: &Version) -> u64 {
        /// Of bytes that nobody wrote.
        const NOBODYS: u64 = u64::MAX;
        match &version.record {
            Record::Dirent(dirent) => dirent.object.0,
            Record::Xattr(bytes) => value_of(bytes).unwrap_or(NOBODYS),
            Record::Extent(extent) => match &extent.content {
                Content::Inline(bytes) => value_of(bytes).unwrap_or(NOBODYS),
                Content::Blob { id, .. } => self.blobs.get(id).copied().unwrap_or(NOBODYS),
                Content::Zeros => 0,
            },
            _ => NOBODYS,
        }
    }
}

/// What anybody can see of what was ever written.
struct SeenPast<'a> {
    past: &'a PastModel,
    /// From when on what transactions made is a part of the volume; none: it never is.
    from: BTreeMap<ObjectId, Option<Tid>>,
}

impl<'a> SeenPast<'a> {
    /// What became of a key, for whoever looks: all that was staged of it is from its commit on as it was last staged.
    fn versions(&self, key: &Key) -> Cow<'a, [(Tid, Option<Version>)]> {
        let versions = self.past.versions(key);
        match self.from.get(&key.object()) {
            None => Cow::Borrowed(versions),
            Some(None) => Cow::Borrowed(&[]),
            Some(Some(from)) => {
                let before = versions.partition_point(|(tid, _)| tid <= from);
                if before == 0 {
                    return Cow::Borrowed(versions);
                }
                let first = (*from, versions[before - 1].1.clone());
                Cow::Owned(std::iter::once(first).chain(versions[before..].iter().cloned()).collect())
            }
        }
    }

    fn at(&self, key: &Key, tid: Tid) -> Option<&'a Version> {
        if self.from.get(&key.object()).is_some_and(|from| from.is_none_or(|from| from > tid)) {
            return None;
        }
        let versions = self.past.versions(key);
        let come = versions.partition_point(|(at, _)| *at <= tid);
        versions[..come].last()?.1.as_ref()
    }

    /// No name leads to what is staged before it is adopted.
    fn check_unseen(&self) -> Result<(), String> {
        for (key, _) in self.past.within(&KeyRange::of_objects(VOLUME)) {
            if !matches!(key.parts(), KeyParts::Dirent { .. }) {
                continue;
            }
            for (tid, version) in self.versions(key).iter() {
                let Some(Version { record: Record::Dirent(dirent), .. }) = version else { continue };
                let early = self.from.get(&dirent.object).is_some_and(|from| from.is_none_or(|from| from > *tid));
                if early {
                    let from = self.from[&dirent.object];
                    return Err(format!("{key:?} led to {} at {tid}, which is committed at {from:?}", dirent.object));
                }
            }
        }
        Ok(())
    }
}

/// What a transaction read, but for what it made and for files that had no name any more at its start: nobody else has these, and what becomes of them is
/// not said.
fn told<'a>(past: &'a SeenPast<'_>, ended: &'a Ended) -> impl Iterator<Item = (Cell, Seen, Tid)> {
    ended.reads.iter().copied().filter(|(cell, _, at)| match cell {
        Cell::Name(..) => true,
        Cell::Bytes(object) | Cell::Xattr(object, _) => !is_gone(past, *object, *at),
    })
}

fn is_gone(past: &SeenPast<'_>, object: ObjectId, tid: Tid) -> bool {
    !matches!(past.at(&Key::attr(VOLUME, object), tid), Some(Version { record: Record::Attr(attr), .. }) if attr.nlink > 0)
}

fn unknown(tid: Tid) -> Entry {
    let what = format!("a commit that nobody was told of ({tid})");
    Entry { what, called: None, returned: None, reads: Vec::new(), writes: Vec::new(), place: Some((tid, 0)) }
}

/// No order of all that happened is missing.
fn check_cycles(entries: &[Entry], versions: &Versions) -> Result<(), String> {
    let nodes =
        entries.iter().map(|entry| Node { what: entry.what.clone(), called: entry.called, returned: entry.returned });
    let mut graph = Graph::new(nodes.collect());
    for (cell, versions) in versions {
        for pair in versions.windows(2) {
            if let (Some(before), Some(after)) = (pair[0].by, pair[1].by) {
                graph.add(before, after, Why::Overwrote(*cell, pair[1].value));
            }
        }
    }
    for (reader, entry) in entries.iter().enumerate() {
        for (cell, seen) in &entry.reads {
            let versions = &versions[cell];
            let Some((first, last)) = meant(entries, versions, reader, *seen) else {
                return Err(format!("{} read {seen:?} in {cell:?}, which was never there: {versions:?}", entry.what));
            };
            if let Some(writer) = versions[first].by {
                graph.add(writer, reader, Why::Read(*cell, versions[first].value));
            }
            if let Some(Made { by: Some(next), value, .. }) = versions.get(last + 1) {
                graph.add(reader, *next, Why::ReadBefore(*cell, *value));
            }
        }
    }
    let Some((mut told, cells)) = graph.cycle() else { return Ok(()) };
    for cell in cells {
        told.push(format!("{cell:?} was, one after the other,"));
        let by = |made: &Made| made.by.map_or("the beginning", |by| &entries[by].what);
        told.extend(versions[&cell].iter().map(|made| format!("    {} by {}", made.value, by(made))));
    }
    Err(format!("there is no order of what happened:\n    {}", told.join("\n    ")))
}

/// The first and the last version that a reader may have seen.
fn meant(entries: &[Entry], versions: &[Made], reader: usize, seen: Seen) -> Option<(usize, usize)> {
    let entry = &entries[reader];
    let fits = |place: &usize| versions[*place].by != Some(reader) && seen.fits(versions[*place].value);
    // Who overwrites it depends on what was there just before, if that can be.
    let own = versions.iter().position(|made| made.by == Some(reader));
    if let Some(before) = own.and_then(|own| own.checked_sub(1)).filter(fits) {
        return Some((before, before));
    }
    let begun_later = |made: &Made| {
        let called = made.by.and_then(|by| entries[by].called);
        called.zip(entry.returned).is_some_and(|(called, returned)| called > returned)
    };
    let over_before = |made: &Made| {
        let returned = made.by.and_then(|by| entries[by].returned);
        returned.zip(entry.called).is_some_and(|(returned, called)| returned < called)
    };
    let can_be = |place: &usize| !begun_later(&versions[*place]) && !versions.get(place + 1).is_some_and(over_before);
    let fitting: Vec<usize> = (0..versions.len()).filter(fits).collect();
    let possible: Vec<usize> = fitting.iter().copied().filter(can_be).collect();
    match (possible.first(), possible.last()) {
        (Some(first), Some(last)) => Some((*first, *last)),
        // None can be: the last one of them makes that a cycle.
        _ => fitting.last().map(|last| (*last, *last)),
    }
}

/// Whatever was committed would have read the same just before its commit.
fn check_order(entries: &[Entry], versions: &Versions) -> Result<(), String> {
    for entry in entries {
        let Some(place) = entry.place else { continue };
        for (cell, seen) in &entry.reads {
            let versions = &versions[cell];
            let come = versions.partition_point(|made| made.place < place);
            let there = come.checked_sub(1).map_or(0, |last| versions[last].value);
            if !seen.fits(there) {
                let what = &entry.what;
                return Err(format!("{what} read {seen:?} in {cell:?}; just before its commit there was {there}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::NodeId;
    use gavel_wire::{Committed, Dirent, Kind};

    const DIR: ObjectId = ObjectId(5);
    const A: Cell = Cell::Name(DIR, 0);
    const B: Cell = Cell::Name(DIR, 1);
    /// What everything begins with: A is 100, B is 200.
    const START: Tid = Tid(10);

    struct History {
        past: PastModel,
        serial: Serial,
    }

    fn version(tid: Tid, record: Record) -> Version {
        Version { create: tid, firm: tid, record }
    }

    impl History {
        fn new() -> History {
            let mut history = History { past: PastModel::default(), serial: Serial::default() };
            history.commit(START, "", &[(A, 100), (B, 200)]);
            history
        }

        /// What replicas have at `tid`.
        fn commit(&mut self, tid: Tid, note: &str, cells: &[(Cell, u64)]) {
            for (cell, value) in cells {
                let dirent = Record::Dirent(Dirent { object: ObjectId(*value), kind: Kind::File });
                let made = (*value != 0).then(|| version(tid, dirent));
                self.past.add(tid, cell.key(VOLUME, false), made).unwrap();
            }
            let record = Record::Commit(Committed { node: NodeId(1), uid: 0, note: note.into(), staged: Vec::new() });
            self.past.add(tid, Key::commit(VOLUME, tid), Some(version(tid, record))).unwrap();
        }

        /// A transaction that began at the start, and was told how it ended.
        fn told(&mut self, id: &str, times: (u64, u64), reads: &[(Cell, u64)], writes: &[(Cell, u64)], end: End) {
            self.serial.ended(Ended {
                id: id.into(),
                machine: 0,
                called: times.0,
                returned: Some(times.1),
                reads: reads.iter().map(|(cell, value)| (*cell, Seen::Is(*value), START)).collect(),
                writes: writes.iter().copied().collect(),
                made: BTreeSet::new(),
                staged: false,
                began: (START, START),
                behind: (1, 0),
                end,
            });
        }

        /// One that was committed.
        fn done(&mut self, id: &str, times: (u64, u64), tid: u64, reads: &[(Cell, u64)], writes: &[(Cell, u64)]) {
            self.commit(Tid(tid), &commit::note("", id), writes);
            self.told(id, times, reads, writes, End::Committed(Some(Tid(tid))));
        }

        /// A plain read.
        fn read(&mut self, times: (u64, u64), cell: Cell, value: u64) {
            self.serial.answered(Plain {
                what: format!("reads {value}"),
                machine: 1,
                life: 1,
                stands_on: StandsOn::View,
                tid: None,
                called: times.0,
                returned: Some(times.1),
                access: Access { reads: vec![(cell, Seen::Is(value))], writes: Vec::new() },
            });
        }

        fn check(&self) -> Result<(), String> {
            self.serial.check(&self.past)
        }

        fn is_a_cycle(&self) -> bool {
            self.check().is_err_and(|what| what.contains("no order") && what.contains("a cycle"))
        }
    }

    #[test]
    fn transactions_that_have_nothing_in_common_are_fine() {
        let mut history = History::new();
        history.done("one", (1, 9), 20, &[(A, 100)], &[(A, 101)]);
        history.done("two", (2, 8), 30, &[(B, 200)], &[(B, 201)]);
        history.read((3, 4), A, 100);
        history.read((3, 7), A, 101);
        history.read((10, 11), B, 201);
        history.told("three", (5, 6), &[(A, 100), (B, 200)], &[(A, 7)], End::Not);
        assert_eq!(history.check(), Ok(()));
    }

    #[test]
    fn a_lost_update_is_a_cycle() {
        let mut history = History::new();
        history.done("one", (1, 9), 20, &[(A, 100)], &[(A, 101)]);
        history.done("two", (2, 8), 30, &[(A, 100)], &[(A, 102)]);
        assert!(history.is_a_cycle(), "{:?}", history.check());
    }

    #[test]
    fn write_skew_is_a_cycle() {
        let mut history = History::new();
        history.done("one", (1, 9), 20, &[(A, 100), (B, 200)], &[(A, 101)]);
        history.done("two", (2, 8), 30, &[(A, 100), (B, 200)], &[(B, 201)]);
        assert!(history.is_a_cycle(), "{:?}", history.check());
    }

    /// Each lists the directory, in which a name is lacking, and makes a name there.
    #[test]
    fn a_phantom_is_a_cycle() {
        let (c, d) = (Cell::Name(DIR, 2), Cell::Name(DIR, 3));
        let lists = [(A, 100), (B, 200), (c, 0), (d, 0)];
        let mut history = History::new();
        history.done("one", (1, 9), 20, &lists, &[(c, 300)]);
        history.done("two", (2, 8), 30, &lists, &[(d, 400)]);
        assert!(history.is_a_cycle(), "{:?}", history.check());
    }

    #[test]
    fn a_plain_read_of_what_was_overwritten_before_is_a_cycle() {
        let mut history = History::new();
        history.done("one", (1, 5), 20, &[], &[(A, 101)]);
        history.read((6, 7), A, 100);
        assert!(history.is_a_cycle(), "{:?}", history.check());
    }

    /// Fekete, O'Neil and O'Neil, "A read-only transaction anomaly under snapshot isolation", 2004; who reads is a plain program here.
    #[test]
    fn reads_that_order_two_writers_the_other_way_round_are_a_cycle() {
        let mut history = History::new();
        history.done("deposit", (2, 5), 20, &[(B, 200)], &[(B, 201)]);
        history.done("withdrawal", (1, 20), 30, &[(A, 100), (B, 200)], &[(A, 99)]);
        assert!(history.check().is_err(), "the withdrawal did not see the deposit, and is behind it");
        let mut history = History::new();
        history.done("withdrawal", (1, 20), 20, &[(A, 100), (B, 200)], &[(A, 99)]);
        history.done("deposit", (2, 5), 30, &[(B, 200)], &[(B, 201)]);
        assert_eq!(history.check(), Ok(()));
        history.read((6, 7), B, 201);
        history.read((8, 9), A, 100);
        assert!(history.is_a_cycle(), "{:?}", history.check());
    }

    #[test]
    fn what_was_told_must_be_there_whole_and_once() {
        let mut history = History::new();
        history.told("one", (1, 9), &[], &[(A, 101)], End::Committed(Some(Tid(20))));
        assert!(history.check().is_err(), "acknowledged, and not there");
        let mut history = History::new();
        history.commit(Tid(20), &commit::note("", "one"), &[(A, 101)]);
        history.told("one", (1, 9), &[], &[(A, 101), (B, 201)], End::Unknown);
        assert!(history.check().is_err(), "half of it");
        let mut history = History::new();
        history.done("one", (1, 9), 20, &[], &[(A, 101)]);
        history.commit(Tid(30), &commit::note("", "one"), &[(A, 101)]);
        assert!(history.check().is_err(), "twice");
        let mut history = History::new();
        history.commit(Tid(20), &commit::note("", "one"), &[(A, 101)]);
        history.told("one", (1, 9), &[], &[(A, 101)], End::Not);
        assert!(history.check().is_err(), "given up, and there");
    }

    #[test]
    fn a_value_that_was_never_committed_cannot_be_read() {
        let mut history = History::new();
        history.told("one", (1, 9), &[], &[(A, 101)], End::Not);
        history.read((3, 4), A, 101);
        assert!(history.check().is_err_and(|what| what.contains("never there")));
    }

    #[test]
    fn one_that_only_reads_sees_one_state() {
        let mut history = History::new();
        history.done("one", (1, 5), 20, &[], &[(A, 101), (B, 201)]);
        history.told("two", (2, 6), &[(A, 100), (B, 200)], &[], End::Committed(None));
        assert_eq!(history.check(), Ok(()));
        history.told("three", (2, 6), &[(A, 100), (B, 201)], &[], End::Committed(None));
        assert!(history.check().is_err());
    }
}
