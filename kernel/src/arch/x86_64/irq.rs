//! The interrupt flag, and waiting.

use x86_64::instructions::interrupts;

/// Whether interrupts are on, on this CPU.
pub fn enabled() -> bool {
    interrupts::are_enabled()
}

/// Turns interrupts on.
pub fn enable() {
    interrupts::enable();
}

/// Turns interrupts off.
pub fn disable() {
    interrupts::disable();
}

/// Turns interrupts on and sleeps until one comes; none can slip in between (Intel SDM
/// vol. 2B, "STI").
pub fn enable_and_wait() {
    interrupts::enable_and_hlt();
}

/// Sleeps until an interrupt comes, for ever where they are off.
pub fn wait() {
    x86_64::instructions::hlt();
}

/// One turn of a loop that waits for another CPU: answers shootdowns, since with interrupts
/// off nobody else does it, and the other CPU may be waiting for the answer.
pub fn relax() {
    super::tlb::answer_pending();
    core::hint::spin_loop();
}
