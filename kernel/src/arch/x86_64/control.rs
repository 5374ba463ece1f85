//! The control bits protection rests on, set and read back.
//!
//! NX and WP give W^X its meaning (without WP the kernel writes through read-only
//! entries), SMEP and SMAP keep the kernel from running or touching user memory by
//! accident; UMIP, where the CPU has it (Broadwell, Skylake and the first Zen have not), keeps user code from
//! reading descriptor-table addresses. PKS is detected here and enabled by `kpkeys` when that backend is selected. Bits: Intel SDM vol. 3A,
//! 2.5 "Control Registers"; CPUID leaves: vol. 2A, "CPUID".

use super::vectors;
use crate::protection::control::Missing;
use bitflags::bitflags;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};

bitflags! {
    /// What a CPU has, or has switched on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// No-execute pages (EFER.NXE).
        const NX = 1 << 0;
        /// Read-only pages bind the kernel (CR0.WP).
        const WP = 1 << 1;
        /// The kernel cannot run user pages (CR4.SMEP).
        const SMEP = 1 << 2;
        /// The kernel cannot touch user pages unless EFLAGS.AC is set (CR4.SMAP).
        const SMAP = 1 << 3;
        /// User code cannot read descriptor-table registers (CR4.UMIP).
        const UMIP = 1 << 4;
        /// Global pages (CR4.PGE).
        const PGE = 1 << 5;
        /// Protection keys for supervisor pages (CR4.PKS).
        const PKS = 1 << 6;
    }
}

impl Features {
    /// Without these the kernel does not start.
    pub const REQUIRED: Self =
        Self::NX.union(Self::WP).union(Self::SMEP).union(Self::SMAP).union(Self::PGE);
}

/// What the running CPU supports.
pub fn supported() -> Features {
    let max = __cpuid(0).eax;
    let base = __cpuid(1).edx;
    let extended = __cpuid(0x8000_0001).edx;
    let (ebx, ecx) = if max >= 7 {
        let leaf = __cpuid_count(7, 0);
        (leaf.ebx, leaf.ecx)
    } else {
        (0, 0)
    };
    let mut features = Features::WP;
    features.set(Features::NX, extended >> 20 & 1 != 0);
    features.set(Features::SMEP, ebx >> 7 & 1 != 0);
    features.set(Features::SMAP, ebx >> 20 & 1 != 0);
    features.set(Features::UMIP, ecx >> 2 & 1 != 0);
    features.set(Features::PGE, base >> 13 & 1 != 0);
    features.set(Features::PKS, ecx >> 31 & 1 != 0);
    features
}

/// What the running CPU has switched on, read back from its registers.
pub fn active() -> Features {
    let (cr0, cr4, efer) = (Cr0::read(), Cr4::read(), Efer::read());
    let mut features = Features::empty();
    features.set(Features::NX, efer.contains(EferFlags::NO_EXECUTE_ENABLE));
    features.set(Features::WP, cr0.contains(Cr0Flags::WRITE_PROTECT));
    features.set(Features::SMEP, cr4.contains(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION));
    features.set(Features::SMAP, cr4.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION));
    features.set(Features::UMIP, cr4.contains(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION));
    features.set(Features::PGE, cr4.contains(Cr4Flags::PAGE_GLOBAL));
    features.set(Features::PKS, cr4.contains(Cr4Flags::PROTECTION_KEY_SUPERVISOR));
    features
}

/// Whether the running CPU refuses accesses by keys.
pub fn keys_are_on() -> bool {
    active().contains(Features::PKS)
}

/// Switches the required features on, on the running CPU, and UMIP and AVX where there are.
///
/// # Errors
///
/// [`Missing`] names what the CPU lacks; nothing is changed then.
pub fn enable_required() -> Result<(), Missing> {
    let missing = Features::REQUIRED - supported();
    if !missing.is_empty() {
        return Err(Missing(missing));
    }
    let umip = match supported().contains(Features::UMIP) {
        true => Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION,
        false => Cr4Flags::empty(),
    };
    let cr4 = Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
        | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION
        | umip
        | Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::OSFXSR // programs have SSE; the kernel saves it
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::MACHINE_CHECK_EXCEPTION; // in every 64-bit CPU; without it the machine just stops
    // SAFETY: the CPU has the features. The kernel's mappings are all supervisor ones, and it
    // keeps W^X, so none of the bits takes an access away that the kernel makes.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| {
            cr0.insert(
                Cr0Flags::WRITE_PROTECT | Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR,
            );
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
        });
        Cr4::update(|bits| bits.insert(cr4));
    }
    vectors::switch_on();
    Ok(())
}

/// Whether the running CPU has `IA32_TSC_AUX`: it comes with RDTSCP.
pub fn has_tsc_aux() -> bool {
    __cpuid(0x8000_0001).edx >> 27 & 1 != 0
}
