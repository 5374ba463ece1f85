//! arm64 without overlays: page tables behind an alias that PSTATE.PAN blocks.
//!
//! Page-table pages are read-only in the linear map. A second mapping of them in the kernel's half, the *alias*, is marked
//! accessible from EL0 (AP\[1\]), writable and never executable. While PSTATE.PAN is set, a privileged load or store through such
//! a mapping is a permission fault; a window is the time in which it is clear. `kpkeys-pgtable` makes both mappings
//! ([`Scheme::Alias`](crate::Scheme::Alias)).
//!
//! Facts, from the Arm ARM (DDI 0487), by register and section name since numbers change between issues:
//!
//! - *FEAT_PAN* is reported by `ID_AA64MMFR1_EL1.PAN`, bits 23:20. PAN denies privileged data accesses to addresses that EL0 may
//!   access; it binds neither unprivileged accesses (EL0's, and LDTR and STTR at EL1 while PSTATE.UAO is clear) nor the table walker.
//! - *No barrier.* Effects of a write of a PSTATE field are visible to no earlier instruction and to every later one in program
//!   order (Process state, "Accessing PSTATE fields"): MSR PAN synchronises itself.
//! - *Exceptions.* An exception taken to EL1 saves PAN in `SPSR_EL1` bit 22 and sets it if `SCTLR_EL1.SPAN`, bit 23, is 0; ERET
//!   restores it from there ("Privileged access never", `SCTLR_EL1`). So a handler starts protected and the interrupted window
//!   goes on without an instruction of software.
//! - *EL0* is kept out by *FEAT_E0PD*, `ID_AA64MMFR2_EL1.E0PD`, bits 63:60: with `TCR_EL1.E0PD1`, bit 56, an unprivileged access
//!   to an address that `TTBR1_EL1` translates is a translation fault at level 0, whatever the tables say. LDTR and STTR at
//!   EL1 are unprivileged accesses, so a user copy pointed at the alias faults too. A CPU without it keeps EL0 out by tables that lack
//!   the alias (`Pan::init_by_tables`).
//!
//! Whoever clears PAN for a purpose of their own opens page tables: user memory must be reached by LDTR and STTR.

use crate::flagged::{Bit, Flagged};

/// PSTATE.PAN in the value that MRS gives, and in `SPSR_EL1`: bit 22.
pub const PAN: u64 = 1 << 22;

/// The PAN backend. Having one of [`PstatePan`] means that the CPU that made it keeps everyone out of the alias.
pub type Pan<R = PstatePan> = Flagged<R, PanBit>;

/// [`PAN`], clear in windows.
#[derive(Clone, Copy, Debug)]
pub struct PanBit;

impl Bit for PanBit {
    const MASK: u64 = PAN;
    const OPEN: u64 = 0;
}

/// PSTATE.PAN of the calling CPU; made by `Pan::init` alone, which exists on arm64.
#[derive(Clone, Copy, Debug)]
pub struct PstatePan(());

/// Why PAN cannot protect this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// `ID_AA64MMFR1_EL1.PAN` is zero: the CPU has no PAN.
    NoPan,
    /// `ID_AA64MMFR2_EL1.E0PD` is zero: EL0 cannot be kept out of the alias.
    NoE0pd,
    /// `SCTLR_EL1.SPAN` did not stay clear: exceptions would leave a window open for their handler.
    SpanSet,
    /// `TCR_EL1.E0PD1` did not stay set: EL0 could write the alias.
    E0pd1Clear,
    /// PSTATE.PAN is clear outside of a window.
    NotClosed,
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            InitError::NoPan => "this CPU has no PAN (ID_AA64MMFR1_EL1.PAN is 0)",
            InitError::NoE0pd => "this CPU has no E0PD (ID_AA64MMFR2_EL1.E0PD is 0), so EL0 could write page tables through their alias",
            InitError::SpanSet => "SCTLR_EL1.SPAN is set on this CPU, so exceptions would not set PAN",
            InitError::E0pd1Clear => "TCR_EL1.E0PD1 is clear on this CPU, so EL0 could write page tables through their alias",
            InitError::NotClosed => "PSTATE.PAN is clear on this CPU outside of a window",
        })
    }
}

