//! What pruning removes: pure rules over the versions of one key.
//!
//! `docs/protocols/history.md`, "Pruning", has the whole of it.

use gavel_types::{Class, Tid};
use std::collections::BTreeMap;

/// How long a version was visible: from its create Tid on, before its delete Tid; none: it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// The transaction that made it.
    pub create: Tid,
    /// The transaction that ended it.
    pub delete: Option<Tid>,
}

/// Which states can be read: all from a horizon on, and some before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readable<'a> {
    /// Every state from here on.
    pub horizon: Tid,
    /// Those before it, the oldest first.
    pub kept: &'a [Tid],
}

impl Readable<'_> {
    /// Not any state: of what none shows.
    pub const NONE: Readable<'static> = Readable { horizon: Tid::MAX, kept: &[] };

    /// Can the state as of `tid` be read?
    pub fn has(&self, tid: Tid) -> bool {
        tid >= self.horizon || self.kept.binary_search(&tid).is_ok()
    }

    /// The newest of these states that is not later than `tid`.
    pub fn at_or_before(&self, tid: Tid) -> Option<Tid> {
        if tid >= self.horizon {
            return Some(tid);
        }
        let later = self.kept.partition_point(|kept| *kept <= tid);
        later.checked_sub(1).map(|at| self.kept[at])
    }

    /// Does one of these states show a version?
    pub fn shows(&self, span: Span) -> bool {
        let Some(delete) = span.delete else { return true };
        // A version that ends at the horizon is not visible there.
        let first = self.kept.partition_point(|kept| *kept < span.create);
        delete > self.horizon || self.kept.get(first).is_some_and(|kept| *kept < delete)
    }
}

/// Which states can be read of all objects of a volume, and, by class, of some of them: never more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keeping<'a> {
    /// Of all.
    pub volume: Readable<'a>,
    /// Of those that have a class of their own.
    pub classes: BTreeMap<Class, Readable<'a>>,
}

impl<'a> Keeping<'a> {
    /// Which states can be read of objects of this class.
    pub fn of(&self, class: Class) -> Readable<'a> {
        self.classes.get(&class).copied().unwrap_or(self.volume)
    }
}

/// The rows of the change index that the versions of a key imply, in the order of the versions: at each create that
/// a version was made, at each delete that is no create that one was ended. True for those that make one.
pub fn implied(versions: &[Span]) -> BTreeMap<Tid, bool> {
    let mut rows: BTreeMap<Tid, bool> = versions.iter().filter_map(|span| Some((span.delete?, false))).collect();
    rows.extend(versions.iter().map(|span| (span.create, true)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(create: u64, delete: u64) -> Span {
        Span { create: Tid(create), delete: Some(Tid(delete)) }
    }

    #[test]
    fn a_version_stays_while_a_state_shows_it() {
        let readable = Readable { horizon: Tid(100), kept: &[Tid(10), Tid(50)] };
        for (create, delete, stays) in [
            (1, 10, false),
            (1, 11, true),
            (10, 11, true),
            (11, 50, false),
            (11, 51, true),
            (51, 100, false),
            (51, 101, true),
            (100, 101, true),
        ] {
            assert_eq!(readable.shows(span(create, delete)), stays, "[{create}, {delete})");
        }
        assert!(readable.shows(Span { create: Tid(1), delete: None }));
    }

    #[test]
    fn states_are_found() {
        let readable = Readable { horizon: Tid(100), kept: &[Tid(10), Tid(50)] };
        for (tid, found) in
            [(9, None), (10, Some(10)), (49, Some(10)), (99, Some(50)), (100, Some(100)), (101, Some(101))]
        {
            assert_eq!(readable.at_or_before(Tid(tid)), found.map(Tid), "{tid}");
            assert_eq!(readable.has(Tid(tid)), found == Some(tid));
        }
    }

    #[test]
    fn rows_follow_from_versions() {
        let rows = implied(&[span(1, 2), span(2, 3), span(5, 6), Span { create: Tid(8), delete: None }]);
        let wanted = [(1, true), (2, true), (3, false), (5, true), (6, false), (8, true)];
        assert_eq!(rows, wanted.map(|(tid, made)| (Tid(tid), made)).into());
    }

    proptest! {
        #[test]
        fn exactly_what_no_readable_state_shows_goes(
            bounds in prop::collection::btree_set(0u64..60, 2..20),
            kept in prop::collection::btree_set(0u64..60, 0..5),
            horizon in 0u64..60,
        ) {
            let bounds: Vec<u64> = bounds.into_iter().collect();
            let kept: Vec<Tid> = kept.into_iter().filter(|kept| *kept < horizon).map(Tid).collect();
            let readable = Readable { horizon: Tid(horizon), kept: &kept };
            for pair in bounds.windows(2) {
                let shown = (pair[0]..pair[1]).any(|tid| readable.has(Tid(tid)));
                prop_assert_eq!(readable.shows(span(pair[0], pair[1])), shown);
            }
        }
    }
}
