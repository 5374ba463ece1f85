//! Frames: the kernel's allocator as the other crate wants it, and what the wrapped crate allocates from, inside a window.

use kpkeys_x86_64::{LinearMap, Machine, Protection};
use patina_paging::PtError;
use patina_paging::page_allocator::PageAllocator;
use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

const PAGE: u64 = 4096;

/// The wrapped crate's allocator: frames in stock, which the call has filled.
#[derive(Debug)]
pub struct Stock<'p, M>(pub(crate) &'p Protection<M, LinearMap>);

impl<M: Machine> PageAllocator for Stock<'_, M> {
    fn allocate_page(&mut self, align: u64, size: u64, _: bool) -> Result<u64, PtError> {
        let is_a_table = size == PAGE && align <= PAGE;
        let frame = is_a_table.then(|| self.0.take_reserved()).flatten();
        frame.map(|frame| frame.start_address().as_u64()).ok_or(PtError::AllocationFailure)
    }
}

/// The kernel's own allocator, and what it said last.
pub(crate) struct Own<'a, A> {
    allocator: &'a mut A,
    pub(crate) error: PtError,
}

impl<'a, A> Own<'a, A> {
    pub(crate) fn new(allocator: &'a mut A) -> Self {
        Own { allocator, error: PtError::AllocationFailure }
    }
}

// SAFETY: the kernel's allocator hands out each page once, as the wrapped crate asks of it too.
unsafe impl<A: PageAllocator> FrameAllocator<Size4KiB> for Own<'_, A> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        match self.allocator.allocate_page(PAGE, PAGE, false) {
            Ok(page) => PhysFrame::from_start_address(PhysAddr::new_truncate(page)).ok(),
            Err(error) => {
                self.error = error;
                None
            }
        }
    }
}

/// The wrapped crate frees no table, and its allocator takes none back.
impl<A> FrameDeallocator<Size4KiB> for Own<'_, A> {
    unsafe fn deallocate_frame(&mut self, _: PhysFrame) {}
}
