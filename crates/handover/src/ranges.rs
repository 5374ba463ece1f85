//! The memory that firmware leaves, as sorted ranges that neither overlap nor touch.

use alloc::vec::Vec;
use core::ops::Range;

/// Physical addresses.
pub type Addresses = Range<u64>;

/// Memory that may be used once the firmware has been left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable(Vec<Addresses>);

impl Usable {
    /// Sorts ranges and joins what touches or overlaps.
    pub fn new(ranges: impl IntoIterator<Item = Addresses>) -> Self {
        let mut sorted: Vec<Addresses> =
            ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Addresses> = Vec::new();
        for range in sorted {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// By rising address.
    pub fn ranges(&self) -> &[Addresses] {
        &self.0
    }

    /// The `most` largest, again by rising address: a kernel keeps so many and no more.
    pub fn largest(&self, most: usize) -> Self {
        let mut ranges = self.0.clone();
        ranges.sort_unstable_by_key(|range| core::cmp::Reverse(range.end - range.start));
        ranges.truncate(most);
        Self::new(ranges)
    }

    /// Whether all of it may be used.
    pub fn contains(&self, wanted: &Addresses) -> bool {
        self.0.iter().any(|range| range.start <= wanted.start && wanted.end <= range.end)
    }

    /// Whether all of it is among other ranges, in any order. Allocates nothing: it is asked when there is nobody left to allocate from.
    pub fn is_within(&self, others: impl Iterator<Item = Addresses> + Clone) -> bool {
        self.0.iter().all(|range| {
            let mut at = range.start;
            while at < range.end {
                match others.clone().find(|other| other.contains(&at)) {
                    Some(other) => at = other.end,
                    None => return false,
                }
            }
            true
        })
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_joined() {
        let usable =
            Usable::new([0x5000..0x6000, 0x1000..0x2000, 0x2000..0x3000, 0x2800..0x2900, 9..9]);
        assert_eq!(usable.ranges(), [0x1000..0x3000, 0x5000..0x6000]);
        assert_eq!((usable.len(), usable.is_empty()), (0x3000, false));
        assert!(usable.contains(&(0x1800..0x3000)));
        assert!(!usable.contains(&(0x2000..0x5800)));
        assert!(!usable.contains(&(0..0x1001)));
    }

    #[test]
    fn ranges_without_a_byte_are_no_memory() {
        let nothing = Usable::new([9..9, 5..5]);
        assert_eq!((nothing.len(), nothing.is_empty()), (0, true));
        assert_eq!(nothing, Usable::default());
    }

    #[test]
    fn what_is_within_others_is_so_piece_by_piece() {
        let usable = Usable::new([0x1000..0x4000, 0x8000..0x9000]);
        let others = [0x8000..0x9000, 0x3000..0x5000, 0..0x3000];
        assert!(usable.is_within(others.iter().cloned()));
        assert!(!usable.is_within(others[..2].iter().cloned()));
        assert!(!usable.is_within(others[1..].iter().cloned()));
    }

    #[test]
    fn the_largest_are_kept_in_order() {
        let usable = Usable::new([0..1, 10..30, 40..45, 50..60]);
        assert_eq!(usable.largest(2).ranges(), [10..30, 50..60]);
        assert_eq!(usable.largest(9), usable);
    }
}
