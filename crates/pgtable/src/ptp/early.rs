//! The record of page-table pages made before keys work: physical ranges, merged where they touch.

use core::marker::PhantomData;

use crate::addr::PhysAddr;
use crate::entry::Format;
use crate::error::Error;

/// How many separate ranges the record holds.
const CAPACITY: usize = 64;

/// Page-table pages that must be keyed once it is safe to.
///
/// A page that does not fit the record is refused loudly, never forgotten: it would stay writable for good.
#[derive(Clone, Debug)]
pub struct EarlyPtps<E: Format> {
    ranges: [(u64, u64); CAPACITY],
    len: usize,
    format: PhantomData<E>,
}

impl<E: Format> Default for EarlyPtps<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Format> EarlyPtps<E> {
    /// An empty record.
    pub const fn new() -> Self {
        EarlyPtps { ranges: [(0, 0); CAPACITY], len: 0, format: PhantomData }
    }

    /// Records `pages` page-table pages from `start`.
    ///
    /// # Errors
    ///
    /// [`Error::EarlyRecordFull`] if no more separate ranges fit; the record is unchanged then.
    pub fn record(&mut self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        let (mut low, mut high) = (start.0, start.0 + pages as u64 * E::PAGE_SIZE);
        // Swallow every range that touches or overlaps the new one.
        let mut kept = 0;
        let touches = |(a, b): (u64, u64)| a <= high && low <= b;
        let swallowed = self.ranges[..self.len].iter().filter(|&&range| touches(range)).count();
        if self.len - swallowed == CAPACITY {
            return Err(Error::EarlyRecordFull(start));
        }
        for i in 0..self.len {
            let (a, b) = self.ranges[i];
            if a <= high && low <= b {
                (low, high) = (low.min(a), high.max(b));
            } else {
                self.ranges[kept] = (a, b);
                kept += 1;
            }
        }
        self.ranges[kept] = (low, high);
        self.len = kept + 1;
        Ok(())
    }

    /// Forgets one page, which was freed before keys worked.
    ///
    /// # Errors
    ///
    /// [`Error::EarlyRecordFull`] if that would cut a range in two and no more ranges fit; the page stays recorded then.
    pub fn forget(&mut self, page: PhysAddr) -> Result<(), Error> {
        let Some(i) = self.ranges[..self.len].iter().position(|&(a, b)| a <= page.0 && page.0 < b)
        else {
            return Ok(());
        };
        let (a, b) = self.ranges[i];
        let (below, above) = ((a, page.0), (page.0 + E::PAGE_SIZE, b));
        match (below.0 < below.1, above.0 < above.1) {
            (true, true) if self.len == CAPACITY => return Err(Error::EarlyRecordFull(page)),
            (true, true) => {
                self.ranges[i] = below;
                self.ranges[self.len] = above;
                self.len += 1;
            }
            (true, false) => self.ranges[i] = below,
            (false, true) => self.ranges[i] = above,
            (false, false) => {
                self.len -= 1;
                self.ranges[i] = self.ranges[self.len];
            }
        }
        Ok(())
    }

    /// The recorded ranges: first page and number of pages.
    pub fn iter(&self) -> impl Iterator<Item = (PhysAddr, usize)> + '_ {
        self.ranges[..self.len]
            .iter()
            .map(|&(a, b)| (PhysAddr(a), ((b - a) / E::PAGE_SIZE) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::X86_64;
    use std::vec::Vec;

    const P: u64 = X86_64::PAGE_SIZE;

    fn ranges(early: &EarlyPtps<X86_64>) -> Vec<(u64, usize)> {
        let mut ranges: Vec<_> = early.iter().map(|(pa, n)| (pa.0 / P, n)).collect();
        ranges.sort_unstable();
        ranges
    }

    #[test]
    fn ranges_merge_on_either_side() {
        let mut early = EarlyPtps::<X86_64>::new();
        for (page, pages) in [(10, 1), (12, 1), (20, 4)] {
            early.record(PhysAddr(page * P), pages).unwrap();
        }
        assert_eq!(ranges(&early), [(10, 1), (12, 1), (20, 4)]);
        early.record(PhysAddr(11 * P), 1).unwrap();
        assert_eq!(ranges(&early), [(10, 3), (20, 4)]);
        early.record(PhysAddr(13 * P), 7).unwrap();
        assert_eq!(ranges(&early), [(10, 14)]);
    }

    #[test]
    fn overflow_is_loud_and_changes_nothing() {
        let mut early = EarlyPtps::<X86_64>::new();
        for i in 0..CAPACITY as u64 {
            early.record(PhysAddr(2 * i * P), 1).unwrap();
        }
        let full = ranges(&early);
        assert_eq!(
            early.record(PhysAddr(1000 * P), 1),
            Err(Error::EarlyRecordFull(PhysAddr(1000 * P)))
        );
        assert_eq!(ranges(&early), full);
        // A page that merges still fits.
        early.record(PhysAddr(P), 1).unwrap();
        assert_eq!(early.iter().count(), CAPACITY - 1);
    }

    #[test]
    fn freed_pages_are_forgotten() {
        let mut early = EarlyPtps::<X86_64>::new();
        early.record(PhysAddr(10 * P), 5).unwrap();
        for page in [12, 10, 14, 99] {
            early.forget(PhysAddr(page * P)).unwrap();
        }
        assert_eq!(ranges(&early), [(11, 1), (13, 1)]);
        early.forget(PhysAddr(11 * P)).unwrap();
        assert_eq!(ranges(&early), [(13, 1)]);
    }
}
