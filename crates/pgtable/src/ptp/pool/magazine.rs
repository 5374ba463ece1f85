//! A CPU's own spare pages: what was freed last is handed out first, while it is warm.

use crossbeam_utils::CachePadded;
use spin::Mutex;

use crate::addr::PhysAddr;

/// Pages a magazine holds: with lock and length, four pairs of cache lines.
pub(super) const MAGAZINE: usize = 62;
/// Pages moved at once between a magazine and the blocks.
pub(super) const HALF: usize = MAGAZINE / 2;

/// Spare pages, the coldest first.
pub(super) struct Magazine {
    len: usize,
    pages: [PhysAddr; MAGAZINE],
}

/// A magazine that shares no cache line with another CPU's, also where lines are fetched in pairs.
pub(super) type OwnMagazine = CachePadded<Mutex<Magazine>>;

const _: () = assert!(size_of::<OwnMagazine>() == 512 && align_of::<OwnMagazine>() == 128);

impl Magazine {
    /// An empty magazine.
    pub(super) fn new() -> OwnMagazine {
        CachePadded::new(Mutex::new(Magazine { len: 0, pages: [PhysAddr(0); MAGAZINE] }))
    }

    /// How many pages there are, where it is kept. For attacks.
    pub(super) fn len(&self) -> &usize {
        &self.len
    }

    /// The page that is handed out next, where it is kept. For attacks.
    pub(super) fn next(&self) -> Option<&PhysAddr> {
        self.pages[..self.len].last()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == MAGAZINE
    }

    /// The page put in last.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<PhysAddr> {
        self.len = self.len.checked_sub(1)?;
        Some(self.pages[self.len])
    }

    /// Puts a page into a magazine that is not full.
    #[inline]
    pub(super) fn push(&mut self, page: PhysAddr) {
        self.pages[self.len] = page;
        self.len += 1;
    }

    /// Fills up to half of an empty magazine with pages that will be handed out in the order in which `next` gives them.
    pub(super) fn fill(&mut self, mut next: impl FnMut() -> Option<PhysAddr>) {
        while self.len < HALF
            && let Some(page) = next()
        {
            self.push(page);
        }
        self.pages[..self.len].reverse();
    }

    /// Takes the coldest half out of a full magazine, or all out of one that has less.
    pub(super) fn spill(&mut self, put: impl FnMut(PhysAddr)) {
        let cold = HALF.min(self.len);
        self.pages[..cold].iter().copied().for_each(put);
        self.pages.copy_within(cold..self.len, 0);
        self.len -= cold;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        self.pages[..self.len].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const fn page(i: usize) -> PhysAddr {
        PhysAddr(i as u64 * 4096)
    }

    #[test]
    fn the_last_page_freed_is_the_first_handed_out() {
        let own = Magazine::new();
        let mut magazine = own.lock();
        (0..MAGAZINE).for_each(|i| magazine.push(page(i)));
        assert!(magazine.is_full());
        let mut cold = Vec::new();
        magazine.spill(|page| cold.push(page));
        assert_eq!(cold, (0..HALF).map(page).collect::<Vec<_>>(), "the coldest leave");
        let warm: Vec<_> = core::iter::from_fn(|| magazine.pop()).collect();
        assert_eq!(warm, (HALF..MAGAZINE).rev().map(page).collect::<Vec<_>>());
    }

    #[test]
    fn new_pages_are_handed_out_as_they_came() {
        let own = Magazine::new();
        let mut magazine = own.lock();
        for available in [3, 100] {
            let mut next = (0..available).rev();
            magazine.fill(|| next.next().map(page));
            let handed_out: Vec<_> = core::iter::from_fn(|| magazine.pop()).collect();
            let expected: Vec<_> = (0..available).rev().take(HALF).map(page).collect();
            assert_eq!(handed_out, expected);
        }
    }
}
