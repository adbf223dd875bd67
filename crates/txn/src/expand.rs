//! What a plan's mutations mean for the records as they are.

use gavel_types::limits::{
    BLOB_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, LINKS_MAX, TARGET_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, AttrDelta, Change, Content, Extent, Mutation, Orphan, Record, Version, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// Extents looked at in one step of a carve.
const CARVE_PAGE: usize = 256;

/// Why a plan can't be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpandError {
    /// The plan breaks a rule of the record space. Nothing of it is applied.
    #[error("the plan breaks a rule of the record space: {0}")]
    BadPlan(&'static str),
    /// The records could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What one transaction did to a volume's counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Objects more (or fewer).
    pub objects: i64,
    /// Bytes of extents more (or fewer).
    pub bytes: i64,
}

/// The changes of one transaction while they are worked out: one old and one new version a key.
pub struct Expansion<'v> {
    base: &'v dyn View,
    tid: Tid,
    /// Key -> version before the transaction, version after it.
    steps: BTreeMap<Key, (Option<Version>, Option<Version>)>,
    /// Bytes that extents of an object gained or lost, not yet added to its attributes.
    allocated: BTreeMap<(VolumeId, ObjectId), i64>,
}

impl<'v> Expansion<'v> {
    /// A transaction at `tid` over `base`.
    pub fn new(base: &'v dyn View, tid: Tid) -> Expansion<'v> {
        Expansion { base, tid, steps: BTreeMap::new(), allocated: BTreeMap::new() }
    }

    /// Takes one mutation in. `sessions` are those open now.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn mutate(&mut self, mutation: &Mutation, sessions: &[SessionId]) -> Result<(), ExpandError> {
        match mutation {
            Mutation::Put { key, record } => self.put(key, record),
            Mutation::Delete { key } => self.set(key, None),
            Mutation::Adjust { volume, object, delta } => self.adjust(*volume, *object, delta),
            Mutation::Carve { volume, object, start, end } => self.carve(*volume, *object, *start, *end),
            Mutation::Orphan { volume, object } => {
                let holders = sessions.to_vec();
                self.set_record(&Key::orphan(*volume, *object), Record::Orphan(Orphan { holders }))
            }
        }
    }

