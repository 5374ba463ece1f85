//! What an x86-64 leaf allows, with CR0.WP, EFER.NXE and CR4.SMEP set (Intel SDM vol. 3A 4.6).

use kpkeys_pgtable::Entry;

use super::{Allowed, Cpu, Permissions};

const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

/// What a leaf allows on a CPU.
pub fn permissions(leaf: Entry, cpu: &Cpu) -> Permissions {
    let is_set = |bit| leaf.0 & bit != 0;
    let (user, write, execute) = (is_set(USER), is_set(WRITE), !is_set(NO_EXECUTE));
    let by_user = if user { Allowed { read: true, write, execute } } else { Allowed::NONE };
    let by_kernel = match (user, cpu.pan) {
        (false, _) => Allowed { read: true, write, execute },
        // SMEP: the kernel executes no user page, whether or not it may access it.
        (true, false) => Allowed { read: true, write, execute: false },
        (true, true) => Allowed::NONE,
    };
    // PKRS binds supervisor pages. PKRU, which binds user pages, is not modelled.
    let by_key = if user { Allowed::ALL } else { by_pkrs(leaf, cpu.register) };
    Permissions { by_key: [by_key, Allowed::ALL], allowed: [by_kernel.and(by_key), by_user] }
}

/// Access-disable is bit 2k of the register, write-disable bit 2k + 1; fetches are not restricted (4.6.2).
fn by_pkrs(leaf: Entry, register: u64) -> Allowed {
    let field = register >> ((leaf.0 >> 59 & 0xf) * 2) & 0b11;
    Allowed { read: field & 0b01 == 0, write: field == 0, execute: true }
}
