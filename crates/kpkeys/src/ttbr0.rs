//! arm64 without overlays and without PAN (Armv8.0): page tables behind an alias that `TTBR0_EL1` leads to in windows alone.
//!
//! Page-table pages are read-only in the linear map. A second mapping of them, the *alias*, lies in the half of the address space that
//! `TTBR0_EL1` translates, in tables with a root of their own: the *window root*. A window is the time in which that root is
//! loaded. Outside of windows the kernel has another there, the *closed root*, which translates nothing at all; so the alias is no
//! address, and neither is user memory. `kpkeys-pgtable` makes both mappings ([`Scheme::Alias`](crate::Scheme::Alias)).
//!
//! Facts, from the Arm ARM (DDI 0487), by register and section name since numbers change between issues:
//!
//! - *One write.* `TTBR0_EL1` holds the root, bits 47:1, and the address space identifier, bits 63:48, which is the one in force while
//!   `TCR_EL1.A1`, bit 22, is clear. One MSR changes both. No instruction before it in program order is affected, and every one after the next context
//!   synchronisation event, an ISB, is ("Synchronization requirements for AArch64 System registers").
//! - *TLBs.* An entry that is not global (nG) is used under its own identifier alone. All of the alias's are, the window root's identifier is its own, and
//!   nothing else is ever loaded with it: what a TLB, or a walk that was made ahead of time, keeps of the alias can be hit inside of windows alone. No window
//!   needs an invalidation. Entries of the kernel's half are global, and are not lost by the change.
//! - *Exceptions* keep `TTBR0_EL1` as it is: the entry must ask it and close, as with a key register.
//! - *EL0* is kept out twice: no program ever runs on the window root, and the alias's leaves are the kernel's alone (AP\[1\] clear).
//!
//! Whoever writes `TTBR0_EL1` for a purpose of their own closes a window by it, and opens none: the window root must be no address space's.
//! It comes from [`Roots`], which is where the kernel says what the two values are.

use core::marker::PhantomData;

use crate::flagged::{Bit, Flagged};

/// The backend. Having one of [`RootRegister`] means that the CPU that made it reaches the alias in windows alone.
pub type Ttbr0<R> = Flagged<R, RootBit>;

/// What [`RootRegister`] reads: 1 while the window root is loaded, 0 with anything else.
#[derive(Clone, Copy, Debug)]
pub struct RootBit;

impl Bit for RootBit {
    const MASK: u64 = 1;
    const OPEN: u64 = 1;
    const KEPT_BY_EXCEPTIONS: bool = false;
    const HAS_WINDOW_ROOT: bool = true;
}

/// The two values of `TTBR0_EL1` that the kernel's windows write.
///
/// # Safety
///
/// The implementor promises that both are always inlined, and return what no store outside of windows can change once protection is on:
/// constants, or words of memory that is read-only from then on, at constant addresses. And that, from then on,
///
/// - `window` is the root of the alias's tables with an identifier that is loaded with nothing else, on any CPU;
/// - `closed` is a root that translates nothing, with an identifier that is loaded with nothing that does.
pub unsafe trait Roots: Copy {
    /// What the register holds in windows.
    fn window() -> u64;
    /// What it holds outside of windows while the kernel runs.
    fn closed() -> u64;
}

/// `TTBR0_EL1` of the calling CPU; made by `Ttbr0::init` alone, which exists on arm64.
#[derive(Clone, Copy, Debug)]
pub struct RootRegister<R>(PhantomData<R>);

/// Why a CPU cannot be protected so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// The CPU's TLB may hold a translation under the wrong identifier after a write of root and identifier at once, or breaks what the
    /// instruction cache holds. The name of the CPU and its erratum.
    Erratum(&'static str),
    /// `TCR_EL1.A1` is set: the identifier in force is that of `TTBR1_EL1`, so the alias would outlive its window in the TLB.
    OtherIdentifier,
    /// `TCR_EL1.EPD0` is set: nothing is looked up in the window root.
    WalksOff,
    /// The window root and the closed one are loaded with the same identifier.
    SharedIdentifier,
    /// The window root is loaded outside of a window.
    NotClosed,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::Erratum(name) => {
                return write!(f, "this CPU has {name}, for which each write of TTBR0_EL1 would need a workaround");
            }
            InitError::OtherIdentifier => "TCR_EL1.A1 is set on this CPU, so the alias of page tables would stay in the TLB after a window",
            InitError::WalksOff => "TCR_EL1.EPD0 is set on this CPU, so the alias of page tables is out of reach in windows too",
            InitError::SharedIdentifier => "the window root has the identifier of what is loaded outside of windows, so the alias would stay in the TLB",
            InitError::NotClosed => "TTBR0_EL1 has the window root on this CPU outside of a window",
        })
    }
}