    /// The version of `key` as the transaction has left it so far.
    ///
    /// # Errors
    /// As the view's.
    pub fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.steps.get(key) {
            Some((_, new)) => Ok(new.clone()),
            None => self.base.get(key),
        }
    }

    /// Ends the records under `object`, `limit` of them at most. Says how many there were to end.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn erase(&mut self, volume: VolumeId, object: ObjectId, limit: usize) -> Result<usize, ExpandError> {
        let found = self.base.scan(&KeyRange::object(volume, object), limit)?;
        for (key, _) in &found {
            self.set(key, None)?;
        }
        Ok(found.len())
    }

    /// Puts `record` as it is.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn set_record(&mut self, key: &Key, record: Record) -> Result<(), ExpandError> {
        self.set(key, Some(Version { create: self.tid, firm: self.tid, record }))
    }

    /// The changes, in the order of keys, and what they did to each volume's counts.
    ///
    /// # Errors
    /// [`ExpandError`] if the counters that follow from the changes leave their range.
    pub fn finish(mut self) -> Result<(Vec<Change>, BTreeMap<VolumeId, Counted>), ExpandError> {
        let mut counted: BTreeMap<VolumeId, Counted> = BTreeMap::new();
        for ((volume, object), bytes) in std::mem::take(&mut self.allocated) {
            counted.entry(volume).or_default().bytes += bytes;
            let key = Key::attr(volume, object);
            let Some(Version { firm, record: Record::Attr(mut attr), .. }) = self.get(&key)? else { continue };
            attr.allocated = attr.allocated.checked_add_signed(bytes).ok_or(ExpandError::BadPlan("allocated bytes"))?;
            self.set(&key, Some(Version { create: self.tid, firm, record: Record::Attr(attr) }))?;
        }
        let mut changes = Vec::with_capacity(self.steps.len());
        for (key, (old, new)) in self.steps {
            if matches!(key.parts(), KeyParts::Attr) {
                counted.entry(key.volume()).or_default().objects += i64::from(new.is_some()) - i64::from(old.is_some());
            }
            if old.is_some() || new.is_some() {
                changes.push(Change { tid: self.tid, key, old, new });
            }
        }
        Ok((changes, counted))
    }

    fn set(&mut self, key: &Key, new: Option<Version>) -> Result<(), ExpandError> {
        let before = self.get(key)?;
        let bytes = extent_len(new.as_ref()) - extent_len(before.as_ref());
        if bytes != 0 {
            *self.allocated.entry((key.volume(), key.object())).or_default() += bytes;
        }
        match self.steps.get_mut(key) {
            Some(step) => step.1 = new,
            None => drop(self.steps.insert(key.clone(), (before, new))),
        }
        Ok(())
    }

    fn put(&mut self, key: &Key, record: &Record) -> Result<(), ExpandError> {
        let mut record = record.clone();
        match (key.parts(), &mut record) {
            (KeyParts::Attr, Record::Attr(attr)) => {
                check_attr(attr)?;
                attr.firm.birth = attr.firm.birth.resolve(self.tid);
                for time in [&mut attr.atime, &mut attr.mtime, &mut attr.ctime] {
                    *time = resolve(*time, self.tid)?;
                }
                attr.allocated = 0;
                if let Some(Version { firm, record: Record::Attr(before), .. }) = self.get(key)? {
                    attr.allocated = before.allocated;
                    // What guards the firm half alone does not collide with a change of the rest.
                    let firm = if before.firm == attr.firm { firm } else { self.tid };
                    return self.set(key, Some(Version { create: self.tid, firm, record }));
                }
            }
            (KeyParts::Extent { end }, Record::Extent(extent)) => self.check_extent(key, end, extent)?,
            (KeyParts::Dirent { .. }, Record::Dirent(_)) => {}
            (KeyParts::Xattr { .. }, Record::Xattr(value)) if value.len() <= XATTR_VALUE_BYTES_MAX => {}
            (KeyParts::Target, Record::Target(target)) if target.len() <= TARGET_BYTES_MAX => {}
            _ => return Err(ExpandError::BadPlan("a record does not fit its key")),
        }
        self.set_record(key, record)
    }

    fn check_extent(&self, key: &Key, end: u64, extent: &Extent) -> Result<(), ExpandError> {
        let sound = extent.len >= 1
            && extent.len <= end
            && end <= FILE_BYTES_MAX
            && match &extent.content {
                Content::Inline(bytes) => bytes.len() as u64 == extent.len && bytes.len() <= INLINE_BYTES_MAX,
                Content::Blob { blob_len, offset, .. } => {
                    *blob_len as usize <= BLOB_BYTES_MAX && u64::from(*offset) + extent.len <= u64::from(*blob_len)
                }
                Content::Zeros => true,
            };
        if !sound {
            return Err(ExpandError::BadPlan("an extent is out of bounds"));
        }
        let start = end - extent.len;
        for (other, version) in self.extents_behind(key.volume(), key.object(), start, 2)? {
            let (other_start, _) = extent_bounds(&other, &version)?;
            if other != *key && other_start < end {
                return Err(ExpandError::BadPlan("extents overlap"));
            }
        }
        Ok(())
    }

    fn adjust(&mut self, volume: VolumeId, object: ObjectId, delta: &AttrDelta) -> Result<(), ExpandError> {
        let key = Key::attr(volume, object);
        let Some(Version { firm, record: Record::Attr(mut attr), .. }) = self.get(&key)? else { return Ok(()) };
        attr.nlink = attr.nlink.checked_add_signed(delta.nlink).ok_or(ExpandError::BadPlan("link count"))?;
        attr.size = attr.size.checked_add_signed(delta.size).ok_or(ExpandError::BadPlan("size"))?.max(delta.size_min);
        let times = [(&mut attr.atime, delta.atime), (&mut attr.mtime, delta.mtime), (&mut attr.ctime, delta.ctime)];
        for (time, new) in times {
            if let Some(new) = new {
                *time = resolve(new, self.tid)?;
            }
        }
        check_attr(&attr)?;
        self.set(&key, Some(Version { create: self.tid, firm, record: Record::Attr(attr) }))
    }

    fn carve(&mut self, volume: VolumeId, object: ObjectId, start: u64, end: u64) -> Result<(), ExpandError> {
        let mut from = start;
        while from < end {
            let page = self.extents_behind(volume, object, from, CARVE_PAGE)?;
            for (key, version) in &page {
                let (extent_start, extent_end) = extent_bounds(key, version)?;
                if extent_start >= end {
                    return Ok(());
                }
                let Record::Extent(extent) = &version.record else { continue };
                self.cut(volume, object, key, extent, (extent_start, extent_end), (start, end))?;
                from = extent_end;
            }
            if page.len() < CARVE_PAGE {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Cuts `start..end` out of one extent that reaches into it.
    fn cut(
        &mut self,
        volume: VolumeId,
        object: ObjectId,
        key: &Key,
        extent: &Extent,
        (extent_start, extent_end): (u64, u64),
        (start, end): (u64, u64),
    ) -> Result<(), ExpandError> {
        if extent_end > end {
            let right = extent.slice(end - extent_start, extent.len);
            self.set_record(key, Record::Extent(right))?;
        } else {
            self.set(key, None)?;
        }
        if extent_start < start {
            let left = extent.slice(0, start - extent_start);
            self.set_record(&Key::extent(volume, object, start), Record::Extent(left))?;
        }
        Ok(())
    }

    /// Extents as the transaction has left them so far.
    fn extents_behind(
        &self,
        volume: VolumeId,
        object: ObjectId,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<(Key, Version)>, ViewError> {
        let range = KeyRange::extents_behind(volume, object, offset);
        let first = Key::extent(volume, object, offset.saturating_add(1));
        let steps = || self.steps.range(first.clone()..).take_while(|(key, _)| range.contains(key));
        let gone = steps().filter(|(_, (_, new))| new.is_none()).count();
        let mut merged: BTreeMap<Key, Version> = self.base.scan(&range, limit + gone)?.into_iter().collect();
        for (key, (_, new)) in steps() {
            match new {
                Some(version) => drop(merged.insert(key.clone(), version.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

fn extent_len(version: Option<&Version>) -> i64 {
    match version {
        Some(Version { record: Record::Extent(extent), .. }) => extent.len as i64,
        _ => 0,
    }
}

/// Where an extent starts and ends.
fn extent_bounds(key: &Key, version: &Version) -> Result<(u64, u64), ViewError> {
    match (key.parts(), &version.record) {
        (KeyParts::Extent { end }, Record::Extent(extent)) if extent.len <= end => Ok((end - extent.len, end)),
        _ => Err(ViewError::Damaged { what: format!("{key:?}") }),
    }
}

fn check_attr(attr: &Attr) -> Result<(), ExpandError> {
    if attr.nlink > LINKS_MAX {
        return Err(ExpandError::BadPlan("link count"));
    }
    if attr.size > FILE_BYTES_MAX {
        return Err(ExpandError::BadPlan("size"));
    }
    if attr.firm.mode > 0o7777 {
        return Err(ExpandError::BadPlan("mode"));
    }
    Ok(())
}

fn resolve(time: Timestamp, tid: Tid) -> Result<Timestamp, ExpandError> {
    let time = time.resolve(tid);
    if time.nanos < 1_000_000_000 { Ok(time) } else { Err(ExpandError::BadPlan("a time's nanoseconds")) }
}

/// The volumes that a plan's mutations touch.
pub fn volumes_of(mutations: &[Mutation]) -> BTreeSet<VolumeId> {
    mutations
        .iter()
        .map(|mutation| match mutation {
            Mutation::Put { key, .. } | Mutation::Delete { key } => key.volume(),
            Mutation::Adjust { volume, .. } | Mutation::Carve { volume, .. } | Mutation::Orphan { volume, .. } => {
                *volume
            }
        })
        .collect()
}
