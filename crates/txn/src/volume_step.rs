//! Steps of a sweep over a whole volume: removing its live rows when it goes, counting what a clone begins with.

use crate::digest::Digest;
use crate::expand::Counted;
use crate::prune_step::named;
use gavel_types::volume::Origin;
use gavel_types::{Key, KeyRange, ObjectId, VolumeId};
use gavel_wire::{Ended, Record, Removal, ViewError};

/// Removes the next `rows` live rows of a volume behind `after`; its versions that have ended are gone already. Gives the last one that
/// was removed, if there are more.
pub(crate) fn remove_live(
    after: Option<&Key>,
    (volume, rows): (VolumeId, usize),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<(Option<Key>, Vec<Removal>), ViewError> {
    let mut range = KeyRange::volume(volume);
    if let Some(after) = after {
        range.start = KeyRange::one(after).end;
    }
    let page = base.own_scan(&range, rows)?;
    let mut removals = Vec::with_capacity(3 * page.len());
    for (key, version) in &page {
        digest.subtract(version.create, key, Some(version));
        removals.push(Removal::Live { key: key.clone() });
        removals.push(Removal::Change { tid: version.create, key: key.clone() });
        removals.extend(named(key, version));
    }
    let more = page.len() == rows;
    Ok((page.into_iter().next_back().map(|(key, _)| key).filter(|_| more), removals))
}

/// Most object ids that one step looks at.
pub(crate) const COUNT_IDS_MAX: u64 = 256;

/// Counts what a clone begins with: the next [`COUNT_IDS_MAX`] object ids from `from` on, before `end`. Gives where to go on, if there are more.
///
/// It looks each id up. A scan would have to step over all that was removed since, and hold up whatever else is applied.
pub(crate) fn count(
    from: ObjectId,
    end: ObjectId,
    origin: Origin,
    base: &dyn Ended,
) -> Result<(Option<ObjectId>, Counted), ViewError> {
    let state = base.past(origin.at);
    let behind = ObjectId(from.0.saturating_add(COUNT_IDS_MAX)).min(end);
    let mut counted = Counted::default();
    for object in from.0..behind.0 {
        if let Some(version) = state.get(&Key::attr(origin.volume, ObjectId(object)))?
            && let Record::Attr(attr) = version.record
        {
            counted.objects += 1;
            counted.bytes = counted.bytes.saturating_add_unsigned(attr.allocated);
        }
    }
    Ok((Some(behind).filter(|behind| *behind < end), counted))
}
