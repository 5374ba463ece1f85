//! Permission indirection (FEAT_S1PIE), which overlays need: a table in a register says what the permission bits of an entry
//! mean, and whether an overlay may restrict it.
//!
//! An entry's four bits are an index: user-execute-never (bit 54), privileged-execute-never (53), writable (51) and EL0 (6), as
//! `kpkeys-pgtable` writes them. Each index has four bits in `PIR_EL1` for EL1 and in `PIRE0_EL1` for EL0 (Arm ARM, D8.4.1.2
//! "Stage 1 indirect permissions"). The registers below spell what the same entry means without indirection. Kernel mappings
//! have the encodings that overlays restrict, so that all of them follow their key; user mappings have those without, since EL0
//! has no overlays here and the kernel reaches them as EL0 does.

use super::register::{mrs, msr, synchronize};
use core::arch::asm;

/// Encodings of a permission (Arm ARM, PIR_EL1); `_O` are those that overlays restrict.
mod permission {
    pub const NONE_O: u64 = 0x0;
    pub const R_O: u64 = 0x1;
    pub const RX_O: u64 = 0x3;
    pub const RW_O: u64 = 0x5;
    pub const R: u64 = 0x8;
    pub const RX: u64 = 0xa;
    pub const RW: u64 = 0xc;
}

/// Bits of the index.
const EL0: usize = 1 << 0;
const WRITE: usize = 1 << 1;
const PRIVILEGED_EXECUTE_NEVER: usize = 1 << 2;
const USER_EXECUTE_NEVER: usize = 1 << 3;

const TCR2_PIE: u64 = 1 << 1;

/// What an index allows to EL1.
const fn for_kernel(index: usize) -> u64 {
    let (user, write, execute) =
        (index & EL0 != 0, index & WRITE != 0, index & PRIVILEGED_EXECUTE_NEVER == 0);
    match (user, write, execute) {
        (true, false, _) => permission::R,
        (true, true, _) => permission::RW,
        (false, false, false) => permission::R_O,
        (false, true, false) => permission::RW_O,
        (false, false, true) => permission::RX_O,
        // Writable and executable: W^X says no.
        (false, true, true) => permission::NONE_O,
    }
}

/// What an index allows to EL0.
const fn for_user(index: usize) -> u64 {
    let (user, write, execute) =
        (index & EL0 != 0, index & WRITE != 0, index & USER_EXECUTE_NEVER == 0);
    match (user, write, execute) {
        (false, ..) | (true, true, true) => permission::NONE_O,
        (true, false, false) => permission::R,
        (true, true, false) => permission::RW,
        (true, false, true) => permission::RX,
    }
}

/// One permission of each index.
const fn register(permissions: [u64; 16]) -> u64 {
    let mut value = 0;
    let mut index = 0;
    while index < permissions.len() {
        value |= permissions[index] << (index * 4);
        index += 1;
    }
    value
}

/// `PIR_EL1` and `PIRE0_EL1`.
const REGISTERS: (u64, u64) = {
    let (mut kernel, mut user) = ([0; 16], [0; 16]);
    let mut index = 0;
    while index < 16 {
        kernel[index] = for_kernel(index);
        user[index] = for_user(index);
        index += 1;
    }
    (register(kernel), register(user))
};

/// Turns indirection on, on the running CPU.
///
/// # Safety
///
/// The CPU must have FEAT_S1PIE, and every entry in use must have been written by `kpkeys-pgtable`.
pub unsafe fn enable() {
    let tcr2 = mrs!("S3_0_C2_C0_3") | TCR2_PIE;
    // SAFETY: the registers exist (caller's promise), and say of every entry what its bits said before. TLBs may keep what the bit
    // changes, hence the invalidation.
    unsafe {
        msr!("S3_0_C10_C2_3", REGISTERS.0);
        msr!("S3_0_C10_C2_2", REGISTERS.1);
        synchronize();
        msr!("S3_0_C2_C0_3", tcr2);
        asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
}
