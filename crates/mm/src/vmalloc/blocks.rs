//! `vm_map_ram`: short-lived mappings of frames the caller owns, from per-CPU blocks of addresses.
//!
//! A block is 4 MiB of addresses. A CPU hands its slots out in order and never twice; a slot that was unmapped stays unused until
//! every slot of the block was, and then the whole block waits for a purge. So a TLB flush is due once per 1024 pages at most.

use alloc::boxed::Box;

use kpkeys_pgtable::{Attrs, Format, Machine, PageRange, PhysAddr, VirtAddr};

use super::cpu::Slots;
use super::deferred::Deferred;
use super::extent::{Extent, Extents};
use super::owners::{Owners, REGION_PAGES};
use crate::error::Error;
use crate::frames::WaitingFrames;
use crate::kernel::Kernel;

/// Pages of a block, where they are in it, and what waits to be unmapped.
type Found<E> = (PageRange<E>, Place<E>, Deferred<E>);

/// The largest mapping that comes from a block.
pub const MAX_SLOTS: usize = 64;

/// Where a mapping's addresses are from.
enum Place<E: Format> {
    /// Slots of a block.
    Slots,
    /// A range of its own.
    Own(Box<Extent<E>>),
}

impl<M: Machine> Kernel<M> {
    /// Maps frames of the caller at new addresses and returns the first.
    ///
    /// [Frames that somebody owns](crate::frames::OwnedFrame) are held from here until a flush after they are unmapped, so their owner may
    /// give them back at any time. Others are flushed when they are unmapped, and must stay what they are until then.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], of tables or of heap, [`Error::OutOfAddresses`], and [`Error::Tables`] for no frame, or one that
    /// cannot be mapped.
    pub fn vm_map_ram(&self, frames: &[PhysAddr]) -> Result<VirtAddr, Error> {
        PageRange::<M::Format>::new(VirtAddr(0), frames.len())?;
        self.purging_if_short(|| self.try_map_ram(frames))
    }

    fn try_map_ram(&self, frames: &[PhysAddr]) -> Result<VirtAddr, Error> {
        let (range, place, deferred) = self.place_for(frames.len())?;
        let held = self.hold_frames(range, frames);
        let (mapped, cleared) = {
            let (root, section) =
                (self.paging().kernel(), self.paging().section(self.paging().kernel()));
            let cleared = self.clear_deferred(&section, &deferred);
            let frame = |page: usize| frames[page];
            (self.paging().map(&section, root, range, Attrs::KERNEL_DATA, frame), cleared)
        };
        self.finish(deferred, cleared);
        match (mapped, place) {
            (Ok(()), Place::Slots) => {
                self.areas().owners.set_ram(range.start(), range.pages(), held);
                Ok(range.start())
            }
            (Ok(()), Place::Own(extent)) => {
                self.areas().owners.set_ram_extent(extent, held);
                Ok(range.start())
            }
            (Err(error), place) => {
                // Part of it may have been mapped for a moment, so TLBs may know the frames.
                self.let_go_after_flush(range, held.then_some(frames));
                match place {
                    Place::Slots => self.slots_cleared(range),
                    Place::Own(extent) => {
                        self.free_lazily(Extents::of(extent), WaitingFrames::default());
                    }
                }
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
        let ram = self.areas().owners.take_ram(start, pages).ok_or(Error::NotMapped(start))?;
        match ram.extent {
            None => self.unmap_slots(mapped, ram.held),
            Some(extent) => self.unmap_range(extent, ram.held),
        }
        Ok(())
    }

    /// Slots whose entries are cleared: they will not be used again before a purge.
    #[inline]
    pub(super) fn slots_cleared(&self, slots: PageRange<M::Format>) {
        if let Some(block) = self.areas().owners.count_done(slots.start(), slots.pages()) {
            self.free_lazily(Extents::of(block), WaitingFrames::default());
        }
    }

    /// Addresses for as many frames, and the unmaps that wait on this CPU.
    #[inline]
    fn place_for(&self, pages: usize) -> Result<Found<M::Format>, Error> {
        if pages <= MAX_SLOTS {
            let (start, deferred) = self.take_slots(pages)?;
            return Ok((PageRange::new(start, pages)?, Place::Slots, deferred));
        }
        let (extent, deferred) = self.take_addresses_and_deferred(pages, M::Format::PAGE_SIZE)?;
        if let Err(error) = self.areas().owners.reserve_all(extent.first(pages)) {
            self.clear_now(deferred);
            self.areas().addresses.lock().put(extent);
            return Err(error);
        }
        Ok((extent.first(pages), Place::Own(extent), deferred))
    }

    /// Slots, and the unmaps that wait on this CPU: its lock is taken once for both.
    #[inline]
    fn take_slots(&self, pages: usize) -> Result<(VirtAddr, Deferred<M::Format>), Error> {
        let mut own = self.own();
        if own.block.left < pages {
            drop(own);
            let block = self.new_block()?;
            own = self.own();
            let rest = core::mem::replace(&mut own.block, block);
            let start = own.block.take::<M::Format>(pages);
            let deferred = self.deferred_of(&mut own);
            drop(own);
            // The slots behind the last one handed out will never be.
            if let Ok(rest) = PageRange::new(rest.next, rest.left) {
                self.slots_cleared(rest);
            }
            return Ok((start, deferred));
        }
        let start = own.block.take::<M::Format>(pages);
        Ok((start, self.deferred_of(&mut own)))
    }

    #[cold]
    fn new_block(&self) -> Result<Slots, Error> {
        let extent =
            self.take_addresses(REGION_PAGES, Owners::<M::Format>::REGION_BYTES, Extent::new()?)?;
        let next = extent.start();
        self.areas().owners.set_block(extent).map_err(|(error, extent)| {
            self.areas().addresses.lock().put(extent);
            error
        })?;
        Ok(Slots { next, left: REGION_PAGES })
    }
}

impl Slots {
    #[inline]
    fn take<E: Format>(&mut self, pages: usize) -> VirtAddr {
        let start = self.next;
        self.next = start.offset_pages::<E>(pages);
        self.left -= pages;
        start
    }
}
