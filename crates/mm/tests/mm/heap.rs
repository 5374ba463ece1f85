//! A heap that refuses chosen allocations of the calling thread, so that running out of it can be tested at every point.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The heap of the test binary: the system's, until [`refusing_from`] says otherwise.
struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

thread_local! {
    /// How many more allocations of this thread succeed; `None` without a limit.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `f` on a heap that grants this thread `granted` allocations and refuses all that follow. Returns what `f` returned, and whether
/// any was refused.
///
/// `f` must not panic, since a panic allocates.
pub fn refusing_from<R>(granted: u64, f: impl FnOnce() -> R) -> (R, bool) {
    LEFT.set(Some(granted + 1));
    let result = f();
    let left = LEFT.replace(None);
    (result, left == Some(0))
}

/// Runs `f`, which is no part of what is tested, with the whole heap.
pub fn granting<R>(f: impl FnOnce() -> R) -> R {
    let left = LEFT.take();
    let result = f();
    LEFT.set(left);
    result
}

/// Whether this thread may allocate now. The last unit of the count stands for "refused at least once".
fn granted() -> bool {
    match LEFT.get() {
        None => true,
        Some(left) => {
            LEFT.set(Some(left.saturating_sub(1)));
            left > 1
        }
    }
}

// SAFETY: every method hands its arguments on to the system's allocator or returns null, which callers must expect.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        crate::gates::heap_called();
        if granted() {
            // SAFETY: the caller's promise is the one asked for.
            unsafe { System.alloc(layout) }
        } else {
            core::ptr::null_mut()
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        crate::gates::heap_called();
        // SAFETY: every block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        crate::gates::heap_called();
        if granted() {
            // SAFETY: as for `alloc` and `dealloc`.
            unsafe { System.realloc(block, layout, size) }
        } else {
            core::ptr::null_mut()
        }
    }
}

#[test]
fn refuses_what_comes_after_the_granted_ones() {
    let reserve = |vec: &mut Vec<u8>| vec.try_reserve_exact(64).is_ok();
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    let (granted, refused) =
        refusing_from(2, || [reserve(&mut a), reserve(&mut b), reserve(&mut c)]);
    assert_eq!((granted, refused), ([true, true, false], true));
    assert_eq!(refusing_from(1, || reserve(&mut c)), (true, false));
}
