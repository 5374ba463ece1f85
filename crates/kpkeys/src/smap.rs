//! x86-64 without PKS: page tables behind an alias that SMAP blocks while EFLAGS.AC is clear.
//!
//! Page-table pages are read-only in the linear map. A second mapping of them in the kernel's half, the *alias*, carries the user bit at
//! every level, is writable and never executable. While EFLAGS.AC is clear, a load or store by the kernel through such a mapping is a page
//! fault; a window is the time in which it is set. `kpkeys-pgtable` makes both mappings ([`Scheme::Alias`](crate::Scheme::Alias)).
//!
//! Facts, from the Intel SDM vol. 3A (AMD APM vol. 2 agrees, 5.6.6):
//!
//! - *SMAP* is CPUID.(EAX=7,ECX=0):EBX bit 20, CR4 bit 21: Broadwell, Zen and newer. With CR4.SMAP and EFLAGS.AC = 0, explicit supervisor
//!   accesses to pages whose whole path has the user bit fault; implicit ones (descriptor tables, the walker's) fault or do not whatever AC
//!   is (4.6.1). Leaves without the user bit are not concerned.
//! - *STAC and CLAC* (vol. 2) write AC, at privilege level 0 alone, and order no more than they must: no barrier.
//! - *Exceptions* save EFLAGS on their stack and do **not** clear AC (6.12.1.3). Every entry must execute CLAC before anything can be made to
//!   store; SYSCALL clears what IA32_FMASK names, which must include AC.
//! - *IRET and POPF* set AC from memory. A kernel whose windows are [gates](crate::Backend#gates) must return by a frame that no stray store
//!   can have changed, or by neither; the backend cannot see to that.
//! - *User mode* is not kept out by SMAP: the alias is user memory to it. Programs must run on a root table that lacks the alias (or under
//!   LASS, which faults on their accesses to the upper half before any walk). And alias leaves must not be global, or they outlive the change
//!   of root in the TLB.
//!
//! Whoever executes STAC for a purpose of their own opens page tables, unless the root that is loaded then has no alias.

use crate::flagged::{Bit, Flagged};

/// EFLAGS.AC: bit 18.
pub const AC: u64 = 1 << 18;

/// The SMAP backend. Having one of [`EflagsAc`] means that the CPU that made it keeps its kernel out of the alias.
pub type Smap<R = EflagsAc> = Flagged<R, AcBit>;

/// [`AC`], set in windows.
#[derive(Clone, Copy, Debug)]
pub struct AcBit;

impl Bit for AcBit {
    const MASK: u64 = AC;
    const OPEN: u64 = AC;
}

/// EFLAGS.AC of the calling CPU; made by `Smap::init` alone, which exists on x86-64.
#[derive(Clone, Copy, Debug)]
pub struct EflagsAc(());

/// Why SMAP cannot protect this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// CPUID says that the CPU has no SMAP.
    NoSmap,
    /// CR0.WP is clear: read-only pages would not bind the kernel.
    WriteProtectOff,
    /// CR4.SMAP did not stay set: the kernel could write the alias at any time.
    SmapOff,
    /// SYSCALL is on and IA32_FMASK does not name AC: a program could enter the kernel with AC set.
    SyscallKeepsAc,
    /// EFLAGS.AC is set outside of a window.
    NotClosed,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NoSmap => "this CPU has no SMAP (CPUID.7.EBX bit 20): Broadwell, Zen and newer have",
            InitError::WriteProtectOff => "CR0.WP is clear on this CPU, so read-only pages do not bind the kernel",
            InitError::SmapOff => "CR4.SMAP (bit 21) is clear on this CPU, so the kernel could write page tables through their alias",
            InitError::SyscallKeepsAc => "SYSCALL is on and IA32_FMASK lacks AC (bit 18) on this CPU, so programs could open page tables",
            InitError::NotClosed => "EFLAGS.AC is set on this CPU outside of a window",
        })
    }
}

