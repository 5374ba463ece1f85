//! The free pages of all blocks: a list of the regions that have some, so that taking and putting one needs no search.
//!
//! Pages are taken from the first region until it has none. A region gets to the front when its first page is freed: that page is
//! warm. It goes to the end when it is wholly free, so that it is used last and can be given back first.

use core::sync::atomic::Ordering::Relaxed;

use super::records::{Place, Regions};
use super::region::{Block, NOWHERE, Region};
use crate::addr::PhysAddr;
use crate::machine::Machine;

/// See the module.
pub(super) struct Spares {
    first: u32,
    last: u32,
    /// Free pages in all blocks.
    pages: usize,
    /// All pages of all blocks.
    owned: usize,
}

impl Spares {
    pub(super) const fn new() -> Self {
        Spares { first: NOWHERE, last: NOWHERE, pages: 0, owned: 0 }
    }

    /// Free pages in all blocks.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// All pages of all blocks, free or not.
    pub(super) fn owned(&self) -> usize {
        self.owned
    }

    /// A free page.
    pub(super) fn take<M: Machine>(&mut self, regions: Regions<'_, M>) -> Option<PhysAddr> {
        let number = self.first;
        let region = regions.get(number)?;
        let page = region.take()?;
        self.pages -= 1;
        if region.spare() == 0 {
            self.unlink(regions, region);
        }
        Some(regions.address(number, page))
    }

    /// Takes back a page. False, and nothing done, if it is free already or not the pool's.
    pub(super) fn put<M: Machine>(&mut self, regions: Regions<'_, M>, page: PhysAddr) -> bool {
        let Some(Place { number, region, page }) = regions.place(page) else { return false };
        if !region.put(page) {
            return false;
        }
        self.pages += 1;
        if region.spare() == 1 {
            self.link_first(regions, number, region);
        } else if region.spare() == region.pages() {
            self.unlink(regions, region);
            self.link_last(regions, number, region);
        }
        true
    }

    /// Adds a block of a region, all of it free.
    pub(super) fn add<M: Machine>(
        &mut self,
        regions: Regions<'_, M>,
        number: u32,
        region: &Region,
        block: Block,
    ) {
        let linked = region.spare() != 0;
        region.add(block);
        self.pages += block.pages();
        self.owned += block.pages();
        if !linked {
            self.link_last(regions, number, region);
        }
    }

    /// Removes a block of a region, all of it free.
    pub(super) fn remove<M: Machine>(
        &mut self,
        regions: Regions<'_, M>,
        region: &Region,
        block: Block,
    ) {
        region.remove(block);
        self.pages -= block.pages();
        self.owned -= block.pages();
        if region.spare() == 0 {
            self.unlink(regions, region);
        }
    }

    /// The last region with free pages, and the one before another.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    fn link_first<M: Machine>(&mut self, regions: Regions<'_, M>, number: u32, region: &Region) {
        region.previous.store(NOWHERE, Relaxed);
        region.next.store(self.first, Relaxed);
        match regions.get(self.first) {
            Some(second) => second.previous.store(number, Relaxed),
            None => self.last = number,
        }
        self.first = number;
    }

    fn link_last<M: Machine>(&mut self, regions: Regions<'_, M>, number: u32, region: &Region) {
        region.previous.store(self.last, Relaxed);
        region.next.store(NOWHERE, Relaxed);
        match regions.get(self.last) {
            Some(before) => before.next.store(number, Relaxed),
            None => self.first = number,
        }
        self.last = number;
    }

    fn unlink<M: Machine>(&mut self, regions: Regions<'_, M>, region: &Region) {
        let (previous, next) = (region.previous.load(Relaxed), region.next.load(Relaxed));
        match regions.get(previous) {
            Some(previous) => previous.next.store(next, Relaxed),
            None => self.first = next,
        }
        match regions.get(next) {
            Some(next) => next.previous.store(previous, Relaxed),
            None => self.last = previous,
        }
    }
}
