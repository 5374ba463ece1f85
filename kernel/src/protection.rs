//! Where the protection register meets the rest of the kernel.
//!
//! The register decides whether this CPU may write page tables. It belongs to what runs:
//! an exception starts with the default value and gives the interrupted value back, and a
//! thread takes its value along when it is switched out. These functions are called at
//! exactly those points; the kernel does not have a backend yet, so the register's
//! value is the constant [`NONE`] and there is nothing to write.

/// The value of a register that does not exist.
pub const NONE: u64 = 0;

/// Called first in every exception and interrupt, NMIs included. Returns the interrupted
/// code's value, which the frame keeps.
#[inline(always)]
pub fn enter_exception() -> u64 {
    NONE
}

/// Called last before an exception or interrupt returns, with what the frame kept.
#[inline(always)]
pub fn leave_exception(interrupted: u64) {
    debug_assert_eq!(interrupted, NONE);
}

/// Called on a thread switch, interrupts off: returns the outgoing thread's value after
/// putting the incoming one's in force.
#[inline(always)]
pub fn switch_thread(incoming: u64) -> u64 {
    debug_assert_eq!(incoming, NONE);
    NONE
}
