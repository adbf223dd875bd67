//! Which range of the table stands for what is read and written.

use gavel_types::{Key, KeyParts, KeyRange, ObjectId, VolumeId};
use gavel_wire::{Guard, Mutation, Plan};

/// The range that must be leased to know what is in `range`.
///
/// It is the same, but for the mark of an orphan: that is filed with all the others of its volume, and yet a fact about one
/// object. Who holds a lease over an object, holds it over its mark too.
pub fn lease_range(range: &KeyRange) -> KeyRange {
    match Key::from_bytes(&range.start) {
        Ok(key) if *range == KeyRange::one(&key) => lease_range_of(&key),
        _ => range.clone(),
    }
}

/// [`lease_range`] of one key.
pub fn lease_range_of(key: &Key) -> KeyRange {
    match key.parts() {
        KeyParts::Orphan { object } => KeyRange::mark(key.volume(), object),
        _ => KeyRange::one(key),
    }
}

/// The range that a guard is about.
pub fn guarded(guard: &Guard) -> KeyRange {
    match guard {
        Guard::Unchanged { key, .. } | Guard::Firm { key, .. } => lease_range_of(key),
        Guard::Empty { range } | Guard::Stable { range, .. } => lease_range(range),
    }
}

/// All of a volume. What is given up is so by the object: of a range that has none, a lease may be left that nobody gives back.
pub fn every_object(volume: VolumeId) -> KeyRange {
    KeyRange::objects(volume, ObjectId::VOLUME, ObjectId(u64::MAX))
}

/// The ranges that a plan writes, as far as other sessions' leases are concerned.
pub fn written(plan: &Plan) -> Vec<KeyRange> {
    let mut ranges: Vec<KeyRange> = plan.mutations.iter().map(written_by).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn written_by(mutation: &Mutation) -> KeyRange {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Delete { key } => lease_range_of(key),
        Mutation::Adjust { volume, object, .. } => KeyRange::one(&Key::attr(*volume, *object)),
        // An extent that reaches over the end of what is cut is trimmed as well.
        Mutation::Carve { volume, object, start, .. } => KeyRange::extents_behind(*volume, *object, *start),
        Mutation::Orphan { volume, object } => KeyRange::mark(*volume, *object),
        // Where its bytes come to lie is seen when it is applied.
        Mutation::Append { volume, object, .. } => KeyRange::object(*volume, *object),
    }
}

/// The whole objects that a range touches: what is recalled is given up by the object.
pub fn whole_objects(range: &KeyRange) -> Option<(VolumeId, ObjectId, ObjectId)> {
    let (volume, first) = place(&range.start)?;
    // The end is behind the last key: a key of the last object is before it.
    let (end_volume, end) = place(&range.end)?;
    let touches = range.end.len() > OBJECT_BYTES;
    let last = if end_volume != volume { u64::MAX } else { end.0 - u64::from(!touches && end.0 > first.0) };
    Some((volume, first, ObjectId(last)))
}

/// Bytes of a key that say the volume and the object.
const OBJECT_BYTES: usize = 12;

fn place(bytes: &[u8]) -> Option<(VolumeId, ObjectId)> {
    let volume = bytes.get(..4)?.try_into().ok()?;
    let object = bytes.get(4..OBJECT_BYTES).and_then(|object| object.try_into().ok()).unwrap_or([0; 8]);
    Some((VolumeId(u32::from_be_bytes(volume)), ObjectId(u64::from_be_bytes(object))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Tid;

    const V: VolumeId = VolumeId(7);
    const O: ObjectId = ObjectId(100);

    #[test]
    fn an_orphans_mark_belongs_to_its_object() {
        let mark = lease_range_of(&Key::orphan(V, O));
        let object = KeyRange::object(V, O);
        assert!(object.start <= mark.start && mark.end <= object.end);
        assert_eq!(guarded(&Guard::Empty { range: KeyRange::one(&Key::orphan(V, O)) }), mark);
        assert_eq!(guarded(&Guard::Firm { key: Key::attr(V, O), at: Tid(1) }), KeyRange::one(&Key::attr(V, O)));
    }

    #[test]
    fn ranges_are_rounded_to_objects() {
        let name = KeyRange::one(&Key::dirent(V, O, b"name"));
        assert_eq!(whole_objects(&name), Some((V, O, O)));
        assert_eq!(whole_objects(&KeyRange::object(V, O)), Some((V, O, O)));
        assert_eq!(whole_objects(&KeyRange::extents_behind(V, O, 5)), Some((V, O, O)));
        let two = KeyRange { start: KeyRange::object(V, O).start, end: KeyRange::object(V, ObjectId(101)).end };
        assert_eq!(whole_objects(&two), Some((V, O, ObjectId(101))));
        assert_eq!(whole_objects(&KeyRange::volume(V)), Some((V, ObjectId(0), ObjectId(u64::MAX))));
    }
}
