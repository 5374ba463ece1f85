//! x86-64 protection keys for supervisor pages (PKS).
//!
//! Facts, from the Intel SDM: `IA32_PKRS` is MSR 0x6E1 (vol. 4); CPUID.(EAX=7,ECX=0):ECX bit 31 reports the feature and
//! CR4 bit 24 enables it (vol. 3A 2.5); the key of a supervisor page is in bits 62:59 of its leaf entry; write-disable
//! binds supervisor stores only while CR0.WP is set (vol. 3A 5.6.2). WRMSR to `IA32_PKRS` is not serialising, but
//! accesses that depend on it are ordered as after WRPKRU: none executes, even speculatively, before the write
//! (vol. 3A, "RDMSR/WRMSR" ordering notes), so no barrier is needed. The register is not part of XSAVE state.
//!
//! The register is read with RDMSR on each entry rather than from a copy in memory: a copy would be ordinary
//! memory that an attacker could forge.

use crate::encoding::Pkrs;
use crate::keyed::Keyed;

/// The PKS backend. Having one means that the CPU that made it enforces keys.
pub type Pks = Keyed<PkrsMsr, Pkrs>;

/// `IA32_PKRS` of the calling CPU; made by [`Pks::init`] alone.
#[derive(Clone, Copy, Debug)]
pub struct PkrsMsr(());

/// Why PKS cannot protect this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// CPUID.(EAX=7,ECX=0):ECX bit 31 is clear: the CPU has no PKS.
    NotSupported,
    /// CR0.WP is clear: supervisor stores would ignore write-disable. Set it on this CPU first.
    WriteProtectOff,
    /// CR4.PKS did not stay set; a hypervisor may be refusing it.
    EnableRefused,
    /// `IA32_PKRS` reads back another value than was written.
    RegisterMismatch,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NotSupported => "this CPU has no PKS (CPUID.7.0:ECX bit 31 is clear)",
            InitError::WriteProtectOff => {
                "CR0.WP is clear on this CPU, so kernel stores would ignore the key; set it first"
            }
            InitError::EnableRefused => "CR4.PKS (bit 24) does not stay set on this CPU",
            InitError::RegisterMismatch => "IA32_PKRS does not read back what was written",
        })
    }
}

impl core::error::Error for InitError {}

#[cfg(target_arch = "x86_64")]
mod cpu {
    use core::arch::asm;

    use super::{InitError, PkrsMsr, Pks};
    use crate::keyed::{Keyed, Register, Value};
    use crate::msr;

    const IA32_PKRS: u32 = 0x6E1;
    const CR0_WP: u64 = 1 << 16;
    const CR4_PKS: u64 = 1 << 24;
    const CPUID_7_ECX_PKS: u32 = 1 << 31;

    // SAFETY: RDMSR and WRMSR act on the calling CPU; neither `asm!` is `nomem`, so the compiler moves no access
    // across them; both are inlined. A `PkrsMsr` exists only where `init` found the MSR to be there.
    unsafe impl Register for PkrsMsr {
        const NEEDS_BARRIER: bool = false;

        #[inline(always)]
        fn read(&self) -> u64 {
            // SAFETY: the MSR exists (`init` checked CPUID) and this is kernel code (`init`'s contract).
            unsafe { msr::read::<IA32_PKRS>() }
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: as for `read`; accesses that follow are checked against the new value, which is what the caller asked for.
            unsafe { msr::write::<IA32_PKRS>(value) };
        }

        #[inline(always)]
        fn synchronize(&self) {}
    }

    impl Pks {
        /// Whether this CPU has PKS.
        pub fn supported() -> bool {
            core::arch::x86_64::__cpuid(0).eax >= 7
                && core::arch::x86_64::__cpuid_count(7, 0).ecx & CPUID_7_ECX_PKS != 0
        }

        /// Turns PKS on for the calling CPU, enters [`Default`](crate::context::Default), and verifies both.
        /// Call it on every CPU before protection is claimed.
        ///
        /// # Errors
        ///
        /// [`InitError`], with the CPU left as it was but possibly with CR4.PKS set.
        ///
        /// # Safety
        ///
        /// Must run at privilege level 0, with interrupts disabled, and from then on every exception entry of
        /// this CPU must use [`exception_entry`](crate::Backend::exception_entry).
        pub unsafe fn init() -> Result<Pks, InitError> {
            if !Self::supported() {
                return Err(InitError::NotSupported);
            }
            // SAFETY: privilege level 0 is the caller's promise.
            unsafe { enable()? };
            let pks = Keyed::new(PkrsMsr(()));
            pks.reset();
            let verified = pks.access(crate::Pkey::PAGE_TABLES) == Some(crate::Access::ReadOnly)
                && pks.access(crate::Pkey::DEFAULT) == Some(crate::Access::ReadWrite);
            if verified { Ok(pks) } else { Err(InitError::RegisterMismatch) }
        }

        /// Whether this CPU's control bits still enforce keys: CR0.WP and CR4.PKS.
        ///
        /// # Errors
        ///
        /// The bit that is clear.
        ///
        /// # Safety
        ///
        /// Must run at privilege level 0.
        pub unsafe fn verify() -> Result<(), InitError> {
            // SAFETY: reading control registers at privilege level 0 changes nothing.
            let (cr0, cr4) = unsafe { (read_cr0(), read_cr4()) };
            match (cr0 & CR0_WP != 0, cr4 & CR4_PKS != 0) {
                (false, _) => Err(InitError::WriteProtectOff),
                (_, false) => Err(InitError::EnableRefused),
                _ => Ok(()),
            }
        }
    }

    /// # Safety
    ///
    /// Privilege level 0 on a CPU with PKS.
    unsafe fn enable() -> Result<(), InitError> {
        // SAFETY: setting CR4.PKS on a CPU that reports it is allowed at privilege level 0, and changes no access
        // as long as entries carry key 0 or `IA32_PKRS` allows their keys; it is written next.
        unsafe {
            if read_cr0() & CR0_WP == 0 {
                return Err(InitError::WriteProtectOff);
            }
            asm!("mov cr4, {}", in(reg) read_cr4() | CR4_PKS, options(nostack, preserves_flags));
            Pks::verify()
        }
    }

    /// # Safety
    ///
    /// Privilege level 0.
    unsafe fn read_cr0() -> u64 {
        let value;
        // SAFETY: reading CR0 has no effect; privilege is the caller's.
        unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    /// # Safety
    ///
    /// Privilege level 0.
    unsafe fn read_cr4() -> u64 {
        let value;
        // SAFETY: reading CR4 has no effect; privilege is the caller's.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
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
            (InitError::NotSupported, &["CPUID.7.0:ECX bit 31"]),
            (InitError::WriteProtectOff, &["CR0.WP"]),
            (InitError::EnableRefused, &["CR4.PKS", "bit 24"]),
            (InitError::RegisterMismatch, &["IA32_PKRS"]),
        ];
        for (error, parts) in said {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
