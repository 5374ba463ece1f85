//! x86-64 protection keys for user pages (PKU): for a program that protects memory of its own, such as a machine in a process.
//!
//! Facts, from the Intel SDM: CPUID.(EAX=7,ECX=0):ECX bit 3 reports the feature and bit 4, OSPKE, that the operating system has turned it on by
//! CR4.PKE (vol. 2A, CPUID); PKRU spells the access of each key as `IA32_PKRS` does, access-disable in bit 2*i* and write-disable in bit 2*i*+1, and
//! binds data accesses to user pages, write-disable those of user mode always (vol. 3A 4.6.2). RDPKRU and WRPKRU may be used in user mode;
//! both want ECX to be zero, and WRPKRU EDX too (vol. 2, RDPKRU, WRPKRU). No access that PKRU governs executes, even speculatively, before every
//! earlier WRPKRU has (vol. 2, WRPKRU): no barrier is needed.
//!
//! A user page's key is in bits 62:59 of its entry in the *operating system's* page tables, and is set through it: on Linux by `pkey_mprotect`.
//!
//! PKRU is part of the XSAVE state. Linux therefore saves a thread's at a switch and in a signal's frame, resets it when a signal is delivered, so that a
//! handler starts outside of any window, and restores it from that frame, which is ordinary memory, when the handler returns. This is
//! [`exception_entry`](crate::Backend::exception_entry) and [`exception_return`](crate::Backend::exception_return), done below the process. In the
//! value that Linux resets to every key but 0 may not even be loaded (`Documentation/core-api/protection-keys.rst`): a handler that loads protected
//! memory calls [`reset`](Keyed::reset) first, and so does a thread that is older than the first key of its process.

use crate::encoding::Pkrs;
use crate::keyed::Keyed;

/// The PKU backend. Having one means that the CPU and the operating system enforce keys for this process.
pub type Pku = Keyed<Pkru, Pkrs>;

/// PKRU of the calling thread; made by [`Pku::init`] alone.
#[derive(Clone, Copy, Debug)]
pub struct Pkru(());

/// Why PKU cannot protect memory of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// CPUID.(EAX=7,ECX=0):ECX bit 3 is clear: the CPU has no PKU.
    NotSupported,
    /// CPUID.(EAX=7,ECX=0):ECX bit 4 is clear: the operating system has not turned it on.
    NotEnabled,
    /// PKRU reads back another value than was written.
    RegisterMismatch,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NotSupported => {
                "this CPU has no PKU, or a hypervisor hides it (CPUID.7.0:ECX bit 3 is clear)"
            }
            InitError::NotEnabled => {
                "the CPU has PKU, and the operating system has not turned it on (CPUID.7.0:ECX bit 4, OSPKE, is clear)"
            }
            InitError::RegisterMismatch => "PKRU does not read back what was written",
        })
    }
}

impl core::error::Error for InitError {}

#[cfg(target_arch = "x86_64")]
mod cpu {
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    use super::{InitError, Pkru, Pku};
    use crate::keyed::{Keyed, Register, Value};

    const CPUID_7_ECX_PKU: u32 = 1 << 3;
    const CPUID_7_ECX_OSPKE: u32 = 1 << 4;

    // SAFETY: RDPKRU and WRPKRU act on the calling thread; neither `asm!` is `nomem`, so the compiler moves no access across them; both
    // are inlined. A `Pkru` exists only where `init` found the instructions to be allowed.
    unsafe impl Register for Pkru {
        const NEEDS_BARRIER: bool = false;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value: u32;
            // SAFETY: the instruction is allowed (`init` checked OSPKE), ECX is zero as it wants, and reading has no effect but to clear EDX.
            unsafe {
                asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nostack, preserves_flags));
            }
            value.into()
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: as for `read`; EDX is zero too. Accesses that follow are checked against the new value, which is what the caller asked for.
            unsafe {
                asm!(
                    "wrpkru",
                    in("eax") value.bits() as u32, in("ecx") 0, in("edx") 0,
                    options(nostack, preserves_flags)
                );
            }
        }

        #[inline(always)]
        fn synchronize(&self) {}
    }

    impl Pku {
        /// Whether this CPU has PKU and the operating system has turned it on.
        ///
        /// # Errors
        ///
        /// What is missing.
        pub fn check() -> Result<(), InitError> {
            let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ecx } else { 0 };
            match (features & CPUID_7_ECX_PKU != 0, features & CPUID_7_ECX_OSPKE != 0) {
                (false, _) => Err(InitError::NotSupported),
                (true, false) => Err(InitError::NotEnabled),
                (true, true) => Ok(()),
            }
        }

        /// Enters [`Default`](crate::context::Default) on the calling thread, and verifies it. Call it on every thread before it
        /// loads or stores protected memory.
        ///
        /// # Errors
        ///
        /// [`InitError`], with the thread's register as it was unless it does not read back.
        ///
        /// # Safety
        ///
        /// The keys that contexts manage must be the caller's: allocated for it by the operating system, and used by nothing else in this
        /// process. This changes what the calling thread may do with their pages.
        pub unsafe fn init() -> Result<Pku, InitError> {
            Self::check()?;
            let pku = Keyed::new(Pkru(()));
            pku.reset();
            let verified = pku.access(crate::Pkey::PAGE_TABLES) == Some(crate::Access::ReadOnly)
                && pku.access(crate::Pkey::DEFAULT) == Some(crate::Access::ReadWrite);
            if verified { Ok(pku) } else { Err(InitError::RegisterMismatch) }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_wrong_is_said_with_the_bit_that_says_so() {
        let said: [(InitError, &[&str]); 3] = [
            (InitError::NotSupported, &["CPUID.7.0:ECX bit 3"]),
            (InitError::NotEnabled, &["CPUID.7.0:ECX bit 4"]),
            (InitError::RegisterMismatch, &["PKRU"]),
        ];
        for (error, parts) in said {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
