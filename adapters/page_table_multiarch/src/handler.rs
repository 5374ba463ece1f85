//! The kernel's allocator as the wrapped crate sees it: functions, called in the middle of a call.

use core::marker::PhantomData;

use kpkeys_x86_64::{Linear, Machine, Protection};
use memory_addr::{PAGE_SIZE_4K, PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

/// The kernel whose tables these are.
pub trait Kernel: 'static {
    /// Its CPUs.
    type Machine: Machine + 'static;
    /// Where its tables map memory: what `Handler::phys_to_virt` says too.
    type Linear: Linear;
    /// What it passed to the wrapped crate before.
    type Handler: PagingHandler;

    /// What protects its tables, from when they were adopted: a `static` that is written once, of `Protection::adopt`.
    fn protection() -> Option<&'static Protection<Self::Machine, Self::Linear>>;
}

/// The handler that the wrapped crate is given. While nothing is protected, the kernel's own.
#[derive(Debug)]
pub struct Protected<K>(PhantomData<K>);

impl<K: Kernel> PagingHandler for Protected<K> {
    /// A frame from stock, which the call has filled.
    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        let Some(protection) = K::protection() else {
            return K::Handler::alloc_frames(count, align);
        };
        let is_a_table = count == 1 && align <= PAGE_SIZE_4K;
        is_a_table.then(|| protection.take_reserved()).flatten().map(to_address)
    }

    fn dealloc_frames(address: PhysAddr, count: usize) {
        let waits = K::protection().is_some_and(|protection| {
            // SAFETY: the wrapped crate frees tables alone, which it has just unlinked, within `call`: its types are not handed out otherwise.
            count == 1 && unsafe { protection.put_freed(to_frame(address)) }
        });
        if !waits {
            K::Handler::dealloc_frames(address, count);
        }
    }

    #[inline(always)]
    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        K::Handler::phys_to_virt(address)
    }
}

/// The kernel's own handler, for frames that are to become tables, and that were.
pub(crate) struct Own<K>(pub(crate) PhantomData<K>);

// SAFETY: the kernel's handler hands out each frame once, as the wrapped crate asks of it too.
unsafe impl<K: Kernel> FrameAllocator<Size4KiB> for Own<K> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        K::Handler::alloc_frame().map(to_frame)
    }
}

impl<K: Kernel> FrameDeallocator<Size4KiB> for Own<K> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        K::Handler::dealloc_frame(to_address(frame));
    }
}

fn to_address(frame: PhysFrame) -> PhysAddr {
    PhysAddr::from_usize(frame.start_address().as_u64() as usize)
}

pub(crate) fn to_frame(address: PhysAddr) -> PhysFrame {
    PhysFrame::containing_address(x86_64::PhysAddr::new_truncate(address.as_usize() as u64))
}
