//! Frames: the kernel's allocator as the other crate wants it, and what the wrapped crate allocates from, inside a window.

use core::fmt;

use kpkeys_x86_64::{AdoptError, Linear, Machine, Protection};
use page_table_generic::{FrameAllocator, PageTable, PhysAddr, TableMeta};
use x86_64::structures::paging::{self, FrameDeallocator, PhysFrame, Size4KiB};

/// Protects the kernel's tables, which the CPUs use, those of its linear map among them. Hand them to
/// [`HardenedPageTable::adopted`](crate::HardenedPageTable::adopted) then.
///
/// # Errors
///
/// What cannot be adopted, and why. Nothing is protected then.
///
/// # Safety
///
/// As for [`Protection::adopt`]: nothing stores to the tables from now on, by `tables` neither.
pub unsafe fn adopt<M: Machine, L: Linear, T: TableMeta, A: FrameAllocator>(
    machine: M,
    linear: L,
    tables: &PageTable<T, A>,
    frames: &A,
) -> Result<Protection<M, L>, AdoptError> {
    let root = to_frame(tables.root_paddr());
    // SAFETY: the caller's promise.
    unsafe { Protection::adopt_without_alias(machine, linear, root, &mut Own(frames)) }
}

/// The wrapped crate's allocator: frames in stock, which the call has filled; freed ones wait for the flush.
pub struct Stock<M: 'static, L: 'static>(pub(crate) &'static Protection<M, L>);

impl<M, L> Clone for Stock<M, L> {
    fn clone(&self) -> Self {
        Stock(self.0)
    }
}

impl<M, L> fmt::Debug for Stock<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stock")
    }
}

impl<M, L> FrameAllocator for Stock<M, L>
where
    M: Machine + Send + Sync + 'static,
    L: Linear + Send + Sync,
{
    fn alloc_frame(&self) -> Option<PhysAddr> {
        self.0.take_reserved().map(to_address)
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        // SAFETY: the wrapped crate frees what it has just unlinked, within a call: it is not handed out otherwise. What carries no key is no
        // table of these, and is left alone.
        unsafe { self.0.put_freed(to_frame(frame)) };
    }

    #[inline(always)]
    fn phys_to_virt(&self, frame: PhysAddr) -> *mut u8 {
        let within = frame.as_usize() & 0xfff;
        self.0.linear().frame_to_pointer(to_frame(frame)).cast::<u8>().wrapping_add(within)
    }
}

/// The kernel's own allocator, for frames that are to become tables, and that were.
pub(crate) struct Own<'a, A>(pub(crate) &'a A);

// SAFETY: the kernel's allocator hands out each frame once, as the wrapped crate asks of it too.
unsafe impl<A: FrameAllocator> paging::FrameAllocator<Size4KiB> for Own<'_, A> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.alloc_frame().map(to_frame)
    }
}

impl<A: FrameAllocator> FrameDeallocator<Size4KiB> for Own<'_, A> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.0.dealloc_frame(to_address(frame));
    }
}

pub(crate) fn to_address(frame: PhysFrame) -> PhysAddr {
    PhysAddr::from_usize(frame.start_address().as_u64() as usize)
}

pub(crate) fn to_frame(address: PhysAddr) -> PhysFrame {
    PhysFrame::containing_address(x86_64::PhysAddr::new_truncate(address.as_usize() as u64))
}
