//! fsck of the structure: every row against the rows that it implies. Reads everything; for tests, the simulator and
//! repairs.

use super::changes::{fits, index, made_at};
use super::{Records, RecordsError, live, names, past, places, rows};
use crate::engine::{Engine, Snapshot};
use gavel_types::{Key, ObjectId, Tid, VolumeId};
use gavel_wire::Version;
use std::fmt;

/// Most problems that a check lists; it stops behind them.
pub const CHECK_PROBLEMS_MAX: usize = 100;

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Live rows seen.
    pub live: u64,
    /// History rows seen.
    pub history: u64,
    /// Rows of the change index seen.
    pub changes: u64,
    /// Rows that say which versions name a blob.
    pub names: u64,
    /// Rows that say which versions are names of an object.
    pub places: u64,
    /// What is wrong, in words; at most [`CHECK_PROBLEMS_MAX`].
    pub problems: Vec<String>,
}

impl CheckReport {
    fn note(&mut self, problem: impl Into<String>) {
        if self.problems.len() < CHECK_PROBLEMS_MAX {
            self.problems.push(problem.into());
        }
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= CHECK_PROBLEMS_MAX
    }

    /// Notes damage of one row; what keeps the check from going on is an error.
    fn note_damage<T>(&mut self, result: Result<T, RecordsError>) -> Result<Option<T>, RecordsError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(RecordsError::Damaged { what }) => {
                self.note(format!("{what} is damaged"));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

impl<E: Engine> Records<E> {
    /// Checks the invariants of this room on a snapshot.
    ///
    /// # Errors
    /// The engine's, if it can't be read to its end.
    pub fn check(&self) -> Result<CheckReport, RecordsError> {
        let snapshot = self.engine.snapshot();
        let mut report = CheckReport::default();
        check_live(&snapshot, &mut report)?;
        check_history(&snapshot, &mut report)?;
        check_changes(&snapshot, &mut report)?;
        let (blobs, objects) = ((rows::BLOB, "blob"), (rows::PLACE, "object"));
        report.names = check_naming(&snapshot, &mut report, blobs, rows::parse_name, |blob, key, create| {
            names::names(&snapshot, *blob, key, create)
        })?;
        report.places = check_naming(&snapshot, &mut report, objects, rows::parse_place, |object, key, create| {
            places::is_place(&snapshot, *object, key, create)
        })?;
        Ok(report)
    }
}

fn check_live<S: Snapshot>(snapshot: &S, report: &mut CheckReport) -> Result<(), RecordsError> {
    let (start, end) = rows::table(rows::LIVE);
    let mut attributes = Attributes::new(snapshot);
    for row in snapshot.range(&start, &end) {
        let (row, value) = row?;
        report.live += 1;
        let parsed = rows::parse_live(&row).and_then(|key| Ok((rows::parse_version(&key, &value)?, key)));
        if let Some((version, key)) = report.note_damage(parsed)? {
            check_version(snapshot, report, &key, &version)?;
            attributes.check(report, &key, version.create)?;
        }
        if report.is_full() {
            break;
        }
    }
    Ok(())
}

fn check_history<S: Snapshot>(snapshot: &S, report: &mut CheckReport) -> Result<(), RecordsError> {
    let (start, end) = rows::table(rows::HISTORY);
    let mut last: Option<(Key, Tid)> = None;
    let mut attributes = Attributes::new(snapshot);
    for row in snapshot.range(&start, &end) {
        let (row, value) = row?;
        report.history += 1;
        let parsed =
            rows::parse_history(&row).and_then(|(key, delete)| Ok((rows::parse_version(&key, &value)?, key, delete)));
        let Some((version, key, delete)) = report.note_damage(parsed)? else { continue };
        check_version(snapshot, report, &key, &version)?;
        attributes.check(report, &key, delete)?;
        if version.create >= delete {
            report.note(format!("{key:?} ended at {delete}, before it began at {}", version.create));
        }
        if snapshot.get(&rows::change(delete, &key))?.is_none() {
            report.note(format!("{key:?} ended at {delete}, which the change index does not know"));
        }
        if last.is_some_and(|(last_key, ended)| last_key == key && ended > version.create) {
            report.note(format!("{key:?} has two versions at {}", version.create));
        }
        // Only the last version before the live one can overlap it without overlapping another one first.
        if let Some(None) = report.note_damage(past::ended_after(snapshot, &key, delete))?
            && let Some(Some(now)) = report.note_damage(live::get(snapshot, &key))?
            && now.create < delete
        {
            report.note(format!("{key:?} ended at {delete} and lives since {}", now.create));
        }
        last = Some((key, delete));
        if report.is_full() {
            break;
        }
    }
    Ok(())
}

/// Since when the attributes of objects live, which are asked for in order.
struct Attributes<'s, S> {
    snapshot: &'s S,
    last: Option<((VolumeId, ObjectId), Option<Tid>)>,
}

impl<'s, S: Snapshot> Attributes<'s, S> {
    fn new(snapshot: &'s S) -> Attributes<'s, S> {
        Attributes { snapshot, last: None }
    }

    /// Notes if `key` changed at `tid`, and the attributes of its object did not, then or later.
    fn check(&mut self, report: &mut CheckReport, key: &Key, tid: Tid) -> Result<(), RecordsError> {
        let object = (key.volume(), key.object());
        let since = match self.last {
            Some((last, since)) if last == object => since,
            _ => {
                let found = report.note_damage(live::get(self.snapshot, &Key::attr(object.0, object.1)))?;
                found.flatten().map(|version| version.create)
            }
        };
        self.last = Some((object, since));
        if since.is_some_and(|since| tid > since) {
            report.note(format!("{key:?} changed at {tid}, and the attributes of its object did not"));
        }
        Ok(())
    }
}

fn check_version<S: Snapshot>(
    snapshot: &S,
    report: &mut CheckReport,
    key: &Key,
    version: &Version,
) -> Result<(), RecordsError> {
    let create = version.create;
    if version.firm > create {
        report.note(format!("{key:?} of {create} changed firmly at {}, later than it was made", version.firm));
    }
    if let Some(blob) = version.blob()
        && snapshot.get(&rows::name(blob, key, create))?.is_none()
    {
        report.note(format!("{key:?} of {create} names blob {blob}, whose rows do not know it"));
    }
    if let Some(object) = version.record.names()
        && snapshot.get(&rows::place(object, key, create))?.is_none()
    {
        report.note(format!("{key:?} of {create} is a name of object {object}, whose rows do not know it"));
    }
    if !fits(key, &version.record) {
        report.note(format!("{key:?} of {create} holds a record of another kind"));
    }
    if snapshot.get(&rows::change(create, key))?.as_deref() != Some(&rows::change_value(true)[..]) {
        report.note(format!("{key:?} began at {create}, which the change index does not know"));
    }
    Ok(())
}

fn check_changes<S: Snapshot>(snapshot: &S, report: &mut CheckReport) -> Result<(), RecordsError> {
    for row in index(snapshot, Tid::ZERO, Tid::MAX) {
        report.changes += 1;
        if let Some(change) = report.note_damage(row)? {
            report.note_damage(made_at(snapshot, &change))?;
        }
        if report.is_full() {
            break;
        }
    }
    Ok(())
}

/// The rows of a table that says which versions name what: how many there are.
fn check_naming<S: Snapshot, T: fmt::Display>(
    snapshot: &S,
    report: &mut CheckReport,
    (table, what): (u8, &str),
    parse: impl Fn(&[u8]) -> Result<(T, Key, Tid), RecordsError>,
    names: impl Fn(&T, &Key, Tid) -> Result<bool, RecordsError>,
) -> Result<u64, RecordsError> {
    let (start, end) = rows::table(table);
    let mut count = 0;
    for row in snapshot.range(&start, &end) {
        count += 1;
        let (row, value) = row?;
        let Some((named, key, create)) = report.note_damage(parse(&row))? else { continue };
        if !value.is_empty() {
            report.note(format!("the row that says that {key:?} of {create} names {what} {named} says more"));
        }
        if report.note_damage(names(&named, &key, create))? == Some(false) {
            report.note(format!("{what} {named} is said to be named by {key:?} of {create}, and is not"));
        }
        if report.is_full() {
            break;
        }
    }
    Ok(count)
}
