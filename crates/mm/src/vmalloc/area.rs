//! `vmalloc`, `vmalloc_huge` and `vfree`: an area is its pages and a guard page that is never mapped.

use alloc::vec::Vec;

use kpkeys_pgtable::addr::CONT_BYTES;
use kpkeys_pgtable::entry::CONT_PAGES;
use kpkeys_pgtable::{Attrs, Level, Machine, PAGE_SIZE, PageRange, VirtAddr};

use super::lazy::{Frees, Unmap};
use crate::error::Error;
use crate::frames::{Buddy, HUGE_ORDER};
use crate::kernel::Kernel;

/// Frames taken from the allocator in one go.
const BULK: usize = 100;
/// The order of the blocks behind a contiguous run of PTEs.
const CONT_ORDER: u8 = CONT_PAGES.ilog2() as u8;

/// A mapped area.
pub(crate) struct Area {
    /// Its pages, without the guard page.
    mapped: PageRange,
    frames: AreaFrames,
}

/// The frames behind an area, in the order they are mapped: single frames, or the first frames of blocks.
#[derive(Debug, Default)]
pub(super) struct AreaFrames {
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    first: u32,
    order: u8,
}

/// What an area is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backing {
    /// Single frames.
    Pages,
    /// 2 MiB blocks where they fit, then 64 KiB blocks, then single frames.
    Blocks,
}

impl<M: Machine> Kernel<M> {
    /// Maps `pages` new frames at new addresses and returns the first. Contents are undefined.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::OutOfAddresses`]; [`Error::Tables`] for zero pages.
    pub fn vmalloc(&self, pages: usize) -> Result<VirtAddr, Error> {
        self.allocate_area(pages, PAGE_SIZE, Backing::Pages)
    }

    /// As [`vmalloc`](Self::vmalloc), at an address that is a multiple of `align` bytes, a power of two.
    ///
    /// # Errors
    ///
    /// As [`vmalloc`](Self::vmalloc).
    pub fn vmalloc_aligned(&self, pages: usize, align: u64) -> Result<VirtAddr, Error> {
        let align = align.max(PAGE_SIZE).checked_next_power_of_two();
        self.allocate_area(pages, align.ok_or(Error::OutOfAddresses(pages))?, Backing::Pages)
    }

    /// As [`vmalloc`](Self::vmalloc), from physically contiguous blocks mapped as such where it is large enough: runs of 64 KiB, one
    /// lazy-MMU section each, and 2 MiB blocks.
    ///
    /// # Errors
    ///
    /// As [`vmalloc`](Self::vmalloc).
    pub fn vmalloc_huge(&self, pages: usize) -> Result<VirtAddr, Error> {
        let align = match pages {
            pages if pages >= Level::Pmd.entry_pages() => Level::Pmd.entry_bytes(),
            pages if pages >= CONT_PAGES => CONT_BYTES,
            _ => PAGE_SIZE,
        };
        self.allocate_area(pages, align, Backing::Blocks)
    }

    /// Unmaps and frees what one of the `vmalloc` functions returned.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] if no area starts at `start`.
    pub fn vfree(&self, start: VirtAddr) -> Result<(), Error> {
        let area = self.areas().busy.lock().remove(&start.0).ok_or(Error::NotMapped(start))?;
        self.unmap_lazily(Unmap { mapped: area.mapped, frees: Frees::Area(area.frames) });
        Ok(())
    }

    fn allocate_area(&self, pages: usize, align: u64, backing: Backing) -> Result<VirtAddr, Error> {
        // Checks the length before anything is taken.
        PageRange::new(VirtAddr(0), pages)?;
        let start = self.take_addresses(pages + 1, align)?;
        let mapped = PageRange::new(start, pages)?;
        let frames = match self.take_frames(pages, backing) {
            Ok(frames) => frames,
            Err(error) => {
                self.return_addresses(with_guard(mapped));
                return Err(error);
            }
        };
        match self.map_area(mapped, &frames, backing) {
            Ok(()) => {
                self.areas().busy.lock().insert(start.0, Area { mapped, frames });
                Ok(start)
            }
            Err(error) => {
                frames.release(self.frames());
                // Part of it may have been mapped for a moment, so TLBs may know the addresses.
                self.free_addresses_lazily(with_guard(mapped));
                Err(error)
            }
        }
    }

