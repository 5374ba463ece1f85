//! The kernel's heap: a fixed piece of RAM, taken at boot.

use crate::arch::layout;
use crate::lock::IrqLock;
use crate::memory::boot::{BootMemory, OutOfMemory, PAGE_SIZE};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use talc::{ErrOnOom, Span, Talc};

/// Bytes of the heap.
const SIZE: u64 = 16 << 20;
/// Bytes that are kept for what must not fail: nothing that a program asks to have kept is allocated when there are fewer.
const RESERVE: usize = 2 << 20;

/// Bytes in use.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Whether so little is left that programs get no more.
pub fn is_short() -> bool {
    USED.load(Ordering::Relaxed) > SIZE as usize - RESERVE
}

/// Proof that the heap can be used.
pub struct Ready(());

struct Heap(IrqLock<Talc<ErrOnOom>>);

#[global_allocator]
static HEAP: Heap = Heap(IrqLock::new(Talc::new(ErrOnOom)));

/// Takes the heap's memory and opens it for use.
///
/// # Errors
///
/// [`OutOfMemory`] when boot memory has no piece large enough.
///
/// # Safety
///
/// Once, with the linear map in place; free boot memory must be unused.
///
/// # Panics
///
/// Never: the piece is far larger than the allocator's least.
pub unsafe fn init(memory: &mut BootMemory) -> Result<Ready, OutOfMemory> {
    let piece = memory.take(SIZE, PAGE_SIZE)?;
    let span = Span::from_base_size(layout::linear(piece.start), SIZE as usize);
    // SAFETY: the piece is ours alone from here on and mapped by the linear map.
    let claimed = unsafe { HEAP.0.lock().claim(span) };
    claimed.expect("the heap is larger than the allocator's bookkeeping");
    Ok(Ready(()))
}

// SAFETY: forwards to `Talc`, which keeps the contract, under a lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract (no zero-sized layout).
        let allocated = unsafe { self.0.lock().malloc(layout) };
        if allocated.is_ok() {
            USED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        allocated.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller passes what `alloc` returned for this layout, so not null.
        unsafe { self.0.lock().free(NonNull::new_unchecked(pointer), layout) };
    }
}
