//! What a plan's mutations mean for the records as they are.

use crate::overlay::scan_over;
use gavel_types::limits::{
    BLOB_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, LINKS_MAX, TARGET_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{
    Attr, AttrDelta, Change, Content, Dirent, Extent, Mutation, Orphan, Record, Version, View, ViewError,
};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Most mutations in one plan.
pub const PLAN_MUTATIONS_MAX: usize = 64 * 1024;
/// Most bytes of extents (their inline content, and 128 each) that a plan may look at. What it ends, and so
/// what it holds in memory, is less than that.
pub const PLAN_READ_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// What an extent costs beside its inline content: its key and its place in memory.
const ROW_BYTES: usize = 128;
/// Extents looked at in one step of a carve: a few at first, for most carves cut a few.
const CARVE_PAGE_MIN: usize = 2;
const CARVE_PAGE_MAX: usize = 256;

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

/// What [`Expansion::erase`] found to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Erased {
    /// So many records.
    pub records: usize,
    /// The object of the last one.
    pub last: Option<ObjectId>,
}

/// The changes of one transaction while they are worked out: one old and one new version a key.
pub struct Expansion<'v> {
    base: &'v dyn View,
    tid: Tid,
    /// What was touched -> its version before the transaction, its version as the transaction has left it so far.
    steps: BTreeMap<Key, (Option<Version>, Option<Version>)>,
    /// The extents among these that live: there may be thousands beside them that were carved out.
    extents: BTreeSet<Key>,
    /// Bytes that extents of an object gained or lost, not yet added to its attributes. Extents do not overlap and end
    /// at [`FILE_BYTES_MAX`] at most, so the sum is within plus or minus that.
    allocated: BTreeMap<(VolumeId, ObjectId), i64>,
    /// The last carve: every extent of the base that ends in it has been touched.
    carved: Option<(VolumeId, ObjectId, u64, u64)>,
    /// The last object that [`Expansion::is_new`] found to be: it stays so.
    known_new: Cell<Option<(VolumeId, ObjectId)>>,
    read_bytes: Cell<usize>,
}

impl<'v> Expansion<'v> {
    /// A transaction at `tid` over `base`.
    pub fn new(base: &'v dyn View, tid: Tid) -> Expansion<'v> {
        let (steps, extents, allocated) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Expansion {
            base,
            tid,
            steps,
            extents,
            allocated,
            carved: None,
            known_new: Cell::new(None),
            read_bytes: Cell::new(0),
        }
    }

    /// Takes one mutation of a plan in. `sessions` are those open now.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn mutate(&mut self, mutation: &Mutation, sessions: &[SessionId]) -> Result<(), ExpandError> {
        // The first id belongs to the quorum's own records; behind the last one nothing could be looked for.
        if matches!(object_of(mutation), ObjectId::VOLUME | ObjectId(u64::MAX)) {
            return Err(ExpandError::BadPlan("no object has this id"));
        }
        match mutation {
            Mutation::Put { key, record } => self.put(key, record),
            Mutation::Delete { key } => match key.parts() {
                KeyParts::Dirent { .. } | KeyParts::Xattr { .. } | KeyParts::Target => self.set(key, None),
                _ => Err(ExpandError::BadPlan("objects end by reaping, extents by carving")),
            },
            Mutation::Adjust { volume, object, delta } => self.adjust(*volume, *object, delta),
            Mutation::Carve { volume, object, start, end } => self.carve(*volume, *object, *start, *end),
            Mutation::Orphan { object: ObjectId::ROOT, .. } => Err(ExpandError::BadPlan("a root without a name")),
            Mutation::Append { volume, object, len, content } => self.append(*volume, *object, *len, content),
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
            None if self.has_nothing_of(key) => Ok(None),
            None => self.base.get(key),
        }
    }

    /// Is it known that the base has nothing of the key's object?
    fn has_nothing_of(&self, key: &Key) -> bool {
        self.known_new.get() == Some((key.volume(), key.object()))
    }

