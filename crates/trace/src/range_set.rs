//! A set of page numbers kept as disjoint, non-adjacent ranges: small for what programs do, however large
//! the ranges are.

use std::collections::BTreeMap;

use crate::event::PageRange;

/// A set of pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// First page to the page after the last.
    ranges: BTreeMap<u64, u64>,
    pages: u64,
}

impl RangeSet {
    /// How many pages are in it.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Adds `range`.
    pub(crate) fn insert(&mut self, range: PageRange) {
        let (mut first, mut end) = (range.first, range.end());
        if first >= end {
            return;
        }
        // Everything that overlaps or touches becomes part of the new range.
        while let Some((&start, &stop)) = self.ranges.range(..=end).next_back() {
            if stop < first {
                break;
            }
            self.ranges.remove(&start);
            self.pages -= stop - start;
            first = first.min(start);
            end = end.max(stop);
        }
        self.ranges.insert(first, end);
        self.pages += end - first;
    }

    /// Takes `range` out and gives what of it was there.
    pub(crate) fn remove(&mut self, range: PageRange) -> Vec<PageRange> {
        let (first, end) = (range.first, range.end());
        let mut removed = Vec::new();
        while let Some((&start, &stop)) = self.ranges.range(..end).next_back() {
            if stop <= first {
                break;
            }
            self.ranges.remove(&start);
            self.pages -= stop - start;
            for (left, right) in [(start, first), (end, stop)] {
                if left < right {
                    self.ranges.insert(left, right);
                    self.pages += right - left;
                }
            }
            removed.push(PageRange::between(start.max(first), stop.min(end)));
            if start <= first {
                break;
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_like_a_set(
            steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)
        ) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, first, count) in steps {
                let pages = first..first + count;
                if insert {
                    ranges.insert(PageRange { first, count });
                    model.extend(pages);
                } else {
                    let removed = ranges.remove(PageRange { first, count });
                    let expected = pages.filter(|page| model.remove(page)).count() as u64;
                    prop_assert_eq!(removed.iter().map(|range| range.count).sum::<u64>(), expected);
                }
                prop_assert_eq!(ranges.pages(), model.len() as u64);
            }
            let pages = ranges.ranges.iter().flat_map(|(&first, &end)| first..end);
            prop_assert!(pages.eq(model));
        }
    }
}