impl core::error::Error for InitError {}

/// The registers that decide whether the alias is out of reach outside of windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// `MIDR_EL1`.
    pub midr: u64,
    /// `TCR_EL1`.
    pub tcr: u64,
}

impl Control {
    const EPD0: u64 = 1 << 7;
    const A1: u64 = 1 << 22;

    /// Whether the CPU can have its root changed as windows do it.
    ///
    /// # Errors
    ///
    /// The erratum because of which it cannot.
    pub const fn supported(&self) -> Result<(), InitError> {
        const THUNDERX: u64 = part(0x43, 0x0a1);
        const THUNDERX_81: u64 = part(0x43, 0x0a2);
        const FALKOR: u64 = part(0x51, 0x800);
        let version = (self.midr >> 20 & 0xf, self.midr & 0xf);
        // As Linux knows them (Documentation/arch/arm64/silicon-errata.rst).
        match (self.midr & PART, version) {
            (THUNDERX, (0, _) | (1, 0 | 1)) | (THUNDERX_81, (0, 0)) => {
                Err(InitError::Erratum("Cavium ThunderX's erratum 27456"))
            }
            (FALKOR, (0, 0)) => Err(InitError::Erratum("Qualcomm Falkor's erratum 1003")),
            _ => Ok(()),
        }
    }

    /// Whether the CPU is set up so that these two values of `TTBR0_EL1` open and close the alias.
    ///
    /// # Errors
    ///
    /// What is not so.
    pub const fn verify(&self, window: u64, closed: u64) -> Result<(), InitError> {
        if let Err(error) = self.supported() {
            return Err(error);
        }
        if self.tcr & Self::A1 != 0 {
            return Err(InitError::OtherIdentifier);
        }
        if self.tcr & Self::EPD0 != 0 {
            return Err(InitError::WalksOff);
        }
        if identifier(window) == identifier(closed) {
            return Err(InitError::SharedIdentifier);
        }
        Ok(())
    }
}

/// Implementer and part number in `MIDR_EL1`.
const PART: u64 = 0xff << 24 | 0xfff << 4;

const fn part(implementer: u64, number: u64) -> u64 {
    implementer << 24 | number << 4
}

/// The address space identifier in a value of `TTBR0_EL1`, as far as every CPU tells them apart: eight bits.
const fn identifier(root: u64) -> u64 {
    root >> 48 & 0xff
}

#[cfg(target_arch = "aarch64")]
mod cpu {
    use core::arch::asm;
    use core::marker::PhantomData;

    use super::{Control, InitError, RootRegister, Roots, Ttbr0};
    use crate::keyed::{Register, Value};

    // SAFETY: MRS and MSR act on the calling CPU; none of the `asm!` is `nomem`, so the compiler moves no access across them; both
    // are inlined. What is read is whether the value is the one of the two that this writes.
    unsafe impl<R: Roots> Register for RootRegister<R> {
        const NEEDS_BARRIER: bool = true;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value: u64;
            // SAFETY: this is EL1 (`init`'s contract), and reading has no effect.
            unsafe { asm!("mrs {}, ttbr0_el1", out(reg) value, options(nostack, preserves_flags)) };
            (value == R::window()).into()
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            let root = if value.bits() & 1 != 0 { R::window() } else { R::closed() };
            // SAFETY: as for `read`. The kernel itself is in the other half, which this register does not translate; what this half
            // has is for windows and programs alone.
            unsafe { asm!("msr ttbr0_el1, {}", in(reg) root, options(nostack, preserves_flags)) };
        }

