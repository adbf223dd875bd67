//! A view with changes laid over it.

use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Change, Live, Version, View, ViewError};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows of the base read at a time, at most.
const PAGE_MAX: usize = 1024;

/// What the overlay knows of a key.
#[derive(Clone, Debug)]
struct Laid {
    /// The version below the whole overlay.
    version: Option<Version>,
    /// The last transaction that touched it.
    tid: Tid,
}

/// A live view with the changes of some transactions laid over it. Reads see them.
pub struct Overlay<'v> {
    base: &'v dyn Live,
    tid: Tid,
    laid: BTreeMap<Key, Laid>,
}

impl<'v> Overlay<'v> {
    /// Nothing over `base` yet.
    pub fn new(base: &'v dyn Live) -> Overlay<'v> {
        Overlay { base, tid: base.tid(), laid: BTreeMap::new() }
    }

    /// Lays the changes of one transaction over what is there.
    pub fn lay(&mut self, tid: Tid, changes: &[Change]) {
        for change in changes {
            self.laid.insert(change.key.clone(), Laid { version: change.new.clone(), tid });
        }
        self.tid = tid;
    }

    /// What was laid of `key`, as it is stored: none if nothing was.
    pub(crate) fn laid(&self, key: &Key) -> Option<Option<&Version>> {
        self.laid.get(key).map(|laid| laid.version.as_ref())
    }

    fn laid_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Laid)> {
        let end = if range.is_empty() { &range.start } else { &range.end };
        self.laid.range::<[u8], _>((Bound::Included(&*range.start), Bound::Excluded(&**end)))
    }
}

impl View for Overlay<'_> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.laid.get(key) {
            Some(laid) => Ok(laid.version.clone().filter(|version| !version.is_gone())),
            None => self.base.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let own = self.laid_in(range).filter_map(|(key, laid)| Some((key, laid.version.as_ref()?)));
        let own = own.filter(|(_, version)| !version.is_gone());
        scan_over(self.base, range, limit, |key, _| !self.laid.contains_key(key), own)
    }
}

impl Live for Overlay<'_> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        Ok(self.laid_in(range).any(|(_, laid)| laid.tid > after) || self.base.changed_after(range, after)?)
    }
}

/// The first `limit` of the rows of `base` in `range` that show, and of those of `own`, in the order of keys. No key is
/// in both. Reads no further than it has to: an operation on a few rows must not pay for all that was laid before it.
///
/// # Errors
/// As the base's.
pub(crate) fn scan_over<'a>(
    base: &dyn View,
    range: &KeyRange,
    limit: usize,
    shows: impl Fn(&Key, &Version) -> bool,
    own: impl Iterator<Item = (&'a Key, &'a Version)>,
) -> Result<Vec<(Key, Version)>, ViewError> {
    let mut own = own.peekable();
    let mut found: Vec<(Key, Version)> = Vec::new();
    let mut from = range.clone();
    let mut page_len = limit.min(PAGE_MAX);
    while found.len() < limit {
        let page = base.scan(&from, page_len)?;
        let is_last = page.len() < page_len;
        if let Some((last, _)) = page.last() {
            from.start = KeyRange::one(last).end;
        }
        for (key, version) in page {
            while found.len() < limit
                && let Some((key, version)) = own.next_if(|(own, _)| **own < key)
            {
                found.push((key.clone(), version.clone()));
            }
            if found.len() < limit && shows(&key, &version) {
                found.push((key, version));
            }
        }
        if is_last {
            let room = limit - found.len();
            found.extend(own.by_ref().take(room).map(|(key, version)| (key.clone(), version.clone())));
            break;
        }
        page_len = (page_len * 2).min(PAGE_MAX);
    }
    Ok(found)
}
