//! The registers of permission indirection that `kpkeys-pgtable` gives, on the model of the MMU: every entry it writes means with them what it
//! means without, and overlays restrict kernel mappings alone.

use kpkeys::Pkey;
use kpkeys_hosted::mmu::aarch64::{Indirection, permissions};
use kpkeys_hosted::mmu::{Allowed, Cpu};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::entry::indirection::{PIR_EL1, PIRE0_EL1};
use kpkeys_pgtable::{Attrs, Entry, Format, Level, PhysAddr};

const REGISTERS: Indirection = Indirection { kernel: PIR_EL1, user: PIRE0_EL1 };
/// `POR_EL1` that takes nothing away.
const ALL: u64 = 0x7777_7777;

/// Every leaf the format writes, with the attributes it was asked for.
fn leaves() -> impl Iterator<Item = (Attrs, Entry)> {
    let attrs = (0..32u8).flat_map(|bits| {
        (0..Aarch64::KEYS).filter_map(Pkey::new).map(move |key| Attrs {
            write: bits & 1 != 0,
            execute: bits & 2 != 0,
            user: bits & 4 != 0,
            young: bits & 8 != 0,
            dirty: bits & 16 != 0,
            key,
            memory: kpkeys_pgtable::MemoryType::Normal,
        })
    });
    attrs.filter_map(|attrs| {
        Aarch64::leaf(Level::Pte, PhysAddr(0x1234_5000), attrs).map(|entry| (attrs, entry))
    })
}

fn cpu(register: u64, pan: bool, indirection: Option<Indirection>) -> Cpu {
    Cpu { pan, indirection, ..Cpu::new(register) }
}

/// SCTLR_EL1.WXN, which the model has not: what is writable does not execute.
fn without_wx(allowed: Allowed, attrs: Attrs) -> Allowed {
    Allowed { execute: allowed.execute && !attrs.write, ..allowed }
}

#[test]
fn entries_mean_the_same_with_and_without_indirection() {
    for (attrs, leaf) in leaves() {
        for pan in [false, true] {
            let direct = permissions(leaf, &cpu(ALL, pan, None));
            let indirect = permissions(leaf, &cpu(ALL, pan, Some(REGISTERS)));
            let expected = direct.allowed.map(|allowed| without_wx(allowed, attrs));
            assert_eq!(indirect.allowed, expected, "{attrs:?}, PAN {pan}");
        }
    }
}

#[test]
fn overlays_restrict_every_kernel_mapping_and_no_user_mapping() {
    for (attrs, leaf) in leaves() {
        for field in 0..8 {
            let shift = u32::from(attrs.key.number()) * 4;
            let register = ALL & !(0xf << shift) | field << shift;
            let found = permissions(leaf, &cpu(register, false, Some(REGISTERS)));
            let overlay =
                Allowed { read: field & 1 != 0, write: field & 4 != 0, execute: field & 2 != 0 };
            let [kernel, user] = permissions(leaf, &cpu(ALL, false, Some(REGISTERS))).allowed;
            let expected = if attrs.user { kernel } else { kernel.and(overlay) };
            assert_eq!(found.allowed, [expected, user], "{attrs:?}, POR field {field:#05b}");
        }
    }
}
