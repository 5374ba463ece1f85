//! `vm_map_ram`: short-lived mappings of frames the caller owns, from per-CPU blocks of addresses.
//!
//! A block is 4 MiB of addresses. A CPU hands its slots out in order and never twice; a slot that was unmapped stays unused until
//! every slot of the block was, and then the whole block waits for a purge. So a TLB flush is due once per 1024 pages at most.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;

use kpkeys_pgtable::{Attrs, Machine, PAGE_SIZE, PageRange, PhysAddr, VirtAddr};

use super::lazy::{Frees, Unmap};
use crate::error::Error;
use crate::kernel::Kernel;

/// Pages in a block.
const BLOCK_PAGES: usize = 1024;
const BLOCK_BYTES: u64 = BLOCK_PAGES as u64 * PAGE_SIZE;
/// The largest mapping that comes from a block.
pub const MAX_SLOTS: usize = 64;

/// The block a CPU hands out slots of.
#[derive(Debug)]
pub(super) struct CpuBlock {
    start: VirtAddr,
    used: usize,
}

/// All blocks, and what is mapped in them and beside them.
#[derive(Debug, Default)]
pub(super) struct BlockMap {
    /// How many pages of the block that starts at an address are done with.
    done: BTreeMap<u64, usize>,
    /// Pages of the mapping that starts at an address.
    mapped: BTreeMap<u64, usize>,
}

impl<M: Machine> Kernel<M> {
    /// Maps frames of the caller at new addresses and returns the first.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::OutOfAddresses`], and [`Error::Tables`] for no frame, or one that cannot be mapped.
    pub fn vm_map_ram(&self, frames: &[PhysAddr]) -> Result<VirtAddr, Error> {
        let start = if frames.len() <= MAX_SLOTS {
            self.take_slots(frames.len())?
        } else {
            self.take_addresses(frames.len(), PAGE_SIZE)?
        };
        let range = PageRange::new(start, frames.len())?;
        let section = self.paging().section(self.paging().kernel());
        let cleared = self.clear_deferred(&section);
        let mapped = self.paging().map(
            &section,
            self.paging().kernel(),
            range,
            Attrs::KERNEL_DATA,
            |page| frames[page],
        );
        drop(section);
        self.finish(cleared);
        match mapped {
            Ok(()) => {
                self.areas().blocks.lock().mapped.insert(start.0, frames.len());
                Ok(start)
            }
            Err(error) => {
                self.done_with(range);
                Err(error.into())
            }
        }
    }

    /// Unmaps what [`vm_map_ram`](Self::vm_map_ram) returned for as many frames.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] if the range is not what one call of `vm_map_ram` mapped.
    pub fn vm_unmap_ram(&self, start: VirtAddr, pages: usize) -> Result<(), Error> {
        let mapped = PageRange::new(start, pages)?;
        if !self.areas().blocks.lock().forget(mapped) {
            return Err(Error::NotMapped(start));
        }
        self.unmap_lazily(Unmap { mapped, frees: Frees::Slots });
        Ok(())
    }

    /// Slots whose entries are cleared.
    pub(super) fn slots_cleared(&self, range: PageRange) {
        self.done_with(range);
    }

    fn take_slots(&self, pages: usize) -> Result<VirtAddr, Error> {
        PageRange::new(VirtAddr(0), pages)?;
        let per_cpu = self.areas().this_cpu(self.machine().cpu());
        let mut block = per_cpu.block.lock();
        if let Some(block) = block.as_mut()
            && block.used + pages <= BLOCK_PAGES
        {
            return Ok(block.take(pages));
        }
        let start = self.take_addresses(BLOCK_PAGES, BLOCK_BYTES)?;
        self.areas().blocks.lock().done.insert(start.0, 0);
        let full = block.replace(CpuBlock { start, used: pages });
        drop(block);
        if let Some(full) = full {
            // The slots behind the last one handed out will never be.
            self.count_done(full.start, BLOCK_PAGES - full.used);
        }
        Ok(start)
    }

    /// The addresses will not be used again before a purge.
    fn done_with(&self, range: PageRange) {
        let block = VirtAddr(range.start().0 & !(BLOCK_BYTES - 1));
        if range.pages() <= MAX_SLOTS {
            self.count_done(block, range.pages());
        } else {
            self.free_addresses_lazily(range);
        }
    }

    fn count_done(&self, block: VirtAddr, pages: usize) {
        if self.areas().blocks.lock().count_done(block, pages)
            && let Ok(range) = PageRange::new(block, BLOCK_PAGES)
        {
            self.free_addresses_lazily(range);
        }
    }
}

impl CpuBlock {
    fn take(&mut self, pages: usize) -> VirtAddr {
        let start = self.start.offset_pages(self.used);
        self.used += pages;
        start
    }
}

impl BlockMap {
    /// Forgets a mapping; false if there is none of exactly this range.
    fn forget(&mut self, range: PageRange) -> bool {
        match self.mapped.entry(range.start().0) {
            Entry::Occupied(mapping) if *mapping.get() == range.pages() => {
                mapping.remove();
                true
            }
            _ => false,
        }
    }

    /// Counts pages of a block that are done with; true if that were the last, and the block is forgotten.
    fn count_done(&mut self, block: VirtAddr, pages: usize) -> bool {
        let Some(done) = self.done.get_mut(&block.0) else { return false };
        *done += pages;
        *done == BLOCK_PAGES && self.done.remove(&block.0).is_some()
    }
}
