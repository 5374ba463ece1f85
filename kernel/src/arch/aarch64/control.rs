//! The control bits protection rests on, set and read back.
//!
//! WXN makes W^X the hardware's rule, whatever a table says. PAN keeps the kernel from touching user memory by accident, and
//! `SCTLR_EL1.SPAN` clear makes the hardware set it on every exception. (Where there is none, Armv8.0, user memory is not mapped while the kernel
//! runs: `root`.) E0PD keeps user mode out of the kernel's half before any table
//! is looked at. Overlays (POE) are detected here and enabled by `kpkeys` when that backend is selected. Registers and fields by
//! name: Arm ARM (DDI 0487), D19.

use super::register::{mrs, msr};
use crate::protection::control::Missing;
use bitflags::bitflags;
use core::arch::asm;
use kpkeys::pan::PAN;

/// Memory attributes by index: normal write-back, and device-nGnRE.
pub const MAIR: u64 = 0x04_ff;

/// `SCTLR_EL1` with the MMU off: the bits that are reserved as one, or were (SED, ITD, EOS, TSCXT, EIS, nTLSMD, LSMAOE). EIS and
/// EOS make exception entry and return synchronise the context, which a restored protection register relies on.
pub const SCTLR_MMU_OFF: u64 = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 20 | 1 << 22 | 1 << 28 | 1 << 29;

/// `SCTLR_EL1` that the kernel starts on: MMU, caches, stack alignment checks; SPAN clear. EL0 may keep its own instructions and data coherent (UCT, UCI:
/// CTR_EL0, and maintenance by addresses that it may read), which programs that make code do. What else it could do more than compute - WFI, masks - stays
/// trapped. WXN follows when the boot tables, which are writable and executable, are gone.
pub const SCTLR: u64 =
    SCTLR_MMU_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | SCTLR_UCT | SCTLR_UCI;
const SCTLR_UCT: u64 = 1 << 15;
const SCTLR_UCI: u64 = 1 << 26;

const SCTLR_WXN: u64 = 1 << 19;
const SCTLR_SPAN: u64 = 1 << 23;
/// Programs have floating point and vectors; the kernel, which is built without, only keeps them.
const CPACR_FP: u64 = 0b11 << 20;
const TCR_E0PD1: u64 = 1 << 56;
const TCR2_POE: u64 = 1 << 3;

bitflags! {
    /// What a CPU has, or has switched on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Writable pages do not execute (`SCTLR_EL1.WXN`).
        const WXN = 1 << 0;
        /// The kernel cannot touch user pages by plain loads and stores (`PSTATE.PAN`, set by every exception).
        const PAN = 1 << 1;
        /// User mode does not reach the tables of the kernel's half (`TCR_EL1.E0PD1`).
        const E0PD = 1 << 2;
        /// Permission overlays (`TCR2_EL1.POE`).
        const POE = 1 << 3;
    }
}

impl Features {
    /// Without these the kernel does not start.
    pub const REQUIRED: Self = Self::WXN;
}

/// A field of four bits of an identification register.
const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// What the running CPU supports.
pub fn supported() -> Features {
    let mut features = Features::WXN;
    features.set(Features::PAN, field(mrs!("id_aa64mmfr1_el1"), 20) != 0);
    features.set(Features::E0PD, field(mrs!("id_aa64mmfr2_el1"), 60) != 0);
    features.set(Features::POE, field(mrs!("S3_0_C0_C7_3"), 16) != 0);
    features
}

/// Whether the running CPU can take permissions from `PIR_EL1` (FEAT_S1PIE).
pub fn has_indirection() -> bool {
    field(mrs!("S3_0_C0_C7_3"), 8) != 0
}

/// What the running CPU has switched on, read back from its registers.
pub fn active() -> Features {
    let (supported, sctlr) = (supported(), mrs!("sctlr_el1"));
    let mut features = Features::empty();
    features.set(Features::WXN, sctlr & SCTLR_WXN != 0);
    if supported.contains(Features::PAN) {
        let pan = mrs!("S3_0_C4_C2_3");
        features.set(Features::PAN, sctlr & SCTLR_SPAN == 0 && pan & PAN != 0);
    }
    features.set(Features::E0PD, mrs!("tcr_el1") & TCR_E0PD1 != 0);
    features.set(Features::POE, keys_are_on());
    features
}

/// Switches the required features on, on the running CPU, which must have left the boot tables. (E0PD is switched on with the MMU where it
/// exists.)
///
/// # Errors
///
/// [`Missing`] names what the CPU lacks; nothing is changed then.
pub fn enable_required() -> Result<(), Missing> {
    let missing = Features::REQUIRED - supported();
    if !missing.is_empty() {
        return Err(Missing(missing));
    }
    let sctlr = mrs!("sctlr_el1") | SCTLR_WXN;
    let cpacr = mrs!("cpacr_el1") | CPACR_FP;
    if supported().contains(Features::PAN) {
        // SAFETY: the CPU has PAN, whose MSR with the immediate 1 this is; nothing of the kernel's is a user mapping.
        unsafe { asm!(".inst 0xd500419f", options(nostack, preserves_flags)) };
    }
    // SAFETY: the tables in use have nothing writable and executable. TLBs may keep WXN with a translation, hence the invalidation.
    unsafe {
        msr!("sctlr_el1", sctlr);
        msr!("cpacr_el1", cpacr);
        asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
    Ok(())
}

/// Whether the running CPU refuses accesses by keys.
pub fn keys_are_on() -> bool {
    supported().contains(Features::POE) && mrs!("S3_0_C2_C0_3") & TCR2_POE != 0
}

/// How many address space identifiers the running CPU tells apart.
pub fn asids() -> u32 {
    const SIXTEEN_BITS: u64 = 2;
    if field(mrs!("id_aa64mmfr0_el1"), 4) == SIXTEEN_BITS { 1 << 16 } else { 1 << 8 }
}

/// The running CPU's affinity.
pub fn mpidr() -> u64 {
    kpkeys_devicetree::Mpidr::from_register(mrs!("mpidr_el1")).get()
}