impl core::error::Error for InitError {}

/// The registers that decide whether a CPU can use PAN, and whether it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
    /// `ID_AA64MMFR2_EL1`.
    pub mmfr2: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// `TCR_EL1`.
    pub tcr: u64,
}

impl Control {
    const SCTLR_SPAN: u64 = 1 << 23;
    const TCR_E0PD1: u64 = 1 << 56;

    /// Whether the CPU has what the backend needs: PAN and E0PD. Further values of either field add to the feature.
    ///
    /// # Errors
    ///
    /// The feature it lacks.
    pub const fn supported(&self) -> Result<(), InitError> {
        if (self.mmfr1 >> 20) & 0xf == 0 {
            return Err(InitError::NoPan);
        }
        if (self.mmfr2 >> 60) & 0xf == 0 {
            return Err(InitError::NoE0pd);
        }
        Ok(())
    }

    /// Whether the CPU has PAN, and EL0 is kept out by its tables.
    ///
    /// # Errors
    ///
    /// That it has not.
    pub const fn supported_by_tables(&self) -> Result<(), InitError> {
        match self.supported() {
            Err(InitError::NoPan) => Err(InitError::NoPan),
            _ => Ok(()),
        }
    }

    /// Whether the CPU has PAN and is set up for it, and EL0 is kept out by its tables.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub const fn verify_by_tables(&self) -> Result<(), InitError> {
        match self.verify() {
            Err(InitError::NoE0pd | InitError::E0pd1Clear)
                if self.sctlr & Self::SCTLR_SPAN == 0 =>
            {
                Ok(())
            }
            Err(InitError::NoE0pd | InitError::E0pd1Clear) => Err(InitError::SpanSet),
            other => other,
        }
    }

    /// These registers as they must be: SPAN clear, E0PD1 set, all else as it is.
    #[must_use]
    pub const fn enforcing(self) -> Control {
        Control { sctlr: self.sctlr & !Self::SCTLR_SPAN, tcr: self.tcr | Self::TCR_E0PD1, ..self }
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
        if self.sctlr & Self::SCTLR_SPAN != 0 {
            return Err(InitError::SpanSet);
        }
        if self.tcr & Self::TCR_E0PD1 == 0 {
            return Err(InitError::E0pd1Clear);
        }
        Ok(())
    }
}

#[cfg(target_arch = "aarch64")]
mod cpu {
    use core::arch::asm;

    use super::{Control, InitError, PAN, Pan, PstatePan};
    use crate::keyed::{Register, Value};

    // SAFETY: MRS and MSR act on the calling CPU; none of the `asm!` is `nomem`, so the compiler moves no access across them; both
    // are inlined. A `PstatePan` exists only where `init` found PAN to be there.
    unsafe impl Register for PstatePan {
        const NEEDS_BARRIER: bool = false;

        #[inline(always)]
        fn read(&self) -> u64 {
            let value: u64;
            // SAFETY: the field exists (`init` checked the ID register) and this is EL1 (`init`'s contract). S3_0_C4_C2_3 is PAN.
            unsafe {
                asm!("mrs {}, S3_0_C4_C2_3", out(reg) value, options(nostack, preserves_flags))
            };
            value & PAN
        }

        #[inline(always)]
        fn write(&self, value: Value) {
            // The immediate forms, spelled as words since the assembler wants to be told of the feature: MSR PAN, #1 and #0.
            // SAFETY: as for `read`. Values are constants of this module, so one of the two is all that is left.
            unsafe {
                if value.bits() & PAN != 0 {
                    asm!(".inst 0xd500419f", options(nostack, preserves_flags));
                } else {
                    asm!(".inst 0xd500409f", options(nostack, preserves_flags));
                }
            }
        }

        #[inline(always)]
        fn synchronize(&self) {}
    }

    impl Pan {
        /// Whether this CPU has PAN and E0PD.
        ///
        /// # Errors
        ///
        /// The feature it lacks.
        ///
        /// # Safety
        ///
        /// Must run at EL1 or above.
        pub unsafe fn supported() -> Result<(), InitError> {
            // SAFETY: EL1 is the caller's promise.
            unsafe { read_control() }.supported()
        }