impl core::error::Error for InitError {}

/// The registers that decide whether a CPU can use SMAP, and whether it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// CPUID.(EAX=7,ECX=0):EBX; 0 where there is no such leaf.
    pub cpuid_7_ebx: u32,
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_FMASK.
    pub fmask: u64,
}

impl Control {
    const CPUID_SMAP: u32 = 1 << 20;
    const CR0_WP: u64 = 1 << 16;
    const CR4_SMAP: u64 = 1 << 21;
    const EFER_SCE: u64 = 1;

    /// Whether the CPU has SMAP.
    ///
    /// # Errors
    ///
    /// That it has not.
    pub const fn supported(&self) -> Result<(), InitError> {
        if self.cpuid_7_ebx & Self::CPUID_SMAP == 0 { Err(InitError::NoSmap) } else { Ok(()) }
    }

    /// These registers as they must be: CR4.SMAP set, all else as it is.
    #[must_use]
    pub const fn enforcing(self) -> Control {
        Control { cr4: self.cr4 | Self::CR4_SMAP, ..self }
    }

    /// Whether the CPU has what the backend needs and is set up for it.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub const fn verify(&self) -> Result<(), InitError> {
        if let Err(error) = self.supported() {
            return Err(error);
        }
        if self.cr0 & Self::CR0_WP == 0 {
            return Err(InitError::WriteProtectOff);
        }
        if self.cr4 & Self::CR4_SMAP == 0 {
            return Err(InitError::SmapOff);
        }
        if self.efer & Self::EFER_SCE != 0 && self.fmask & AC == 0 {
            return Err(InitError::SyscallKeepsAc);
        }
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod cpu {
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    use super::{AC, Control, EflagsAc, InitError, Smap};
    use crate::keyed::{Register, Value};
    use crate::msr;

    const IA32_EFER: u32 = 0xc000_0080;
    const IA32_FMASK: u32 = 0xc000_0084;

    // SAFETY: PUSHF, STAC and CLAC act on the calling CPU; none of the `asm!` is `nomem`, so the compiler moves no access across them;
    // both are inlined. An `EflagsAc` exists only where `init` found SMAP to be there.
    unsafe impl Register for EflagsAc {
        const NEEDS_BARRIER: bool = false;

        #[inline(always)]
        fn read(&self) -> u64 {
            let flags: u64;
            // SAFETY: reading the flags changes nothing but the word below the stack pointer.
            unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
            flags & AC
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // SAFETY: privilege level 0 is `init`'s contract. Values are constants of this crate, so one of the two is all that is left.
            // AC is none of the flags that the compiler keeps.
            unsafe {
                if value.bits() & AC != 0 {
                    asm!("stac", options(nostack, preserves_flags));
                } else {
                    asm!("clac", options(nostack, preserves_flags));
                }
            }
        }

        #[inline(always)]
        fn synchronize(&self) {}
    }

    impl Smap {
        /// Whether this CPU has SMAP.
        ///
        /// # Errors
        ///
        /// That it has not.
        pub fn supported() -> Result<(), InitError> {
            Control { cpuid_7_ebx: cpuid_7_ebx(), cr0: 0, cr4: 0, efer: 0, fmask: 0 }.supported()
        }

        /// Closes the alias to the calling CPU: sets CR4.SMAP, clears EFLAGS.AC, and verifies both, and what else the backend stands on.
        /// Call it on every CPU before protection is claimed.
        ///
        /// # Errors
        ///
        /// [`InitError`]; where the CPU lacks the feature, nothing was changed.
        ///
        /// # Safety
        ///
        /// Must run at privilege level 0 with interrupts off. From then on every entry of this CPU must execute CLAC before
        /// anything else that may store, programs must run on roots without the alias, and nothing may reach user memory by STAC on a
        /// root that has it.
        pub unsafe fn init() -> Result<Smap, InitError> {
            Self::supported()?;
            // SAFETY: privilege level 0 is the caller's promise. Setting CR4.SMAP, which the CPU has, takes away accesses to user memory
            // alone.
            unsafe {
                let Control { cr4, .. } = read_control().enforcing();
                asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
            }
            let smap = Smap::new(EflagsAc(()));
            smap.reset();
            // SAFETY: as before.
            unsafe { smap.verify() }.map(|()| smap)
        }

        /// Whether this CPU, outside any window, still keeps its kernel out: the control bits, and EFLAGS.AC.
        ///
        /// # Errors
        ///
        /// What does not.
        ///
        /// # Safety
        ///
        /// Must run at privilege level 0.
        pub unsafe fn verify(&self) -> Result<(), InitError> {
            // SAFETY: the caller's promise.
            unsafe { read_control() }.verify()?;
            if self.is_open() { Err(InitError::NotClosed) } else { Ok(()) }
        }
    }

    fn cpuid_7_ebx() -> u32 {
        if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 }
    }

