//! What every mount must show, given what was acknowledged.

use crate::journal::{self, Journal, Note, Outcome, RECORD_BYTES, Work, Writer};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long reading everything on one mount may take.
const READING: Duration = Duration::from_secs(120);

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Summary {
    /// Records that were acknowledged, all of them there.
    pub acknowledged: usize,
    /// Records that were refused, none of them there.
    pub refused: usize,
    /// Records of which nobody knew.
    pub unknown: usize,
    /// Those of them that are there.
    pub unknown_there: usize,
}

/// What a mount shows.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    appends: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
}

/// Looks everything up on all mounts, which must show the same. The writers must have been stopped.
///
/// # Errors
/// What is missing, double, out of order or different.
pub fn verify(journal: &Journal, mounts: &[PathBuf]) -> Result<Summary> {
    let mut first: Option<(&Path, Seen)> = None;
    for mount in mounts {
        let path = mount.clone();
        let what = format!("reading everything on {}", mount.display());
        let seen = wait::within(&what, READING, move || look(&path))?.with_context(|| what.clone())?;
        match &first {
            None => first = Some((mount, seen)),
            Some((other, expected)) => same(other, expected, mount, &seen)?,
        }
    }
    let (_, seen) = first.context("no mount to look at")?;
    judge(journal.writers().iter().map(|writer| &**writer), &seen)
}

fn look(mount: &Path) -> Result<Seen> {
    let appends = std::fs::read(mount.join(journal::APPENDS))?;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(mount.join(journal::FILES))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = std::fs::read(entry.path()).with_context(|| name.clone())?;
        ensure!(files.insert(name.clone(), bytes).is_none(), "{name} is listed twice");
    }
    Ok(Seen { appends, files })
}

fn same(one: &Path, expected: &Seen, other: &Path, seen: &Seen) -> Result<()> {
    let (one, other) = (one.display(), other.display());
    ensure!(
        expected.appends == seen.appends,
        "{one} and {other} differ in what was appended: {} and {} bytes",
        expected.appends.len(),
        seen.appends.len()
    );
    for (name, bytes) in &expected.files {
        let found = seen.files.get(name).map(Vec::len);
        ensure!(seen.files.get(name) == Some(bytes), "{name}: {} bytes on {one}, {found:?} on {other}", bytes.len());
    }
    let more = seen.files.keys().find(|name| !expected.files.contains_key(*name));
    ensure!(more.is_none(), "{more:?} is on {other} and not on {one}");
    Ok(())
}

fn judge<'a>(writers: impl Iterator<Item = &'a Writer>, seen: &Seen) -> Result<Summary> {
    let mut summary = Summary::default();
    let places = places(&seen.appends)?;
    let mut named = BTreeSet::new();
    let mut order = Vec::new();
    for writer in writers {
        for note in writer.notes() {
            let what = format!("writer {} record {}: {note:?}", writer.id, note.seq);
            ensure!(note.errno != Some(Errno::EXIST), "{what}: a new name was said to exist: something was done twice");
            let times = match writer.work {
                Work::Append => {
                    let found = places.get(&(writer.id, note.seq)).map_or(&[][..], Vec::as_slice);
                    order.extend(found.iter().map(|place| (*place, writer.id, note)));
                    found.len()
                }
                Work::Create => {
                    let name = journal::file_name(writer.id, note.seq);
                    let times = usize::from(judge_file(seen.files.get(&name), writer.id, &note).context(what.clone())?);
                    named.insert(name);
                    times
                }
            };
            let outcome = match (writer.work, note.outcome) {
                // Each request of a call is refused as a whole, and open(2) with O_CREAT is several: the file may have
                // been made before the request was refused that asks for its attributes. It is empty then.
                (Work::Create, Outcome::Refused) if times == 1 => Outcome::Unknown,
                (_, outcome) => outcome,
            };
            count(&mut summary, outcome, times).context(what)?;
        }
    }
    let strange = seen.files.keys().find(|name| !named.contains(*name));
    ensure!(strange.is_none(), "nobody has made {strange:?}");
    in_time(order)?;
    Ok(summary)
}

/// Where in the file each record is.
fn places(appends: &[u8]) -> Result<BTreeMap<(usize, u64), Vec<usize>>> {
    ensure!(appends.len().is_multiple_of(RECORD_BYTES), "{} appended bytes are no whole records", appends.len());
    let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (place, record) in appends.chunks_exact(RECORD_BYTES).enumerate() {
        match journal::parse(record) {
            Some(key) => places.entry(key).or_default().push(place),
            None => bail!("record {place} of what was appended is {:?}", String::from_utf8_lossy(record)),
        }
    }
    Ok(places)
}

