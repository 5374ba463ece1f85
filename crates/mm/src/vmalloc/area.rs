//! `vmalloc`, `vmalloc_huge` and `vfree`: an area is its pages and a guard page that is never mapped.

use alloc::boxed::Box;

use kpkeys_pgtable::{Attrs, Format, Machine, PageRange, Section, VirtAddr};

use super::backing::{AreaFrames, Backing};
use super::cpu::MAX_CHUNKED;
use super::deferred::Deferred;
use super::extent::{Extent, Extents};
use crate::error::Error;
use crate::kernel::Kernel;

impl<M: Machine> Kernel<M> {
    /// Maps `pages` new frames at new addresses and returns the first. Contents are undefined.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], of frames or of heap, [`Error::OutOfAddresses`]; [`Error::Tables`] for zero pages.
    pub fn vmalloc(&self, pages: usize) -> Result<VirtAddr, Error> {
        self.allocate_area(pages, M::Format::PAGE_SIZE, Backing::Pages)
    }

    /// As [`vmalloc`](Self::vmalloc), at an address that is a multiple of `align` bytes, a power of two.
    ///
    /// # Errors
    ///
    /// As [`vmalloc`](Self::vmalloc).
    pub fn vmalloc_aligned(&self, pages: usize, align: u64) -> Result<VirtAddr, Error> {
        let align = align.max(M::Format::PAGE_SIZE).checked_next_power_of_two();
        self.allocate_area(pages, align.ok_or(Error::OutOfAddresses(pages))?, Backing::Pages)
    }

    /// As [`vmalloc`](Self::vmalloc), from physically contiguous blocks mapped as such where it is large enough: runs of 64 KiB, one
    /// lazy-MMU section each, and 2 MiB blocks.
    ///
    /// # Errors
    ///
    /// As [`vmalloc`](Self::vmalloc).
    pub fn vmalloc_huge(&self, pages: usize) -> Result<VirtAddr, Error> {
        self.allocate_area(pages, Backing::Blocks.align::<M::Format>(pages), Backing::Blocks)
    }

    /// Unmaps and frees what one of the `vmalloc` functions returned.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] if no area starts at `start`.
    pub fn vfree(&self, start: VirtAddr) -> Result<(), Error> {
        let area = self.areas().owners.take_area(start).ok_or(Error::NotMapped(start))?;
        self.unmap_area(area);
        Ok(())
    }

    fn allocate_area(&self, pages: usize, align: u64, backing: Backing) -> Result<VirtAddr, Error> {
        self.check_size(pages)?;
        self.purging_if_short(|| self.try_allocate(pages, align, backing))
    }

    fn try_allocate(&self, pages: usize, align: u64, backing: Backing) -> Result<VirtAddr, Error> {
        let mut frames = AreaFrames::take(self.frames(), pages, backing)?;
        let (area, deferred) = match self.addresses_for_area(pages + 1, align) {
            Ok(taken) => taken,
            Err(error) => {
                frames.release(self.frames());
                return Err(error);
            }
        };
        self.map_area(area, frames, backing, deferred)
    }

    /// Refuses sizes that cannot be had before anything is reserved for them.
    #[inline]
    fn check_size(&self, pages: usize) -> Result<(), Error> {
        PageRange::<M::Format>::new(VirtAddr(0), pages)?;
        if pages >= self.areas().range.pages() {
            Err(Error::OutOfAddresses(pages + 1))
        } else if pages > self.machine().memory().pages {
            Err(Error::OutOfMemory)
        } else {
            Ok(())
        }
    }

    /// Addresses for an area, and the unmaps that wait on this CPU.
    fn addresses_for_area(
        &self,
        pages: usize,
        align: u64,
    ) -> Result<super::Taken<M::Format>, Error> {
        if pages <= MAX_CHUNKED && align == M::Format::PAGE_SIZE {
            let mut own = self.own();
            if let Some(area) = own.take_small(pages, &self.areas().addresses)? {
                return Ok((area, self.deferred_of(&mut own)));
            }
        }
        self.take_addresses_and_deferred(pages, align)
    }

    /// Maps an area in one section, which also clears what waited for a window.
    fn map_area(
        &self,
        mut area: Box<Extent<M::Format>>,
        frames: AreaFrames,
        backing: Backing,
        deferred: Deferred<M::Format>,
    ) -> Result<VirtAddr, Error> {
        let start = area.start();
        area.frames = frames;
        if let Err(error) = self.areas().owners.reserve(start) {
            self.clear_now(deferred);
            self.free_areas(Extents::of(area));
            return Err(error);
        }
        let (mapped, held) = {
            let section = self.paging().section(self.paging().kernel());
            let held = self.clear_deferred(&section, &deferred);
            (self.map_frames(&section, area.mapped(), &area.frames, backing), held)
        };
        self.finish(deferred, held);
        match mapped {
            Ok(()) => self.areas().owners.set_area(area),
            // Part of it may have been mapped for a moment, so TLBs may know the addresses.
            Err(_) => self.free_areas(Extents::of(area)),
        }
        mapped.map(|()| start)
    }

    #[inline]
    fn map_frames(
        &self,
        section: &Section<'_, M>,
        range: PageRange<M::Format>,
        frames: &AreaFrames,
        backing: Backing,
    ) -> Result<(), Error> {
        match backing {
            Backing::Pages => {
                let (root, blocks) = (self.paging().kernel(), frames.blocks());
                let frame = |page: usize| self.frames().address(blocks[page].first);
                Ok(self.paging().map(section, root, range, Attrs::KERNEL_DATA, frame)?)
            }
            Backing::Blocks => self.map_blocks(section, range, frames),
        }
    }

    fn map_blocks(
        &self,
        section: &Section<'_, M>,
        range: PageRange<M::Format>,
        frames: &AreaFrames,
    ) -> Result<(), Error> {
        let (paging, mut done) = (self.paging(), 0);
        for block in frames.blocks() {
            let part =
                PageRange::new(range.start().offset_pages::<M::Format>(done), 1 << block.order)?;
            let first = self.frames().address(block.first);
            if let Err(error) =
                paging.map_contiguous(section, paging.kernel(), part, Attrs::KERNEL_DATA, first)
            {
                if let Ok(mapped) = PageRange::new(range.start(), done) {
                    paging.unmap(section, paging.kernel(), mapped, |_, _, _| ())?;
                }
                return Err(error.into());
            }
            done += part.pages();
        }
        Ok(())
    }
}
