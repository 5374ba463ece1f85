//! arm64 permission overlays (FEAT_S1POE).
//!
//! Facts, from the Arm ARM (DDI 0487): `POR_EL1` is S3_0_C10_C2_4, four bits per overlay index; the index of a page is in
//! descriptor bits 62:60; `TCR2_EL1` (S3_0_C2_C0_3) has PIE at bit 1 and POE at bit 3; an overlay only restricts base
//! permissions, and only those that `PIR_EL1` spells with an `_O` encoding. `ID_AA64MMFR3_EL1` (S3_0_C0_C7_3) reports
//! S1PIE in bits 11:8 and S1POE in bits 19:16. A write of `POR_EL1` takes effect after a context synchronisation event
//! (ISB, exception entry or return), and needs no TLB invalidation.

use crate::encoding::Por;
use crate::keyed::Keyed;

/// The POE backend. Having one means that the CPU that made it enforces overlays.
pub type Poe = Keyed<PorEl1, Por>;

/// `POR_EL1` of the calling CPU; made by [`Poe::init`] alone.
#[derive(Clone, Copy, Debug)]
pub struct PorEl1(());

/// Why POE cannot protect this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// `ID_AA64MMFR3_EL1.S1POE` is zero: the CPU has no overlays.
    NotSupported,
    /// `TCR2_EL1.PIE` is clear: overlays restrict only permissions given by `PIR_EL1`. Turn permission indirection on
    /// first, with overlay encodings.
    IndirectionOff,
    /// `TCR2_EL1.POE` did not stay set; EL2 may be refusing it.
    EnableRefused,
    /// `POR_EL1` reads back another value than was written.
    RegisterMismatch,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NotSupported => "this CPU has no permission overlays (ID_AA64MMFR3_EL1.S1POE is 0)",
            InitError::IndirectionOff => "TCR2_EL1.PIE is clear on this CPU; set PIR_EL1 with overlay encodings and turn it on first",
            InitError::EnableRefused => "TCR2_EL1.POE does not stay set on this CPU",
            InitError::RegisterMismatch => "POR_EL1 does not read back what was written",
        })
    }
}

impl core::error::Error for InitError {}

#[cfg(target_arch = "aarch64")]
mod cpu {
    use core::arch::asm;

    use super::{InitError, Poe, PorEl1};
    use crate::keyed::{Keyed, Register, Value};

    const TCR2_PIE: u64 = 1 << 1;
    const TCR2_POE: u64 = 1 << 3;

    // SAFETY: MRS and MSR act on the calling CPU; neither `asm!` is `nomem`, so the compiler moves no access across
    // them; both are inlined. A `PorEl1` exists only where `init` found the register to be there.
    unsafe impl Register for PorEl1 {
        const NEEDS_BARRIER: bool = true;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value;
            // SAFETY: the register exists (`init` checked the ID register) and this is EL1 (`init`'s contract).
            unsafe {
                asm!("mrs {}, S3_0_C10_C2_4", out(reg) value, options(nostack, preserves_flags))
            };
            value
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: as for `read`; the value comes from a context or a saved state, so reserved bits are zero.
            unsafe {
                asm!("msr S3_0_C10_C2_4, {}", in(reg) value.bits(), options(nostack, preserves_flags))
            };
        }

        #[inline(always)]
        fn synchronize(&self) {
            // SAFETY: ISB has no effect but to synchronise the context.
            unsafe { asm!("isb", options(nostack, preserves_flags)) };
        }
    }

    impl Poe {
        /// Whether this CPU has stage 1 overlays and the permission indirection they restrict.
        ///
        /// # Safety
        ///
        /// Must run at EL1 or above.
        pub unsafe fn supported() -> bool {
            let mmfr3: u64;
            // SAFETY: ID registers are readable from EL1 and reading has no effect. Where the register is not
            // defined it reads as zero (its encoding lies in the reserved ID space).
            unsafe {
                asm!("mrs {}, S3_0_C0_C7_3", out(reg) mmfr3, options(nomem, nostack, preserves_flags))
            };
            (mmfr3 >> 8) & 0xf != 0 && (mmfr3 >> 16) & 0xf != 0
        }

        /// Turns overlays on for the calling CPU, enters [`Default`](crate::context::Default), and verifies both.
        /// Call it on every CPU before protection is claimed. `PIR_EL1` and `TCR2_EL1.PIE` must be set before, with an
        /// `_O` encoding for every kernel mapping that is to follow its key.
        ///
        /// # Errors
        ///
        /// [`InitError`]; overlays may be left on, allowing everything.
        ///
        /// # Safety
        ///
        /// Must run at EL1 with interrupts masked, and from then on every exception entry of this CPU must use
        /// [`exception_entry`](crate::Backend::exception_entry).
        pub unsafe fn init() -> Result<Poe, InitError> {
            // SAFETY: EL1 is the caller's promise.
            if !unsafe { Self::supported() } {
                return Err(InitError::NotSupported);
            }
            // SAFETY: TCR2_EL1 exists wherever S1PIE does; reading it has no effect.
            if unsafe { read_tcr2() } & TCR2_PIE == 0 {
                return Err(InitError::IndirectionOff);
            }
            let poe = Keyed::new(PorEl1(()));
            poe.reset();
            // SAFETY: POR_EL1 now allows read-write-execute to key 0, which every mapping in use carries.
            unsafe {
                asm!("msr S3_0_C2_C0_3, {}", "isb", in(reg) read_tcr2() | TCR2_POE, options(nostack, preserves_flags));
                Self::verify()?;
            }
            let verified = poe.access(crate::Pkey::PAGE_TABLES) == Some(crate::Access::ReadOnly)
                && poe.access(crate::Pkey::DEFAULT) == Some(crate::Access::ReadWrite);
            if verified { Ok(poe) } else { Err(InitError::RegisterMismatch) }
        }

        /// Whether this CPU's control bits still enforce overlays: `TCR2_EL1.PIE` and `TCR2_EL1.POE`.
        ///
        /// # Errors
        ///
        /// The bit that is clear.
        ///
        /// # Safety
        ///
        /// Must run at EL1 on a CPU that has overlays.
        pub unsafe fn verify() -> Result<(), InitError> {
            // SAFETY: the register exists (caller's promise) and reading it has no effect.
            match unsafe { read_tcr2() } {
                tcr2 if tcr2 & TCR2_PIE == 0 => Err(InitError::IndirectionOff),
                tcr2 if tcr2 & TCR2_POE == 0 => Err(InitError::EnableRefused),
                _ => Ok(()),
            }
        }
    }

    /// # Safety
    ///
    /// EL1 on a CPU with `TCR2_EL1`.
    unsafe fn read_tcr2() -> u64 {
        let value;
        // SAFETY: reading has no effect; existence and privilege are the caller's.
        unsafe {
            asm!("mrs {}, S3_0_C2_C0_3", out(reg) value, options(nomem, nostack, preserves_flags))
        };
        value
    }
}
