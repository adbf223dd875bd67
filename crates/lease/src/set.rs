//! Ranges as a set of keys.

use gavel_types::KeyRange;

/// A set of keys, as the fewest ranges that hold just them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeSet(Vec<KeyRange>);

impl RangeSet {
    /// The ranges, in order; no two overlap or touch.
    pub fn ranges(&self) -> &[KeyRange] {
        &self.0
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is every key of `range` in the set?
    pub fn covers(&self, range: &KeyRange) -> bool {
        range.is_empty() || self.at(range).is_some_and(|found| found.start <= range.start && range.end <= found.end)
    }

    /// Is any key of `range` in the set?
    pub fn touches(&self, range: &KeyRange) -> bool {
        !range.is_empty() && self.at(range).is_some_and(|found| found.overlaps(range))
    }

    /// What of `range` is in the set.
    pub fn within(&self, range: &KeyRange) -> Vec<KeyRange> {
        let first = self.0.partition_point(|other| other.end <= range.start);
        let met = self.0[first..].iter().take_while(|other| other.start < range.end);
        let cut = met.map(|other| KeyRange {
            start: other.start.clone().max(range.start.clone()),
            end: other.end.clone().min(range.end.clone()),
        });
        cut.filter(|cut| !cut.is_empty()).collect()
    }

    /// All keys of `range` are in the set from now on.
    pub fn insert(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end < range.start);
        let behind = self.0.partition_point(|other| other.start <= range.end);
        let mut joined = range;
        for other in self.0.drain(first..behind) {
            joined.start = joined.start.min(other.start);
            joined.end = joined.end.max(other.end);
        }
        self.0.insert(first, joined);
    }

    /// No key of `range` is in the set any more.
    pub fn remove(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end <= range.start);
        let behind = self.0.partition_point(|other| other.start < range.end);
        if first >= behind {
            return;
        }
        let met: Vec<KeyRange> = self.0.drain(first..behind).collect();
        let left = met.first().map(|one| KeyRange { start: one.start.clone(), end: range.start.clone() });
        let right = met.last().map(|one| KeyRange { start: range.end.clone(), end: one.end.clone() });
        let rest = left.into_iter().chain(right).filter(|rest| !rest.is_empty());
        self.0.splice(first..first, rest);
    }

    /// The first range that ends behind the start of `range`.
    fn at(&self, range: &KeyRange) -> Option<&KeyRange> {
        self.0.get(self.0.partition_point(|other| other.end <= range.start))
    }
}

impl FromIterator<KeyRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = KeyRange>>(ranges: I) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(start: u8, end: u8) -> KeyRange {
        KeyRange { start: [start].into(), end: [end].into() }
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0u8..20, 0u8..20), 0..40), asked in (0u8..20, 0u8..20)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, end) in steps {
                if insert {
                    set.insert(range(start, end));
                    model.extend(start..end);
                } else {
                    set.remove(&range(start, end));
                    model.retain(|key| !(start..end).contains(key));
                }
                for pair in set.ranges().windows(2) {
                    prop_assert!(pair[0].end < pair[1].start, "{:?}", set);
                }
                prop_assert!(set.ranges().iter().all(|range| !range.is_empty()));
                let keys: BTreeSet<u8> = set.ranges().iter().flat_map(|range| range.start[0]..range.end[0]).collect();
                prop_assert_eq!(&keys, &model);
            }
            let (start, end) = asked;
            let all = start >= end || (start..end).all(|key| model.contains(&key));
            prop_assert_eq!(set.covers(&range(start, end)), all);
            prop_assert_eq!(set.touches(&range(start, end)), (start..end).any(|key| model.contains(&key)));
            let within: BTreeSet<u8> = set.within(&range(start, end)).iter().flat_map(|range| range.start[0]..range.end[0]).collect();
            prop_assert_eq!(within, (start..end).filter(|key| model.contains(key)).collect::<BTreeSet<u8>>());
        }
    }
}