        /// Closes the alias to the calling CPU: clears `SCTLR_EL1.SPAN`, sets `TCR_EL1.E0PD1`, drops translations that this
        /// CPU cached without it, sets PSTATE.PAN, and verifies all of it. Call it on every CPU before protection is
        /// claimed.
        ///
        /// # Errors
        ///
        /// [`InitError`]; where the CPU lacks a feature, nothing was changed.
        ///
        /// # Safety
        ///
        /// Must run at EL1 with interrupts masked, in the EL1&0 translation regime. From then on nothing may reach user memory
        /// by privileged accesses: they fault, or stop doing so where page tables are open too.
        pub unsafe fn init() -> Result<Pan, InitError> {
            // SAFETY: EL1 is the caller's promise; `enforcing` changes SPAN and E0PD1 alone, both of which the CPU has, and
            // neither of which takes away anything that kernel code does without user memory. E0PD1 may be cached in a TLB
            // (TCR_EL1), hence the invalidation.
            unsafe {
                let control = read_control();
                control.supported()?;
                let Control { sctlr, tcr, .. } = control.enforcing();
                set(sctlr, tcr);
            }
            let pan = Pan::new(PstatePan(()));
            pan.reset();
            // SAFETY: as before.
            unsafe { pan.verify() }.map(|()| pan)
        }

        /// The same on a CPU without E0PD (Neoverse N1 and V1, Cortex-A76), whose EL0 is kept out of the alias by its tables: clears
        /// `SCTLR_EL1.SPAN`, sets PSTATE.PAN, and verifies both.
        ///
        /// # Errors
        ///
        /// As [`init`](Self::init).
        ///
        /// # Safety
        ///
        /// As [`init`](Self::init); and whenever this CPU is at EL0, or executes LDTR or STTR, what `TTBR1_EL1` has loaded translates no
        /// alias, under an address space identifier under which no TLB knows one.
        pub unsafe fn init_by_tables() -> Result<Pan, InitError> {
            // SAFETY: EL1 is the caller's promise; SPAN takes nothing away that kernel code does without user memory.
            unsafe {
                let control = read_control();
                control.supported_by_tables()?;
                set(control.enforcing().sctlr, control.tcr);
            }
            let pan = Pan::new(PstatePan(()));
            pan.reset();
            // SAFETY: as before.
            unsafe { pan.verify_by_tables() }.map(|()| pan)
        }

        /// Whether this CPU, outside any window, still keeps everyone out: the control bits, and PSTATE.PAN.
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
            unsafe { read_control() }.verify()?;
            if self.is_open() { Err(InitError::NotClosed) } else { Ok(()) }
        }

