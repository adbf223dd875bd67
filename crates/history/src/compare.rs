//! What differs between two objects, or one object at two times.

use crate::walk::attr;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Content, Extent, Kind, Past, Record, Version, View, ViewError};
use serde::{Deserialize, Serialize};

/// Records read in one step: with 16 KiB in each, 1 MiB.
const PAGE: usize = 64;

/// Something in which two objects differ. Part of the machine-readable output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// What it is.
    Kind,
    /// The bytes of a file, or its length. (Bytes that are kept in other pieces count as others.)
    Content,
    /// A symlink's target, or a device's number.
    Target,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Extended attributes.
    Xattrs,
    /// The time of the last change of the content. (Not of a directory: it changes with each name.)
    Times,
}

/// An object as of a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The object.
    pub object: ObjectId,
    /// The state.
    pub tid: Tid,
}

/// In what the two differ; in nothing, if both are not there.
///
/// # Errors
/// As the view's.
pub fn differences(past: &dyn Past, volume: VolumeId, old: Seen, new: Seen) -> Result<Vec<Aspect>, ViewError> {
    let (before, after) = (past.at(old.tid), past.at(new.tid));
    if old.object == new.object && unchanged(&*before, &*after, volume, old.object)? {
        return Ok(Vec::new());
    }
    let (a, b) = (attr(&*before, volume, old.object)?, attr(&*after, volume, new.object)?);
    let (Some(a), Some(b)) = (a, b) else { return Ok(if a == b { Vec::new() } else { vec![Aspect::Kind] }) };
    if a.firm.kind != b.firm.kind {
        return Ok(vec![Aspect::Kind]);
    }
    let (kind, read) = (a.firm.kind, (&*before, &*after));
    let same = |range: fn(VolumeId, ObjectId) -> KeyRange| {
        let ranges = (range(volume, old.object), range(volume, new.object));
        Ok::<bool, ViewError>(Rows::new(read.0, ranges.0).map(value).eq(Rows::new(read.1, ranges.1).map(value)))
    };
    let mut all = Vec::new();
    if kind == Kind::File && (a.size != b.size || !same_bytes(read, volume, (old.object, new.object))?) {
        all.push(Aspect::Content);
    }
    let target = |volume, object| KeyRange::one(&Key::target(volume, object));
    if a.firm.rdev != b.firm.rdev || kind == Kind::Symlink && !same(target)? {
        all.push(Aspect::Target);
    }
    all.extend((a.firm.mode != b.firm.mode).then_some(Aspect::Mode));
    all.extend(((a.firm.uid, a.firm.gid) != (b.firm.uid, b.firm.gid)).then_some(Aspect::Owner));
    if !same(KeyRange::xattrs)? {
        all.push(Aspect::Xattrs);
    }
    all.extend((kind != Kind::Directory && a.mtime != b.mtime).then_some(Aspect::Times));
    Ok(all)
}

/// Nothing of an object changes without its attributes.
fn unchanged(before: &dyn View, after: &dyn View, volume: VolumeId, object: ObjectId) -> Result<bool, ViewError> {
    let key = Key::attr(volume, object);
    let create = |view: &dyn View| Ok::<_, ViewError>(view.get(&key)?.map(|version| version.create));
    Ok(create(before)? == create(after)?)
}

/// A row without the object that it is filed under. Damage is never equal.
fn value(row: Result<(Key, Version), ViewError>) -> Option<(Vec<u8>, Record)> {
    row.ok().map(|(key, version)| (key.as_bytes()[12..].to_vec(), version.record))
}

/// Rows of a range, a page at a time.
pub struct Rows<'v> {
    view: &'v dyn View,
    range: KeyRange,
    page: std::vec::IntoIter<(Key, Version)>,
    last: bool,
}

impl<'v> Rows<'v> {
    /// The rows of `range`.
    pub fn new(view: &'v dyn View, range: KeyRange) -> Rows<'v> {
        Rows { view, range, page: Vec::new().into_iter(), last: false }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(Key, Version), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.page.next() {
            return Some(Ok(row));
        }
        if self.last {
            return None;
        }
        match self.view.scan(&self.range, PAGE) {
            Ok(page) => {
                self.last = page.len() < PAGE;
                if let Some((key, _)) = page.last() {
                    self.range.start = KeyRange::one(key).end;
                }
                self.page = page.into_iter();
                self.page.next().map(Ok)
            }
            Err(error) => {
                self.last = true;
                Some(Err(error))
            }
        }
    }
}

/// A run of bytes, as far as it is not used up.
struct Run {
    start: u64,
    end: u64,
    extent: Extent,
}

struct Runs<'v> {
    rows: Rows<'v>,
    run: Option<Run>,
}

impl Runs<'_> {
    /// The run that covers `at`, or the next one behind it. Zeros are passed over: they read as a hole does.
    fn behind(&mut self, at: u64) -> Result<Option<&Run>, ViewError> {
        while self.run.as_ref().is_none_or(|run| run.end <= at) {
            let Some(row) = self.rows.next() else { return Ok(None) };
            let (key, version) = row?;
            let (KeyParts::Extent { end }, Record::Extent(extent)) = (key.parts(), version.record) else { continue };
            if extent.content == Content::Zeros {
                continue;
            }
            let start = end.checked_sub(extent.len);
            let start = start.ok_or_else(|| ViewError::Damaged { what: format!("{key:?}") })?;
            self.run = Some(Run { start, end, extent });
        }
        Ok(self.run.as_ref())
    }
}

/// Do two files have the same bytes in the same pieces?
fn same_bytes(
    (before, after): (&dyn View, &dyn View),
    volume: VolumeId,
    (old, new): (ObjectId, ObjectId),
) -> Result<bool, ViewError> {
    let runs = |view, object| Runs { rows: Rows::new(view, KeyRange::extents_behind(volume, object, 0)), run: None };
    let (mut a, mut b) = (runs(before, old), runs(after, new));
    let mut at = 0;
    loop {
        let (a, b) = match (a.behind(at)?, b.behind(at)?) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => return Ok(true),
            _ => return Ok(false),
        };
        let (start, end) = (a.start.max(at), a.end.min(b.end));
        if start != b.start.max(at) {
            return Ok(false);
        }
        let part = |run: &Run| sound(&run.extent).then(|| run.extent.slice(start - run.start, end - run.start).content);
        if part(a).is_none() || !same_content(&part(a), &part(b)) {
            return Ok(false);
        }
        at = end;
    }
}

fn same_content(a: &Option<Content>, b: &Option<Content>) -> bool {
    match (a, b) {
        (Some(Content::Blob { id: a, offset: x, .. }), Some(Content::Blob { id: b, offset: y, .. })) => {
            (a, x) == (b, y)
        }
        (a, b) => a == b,
    }
}

/// Can it be cut?
fn sound(extent: &Extent) -> bool {
    match &extent.content {
        Content::Inline(bytes) => bytes.len() as u64 == extent.len,
        Content::Blob { .. } => extent.len <= u64::from(u32::MAX),
        Content::Zeros => true,
    }
}
