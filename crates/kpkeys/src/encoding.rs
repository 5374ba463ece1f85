//! How a protection register spells the access of each key: arithmetic only, all of it `const`.
//!
//! An encoding is a table of constants, so that applying a context to a register value is two immediate
//! operands, `value & keep | set`, and so that the same code is tested on any host.

use crate::context::Context;
use crate::key::{Access, AccessMap, Pkey};

/// How one architecture's register spells the access of each key.
///
/// Key `k` occupies the [`BITS`](Self::BITS) bits from `k * BITS` up.
pub trait Encoding {
    /// How many keys the register has.
    const KEYS: u8;
    /// Bits of the register per key.
    const BITS: u32;
    /// The field of key 0: read-write, and executable where the register can say so.
    const KEY0: u64;
    /// The field of [`Access::ReadWrite`] for any other key.
    const READ_WRITE: u64;
    /// The field of [`Access::ReadOnly`].
    const READ_ONLY: u64;
    /// The field of [`Access::NoAccess`].
    const NO_ACCESS: u64;
}

/// `IA32_PKRS`: two bits a key, access-disable at `2k` and write-disable at `2k + 1` (Intel SDM vol. 3A 5.6.2).
///
/// The upper 32 bits are reserved; setting one of them raises #GP.
#[derive(Clone, Copy, Debug)]
pub struct Pkrs;

impl Encoding for Pkrs {
    const KEYS: u8 = 16;
    const BITS: u32 = 2;
    const KEY0: u64 = 0b00;
    const READ_WRITE: u64 = 0b00;
    const READ_ONLY: u64 = 0b10;
    const NO_ACCESS: u64 = 0b01;
}

/// `POR_EL1`: four bits a key, read, execute and write at `4k` up, `4k + 3` reserved (Arm ARM, POR_EL1).
///
/// Key 0 keeps execute, since kernel text carries it. Page tables and other managed data are never executable,
/// so the other keys do not.
#[derive(Clone, Copy, Debug)]
pub struct Por;

impl Encoding for Por {
    const KEYS: u8 = 8;
    const BITS: u32 = 4;
    const KEY0: u64 = 0b0111;
    const READ_WRITE: u64 = 0b0101;
    const READ_ONLY: u64 = 0b0001;
    const NO_ACCESS: u64 = 0b0000;
}

/// A change of the register: keep these bits, set those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    keep: u64,
    set: u64,
}

impl Update {
    /// The update that brings a register of encoding `E` into context `C`.
    ///
    /// # Panics
    ///
    /// If the context manages a key the register does not have, or takes read-write from key 0. Used in
    /// constants, both are compile errors.
    pub const fn of<E: Encoding, C: Context>() -> Update {
        Self::from_map::<E>(&C::ACCESS)
    }

    const fn from_map<E: Encoding>(map: &AccessMap) -> Update {
        let field = (1 << E::BITS) - 1;
        let mut update = Update { keep: register_mask::<E>(), set: 0 };
        let mut number = 0;
        while let Some(key) = Pkey::new(number) {
            if let Some(access) = map.get(key) {
                assert!(
                    number < E::KEYS,
                    "the context manages a key that this register does not have"
                );
                let shift = number as u32 * E::BITS;
                update.keep &= !(field << shift);
                update.set |= encode::<E>(number, access) << shift;
            }
            number += 1;
        }
        update
    }

    /// The register value after the update: managed keys as the context says, all others as they were,
    /// reserved bits zero.
    #[inline(always)]
    pub const fn apply(self, register: u64) -> u64 {
        (register & self.keep) | self.set
    }
}

/// All bits of the register that belong to a key's permissions.
const fn register_mask<E: Encoding>() -> u64 {
    let used = E::READ_WRITE | E::READ_ONLY | E::NO_ACCESS | E::KEY0;
    let mut mask = 0;
    let mut key = 0;
    while key < E::KEYS {
        mask |= used << (key as u32 * E::BITS);
        key += 1;
    }
    mask
}

const fn encode<E: Encoding>(number: u8, access: Access) -> u64 {
    match (number, access) {
        (0, Access::ReadWrite) => E::KEY0,
        (0, _) => panic!("key 0 must stay read-write in every context"),
        (_, Access::ReadWrite) => E::READ_WRITE,
        (_, Access::ReadOnly) => E::READ_ONLY,
        (_, Access::NoAccess) => E::NO_ACCESS,
    }
}

