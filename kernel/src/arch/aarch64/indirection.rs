//! Turning permission indirection on, where the CPU has it: overlays restrict what it gives as they do direct permissions, and W^X
//! becomes a property of every entry. What the registers must say of entries is their format's:
//! [`kpkeys_pgtable::entry::indirection`].

use super::register::{msr, synchronize};
use core::arch::asm;
use kpkeys_pgtable::entry::indirection::{PIR_EL1, PIRE0_EL1};

const TCR2_PIE: u64 = 1 << 1;

/// Turns indirection on, on the running CPU, and everything else in `TCR2_EL1` off.
///
/// # Safety
///
/// The CPU must have FEAT_S1PIE, and every entry in use must have been written by `kpkeys-pgtable`.
pub unsafe fn enable() {
    // SAFETY: the registers exist (caller's promise), and say of every entry what its bits said before. TLBs may keep what the bit
    // changes, hence the invalidation.
    unsafe {
        msr!("S3_0_C10_C2_3", PIR_EL1);
        msr!("S3_0_C10_C2_2", PIRE0_EL1);
        synchronize();
        msr!("S3_0_C2_C0_3", TCR2_PIE);
        asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
}