        /// The same after [`init_by_tables`](Self::init_by_tables).
        ///
        /// # Errors
        ///
        /// What does not.
        ///
        /// # Safety
        ///
        /// Must run at EL1.
        pub unsafe fn verify_by_tables(&self) -> Result<(), InitError> {
            // SAFETY: EL1 is the caller's promise.
            unsafe { read_control() }.verify_by_tables()?;
            if self.is_open() { Err(InitError::NotClosed) } else { Ok(()) }
        }
    }

    /// Writes the control registers, and drops what the CPU cached of the second.
    ///
    /// # Safety
    ///
    /// EL1; the values must be the registers' own but for SPAN and E0PD1.
    unsafe fn set(sctlr: u64, tcr: u64) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "msr sctlr_el1, {sctlr}",
                "msr tcr_el1, {tcr}",
                "isb",
                "tlbi vmalle1",
                "dsb nsh",
                "isb",
                sctlr = in(reg) sctlr,
                tcr = in(reg) tcr,
                options(nostack, preserves_flags)
            );
        }
    }

    /// # Safety
    ///
    /// EL1.
    unsafe fn read_control() -> Control {
        let (mmfr1, mmfr2, sctlr, tcr);
        // SAFETY: the registers can be read at EL1 (caller's promise), which has no effect. S3_0_C0_C7_2 is ID_AA64MMFR2_EL1, which
        // reads as zero on CPUs older than it.
        unsafe {
            asm!(
                "mrs {mmfr1}, id_aa64mmfr1_el1",
                "mrs {mmfr2}, S3_0_C0_C7_2",
                "mrs {sctlr}, sctlr_el1",
                "mrs {tcr}, tcr_el1",
                mmfr1 = out(reg) mmfr1,
                mmfr2 = out(reg) mmfr2,
                sctlr = out(reg) sctlr,
                tcr = out(reg) tcr,
                options(nomem, nostack, preserves_flags)
            );
        }
        Control { mmfr1, mmfr2, sctlr, tcr }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    /// A CPU with both features, set up.
    const READY: Control =
        Control { mmfr1: 1 << 20, mmfr2: 1 << 60, sctlr: !(1 << 23), tcr: 1 << 56 };

    #[test]
    fn a_cpu_with_both_features_set_up_is_accepted() {
        assert_eq!(READY.supported(), Ok(()));
        assert_eq!(READY.verify(), Ok(()));
        // PAN2 and PAN3 are PAN and more.
        for pan in 1..16 {
            let newer = Control { mmfr1: pan << 20 | !(0xf << 20), ..READY };
            assert_eq!(newer.verify(), Ok(()), "PAN {pan}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let others = [0, u64::MAX];
        for other in others {
            let no_pan = Control { mmfr1: other & !(0xf << 20), ..READY };
            assert_eq!(no_pan.supported(), Err(InitError::NoPan));
            assert_eq!(no_pan.verify(), Err(InitError::NoPan));
            let no_e0pd = Control { mmfr2: other & !(0xf << 60), ..READY };
            assert_eq!(no_e0pd.supported(), Err(InitError::NoE0pd));
            assert_eq!(no_e0pd.verify(), Err(InitError::NoE0pd));
            let span = Control { sctlr: other | 1 << 23, ..READY };
            assert_eq!(span.verify(), Err(InitError::SpanSet));
            let open_to_el0 = Control { tcr: other & !(1 << 56), ..READY };
            assert_eq!(open_to_el0.verify(), Err(InitError::E0pd1Clear));
        }
    }

    #[test]
    fn tables_stand_for_e0pd_and_for_nothing_else() {
        let no_e0pd = Control { mmfr2: 0, tcr: 0, ..READY };
        assert_eq!((no_e0pd.supported_by_tables(), no_e0pd.verify_by_tables()), (Ok(()), Ok(())));
        assert_eq!((READY.supported_by_tables(), READY.verify_by_tables()), (Ok(()), Ok(())));
        let open_to_el0 = Control { tcr: 0, ..READY };
        assert_eq!(open_to_el0.verify_by_tables(), Ok(()));
        for control in [no_e0pd, READY, open_to_el0] {
            let no_pan = Control { mmfr1: 0, ..control };
            assert_eq!(no_pan.supported_by_tables(), Err(InitError::NoPan));
            assert_eq!(no_pan.verify_by_tables(), Err(InitError::NoPan));
            let span = Control { sctlr: u64::MAX, ..control };
            assert_eq!(span.verify_by_tables(), Err(InitError::SpanSet));
        }
    }

    #[test]
    fn enforcing_changes_two_bits_alone() {
        for bits in [0, u64::MAX, 0x5555_5555_5555_5555] {
            let before = Control { sctlr: bits, tcr: bits, ..READY };
            let after = before.enforcing();
            assert_eq!(after.verify(), Ok(()));
            assert_eq!(after.sctlr | 1 << 23, bits | 1 << 23);
            assert_eq!(after.tcr & !(1 << 56), bits & !(1 << 56));
            assert_eq!((after.mmfr1, after.mmfr2), (before.mmfr1, before.mmfr2));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_bit_that_says_so() {
        let said: [(InitError, &[&str]); 5] = [
            (InitError::NoPan, &["ID_AA64MMFR1_EL1.PAN"]),
            (InitError::NoE0pd, &["ID_AA64MMFR2_EL1.E0PD"]),
            (InitError::SpanSet, &["SCTLR_EL1.SPAN"]),
            (InitError::E0pd1Clear, &["TCR_EL1.E0PD1"]),
            (InitError::NotClosed, &["PSTATE.PAN"]),
        ];
        for (error, parts) in said {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
