//! Asynchronous errors: SErrors, which this kernel raises for its own tests and attacks.
//!
//! EL2 can make a virtual SError pending for EL1 (Arm ARM, HCR_EL2.VSE). Where the kernel was entered at EL2 it has left a vector table
//! there that does nothing else (`boot/entry.rs`): an HVC becomes an SError, which is taken as soon as `PSTATE.A` lets it. A real one that EL2
//! gets is passed on in the same way.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

static ENTERED_AT_EL2: AtomicBool = AtomicBool::new(false);

/// Remembers at which level the boot loader entered the kernel: the value of `CurrentEL`.
pub fn remember_entry_level(current_el: u64) {
    const EL2: u64 = 2 << 2;
    ENTERED_AT_EL2.store(current_el == EL2, Ordering::Relaxed);
}

/// Whether [`raise`] works.
pub fn can_be_raised() -> bool {
    ENTERED_AT_EL2.load(Ordering::Relaxed)
}

/// Makes an SError pending on this CPU.
pub fn raise() {
    // SAFETY: EL2's vector table is this kernel's (`can_be_raised`), and changes nothing but what is pending. The handler knows what to do
    // about an error that the kernel raised.
    unsafe { asm!("hvc #0", "isb", options(nostack)) };
}
