//! What a transaction collides with: which paths, what it did there, and what others did.

use super::Open;
use super::past::NOW;
use gavel_history::diff::{Difference, End, Way, diff};
use gavel_history::log::{LogLine, PathChange, Scope, Sign};
use gavel_history::names::{Names, before, place};
use gavel_history::text::escaped;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid};
use gavel_wire::{Guard, Past, ViewError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Most paths that are told; how many there are beyond is said.
pub const COLLISIONS_MAX: usize = 10_000;
/// Most rows of the change index that are looked at to find who has changed something.
const ROWS_MAX: usize = 1_000_000;
/// Most commits that are told of one path: the latest.
const COMMITS_MAX: usize = 3;
/// Most changes of a commit that are told of one path.
const CHANGES_MAX: usize = 3;

/// A path that a transaction depends on and others have changed. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Collision {
    /// The path within the volume.
    pub path: String,
    /// What the transaction did there: `made`, `removed`, `changed`, `renamed`, `listed`, or `read`.
    pub here: String,
    /// What others did, the latest last; nothing if that was pruned.
    pub there: Vec<There>,
}

/// A commit of somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct There {
    /// The transaction.
    pub tid: String,
    /// The same as a time.
    pub time: String,
    /// Through which node.
    pub node: u64,
    /// For which user.
    pub uid: u32,
    /// What for, if somebody said so.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// What it did there, in words.
    pub what: Vec<String>,
}

/// A guard that does not hold.
struct Broken {
    /// What it is about.
    range: KeyRange,
    /// The object, or the directory of the name.
    object: ObjectId,
    name: Option<Key>,
    path: String,
}

/// Every guard of the transaction that does not hold in the state `now`.
///
/// # Errors
/// If the records could not be read.
pub(super) fn report(open: &Open, now: Tid) -> Result<(Vec<Collision>, u64), String> {
    collisions(open, now).map_err(|error| error.to_string())
}

fn collisions(open: &Open, now: Tid) -> Result<(Vec<Collision>, u64), ViewError> {
    let (live, past) = (open.node.records.live(now), open.node.records.past(now));
    let (start, guards) = {
        let state = open.state.lock();
        let start = state.transaction.at();
        (start, state.transaction.guards().to_guards(start))
    };
    let mut names = Names::new(&past, open.volume);
    let (mut broken, mut more) = (Vec::new(), 0);
    for guard in guards {
        if gavel_txn::apply::holds(&live, &guard)? {
            continue;
        }
        if broken.len() >= COLLISIONS_MAX {
            more += 1;
            continue;
        }
        broken.push(Broken::of(&guard, &mut names, start)?);
    }
    let own = open.past();
    let end = |tid| End { tid, path: Vec::new() };
    // What it did is told as well as it can be.
    let own = diff(&own, open.volume, &end(own.start), &end(NOW), Way::Index).unwrap_or_default();
    let commits = commits(&past, &broken, (start, now))?;
    let mut told: BTreeMap<String, Collision> = BTreeMap::new();
    let mut lines: BTreeMap<Tid, Option<LogLine>> = BTreeMap::new();
    for (broken, tids) in broken.iter().zip(commits) {
        let here = broken.here(&own);
        let collision = told.entry(broken.path.clone());
        let collision =
            collision.or_insert(Collision { path: broken.path.clone(), here: here.into(), there: Vec::new() });
        if collision.here == "read" {
            collision.here = here.into();
        }
        for tid in tids {
            if let Entry::Vacant(line) = lines.entry(tid) {
                let page = gavel_history::log::log(&past, open.volume, Scope::Volume, (before(tid), tid), 1)?;
                line.insert(page.lines.into_iter().next());
            }
            let Some(Some(line)) = lines.get(&tid) else { continue };
            if collision.there.iter().all(|there| there.tid != line.tid) {
                collision.there.push(broken.there(line));
            }
        }
    }
    Ok((told.into_values().collect(), more))
}

