//! Switching stacks between threads.
//!
//! Threads switch in a function call, so only what the C convention makes the callee save
//! has to be kept (AAPCS64, 6.1.1: X19 to X30 and SP), and the thread pointer of programs. The kernel is built without FPU
//! and vector registers. Interrupts are off on both sides of a switch.

use core::arch::naked_asm;

/// Bytes that [`switch`] keeps on the stack.
const SAVED: usize = 14 * 8;

/// Saves the running thread's registers on its stack and its stack pointer in `*from`, and
/// goes on with the thread whose saved stack pointer is `to`.
///
/// # Safety
///
/// Interrupts must be off. `to` must have been saved by this function or made by
/// [`prepare`], not been switched to since, and its stack must be alive.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(
        "stp x19, x20, [sp, #-112]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mrs x9, tpidr_el0",
        "str x9, [sp, #96]",
        "mov x9, sp",
        "str x9, [x0]",
        "mov sp, x1",
        "ldr x9, [sp, #96]",
        "msr tpidr_el0, x9",
        "ldp x29, x30, [sp, #80]",
        "ldp x27, x28, [sp, #64]",
        "ldp x25, x26, [sp, #48]",
        "ldp x23, x24, [sp, #32]",
        "ldp x21, x22, [sp, #16]",
        "ldp x19, x20, [sp], #112",
        "ret",
    )
}

/// Makes the stack that ends at `top` look as if a thread about to call `start` had been
/// switched away from. Returns its stack pointer.
///
/// # Safety
///
/// `top` must be the 16-byte aligned end of a stack nobody uses.
pub unsafe fn prepare(top: usize, start: extern "C" fn() -> !) -> usize {
    const LINK_REGISTER: usize = 11;
    let frame = (top - SAVED) as *mut usize;
    // SAFETY: the frame lies within the caller's unused stack.
    unsafe {
        core::ptr::write_bytes(frame, 0, SAVED / size_of::<usize>());
        frame.add(LINK_REGISTER).write(start as *const () as usize);
    }
    frame as usize
}

/// Leaves the current stack for ever and calls `function` on the one that ends at `top`.
///
/// # Safety
///
/// `top` must be the 16-byte aligned end of a stack nobody uses; nothing may refer to the
/// current stack.
#[unsafe(naked)]
pub unsafe extern "C" fn call_on_stack(top: usize, function: extern "C" fn() -> !) -> ! {
    naked_asm!("mov sp, x0", "mov x29, xzr", "mov x30, xzr", "br x1")
}

/// Calls `function` with `argument` on the stack that ends at `top`, and returns.
///
/// # Safety
///
/// `top` must be the 16-byte aligned end of a stack nobody uses, large enough for what `function` does; calling it with
/// `argument` must be sound.
#[unsafe(naked)]
pub unsafe extern "C" fn call_with_stack(
    top: usize,
    function: extern "C" fn(*mut u8),
    argument: *mut u8,
) {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov sp, x0",
        "mov x0, x2",
        "blr x1",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
    )
}
