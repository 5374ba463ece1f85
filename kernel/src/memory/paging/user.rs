//! Reaching user memory from the kernel, as copies from and to programs do.

use crate::arch::root::RootTable;
use crate::evidence::probe;
use crate::memory::boot::PhysAddr;
use crate::sched;
use kpkeys_mm::AddressSpace;
use kpkeys_pgtable::{Machine, VirtAddr};

/// Runs `f` on the running thread with an address space loaded. Its pages are reached with the probes that say `user`.
///
/// # Safety
///
/// The address space with this root must live until this returns.
pub unsafe fn in_space<R>(root: PhysAddr, f: impl FnOnce() -> R) -> R {
    let thread = sched::current();
    // SAFETY: user roots hold the kernel's half; this one lives as long as it is loaded (caller's promise).
    unsafe { thread.set_root(RootTable(root.0)) };
    let result = f();
    // SAFETY: the kernel's own root lives for ever.
    unsafe { thread.set_root(RootTable::KERNEL) };
    result
}

/// Reads a word of an address space, faulting pages in as a program's read would.
///
/// # Errors
///
/// What the memory manager says of the fault.
pub fn read<M: Machine>(
    space: &mut AddressSpace<'_, M>,
    va: VirtAddr,
) -> Result<u64, kpkeys_mm::Error> {
    access(space, va, false, |at| probe::load_user_u64(at))
}

/// Writes a word of an address space, faulting pages in as a program's write would.
///
/// # Errors
///
/// What the memory manager says of the fault.
pub fn write<M: Machine>(
    space: &mut AddressSpace<'_, M>,
    va: VirtAddr,
    value: u64,
) -> Result<(), kpkeys_mm::Error> {
    // SAFETY: a user page belongs to the address space, whose owner the caller is.
    access(space, va, true, |at| unsafe { probe::store_user_u64(at, value) })
}

/// Tries an access until the memory manager has made it possible: once for a first touch, once more where a page is
/// shared.
fn access<M: Machine, R>(
    space: &mut AddressSpace<'_, M>,
    va: VirtAddr,
    write: bool,
    f: impl Fn(*mut u64) -> Result<R, crate::cpu::fault::Fault>,
) -> Result<R, kpkeys_mm::Error> {
    loop {
        let root = space.root().frame();
        // SAFETY: the address space is borrowed for longer than this call.
        if let Ok(result) = unsafe { in_space(root, || f(va.0 as *mut u64)) } {
            return Ok(result);
        }
        space.fault(va, write)?;
    }
}