impl Broken {
    fn of(guard: &Guard, names: &mut Names<'_>, start: Tid) -> Result<Broken, ViewError> {
        let (range, key) = match guard {
            Guard::Unchanged { key, .. } | Guard::Firm { key, .. } => (KeyRange::one(key), Some(key.clone())),
            Guard::Empty { range } | Guard::Stable { range, .. } => {
                let key = Key::from_bytes(&range.start).ok().filter(|key| KeyRange::one(key) == *range);
                (range.clone(), key)
            }
        };
        let object = match key.as_ref().map(Key::parts) {
            Some(KeyParts::Orphan { object }) => object,
            _ => ObjectId(range.start.get(4..12).and_then(|id| id.try_into().ok()).map_or(0, u64::from_be_bytes)),
        };
        let name = key.filter(|key| matches!(key.parts(), KeyParts::Dirent { .. }));
        let path = match name.as_ref().and_then(place) {
            Some(place) => names.shown(&place, start)?,
            None if object == ObjectId::ROOT => ".".into(),
            None => match names.of(object, start)?.places.first() {
                Some(place) => names.shown(place, start)?,
                None => format!("<object {object}>"),
            },
        };
        Ok(Broken { range, object, name, path })
    }

    /// What the transaction did there.
    fn here(&self, own: &[Difference]) -> &'static str {
        let about = |difference: &&Difference| {
            let at = escaped(&difference.path) == self.path
                || difference.from.as_ref().is_some_and(|from| escaped(from) == self.path);
            at || self.name.is_none() && [difference.old, difference.new].contains(&Some(self.object))
        };
        match own.iter().find(about).map(|difference| difference.sign) {
            Some(Sign::Added) => "made",
            Some(Sign::Removed) => "removed",
            Some(Sign::Modified) => "changed",
            Some(Sign::Renamed) => "renamed",
            Some(Sign::NotKept) | None => "read",
        }
    }

    /// What a commit did there.
    fn there(&self, line: &LogLine) -> There {
        let inside = |path: &str| match path.rsplit_once('/') {
            Some((directory, _)) => directory == self.path,
            None => self.path == ".",
        };
        let at = |change: &&PathChange| {
            change.path == self.path
                || change.from.as_deref() == Some(&self.path)
                || self.name.is_none() && change.object == self.object.0
        };
        let within = |change: &&PathChange| {
            self.name.is_none() && (inside(&change.path) || change.from.as_deref().is_some_and(inside))
        };
        let exact: Vec<&PathChange> = line.changes.iter().filter(at).take(CHANGES_MAX).collect();
        let names = line.changes.iter().filter(within).take(CHANGES_MAX);
        let what = exact.iter().copied().chain(names.filter(|_| exact.is_empty())).map(words).collect();
        There {
            tid: line.tid.clone(),
            time: line.time.clone(),
            node: line.node,
            uid: line.uid,
            note: line.note.clone(),
            what,
        }
    }
}

fn words(change: &PathChange) -> String {
    let path = match &change.from {
        Some(from) => format!("{from} -> {}", change.path),
        None => change.path.clone(),
    };
    let words: Vec<String> = change.changes.iter().take(CHANGES_MAX).map(|what| what.words()).collect();
    let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
    format!("{} {path}{words}", change.sign.as_char())
}

/// For each guard, the latest commits that have changed what it is about, in their order.
fn commits(past: &dyn Past, broken: &[Broken], (start, now): (Tid, Tid)) -> Result<Vec<Vec<Tid>>, ViewError> {
    let mut found: Vec<Vec<Tid>> = vec![Vec::new(); broken.len()];
    let mut starts: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (number, broken) in broken.iter().enumerate() {
        starts.entry(&broken.range.start).or_default().push(number);
    }
    for row in past.touched(start, now).take(ROWS_MAX) {
        let row = row?;
        // The ranges are single keys, or all names of a directory: the one that begins last before the key is it.
        let near = starts.range(..=row.key.as_bytes()).rev().take(2).flat_map(|(_, numbers)| numbers);
        for number in near.copied().filter(|number| broken[*number].range.contains(&row.key)) {
            let tids = &mut found[number];
            if tids.last() != Some(&row.tid) {
                tids.push(row.tid);
            }
            if tids.len() > COMMITS_MAX {
                tids.remove(0);
            }
        }
    }
    Ok(found)
}
