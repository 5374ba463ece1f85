//! Switching stacks between threads.
//!
//! Threads switch in a function call, so only what the C convention makes the callee save
//! has to be kept (System V ABI, AMD64 supplement, 3.2.1). The kernel is built without FPU
//! and vector registers. Interrupts are off on both sides of a switch.

use core::arch::naked_asm;

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
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
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
    const SAVED_REGISTERS: usize = 6;
    // From the top: a null return address for `start`, which also aligns its stack as after a
    // call; the address `switch` returns to; the registers it pops.
    let words = [start as *const () as usize, 0];
    let frame = top - (SAVED_REGISTERS + words.len()) * size_of::<usize>();
    // SAFETY: the frame lies within the caller's unused stack.
    unsafe {
        core::ptr::write_bytes(frame as *mut usize, 0, SAVED_REGISTERS);
        (frame as *mut usize).add(SAVED_REGISTERS).cast::<[usize; 2]>().write(words);
    }
    frame
}

/// Leaves the current stack for ever and calls `function` on the one that ends at `top`.
///
/// # Safety
///
/// `top` must be the 16-byte aligned end of a stack nobody uses; nothing may refer to the
/// current stack.
#[unsafe(naked)]
pub unsafe extern "C" fn call_on_stack(top: usize, function: extern "C" fn() -> !) -> ! {
    naked_asm!("mov rsp, rdi", "xor ebp, ebp", "call rsi", "ud2")
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
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rdi, rdx",
        "call rsi",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}
