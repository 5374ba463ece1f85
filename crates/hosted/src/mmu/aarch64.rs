//! What an arm64 leaf allows at stage 1 of the EL1&0 regime (Arm ARM DDI 0487, chapter D8, "Memory access control").
//!
//! | step | rules |
//! |---|---|
//! | base permissions, from the leaf's own bits (direct) or by PIR_EL1 and PIRE0_EL1 (indirect) | AP\[2:1\], UXN, PXN; R_LLZDZ, R_VFPJF |
//! | PAN, which takes loads and stores from the kernel by what the base gives user programs: loads or stores (direct), or anything (indirect) | PSTATE.PAN, R_TBKKB |
//! | overlays, which take permissions away: from direct ones always, from indirect ones where the register says that they apply | POR_EL1, POR_EL0, R_DPZHF |
//! | write implies execute-never, where the indirect base says so | R_HJYGR, R_QXXPC, R_NPBXC |
//!
//! A refusal is the overlay's if the overlay refuses, whatever the rest says (D8.15.5.1).
//!
//! Not modelled: SCTLR_EL1.WXN, guarded control stacks, PAN's extension to direct execute permission (FEAT_PAN3), hierarchical
//! permissions of table descriptors, which are never set here.

use kpkeys_pgtable::{Entry, Format, entry};

use super::{Allowed, Cpu, Permissions};

/// AP\[1\], also PIIndex\[0\].
const EL0: u64 = 1 << 6;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;

/// The registers of FEAT_S1PIE: sixteen base permissions, four bits each, for the kernel and for user programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indirection {
    /// PIR_EL1.
    pub kernel: u64,
    /// PIRE0_EL1.
    pub user: u64,
}

/// A base permission.
#[derive(Clone, Copy)]
struct Base {
    allowed: Allowed,
    /// Whether an overlay applies.
    overlaid: bool,
    /// Whether write and execute exclude each other.
    write_execute_never: bool,
    /// Whether PAN applies where this is what user programs have.
    counts_for_pan: bool,
}

/// What a leaf allows on a CPU.
pub fn permissions(leaf: Entry, cpu: &Cpu) -> Permissions {
    let [mut kernel, user] = match cpu.indirection {
        None => direct(leaf),
        Some(registers) => indirect(leaf, registers),
    };
    if cpu.pan && user.counts_for_pan {
        kernel.allowed = Allowed { execute: kernel.allowed.execute, ..Allowed::NONE };
    }
    let key = leaf.0 >> 60 & 0x7;
    let overlay = |base: Base, register: Option<u64>| {
        register.filter(|_| base.overlaid).map(|register| by_por(register >> (key * 4)))
    };
    let overlays = [overlay(kernel, Some(cpu.register)), overlay(user, cpu.user_register)];
    Permissions {
        by_key: overlays.map(|overlay| overlay.unwrap_or(Allowed::ALL)),
        allowed: [finish(kernel, overlays[0]), finish(user, overlays[1])],
    }
}

/// The leaf's own bits. A clean page that may be written is taken for writable: hardware may manage its dirty state.
fn direct(leaf: Entry) -> [Base; 2] {
    let is_set = |bit| leaf.0 & bit != 0;
    let (user, write) = (is_set(EL0), <entry::Aarch64>::is_writable(leaf));
    let kernel = Allowed {
        read: true,
        write,
        // What EL0 may write, EL1 does not execute, whatever PXN says.
        execute: !is_set(PRIVILEGED_EXECUTE_NEVER) && (!user || !write),
    };
    // EL0 may execute what it may not read.
    let user = Allowed { read: user, write: user && write, execute: !is_set(USER_EXECUTE_NEVER) };
    [kernel, user].map(|allowed| Base {
        allowed,
        overlaid: true,
        write_execute_never: false,
        counts_for_pan: allowed.read || allowed.write,
    })
}

/// The registers' fields with the number that the leaf has in bits 54, 53, 51 and 6. Bit 7, nDirty, is again taken for what hardware
/// may clear.
fn indirect(leaf: Entry, registers: Indirection) -> [Base; 2] {
    let bit = |from: u32, to: u32| (leaf.0 >> from & 1) << to;
    let index = bit(54, 3) | bit(53, 2) | bit(51, 1) | bit(6, 0);
    let [kernel, user] =
        [registers.kernel, registers.user].map(|register| base(register >> (index * 4) & 0xf));
    if kernel.allowed.execute && user.allowed.write {
        return [kernel, user].map(|base| Base { allowed: Allowed::NONE, ..base });
    }
    [kernel, user]
}

/// A field of PIR_EL1 or PIRE0_EL1. Reserved values allow nothing.
fn base(field: u64) -> Base {
    let (read, write, execute) = match field {
        0b0001 | 0b1000 | 0b1001 => (true, false, false),
        0b0010 => (false, false, true),
        0b0011 | 0b1010 => (true, false, true),
        0b0101 | 0b1100 => (true, true, false),
        0b0110 | 0b0111 | 0b1110 => (true, true, true),
        _ => (false, false, false),
    };
    Base {
        counts_for_pan: read || write || execute,
        allowed: Allowed { read, write, execute },
        overlaid: field & 0b1000 == 0,
        write_execute_never: field == 0b0110,
    }
}

/// A field of POR_EL1 or POR_EL0: bit 0 read, bit 1 execute, bit 2 write; with bit 3 set it is reserved and allows nothing.
fn by_por(field: u64) -> Allowed {
    let bit = |number: u64| field & 0b1000 == 0 && field >> number & 1 != 0;
    Allowed { read: bit(0), write: bit(2), execute: bit(1) }
}

/// A base permission and its overlay, if one applies. Where write and execute exclude each other, what an overlay applies to loses
/// write, and anything else execute.
fn finish(base: Base, overlay: Option<Allowed>) -> Allowed {
    let mut allowed = overlay.map_or(base.allowed, |overlay| base.allowed.and(overlay));
    if base.write_execute_never && allowed.write && allowed.execute {
        match overlay {
            Some(_) => allowed.write = false,
            None => allowed.execute = false,
        }
    }
    allowed
}
