//! Mocks: an unused register of the same kind in the place of the protection register.
//!
//! Everything happens as with the real backend - keys are set in entries, the register is read, written, saved and
//! restored, barriers are issued - except that no access is refused. It is how the cost of protection is measured
//! on a CPU that cannot enforce it; the Linux series was measured so.
//!
//! | where | register | barrier |
//! |---|---|---|
//! | arm64, EL1 | `CONTEXTIDR_EL1` | ISB |
//! | x86-64, user space | GS base (WRGSBASE) | LFENCE, standing for the ISB |
//! | x86-64, kernel | `IA32_TSC_AUX` | none, as for `IA32_PKRS` |

#[cfg(target_arch = "x86_64")]
pub use x86_64::{GsBase, TscAux};

#[cfg(target_arch = "aarch64")]
pub use aarch64::ContextIdr;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;

    use crate::keyed::{Register, Value};
    use crate::msr;

    /// The GS base of the calling thread, written by WRGSBASE and synchronised by LFENCE.
    #[derive(Clone, Copy, Debug)]
    pub struct GsBase(());

    impl GsBase {
        /// The mock register.
        ///
        /// # Safety
        ///
        /// WRGSBASE must be allowed here (CR4.FSGSBASE; on Linux, bit 1 of `AT_HWCAP2`) and nothing in this
        /// program may use the GS segment.
        pub const unsafe fn new() -> Self {
            GsBase(())
        }
    }

    // SAFETY: both instructions act on the calling thread; neither `asm!` is `nomem`; both are inlined. The base is
    // canonical, since values of both encodings fit 32 bits.
    unsafe impl Register for GsBase {
        const NEEDS_BARRIER: bool = true;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value;
            // SAFETY: the instruction is allowed (contract of `new`) and reads a register.
            unsafe { asm!("rdgsbase {}", out(reg) value, options(nostack, preserves_flags)) };
            value
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: the instruction is allowed and nothing uses the GS segment (contract of `new`).
            unsafe { asm!("wrgsbase {}", in(reg) value.bits(), options(nostack, preserves_flags)) };
        }

        #[inline(always)]
        fn synchronize(&self) {
            // SAFETY: LFENCE orders instructions and has no other effect.
            unsafe { asm!("lfence", options(nostack, preserves_flags)) };
        }
    }

    /// `IA32_TSC_AUX` of the calling CPU: an MSR as wide as `IA32_PKRS` that changes nothing but what RDTSCP and RDPID
    /// return.
    #[derive(Clone, Copy, Debug)]
    pub struct TscAux(());

    const IA32_TSC_AUX: u32 = 0xC000_0103;

    impl TscAux {
        /// The mock register.
        ///
        /// # Safety
        ///
        /// Must be used at privilege level 0, on CPUs with RDTSCP, in a kernel that uses neither RDTSCP's nor RDPID's
        /// value.
        pub const unsafe fn new() -> Self {
            TscAux(())
        }
    }

    // SAFETY: RDMSR and WRMSR act on the calling CPU; the compiler moves no access across them; both are
    // inlined.
    unsafe impl Register for TscAux {
        const NEEDS_BARRIER: bool = false;

        #[inline(always)]
        fn read(&self) -> u64 {
            // SAFETY: the MSR exists and this is privilege level 0 (contract of `new`).
            unsafe { msr::read::<IA32_TSC_AUX>() }
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: as for `read`; nothing depends on the value (contract of `new`).
            unsafe { msr::write::<IA32_TSC_AUX>(value) };
        }

        #[inline(always)]
        fn synchronize(&self) {}
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use core::arch::asm;

    use crate::keyed::{Register, Value};

    /// `CONTEXTIDR_EL1`: read by trace units alone, and used by the Linux series as its mock.
    #[derive(Clone, Copy, Debug)]
    pub struct ContextIdr(());

    impl ContextIdr {
        /// The mock register.
        ///
        /// # Safety
        ///
        /// Must be used at EL1, in a kernel that does not use the register otherwise.
        pub const unsafe fn new() -> Self {
            ContextIdr(())
        }
    }

    // SAFETY: MRS and MSR act on the calling CPU; neither `asm!` is `nomem`; both are inlined.
    unsafe impl Register for ContextIdr {
        const NEEDS_BARRIER: bool = true;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value;
            // SAFETY: readable at EL1 (contract of `new`), and reading has no effect.
            unsafe {
                asm!("mrs {}, contextidr_el1", out(reg) value, options(nostack, preserves_flags))
            };
            value
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: writable at EL1; nothing else depends on the value (contract of `new`).
            unsafe {
                asm!("msr contextidr_el1, {}", in(reg) value.bits(), options(nostack, preserves_flags))
            };
        }

        #[inline(always)]
        fn synchronize(&self) {
            // SAFETY: ISB has no effect but to synchronise the context.
            unsafe { asm!("isb", options(nostack, preserves_flags)) };
        }
    }
}