    /// # Safety
    ///
    /// Privilege level 0.
    unsafe fn read_control() -> Control {
        let (cr0, cr4);
        // SAFETY: privilege level 0 (caller's promise), where reading these has no effect; both MSRs are in every 64-bit CPU.
        unsafe {
            asm!(
                "mov {cr0}, cr0",
                "mov {cr4}, cr4",
                cr0 = out(reg) cr0,
                cr4 = out(reg) cr4,
                options(nomem, nostack, preserves_flags)
            );
            let (efer, fmask) = (msr::read::<IA32_EFER>(), msr::read::<IA32_FMASK>());
            Control { cpuid_7_ebx: cpuid_7_ebx(), cr0, cr4, efer, fmask }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    /// A CPU with SMAP, set up, with SYSCALL on and AC masked.
    const READY: Control =
        Control { cpuid_7_ebx: 1 << 20, cr0: 1 << 16, cr4: 1 << 21, efer: 1, fmask: 1 << 18 };

    #[test]
    fn a_cpu_that_is_set_up_is_accepted() {
        assert_eq!(READY.verify(), Ok(()));
        let without_syscall = Control { efer: !1, fmask: 0, ..READY };
        assert_eq!(without_syscall.verify(), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let no_smap = Control { cpuid_7_ebx: !(1 << 20), ..READY };
        assert_eq!(no_smap.supported(), Err(InitError::NoSmap));
        assert_eq!(no_smap.verify(), Err(InitError::NoSmap));
        let no_wp = Control { cr0: !(1 << 16), ..READY };
        assert_eq!(no_wp.verify(), Err(InitError::WriteProtectOff));
        let off = Control { cr4: !(1 << 21), ..READY };
        assert_eq!(off.verify(), Err(InitError::SmapOff));
        let syscall = Control { fmask: !(1 << 18), ..READY };
        assert_eq!(syscall.verify(), Err(InitError::SyscallKeepsAc));
    }

    #[test]
    fn enforcing_changes_one_bit_alone() {
        for bits in [0, u64::MAX, 0x5555_5555_5555_5555] {
            let before = Control { cr4: bits, ..READY };
            let after = before.enforcing();
            assert_eq!(after.verify(), Ok(()));
            assert_eq!(after, Control { cr4: bits | 1 << 21, ..before });
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_bit_that_says_so() {
        let said: [(InitError, &[&str]); 5] = [
            (InitError::NoSmap, &["CPUID.7.EBX bit 20"]),
            (InitError::WriteProtectOff, &["CR0.WP"]),
            (InitError::SmapOff, &["CR4.SMAP", "bit 21"]),
            (InitError::SyscallKeepsAc, &["IA32_FMASK", "bit 18"]),
            (InitError::NotClosed, &["EFLAGS.AC"]),
        ];
        for (error, parts) in said {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
