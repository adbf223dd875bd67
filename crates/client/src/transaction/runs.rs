//! Which bytes of a file were written.

use std::collections::BTreeMap;

/// Runs of bytes: none touches another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// These as well, from `start` up to and without `end`.
    pub(super) fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut first, mut last) = (start, end);
        // From the last one that begins at or before the end, back to the first that reaches to the start.
        while let Some((&from, &to)) = self.0.range(..=last).next_back()
            && to >= first
        {
            (first, last) = (first.min(from), last.max(to));
            self.0.remove(&from);
        }
        self.0.insert(first, last);
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_touch_become_one() {
        let mut runs = Runs::default();
        [(10, 20), (30, 40), (5, 5), (50, 60)].into_iter().for_each(|(start, end)| runs.add(start, end));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(10, 20), (30, 40), (50, 60)]);
        runs.add(20, 30);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(10, 40), (50, 60)]);
        runs.add(0, 100);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(0, 100)]);
        runs.add(3, 4);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(0, 100)]);
    }
}
