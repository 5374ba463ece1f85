//! The records of all regions, found by address: a directory with an entry for each 32 MiB, and a page of records behind each entry
//! where the pool has, or had, a block.
//!
//! Of a terabyte the directory takes 64 pages, in one block, and the records a page for each 32 MiB that is used.

use core::sync::atomic::{AtomicU64, Ordering};

use super::region::{REGION, Region};
use super::state::Array;
use crate::addr::PhysAddr;
use crate::entry::Format;
use crate::error::Error;
use crate::machine::{Frames, Machine, Memory};

/// No records.
const NONE: u64 = u64::MAX;

/// The records, wherever they are.
pub(super) struct Records<E: Format> {
    memory: Memory<E>,
    directory: Array<AtomicU64, E>,
}

/// The records, as one operation uses them.
pub(super) struct Regions<'a, M: Machine> {
    records: &'a Records<M::Format>,
    machine: &'a M,
}

// Not derived: that would ask the machine to be `Copy`.
impl<M: Machine> Clone for Regions<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for Regions<'_, M> {}

/// A page of memory: its region's number, the region's record, and the page's number in the region.
pub(super) struct Place<'m> {
    pub(super) number: u32,
    pub(super) region: &'m Region,
    pub(super) page: usize,
}

impl<E: Format> Records<E> {
    /// Regions whose records share a page.
    const TOGETHER: usize = Array::<Region, E>::PER_PAGE;

    /// No records yet.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there is no block for the directory.
    pub(super) fn new<M: Machine<Format = E>, F: Frames>(
        machine: &M,
        frames: &F,
    ) -> Result<Self, Error> {
        let memory = machine.memory();
        let entries = memory.pages.div_ceil(REGION * Self::TOGETHER).max(1);
        let directory = Array::new(machine, frames, entries, || AtomicU64::new(NONE))?;
        Ok(Records { memory, directory })
    }

    #[inline(always)]
    pub(super) fn of<'a, M: Machine<Format = E>>(&'a self, machine: &'a M) -> Regions<'a, M> {
        Regions { records: self, machine }
    }

    /// Makes sure that the region of a page has a record. Nobody else may do so at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there is no page for it.
    pub(super) fn prepare<M: Machine<Format = E>, F: Frames>(
        &self,
        machine: &M,
        frames: &F,
        page: PhysAddr,
    ) -> Result<(), Error> {
        let region = self.memory.frame_number(page) / REGION;
        let entry = self.directory.get(machine, region / Self::TOGETHER);
        let entry = entry.ok_or(Error::OutsideLinearMap(page, 1))?;
        if entry.load(Ordering::Relaxed) == NONE {
            let records = Array::new(machine, frames, Self::TOGETHER, Region::new)?;
            entry.store(records.start().0, Ordering::Release);
        }
        Ok(())
    }
}

impl<'a, M: Machine> Regions<'a, M> {
    /// The record of a region.
    #[inline]
    pub(super) fn get(self, number: u32) -> Option<&'a Region> {
        self.group(number as usize / Records::<M::Format>::TOGETHER)?
            .get(self.machine, number as usize % Records::<M::Format>::TOGETHER)
    }

    /// Where a page is, if its region has a record.
    #[inline]
    pub(super) fn place(self, page: PhysAddr) -> Option<Place<'a>> {
        if !self.records.memory.contains(page, 1) || !page.is_aligned(M::Format::PAGE_SIZE) {
            return None;
        }
        let frame = self.records.memory.frame_number(page);
        let number = (frame / REGION) as u32;
        Some(Place { number, region: self.get(number)?, page: frame % REGION })
    }

    /// The address of a page of a region.
    #[inline]
    pub(super) fn address(self, number: u32, page: usize) -> PhysAddr {
        self.records.memory.frame(number as usize * REGION + page)
    }

    /// All regions that have a record, with their numbers.
    pub(super) fn iter(self) -> impl Iterator<Item = (u32, &'a Region)> {
        let groups = 0..self.records.directory.len();
        let numbers = groups.filter(move |&group| self.group(group).is_some()).flat_map(|group| {
            group * Records::<M::Format>::TOGETHER..(group + 1) * Records::<M::Format>::TOGETHER
        });
        numbers.filter_map(move |number| Some((number as u32, self.get(number as u32)?)))
    }

    /// Pages that hold records and the directory.
    pub(super) fn pages(self) -> usize {
        let groups = 0..self.records.directory.len();
        self.records.directory.pages() + groups.filter_map(|group| self.group(group)).count()
    }

    #[inline(always)]
    fn group(self, group: usize) -> Option<Array<Region, M::Format>> {
        let start = self.records.directory.get(self.machine, group)?.load(Ordering::Acquire);
        // SAFETY: what an entry of the directory points to was made by `prepare`, with as many records.
        (start != NONE)
            .then(|| unsafe { Array::at(PhysAddr(start), Records::<M::Format>::TOGETHER) })
    }
}