        #[inline(always)]
        fn synchronize(&self) {
            // SAFETY: ISB synchronises the context and has no other effect.
            unsafe { asm!("isb", options(nostack, preserves_flags)) };
        }
    }

    impl<R: Roots> Ttbr0<RootRegister<R>> {
        /// Closes the alias to the calling CPU, by the closed root. Call it on every CPU, and [`verify`](Self::verify) once the kernel's final
        /// tables and their `TCR_EL1` are in use, before protection is claimed.
        ///
        /// # Errors
        ///
        /// [`InitError::Erratum`]; nothing was changed then.
        ///
        /// # Safety
        ///
        /// Must run at EL1 with interrupts masked, in the EL1&0 translation regime, with nothing in use that `TTBR0_EL1` translates. From then on
        /// the kernel's exceptions must close by [`Backend::exception_entry`](crate::Backend::exception_entry) or a constant before anything else, whatever
        /// else is loaded for a program must be taken away before the kernel goes on, and the window root must never be loaded but in windows.
        pub unsafe fn init() -> Result<Self, InitError> {
            // SAFETY: EL1 is the caller's promise.
            unsafe { read_control() }.supported()?;
            let backend = Self::new(RootRegister(PhantomData));
            backend.reset();
            Ok(backend)
        }

        /// Whether this CPU, outside any window, keeps the alias out of reach.
        ///
        /// # Errors
        ///
        /// What does not.
        ///
        /// # Safety
        ///
        /// Must run at EL1.
        pub unsafe fn verify(&self) -> Result<(), InitError> {
            // SAFETY: EL1 is the caller's promise.
            unsafe { read_control() }.verify(R::window(), R::closed())?;
            if self.is_open() { Err(InitError::NotClosed) } else { Ok(()) }
        }
    }

    /// # Safety
    ///
    /// EL1.
    unsafe fn read_control() -> Control {
        let (midr, tcr);
        // SAFETY: the registers can be read at EL1 (caller's promise), which has no effect.
        unsafe {
            asm!(
                "mrs {midr}, midr_el1",
                "mrs {tcr}, tcr_el1",
                midr = out(reg) midr,
                tcr = out(reg) tcr,
                options(nomem, nostack, preserves_flags)
            );
        }
        Control { midr, tcr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Cortex-A72, set up.
    const READY: Control = Control { midr: 0x410f_d083, tcr: !(1 << 22 | 1 << 7) };
    const WINDOW: u64 = 1 << 48 | 0x1000;
    const CLOSED: u64 = 0x2000;

    #[test]
    fn a_cpu_whose_identifier_goes_with_the_root_is_accepted() {
        assert_eq!(READY.supported(), Ok(()));
        assert_eq!(READY.verify(WINDOW, CLOSED), Ok(()));
    }

    #[test]
    fn what_would_leave_the_alias_in_reach_is_named() {
        for tcr in [0, !(1 << 7)] {
            let other = Control { tcr: tcr | 1 << 22, ..READY };
            assert_eq!(other.verify(WINDOW, CLOSED), Err(InitError::OtherIdentifier));
            let off = Control { tcr: (tcr | 1 << 7) & !(1 << 22), ..READY };
            assert_eq!(off.verify(WINDOW, CLOSED), Err(InitError::WalksOff));
        }
        // Whatever the roots are, and where a CPU has eight bits and the rest is ignored.
        for shared in [WINDOW & 0xffff_ffff, 0x100 << 48 | 0x1000, CLOSED] {
            assert_eq!(READY.verify(shared, CLOSED), Err(InitError::SharedIdentifier));
        }
    }

    #[test]
    fn cpus_that_cannot_change_roots_in_one_write_are_refused_by_name() {
        let midr = |implementer, number, variant: u64, revision: u64| {
            part(implementer, number) | 0xf << 16 | variant << 20 | revision
        };
        let has_erratum = |midr| {
            matches!(Control { midr, ..READY }.verify(WINDOW, CLOSED), Err(InitError::Erratum(_)))
        };
        for first in [
            midr(0x43, 0xa1, 0, 7),
            midr(0x43, 0xa1, 1, 1),
            midr(0x43, 0xa2, 0, 0),
            midr(0x51, 0x800, 0, 0),
        ] {
            assert!(has_erratum(first), "{first:#x}");
        }
        for mended in [
            midr(0x43, 0xa1, 1, 2),
            midr(0x43, 0xa2, 0, 1),
            midr(0x51, 0x800, 1, 0),
            midr(0x41, 0xd03, 0, 4),
        ] {
            assert!(!has_erratum(mended), "{mended:#x}");
        }
    }
}
