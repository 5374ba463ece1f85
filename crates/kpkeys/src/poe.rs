//! arm64 permission overlays (FEAT_S1POE).
//!
//! Facts, from the Arm ARM (DDI 0487): `POR_EL1` is S3_0_C10_C2_4, four bits per overlay index; the index of a page is in
//! descriptor bits 62:60; `TCR2_EL1` (S3_0_C2_C0_3) has PIE at bit 1 and POE at bit 3. An overlay only restricts base
//! permissions: direct ones always (R_DPZHF), those that `PIR_EL1` gives only where it spells them with an `_O` encoding.
//! `ID_AA64MMFR3_EL1` (S3_0_C0_C7_3) reports S1POE in bits 19:16; the feature comes with TCR2, ATS1A and HPDS, and needs no S1PIE. A
//! write of `POR_EL1` takes effect after a context synchronisation event (ISB, exception entry or return), and needs no TLB invalidation.
//!
//! With POE on, `TCR_EL1.HPD0` and `HPD1` (bits 41 and 42, table descriptors restrict nothing) are RES1 (R_JHSVW, R_BVXDG), and to turn POE on
//! while they are clear and translations are in use is constrained unpredictable (I_VCQZV). So they are set before the MMU is on.

use crate::encoding::Por;
use crate::keyed::Keyed;

/// The POE backend. Having one means that the CPU that made it enforces overlays.
pub type Poe = Keyed<PorEl1, Por>;

/// `POR_EL1` of the calling CPU; made by [`Poe::init`] alone.
#[derive(Clone, Copy, Debug)]
pub struct PorEl1(());

/// Why POE cannot protect this CPU.
///
/// EL2 and EL3 have no part in these: they withhold the registers by *trapping* the access (`HCRX_EL2.TCR2En`, `HFGRTR_EL2` and
/// `HFGWTR_EL2.nPOR_EL1`, `HCR_EL2.TVM` and `TRVM`, `SCR_EL3.TCR2En` and `PIEn`), and then it is they who answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// `ID_AA64MMFR3_EL1.S1POE` is zero: the CPU has no overlays.
    NotSupported,
    /// `TCR_EL1.HPD0` or `HPD1` is clear: set both before the MMU is on.
    HierarchicalPermissions,
    /// `TCR2_EL1.POE` did not stay set: a register mask (FEAT_SRMASK) keeps it.
    EnableRefused,
    /// `POR_EL1` reads back another value than was written.
    RegisterMismatch,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NotSupported => {
                "this CPU has no permission overlays (ID_AA64MMFR3_EL1.S1POE is 0)"
            }
            InitError::HierarchicalPermissions => {
                "TCR_EL1.HPD0 or HPD1 is clear on this CPU; set both before the MMU is on"
            }
            InitError::EnableRefused => {
                "TCR2_EL1.POE does not stay set on this CPU; a register mask (FEAT_SRMASK) keeps it"
            }
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

    const TCR_HPD0_HPD1: u64 = 0b11 << 41;
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
        /// Whether this CPU has stage 1 overlays.
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
            (mmfr3 >> 16) & 0xf != 0
        }

        /// Turns overlays on for the calling CPU, enters [`Default`](crate::context::Default), and verifies both.
        /// Call it on every CPU before protection is claimed. `TCR2_EL1` must hold a value of the caller's (it resets to an unknown one),
        /// and `TCR_EL1.HPD0` and `HPD1` be set, both since before the MMU is on. Where `TCR2_EL1.PIE` is set, `PIR_EL1` must have an
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
            if !hierarchy_is_off() {
                return Err(InitError::HierarchicalPermissions);
            }
            let poe = Keyed::new(PorEl1(()));
            poe.reset();
            // SAFETY: TCR2_EL1 exists wherever S1POE does. POR_EL1 now allows read-write-execute to key 0, which every mapping in use
            // carries.
            unsafe {
                asm!("msr S3_0_C2_C0_3, {}", "isb", in(reg) read_tcr2() | TCR2_POE, options(nostack, preserves_flags));
                Self::verify()?;
            }
            let verified = poe.access(crate::Pkey::PAGE_TABLES) == Some(crate::Access::ReadOnly)
                && poe.access(crate::Pkey::DEFAULT) == Some(crate::Access::ReadWrite);
            if verified { Ok(poe) } else { Err(InitError::RegisterMismatch) }
        }

        /// Whether this CPU's control bits still enforce overlays: `TCR_EL1.HPD0` and `HPD1`, and `TCR2_EL1.POE`.
        ///
        /// # Errors
        ///
        /// The bit that is clear.
        ///
        /// # Safety
        ///
        /// Must run at EL1 on a CPU that has overlays.
        pub unsafe fn verify() -> Result<(), InitError> {
            if !hierarchy_is_off() {
                return Err(InitError::HierarchicalPermissions);
            }
            // SAFETY: the register exists (caller's promise) and reading it has no effect.
            match unsafe { read_tcr2() } & TCR2_POE {
                0 => Err(InitError::EnableRefused),
                _ => Ok(()),
            }
        }
    }

    fn hierarchy_is_off() -> bool {
        let tcr: u64;
        // SAFETY: the register always exists, and reading it has no effect.
        unsafe { asm!("mrs {}, tcr_el1", out(reg) tcr, options(nomem, nostack, preserves_flags)) };
        tcr & TCR_HPD0_HPD1 == TCR_HPD0_HPD1
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

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_wrong_is_said_with_the_bit_that_says_so() {
        let said: [(InitError, &[&str]); 4] = [
            (InitError::NotSupported, &["ID_AA64MMFR3_EL1.S1POE"]),
            (InitError::HierarchicalPermissions, &["TCR_EL1.HPD0", "HPD1"]),
            (InitError::EnableRefused, &["TCR2_EL1.POE"]),
            (InitError::RegisterMismatch, &["POR_EL1"]),
        ];
        for (error, parts) in said {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
