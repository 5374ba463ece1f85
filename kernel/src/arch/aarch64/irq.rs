//! The interrupt masks, and waiting.
//!
//! `PSTATE.I` is what "interrupts off" means. `PSTATE.F` masks what stands for the NMI (see `gic`), and is set in its own handler
//! alone.

use super::register::mrs;
use core::arch::asm;

const MASK_I: u64 = 1 << 7;

/// Whether interrupts are on, on this CPU.
pub fn enabled() -> bool {
    mrs!("daif") & MASK_I == 0
}

/// Turns interrupts on.
pub fn enable() {
    // SAFETY: every interrupt has a handler by the time anything calls this.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Turns interrupts off.
pub fn disable() {
    // SAFETY: masking interrupts is always sound.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Lets NMIs and asynchronous errors in, in an exception's handler that has saved its frame.
pub fn enable_nmi() {
    // SAFETY: their handlers need nothing but a stack.
    unsafe { asm!("msr daifclr, #5", options(nostack, preserves_flags)) };
}

/// Masks all that can be: for the end of an exception, whose state must not be interrupted.
pub fn disable_all() {
    // SAFETY: masking is always sound.
    unsafe { asm!("msr daifset, #0xf", options(nostack, preserves_flags)) };
}

/// Turns interrupts on and sleeps until one comes; none can slip in between, since WFI ends for a masked one too
/// (Arm ARM, D1.6.2).
pub fn enable_and_wait() {
    disable();
    wait();
    enable();
}

/// Sleeps until an interrupt is pending, masked or not.
pub fn wait() {
    // SAFETY: the instruction has no effect on memory.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// One turn of a loop that waits for another CPU: answers one that waits for gates, since with interrupts off nobody else does it.
pub fn relax() {
    super::tlb::answer_pending();
    core::hint::spin_loop();
}
