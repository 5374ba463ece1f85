//! `x86_64`: `OffsetPageTable`. It has no calls for ranges.

use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::peer::{Peer, Tables, entry_below};

/// The library's tables.
pub struct X86_64 {
    mapper: OffsetPageTable<'static>,
    root: u64,
    frames: Frames,
}

struct Frames(Tables);

// SAFETY: pages are handed out once.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(PhysAddr::new(self.0.take())))
    }
}

const RW: PageTableFlags = PageTableFlags::from_bits_truncate(1 << 63 | 0b110_0111);
const RO: PageTableFlags = PageTableFlags::from_bits_truncate(1 << 63 | 0b110_0101);

impl X86_64 {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let mut tables = Tables::new(tables);
        let root = tables.take_zeroed();
        // SAFETY: physical addresses are addresses of this process; the root is an empty table that lives as long as `frames`, and nothing else
        // refers to it while the mapper is used.
        let mapper =
            unsafe { OffsetPageTable::new(&mut *(root as *mut PageTable), VirtAddr::new(0)) };
        X86_64 { mapper, root, frames: Frames(tables) }
    }
}

#[inline(always)]
fn page(va: u64) -> Page<Size4KiB> {
    Page::containing_address(VirtAddr::new(va))
}

impl Peer for X86_64 {
    const RANGES: bool = false;

    #[inline]
    fn map_one(&mut self, va: u64, pa: u64) {
        let frame = PhysFrame::containing_address(PhysAddr::new(pa));
        // SAFETY: no CPU uses these tables.
        let mapped = unsafe { self.mapper.map_to(page(va), frame, RW, &mut self.frames) };
        mapped.expect("mapped").ignore();
    }

    #[inline]
    fn walk(&self, va: u64) -> u64 {
        self.mapper.translate_page(page(va)).map_or(0, |frame| frame.start_address().as_u64())
    }

    #[inline]
    fn protect_one(&mut self, va: u64) {
        // SAFETY: no CPU uses these tables.
        unsafe { self.mapper.update_flags(page(va), RO) }.expect("protected").ignore();
    }

    #[inline]
    fn unmap_one(&mut self, va: u64) {
        self.mapper.unmap(page(va)).expect("unmapped").1.ignore();
    }

    fn map_range(&mut self, _va: u64, _pa: u64, _pages: usize) {
        unreachable!("asked of libraries with ranges only");
    }

    fn protect_range(&mut self, _va: u64, _pages: usize) {
        unreachable!("asked of libraries with ranges only");
    }

    fn unmap_range(&mut self, _va: u64, _pages: usize) {
        unreachable!("asked of libraries with ranges only");
    }

    fn entry(&self, va: u64) -> u64 {
        entry_below(self.root, va)
    }
}