/// What a register value allows to data accesses of a key: the other direction, for checks and models.
///
/// Returns `None` for a key the register does not have. A field that allows stores but not loads, which no
/// context produces, reads as [`Access::NoAccess`].
pub const fn decode<E: Encoding>(register: u64, key: Pkey) -> Option<Access> {
    if key.number() >= E::KEYS {
        return None;
    }
    let field = (register >> (key.number() as u32 * E::BITS)) & ((1 << E::BITS) - 1);
    // The bits in which read-only and no-access differ from read-write decide: PKRS spells denial, POR permission.
    let read =
        (field ^ E::READ_WRITE) & (E::READ_ONLY ^ E::NO_ACCESS) & (E::NO_ACCESS ^ E::READ_WRITE)
            == 0;
    let write = (field ^ E::READ_WRITE) & (E::READ_ONLY ^ E::READ_WRITE) == 0;
    Some(match (read, write) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::ReadOnly,
        (false, _) => Access::NoAccess,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context;

    const ACCESSES: [Access; 3] = [Access::ReadWrite, Access::ReadOnly, Access::NoAccess];

    fn every_key_round_trips<E: Encoding>() {
        for key in [Pkey::PAGE_TABLES, Pkey::WRITE_RARELY, Pkey::USER_TABLES] {
            for access in ACCESSES {
                let update = Update::from_map::<E>(&AccessMap::PROTECTED.with(key, access));
                for register in [0, register_mask::<E>(), 0x5555_5555_5555_5555, u64::MAX] {
                    let value = update.apply(register);
                    assert_eq!(decode::<E>(value, key), Some(access), "{key:?} from {register:#x}");
                    assert_eq!(decode::<E>(value, Pkey::DEFAULT), Some(Access::ReadWrite));
                    assert_eq!(value & !register_mask::<E>(), 0, "reserved bits set");
                }
            }
        }
        for number in E::KEYS..16 {
            assert_eq!(decode::<E>(0, Pkey::new(number).unwrap()), None);
        }
    }

    fn unmanaged_keys_are_untouched<E: Encoding>() {
        let field = (1u64 << E::BITS) - 1;
        let update = Update::of::<E, context::PageTables>();
        for number in 4..E::KEYS {
            let bits = (field << (u32::from(number) * E::BITS)) & register_mask::<E>();
            assert_eq!(update.apply(bits) & bits, bits, "set bits of key {number} were lost");
            assert_eq!(update.apply(!bits) & bits, 0, "clear bits of key {number} were set");
        }
    }

    #[test]
    fn pkrs_every_key_both_directions() {
        every_key_round_trips::<Pkrs>();
    }

    #[test]
    fn por_every_key_both_directions() {
        every_key_round_trips::<Por>();
    }

    #[test]
    fn pkrs_leaves_unmanaged_keys() {
        unmanaged_keys_are_untouched::<Pkrs>();
    }

    #[test]
    fn por_leaves_unmanaged_keys() {
        unmanaged_keys_are_untouched::<Por>();
    }

    #[test]
    fn pkrs_values_are_the_manuals() {
        // Key 1: write-disable is bit 3, access-disable bit 2. Read-only must not be access-disabled.
        assert_eq!(Update::of::<Pkrs, context::Default>().apply(0), 0b1010_1000);
        assert_eq!(Update::of::<Pkrs, context::PageTables>().apply(0b1010_1000), 0b1010_0000);
        assert_eq!(Update::of::<Pkrs, context::UserTables>().apply(0b1010_1000), 0b0010_1000);
        assert_eq!(Update::of::<Pkrs, context::Default>().apply(u64::MAX) >> 32, 0);
    }

    #[test]
    fn por_values_are_the_manuals() {
        assert_eq!(Update::of::<Por, context::Default>().apply(0), 0x1117);
        assert_eq!(Update::of::<Por, context::PageTables>().apply(0x1117), 0x1157);
        assert_eq!(Update::of::<Por, context::UserTables>().apply(0x1117), 0x5117);
        // Bit 3 of each field is reserved, and so are the fields from key 8 up.
        assert_eq!(Update::of::<Por, context::Default>().apply(u64::MAX), 0x7777_1117);
    }
}
