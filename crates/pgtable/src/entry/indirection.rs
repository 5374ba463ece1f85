//! arm64's permission indirection (FEAT_S1PIE): a table in a register says what the permission bits of an entry
//! mean, and whether an overlay may restrict it. Overlays need no indirection; with it, they need this table to let them.
//!
//! An entry's four bits are an index: user-execute-never (bit 54), privileged-execute-never (53), writable (51) and EL0 (6), as
//! [`Aarch64`](super::Aarch64) writes them. Each index has four bits in `PIR_EL1` for EL1 and in `PIRE0_EL1` for EL0 (Arm ARM, these
//! registers). The values here spell what the same entry means without indirection and with `SCTLR_EL1.WXN`: what is writable never
//! executes. Kernel mappings have the encodings that overlays restrict, so that all of them follow their key; user mappings
//! have those without, since their keys would be those of `POR_EL0`.

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
const EL0: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 2;
const USER_EXECUTE_NEVER: u64 = 1 << 3;

/// What `PIR_EL1` must be for this crate's entries.
pub const PIR_EL1: u64 = {
    let (mut value, mut index) = (0, 0);
    while index < 16 {
        value |= for_kernel(index) << (index * 4);
        index += 1;
    }
    value
};

/// What `PIRE0_EL1` must be for this crate's entries.
pub const PIRE0_EL1: u64 = {
    let (mut value, mut index) = (0, 0);
    while index < 16 {
        value |= for_user(index) << (index * 4);
        index += 1;
    }
    value
};

/// What an index allows to EL1.
const fn for_kernel(index: u64) -> u64 {
    let (user, write, execute) =
        (index & EL0 != 0, index & WRITE != 0, index & PRIVILEGED_EXECUTE_NEVER == 0);
    match (user, write, execute) {
        (true, false, _) => permission::R,
        (true, true, _) => permission::RW,
        (false, true, _) => permission::RW_O,
        (false, false, false) => permission::R_O,
        (false, false, true) => permission::RX_O,
    }
}

/// What an index allows to EL0.
const fn for_user(index: u64) -> u64 {
    let (user, write, execute) =
        (index & EL0 != 0, index & WRITE != 0, index & USER_EXECUTE_NEVER == 0);
    match (user, write, execute) {
        (false, ..) => permission::NONE_O,
        (true, true, _) => permission::RW,
        (true, false, false) => permission::R,
        (true, false, true) => permission::RX,
    }
}