/// Is the file there, with what belongs in it?
fn judge_file(found: Option<&Vec<u8>>, writer: usize, note: &Note) -> Result<bool> {
    let content = journal::content(writer, note.seq);
    match (found, note.outcome) {
        (None, _) => Ok(false),
        (Some(bytes), Outcome::Acknowledged | Outcome::Half) if *bytes == content => Ok(true),
        // Writing is another operation than making.
        (Some(bytes), Outcome::Half | Outcome::Unknown | Outcome::Refused) if bytes.is_empty() => Ok(true),
        (Some(bytes), _) => bail!("{} bytes that are not those that were written", bytes.len()),
    }
}

fn count(summary: &mut Summary, outcome: Outcome, times: usize) -> Result<()> {
    match outcome {
        Outcome::Acknowledged => {
            ensure!(times == 1, "acknowledged, and there {times} times");
            summary.acknowledged += 1;
        }
        Outcome::Refused => {
            ensure!(times == 0, "refused, and there {times} times");
            summary.refused += 1;
        }
        Outcome::Unknown | Outcome::Half => {
            ensure!(times <= 1, "there {times} times");
            summary.unknown += 1;
            summary.unknown_there += times;
        }
    }
    Ok(())
}

/// Appends are in an order that time allows: none is behind another that began after it had been acknowledged.
fn in_time(mut order: Vec<(usize, usize, Note)>) -> Result<()> {
    order.sort_by_key(|(place, ..)| *place);
    let mut latest: Option<(usize, Note)> = None;
    for (place, writer, note) in order {
        if note.outcome == Outcome::Acknowledged
            && let Some((before, earlier)) = &latest
            && note.ended < earlier.began
        {
            bail!("record {place}, writer {writer} {note:?}, is behind one of writer {before}, {earlier:?}");
        }
        if latest.as_ref().is_none_or(|(_, earlier)| earlier.began < note.began) {
            latest = Some((writer, note));
        }
    }
    Ok(())
}

/// How long it took after `moment` until the writer had something acknowledged that it began after it. The call that
/// was under way then has ended by that, too.
pub fn served_again(writer: &Writer, moment: Duration) -> Option<Duration> {
    let notes = writer.notes();
    let first = notes.iter().find(|note| note.began >= moment && note.outcome == Outcome::Acknowledged)?;
    Some(first.ended - moment)
}

/// The longest time without an acknowledgement, from `moment` on.
pub fn longest_stall(writer: &Writer, moment: Duration) -> Duration {
    let acknowledged = writer.notes().into_iter().filter(|note| note.outcome == Outcome::Acknowledged);
    let mut last = moment;
    let mut longest = Duration::ZERO;
    for note in acknowledged.filter(|note| note.ended >= moment) {
        longest = longest.max(note.ended - last);
        last = note.ended;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(began: u64, ended: u64, outcome: Outcome) -> Note {
        let ms = Duration::from_millis;
        Note { seq: 0, began: ms(began), ended: ms(ended), outcome, errno: None }
    }

    #[test]
    fn an_append_behind_one_that_began_later_is_found() {
        let early = note(0, 10, Outcome::Acknowledged);
        let late = note(20, 30, Outcome::Acknowledged);
        let beside = note(5, 25, Outcome::Acknowledged);
        assert!(in_time(vec![(0, 1, early), (1, 2, late)]).is_ok());
        assert!(in_time(vec![(0, 1, late), (1, 2, beside)]).is_ok());
        assert!(in_time(vec![(0, 1, late), (1, 2, early)]).is_err());
        assert!(in_time(vec![(0, 1, late), (1, 2, note(0, 10, Outcome::Unknown))]).is_ok());
    }

    #[test]
    fn what_is_lost_or_double_is_found() {
        let mut summary = Summary::default();
        assert!(count(&mut summary, Outcome::Acknowledged, 0).is_err());
        assert!(count(&mut summary, Outcome::Acknowledged, 2).is_err());
        assert!(count(&mut summary, Outcome::Refused, 1).is_err());
        assert!(count(&mut summary, Outcome::Unknown, 2).is_err());
        assert!(count(&mut summary, Outcome::Unknown, 1).is_ok());
    }
}