    /// Ends `key`, whatever it holds.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn end_record(&mut self, key: &Key) -> Result<(), ExpandError> {
        self.set(key, None)
    }

    /// The same of a key that this transaction has not touched, and that holds `found`.
    pub(crate) fn end_found(&mut self, key: &Key, found: Version) {
        self.replace(key, Some(found), None);
    }

    /// Ends the records in `range`, `limit` of them at most.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn erase(&mut self, range: &KeyRange, limit: usize) -> Result<Erased, ExpandError> {
        let found = self.base.scan(range, limit)?;
        let erased = Erased { records: found.len(), last: found.last().map(|(key, _)| key.object()) };
        for (key, version) in found {
            // What has just been read need not be got again, unless this transaction has changed it.
            match self.steps.contains_key(&key) {
                true => self.set(&key, None)?,
                false => self.replace(&key, Some(version), None),
            }
        }
        Ok(erased)
    }

    /// Puts `record` as it is.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn set_record(&mut self, key: &Key, record: Record) -> Result<(), ExpandError> {
        self.set(key, Some(Version { create: self.tid, firm: self.tid, record }))
    }

    /// Checks what the mutations of a plan must amount to when all are taken in.
    ///
    /// # Errors
    /// [`ExpandError`] if an object would have no name and no mark, or both, or bytes and no attributes.
    pub fn check_plan(&self) -> Result<(), ExpandError> {
        let mut owner = None;
        for key in &self.extents {
            let this = Some((key.volume(), key.object()));
            if this != owner && self.get(&Key::attr(key.volume(), key.object()))?.is_none() {
                return Err(ExpandError::BadPlan("bytes of an object that has no attributes"));
            }
            owner = this;
        }
        for (key, (old, new)) in &self.steps {
            match key.parts() {
                KeyParts::Attr => self.check_links(key, old.as_ref(), new.as_ref())?,
                KeyParts::Orphan { object } => self.check_mark(key.volume(), object)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_mark(&self, volume: VolumeId, object: ObjectId) -> Result<(), ExpandError> {
        match self.get(&Key::attr(volume, object))?.as_ref().and_then(nlink) {
            Some(0) => Ok(()),
            _ => Err(ExpandError::BadPlan("an orphan that has names")),
        }
    }

    /// An object that loses its last name is marked by the same plan, and never gets a name again.
    fn check_links(&self, key: &Key, old: Option<&Version>, new: Option<&Version>) -> Result<(), ExpandError> {
        let (before, after) = (old.and_then(nlink), new.and_then(nlink));
        let marked = || self.steps.contains_key(&Key::orphan(key.volume(), key.object()));
        match (before, after) {
            (Some(0), Some(1..)) => Err(ExpandError::BadPlan("a name for an orphan")),
            (None | Some(1..), Some(0)) if !marked() => Err(ExpandError::BadPlan("an object without names or mark")),
            _ => Ok(()),
        }
    }

    /// The changes, in the order of keys, and what they did to each volume's counts.
    ///
    /// # Errors
    /// [`ExpandError`] if the counters that follow from the changes leave their range.
    pub fn finish(mut self) -> Result<(Vec<Change>, BTreeMap<VolumeId, Counted>), ExpandError> {
        let mut counted: BTreeMap<VolumeId, Counted> = BTreeMap::new();
        for ((volume, object), bytes) in std::mem::take(&mut self.allocated) {
            let volume_bytes = &mut counted.entry(volume).or_default().bytes;
            *volume_bytes = volume_bytes.checked_add(bytes).ok_or(ExpandError::BadPlan("bytes of a volume"))?;
            let key = Key::attr(volume, object);
            // An orphan's attributes end before its last extents do.
            let before = self.get(&key)?;
            let Some((firm, mut attr)) = attributes(&before) else { continue };
            if bytes != 0 {
                attr.allocated =
                    attr.allocated.checked_add_signed(bytes).ok_or(ExpandError::BadPlan("allocated bytes"))?;
                self.replace(&key, before, Some(Version { create: self.tid, firm, record: Record::Attr(attr) }));
            }
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
        self.replace(key, before, new);
        Ok(())
    }

    /// As [`Expansion::set`], where `before` has just been got: the base is asked once.
    fn replace(&mut self, key: &Key, before: Option<Version>, new: Option<Version>) {
        if matches!(key.parts(), KeyParts::Extent { .. }) {
            let bytes = extent_len(new.as_ref()) - extent_len(before.as_ref());
            *self.allocated.entry((key.volume(), key.object())).or_default() += bytes;
            match &new {
                Some(_) => self.extents.insert(key.clone()),
                None => self.extents.remove(key),
            };
        }
        match self.steps.get_mut(key) {
            Some(step) => step.1 = new,
            None => drop(self.steps.insert(key.clone(), (before, new))),
        }
    }

    /// Puts `record` as a plan does.
    ///
    /// # Errors
    /// [`ExpandError`]; the expansion must then be dropped.
    pub fn put(&mut self, key: &Key, record: &Record) -> Result<(), ExpandError> {
        let mut record = record.clone();
        match (key.parts(), &mut record) {
            (KeyParts::Attr, Record::Attr(attr)) => {
                check_attr(attr)?;
                for time in [&mut attr.firm.birth, &mut attr.atime, &mut attr.mtime, &mut attr.ctime] {
                    *time = resolve(*time, self.tid)?;
                }
                attr.allocated = 0;
                let found = self.get(key)?;
                let mut firm = self.tid;
                if let Some(Version { firm: firm_before, record: Record::Attr(before), .. }) = &found {
                    if before.firm.kind != attr.firm.kind {
                        return Err(ExpandError::BadPlan("the kind of an object"));
                    }
                    attr.allocated = before.allocated;
                    // What guards the firm half alone does not collide with a change of the rest.
                    firm = if before.firm == attr.firm { *firm_before } else { self.tid };
                }
                self.replace(key, found, Some(Version { create: self.tid, firm, record }));
                return Ok(());
            }
            (KeyParts::Extent { end }, Record::Extent(extent)) => self.check_extent(key, end, extent)?,
            (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) => check_dirent(name, dirent)?,
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
        let before = self.get(&key)?;
        let Some((firm, mut attr)) = attributes(&before) else { return Ok(()) };
        attr.nlink = attr.nlink.checked_add_signed(delta.nlink).ok_or(ExpandError::BadPlan("link count"))?;
        attr.size = attr.size.checked_add_signed(delta.size).ok_or(ExpandError::BadPlan("size"))?.max(delta.size_min);
        let times = [(&mut attr.atime, delta.atime), (&mut attr.mtime, delta.mtime), (&mut attr.ctime, delta.ctime)];
        for (time, new) in times {
            if let Some(new) = new {
                *time = resolve(new, self.tid)?;
            }
        }
        check_attr(&attr)?;
        self.replace(&key, before, Some(Version { create: self.tid, firm, record: Record::Attr(attr) }));
        Ok(())
    }

    fn append(&mut self, volume: VolumeId, object: ObjectId, len: u64, content: &Content) -> Result<(), ExpandError> {
        let key = Key::attr(volume, object);
        let Some(Version { firm, record: Record::Attr(mut attr), .. }) = self.get(&key)? else { return Ok(()) };
        let start = attr.size;
        let end = start.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(ExpandError::BadPlan("a file beyond its longest"))?;
        // Room may be reserved behind the end.
        self.carve(volume, object, start, end)?;
        self.put(&Key::extent(volume, object, end), &Record::Extent(Extent { len, content: content.clone() }))?;
        attr.size = end;
        self.set(&key, Some(Version { create: self.tid, firm, record: Record::Attr(attr) }))
    }

    fn carve(&mut self, volume: VolumeId, object: ObjectId, start: u64, end: u64) -> Result<(), ExpandError> {
        let (mut from, mut page_len) = (start, CARVE_PAGE_MIN);
        'pages: while from < end {
            let page = self.extents_behind(volume, object, from, page_len)?;
            for (key, version) in &page {
                let (extent_start, extent_end) = extent_bounds(key, version)?;
                if extent_start >= end {
                    break 'pages;
                }
                let Record::Extent(extent) = &version.record else { continue };
                self.cut(volume, object, key, extent, (extent_start, extent_end), (start, end))?;
                from = extent_end;
            }
            if page.len() < page_len {
                break;
            }
            page_len = (page_len * 2).min(CARVE_PAGE_MAX);
        }
        self.carved = Some((volume, object, start, end));
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

    /// Did the transaction make this object? Then the base has no record of it: only an orphan's attributes end before its other records, and that has its mark
    /// until the last one has ended. To ask for the mark costs a fraction of what looking for extents does. (A name in a directory is a record of the directory.)
    fn is_new(&self, volume: VolumeId, object: ObjectId) -> Result<bool, ViewError> {
        if self.known_new.get() == Some((volume, object)) {
            return Ok(true);
        }
        let made = matches!(self.steps.get(&Key::attr(volume, object)), Some((None, _)));
        let is_new = made && self.base.get(&Key::orphan(volume, object))?.is_none();
        if is_new {
            self.known_new.set(Some((volume, object)));
        }
        Ok(is_new)
    }

    /// Extents as the transaction has left them so far.
    fn extents_behind(
        &self,
        volume: VolumeId,
        object: ObjectId,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<(Key, Version)>, ExpandError> {
        let own = KeyRange::extents_behind(volume, object, offset);
        // Thousands of extents may have been carved out before the plan fills the hole, one piece after the other.
        let base = match self.carved {
            Some((v, o, start, end)) if (v, o) == (volume, object) && (start..end).contains(&offset) => end,
            _ => offset,
        };
        let base = KeyRange::extents_behind(volume, object, base);
        let shows = |key: &Key, version: &Version| {
            self.read_bytes.set(self.read_bytes.get().saturating_add(ROW_BYTES + inline_len(version)));
            !self.steps.contains_key(key)
        };
        let bounds = (Bound::Included(&*own.start), Bound::Excluded(&*own.end));
        let own = self.extents.range::<[u8], _>(bounds);
        let own = own.filter_map(|key| Some((key, self.steps.get(key)?.1.as_ref()?)));
        if self.is_new(volume, object)? {
            return Ok(own.take(limit).map(|(key, version)| (key.clone(), version.clone())).collect());
        }
        let found = scan_over(self.base, &base, limit, shows, own)?;
        if self.read_bytes.get() > PLAN_READ_BYTES_MAX {
            return Err(ExpandError::BadPlan("it touches too much at once"));
        }
        Ok(found)
    }
}

/// The attributes that a version holds, and when their firm half was written.
fn attributes(version: &Option<Version>) -> Option<(Tid, Attr)> {
    match version {
        Some(Version { firm, record: Record::Attr(attr), .. }) => Some((*firm, *attr)),
        _ => None,
    }
}

fn inline_len(version: &Version) -> usize {
    match &version.record {
        Record::Extent(Extent { content: Content::Inline(bytes), .. }) => bytes.len(),
        _ => 0,
    }
}

fn nlink(version: &Version) -> Option<u32> {
    match &version.record {
        Record::Attr(attr) => Some(attr.nlink),
        _ => None,
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

/// A name that a directory can hold, of something that can have one.
fn check_dirent(name: &[u8], dirent: &Dirent) -> Result<(), ExpandError> {
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err(ExpandError::BadPlan("a name"));
    }
    if matches!(dirent.object, ObjectId::VOLUME | ObjectId::ROOT | ObjectId(u64::MAX)) {
        return Err(ExpandError::BadPlan("a name of nothing, or of the root"));
    }
    Ok(())
}

fn resolve(time: Timestamp, tid: Tid) -> Result<Timestamp, ExpandError> {
    let time = time.resolve(tid);
    if time.nanos < 1_000_000_000 { Ok(time) } else { Err(ExpandError::BadPlan("a time's nanoseconds")) }
}

/// The volumes that a plan's mutations touch.
pub fn volumes_of(mutations: &[Mutation]) -> BTreeSet<VolumeId> {
    mutations.iter().map(volume_of).collect()
}

/// The volume that a mutation is about.
pub(crate) fn volume_of(mutation: &Mutation) -> VolumeId {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Delete { key } => key.volume(),
        Mutation::Adjust { volume, .. } | Mutation::Carve { volume, .. } | Mutation::Orphan { volume, .. } => *volume,
        Mutation::Append { volume, .. } => *volume,
    }
}

/// The object that a mutation is about.
pub(crate) fn object_of(mutation: &Mutation) -> ObjectId {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Delete { key } => key.object(),
        Mutation::Adjust { object, .. } | Mutation::Carve { object, .. } | Mutation::Orphan { object, .. } => *object,
        Mutation::Append { object, .. } => *object,
    }
}
