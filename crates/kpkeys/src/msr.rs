//! Reading and writing model-specific registers that hold a protection value: inlined, and with values of this crate's making
//! alone.

use core::arch::asm;

#[cfg(any(feature = "mock", feature = "pks"))]
use crate::keyed::Value;

/// Reads MSR `MSR`.
///
/// # Safety
///
/// Privilege level 0, on a CPU that has the MSR.
#[inline(always)]
pub(crate) unsafe fn read<const MSR: u32>() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the MSR exists and may be read (caller's promise); reading it has no effect. Not `nomem`, so that the compiler
    // moves no access across it.
    unsafe {
        asm!("rdmsr", in("ecx") MSR, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes the lower half of MSR `MSR`, and zero to the upper, which is reserved (#GP otherwise).
///
/// # Safety
///
/// Privilege level 0, on a CPU that has the MSR; whatever depends on its value is the caller's to answer for.
#[cfg(any(feature = "mock", feature = "pks"))]
#[inline(always)]
pub(crate) unsafe fn write<const MSR: u32>(value: Value) {
    // SAFETY: the MSR exists and may be written (caller's promise). Not `nomem`, as for `read`.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") MSR, in("eax") value.bits() as u32, in("edx") 0,
            options(nostack, preserves_flags)
        );
    }
}
