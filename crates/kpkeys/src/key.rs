//! Keys, what may be done with their pages, and the map from one to the other.

/// A protection key: a small number carried by a page-table leaf entry.
///
/// x86-64 has 16 keys (entry bits 62:59, Intel SDM vol. 3A 5.6.2), arm64 has 8 in a 64-bit descriptor's `POIndex`
/// (bits 62:60, Arm ARM DDI 0487 D8.4.2). A `Pkey` fits one of the two; whether it fits the format in use is
/// checked where an entry is built.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pkey(u8);

impl Pkey {
    /// The key of everything that is not protected. Read-write in every context: an exception could not save
    /// its frame otherwise.
    pub const DEFAULT: Pkey = Pkey(0);
    /// The key of page-table pages.
    pub const PAGE_TABLES: Pkey = Pkey(1);
    /// The key of other data that a kernel wants to write rarely, such as credentials: for contexts of its own.
    pub const WRITE_RARELY: Pkey = Pkey(2);
    /// The key of the tables of address spaces, below their roots, where they have one of their own
    /// ([`Backend::separates_user_tables`](crate::Backend::separates_user_tables)). Elsewhere no page carries it.
    pub const USER_TABLES: Pkey = Pkey(3);
    /// How many keys the largest format has.
    pub const COUNT: usize = 16;

    /// The key with this number, or `None` where no architecture has it.
    pub const fn new(number: u8) -> Option<Pkey> {
        if (number as usize) < Self::COUNT { Some(Pkey(number)) } else { None }
    }

    /// The number of the key, 0 to 15.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What data accesses a context allows to the pages of one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Loads and stores.
    ReadWrite,
    /// Loads only: a store faults.
    ReadOnly,
    /// Neither: any data access faults.
    NoAccess,
}

/// What a context says of each key. Keys it does not name are *unmanaged*: their register bits are left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessMap {
    managed: [Option<Access>; Pkey::COUNT],
}

impl AccessMap {
    /// Key 0 read-write, every key the framework manages read-only, all others unmanaged.
    pub const PROTECTED: AccessMap = {
        let mut managed = [None; Pkey::COUNT];
        managed[Pkey::DEFAULT.0 as usize] = Some(Access::ReadWrite);
        managed[Pkey::PAGE_TABLES.0 as usize] = Some(Access::ReadOnly);
        managed[Pkey::WRITE_RARELY.0 as usize] = Some(Access::ReadOnly);
        managed[Pkey::USER_TABLES.0 as usize] = Some(Access::ReadOnly);
        AccessMap { managed }
    };

    /// This map with one key changed.
    ///
    /// # Panics
    ///
    /// If it would take read-write away from key 0, or name a key that [`PROTECTED`](Self::PROTECTED) does not manage: leaving the
    /// context, or an exception inside it, would not close that key. A context's map is a constant, so both are compile errors there.
    pub const fn with(mut self, key: Pkey, access: Access) -> AccessMap {
        assert!(
            key.0 != 0 || matches!(access, Access::ReadWrite),
            "key 0 must stay read-write in every context: exceptions save their frames through it"
        );
        assert!(
            self.managed[key.0 as usize].is_some(),
            "a context can change only keys that every context manages"
        );
        self.managed[key.0 as usize] = Some(access);
        self
    }

    /// What this map says of a key, or `None` if it leaves the key alone.
    pub const fn get(&self, key: Pkey) -> Option<Access> {
        self.managed[key.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded() {
        assert_eq!(Pkey::new(15).map(Pkey::number), Some(15));
        assert_eq!(Pkey::new(16), None);
    }

    #[test]
    fn protected_map_manages_only_its_own_keys() {
        for number in 0..16 {
            let expected = match number {
                0 => Some(Access::ReadWrite),
                1..=3 => Some(Access::ReadOnly),
                _ => None,
            };
            assert_eq!(AccessMap::PROTECTED.get(Pkey(number)), expected, "key {number}");
        }
    }

    #[test]
    #[should_panic(expected = "key 0 must stay read-write")]
    fn key_zero_cannot_lose_write_access() {
        let _ = AccessMap::PROTECTED.with(Pkey::DEFAULT, Access::ReadOnly);
    }

    #[test]
    #[should_panic(expected = "only keys that every context manages")]
    fn a_key_that_nothing_closes_cannot_be_opened() {
        let _ = AccessMap::PROTECTED.with(Pkey(4), Access::ReadWrite);
    }
}