    /// The frames for an area. Unmaps that wait for a window hold frames, which memory must not run out for.
    fn take_frames(&self, pages: usize, backing: Backing) -> Result<AreaFrames, Error> {
        AreaFrames::take(self.frames(), pages, backing).or_else(|_| {
            self.clear_all_deferred();
            AreaFrames::take(self.frames(), pages, backing)
        })
    }

    fn map_area(
        &self,
        range: PageRange,
        frames: &AreaFrames,
        backing: Backing,
    ) -> Result<(), Error> {
        let section = self.paging().section(self.paging().kernel());
        let cleared = self.clear_deferred(&section);
        let mapped = match backing {
            Backing::Pages => self.paging().map(
                &section,
                self.paging().kernel(),
                range,
                Attrs::KERNEL_DATA,
                |page| self.frames().address(frames.blocks[page].first),
            ),
            Backing::Blocks => self.map_blocks(&section, range, frames),
        };
        drop(section);
        self.finish(cleared);
        Ok(mapped?)
    }

    fn map_blocks(
        &self,
        section: &kpkeys_pgtable::Section<'_, M>,
        range: PageRange,
        frames: &AreaFrames,
    ) -> Result<(), kpkeys_pgtable::Error> {
        let (paging, mut done) = (self.paging(), 0);
        for block in &frames.blocks {
            let part = PageRange::new(range.start().offset_pages(done), 1 << block.order)?;
            let first = self.frames().address(block.first);
            if let Err(error) =
                paging.map_contiguous(section, paging.kernel(), part, Attrs::KERNEL_DATA, first)
            {
                if let Ok(mapped) = PageRange::new(range.start(), done) {
                    paging.unmap(section, paging.kernel(), mapped, |_, _, _| ())?;
                }
                return Err(error);
            }
            done += part.pages();
        }
        Ok(())
    }
}

/// The addresses of an area: its pages, and the guard page behind them.
pub(super) fn with_guard(mapped: PageRange) -> PageRange {
    PageRange::new(mapped.start(), mapped.pages() + 1)
        .expect("the addresses were taken with the guard page")
}

impl AreaFrames {
    fn take(buddy: &Buddy, pages: usize, backing: Backing) -> Result<AreaFrames, Error> {
        let mut frames = AreaFrames { blocks: Vec::with_capacity(pages) };
        if backing == Backing::Blocks {
            frames.take_blocks(buddy, pages);
        }
        if frames.take_pages(buddy, pages) {
            Ok(frames)
        } else {
            frames.release(buddy);
            Err(Error::OutOfMemory)
        }
    }

    /// As many of `pages` as whole blocks can serve, the largest first.
    fn take_blocks(&mut self, buddy: &Buddy, pages: usize) {
        let mut missing = pages;
        for order in [HUGE_ORDER, CONT_ORDER] {
            while missing >= 1 << order
                && let Some(first) = buddy.take_split(order)
            {
                self.push(buddy, first, order);
                missing -= 1 << order;
            }
        }
    }

    /// Single frames until there are `pages` in all; false if memory runs out first.
    fn take_pages(&mut self, buddy: &Buddy, pages: usize) -> bool {
        let mut missing = pages - self.pages();
        let mut bulk = [0; BULK];
        while missing > 0 {
            let taken = buddy.take_bulk(&mut bulk[..missing.min(BULK)]);
            if taken == 0 {
                return false;
            }
            for &frame in &bulk[..taken] {
                self.push(buddy, frame, 0);
            }
            missing -= taken;
        }
        true
    }

    #[inline(always)]
    fn push(&mut self, buddy: &Buddy, first: u32, order: u8) {
        for frame in first..first + (1 << order) {
            buddy.will_write(buddy.address(frame));
        }
        self.blocks.push(Block { first, order });
    }

    fn pages(&self) -> usize {
        self.blocks.iter().map(|block| 1 << block.order).sum()
    }

    /// Frees them one by one, as Linux does: a block behind an area is split into frames when it is allocated.
    pub(super) fn release(self, buddy: &Buddy) {
        for block in self.blocks {
            (block.first..block.first + (1 << block.order)).for_each(|frame| buddy.put(frame, 0));
        }
    }
}
