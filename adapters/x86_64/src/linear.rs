//! Where the tables map memory: the one place in which a page of a table can be written, and which therefore carries its key.

use x86_64::VirtAddr;
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::{PageTable, PhysFrame};

/// The kernel's mapping of all memory. [`LinearMap`] is the one of `OffsetPageTable`; a kernel that uses `MappedPageTable` with a mapping of its own
/// implements this for it.
///
/// # Safety
///
/// The implementor promises that, for each frame that has an [`address`](Self::address),
/// [`frame_to_pointer`](PageTableFrameMapping::frame_to_pointer) is a pointer through which the frame can be read at any time, and written
/// while it carries no key or a window is open; and that both always give the same for the same frame.
pub unsafe trait Linear: PageTableFrameMapping + Copy + 'static {
    /// The address at which the tables map this frame, or `None` for a frame that they do not map here.
    fn address(&self, frame: PhysFrame) -> Option<VirtAddr>;
}

/// Memory mapped at an offset, as `OffsetPageTable` has it.
#[derive(Clone, Copy, Debug)]
pub struct LinearMap {
    memory: PhysFrameRange,
    offset: VirtAddr,
    pointers: usize,
}

impl LinearMap {
    /// `memory`, mapped at `offset` on: what is at physical address `a` is at `offset + a`.
    ///
    /// `None` if that is not a range of canonical addresses, or `offset` is not a multiple of 4 KiB.
    pub fn new(memory: PhysFrameRange, offset: VirtAddr) -> Option<LinearMap> {
        Self::seen_at(memory, offset, offset.as_u64() as usize)
    }

    /// The same where this program sees memory at another offset than the tables say: a model of a machine.
    pub fn seen_at(memory: PhysFrameRange, offset: VirtAddr, pointers: usize) -> Option<LinearMap> {
        let first = offset.as_u64().checked_add(memory.start.start_address().as_u64())?;
        let last = offset.as_u64().checked_add(memory.end.start_address().as_u64())? - 1;
        let canonical = VirtAddr::try_new(first).is_ok() && VirtAddr::try_new(last).is_ok();
        let possible = memory.start < memory.end && canonical && first >> 47 == last >> 47;
        (possible && offset.is_aligned(4096u64)).then_some(LinearMap { memory, offset, pointers })
    }
}

// SAFETY: the address is in the range that whoever adopts tables with this map answers for (`Protection::adopt`).
unsafe impl PageTableFrameMapping for LinearMap {
    #[inline(always)]
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        let address = self.pointers.wrapping_add(frame.start_address().as_u64() as usize);
        core::ptr::with_exposed_provenance_mut(address)
    }
}

// SAFETY: as above; both are an addition to the frame's address.
unsafe impl Linear for LinearMap {
    #[inline(always)]
    fn address(&self, frame: PhysFrame) -> Option<VirtAddr> {
        let inside = (self.memory.start..self.memory.end).contains(&frame);
        // `seen_at` checked that the sum is canonical.
        inside
            .then(|| VirtAddr::new_truncate(self.offset.as_u64() + frame.start_address().as_u64()))
    }
}
