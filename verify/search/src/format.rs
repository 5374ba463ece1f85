//! What entries of page tables mean to the hardware, written from the manuals and apart from the code under test.

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing is mapped.
    Nothing,
    /// A table of the next level is at this address, with permissions that bound those of its leaves.
    Table(u64, Rights),
    /// This address is mapped.
    Leaf(u64, Leaf),
}

/// What a translation allows, as far as one level says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Stores.
    pub write: bool,
    /// Accesses of programs.
    pub user: bool,
    /// Fetches of the kernel.
    pub execute: bool,
}

impl Rights {
    /// What both levels allow.
    pub fn and(self, other: Rights) -> Rights {
        Rights {
            write: self.write && other.write,
            user: self.user && other.user,
            execute: self.execute && other.execute,
        }
    }
}

/// A leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// What it allows.
    pub rights: Rights,
    /// The protection key, where there are any.
    pub key: u8,
    /// Whether it is uncached, as registers of devices are.
    pub device: bool,
}

/// A format of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Intel SDM vol. 3A, tables 5-15 to 5-20.
    X86_64,
    /// Arm ARM D8.3, 4 KiB granule, 48 bits.
    Aarch64,
}

/// The highest level, of roots; the lowest is 0.
pub const TOP: u32 = 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Bytes that an entry of a level translates.
pub const fn bytes(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

impl Format {
    /// What an entry of a level says.
    pub fn decode(self, level: u32, entry: u64) -> Entry {
        match self {
            Format::X86_64 => x86_64(level, entry),
            Format::Aarch64 => aarch64(level, entry),
        }
    }
}

fn bit(entry: u64, bit: u32) -> bool {
    entry & 1 << bit != 0
}

fn x86_64(level: u32, entry: u64) -> Entry {
    if !bit(entry, 0) {
        return Entry::Nothing;
    }
    let rights = Rights { write: bit(entry, 1), user: bit(entry, 2), execute: !bit(entry, 63) };
    if level == TOP || (level > 0 && !bit(entry, 7)) {
        return Entry::Table(entry & ADDRESS, rights);
    }
    let leaf = Leaf { rights, key: (entry >> 59 & 0xf) as u8, device: bit(entry, 4) };
    Entry::Leaf(entry & ADDRESS & !(bytes(level) - 1), leaf)
}

fn aarch64(level: u32, entry: u64) -> Entry {
    let table_or_page = bit(entry, 1);
    if !bit(entry, 0) || (level == 0 || level == TOP) && !table_or_page {
        return Entry::Nothing;
    }
    if level > 0 && table_or_page {
        // APTable takes away: bit 61 from programs, bit 62 stores. PXNTable, bit 59.
        let rights =
            Rights { write: !bit(entry, 62), user: !bit(entry, 61), execute: !bit(entry, 59) };
        return Entry::Table(entry & ADDRESS, rights);
    }
    let rights = Rights { write: !bit(entry, 7), user: bit(entry, 6), execute: !bit(entry, 53) };
    // The kernel's MAIR has ordinary memory first.
    let leaf = Leaf { rights, key: (entry >> 60 & 7) as u8, device: entry >> 2 & 7 != 0 };
    Entry::Leaf(entry & ADDRESS & !(bytes(level) - 1), leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_formats_are_read() {
        let table =
            |frame, write, user, execute| Entry::Table(frame, Rights { write, user, execute });
        let x86 = |level, entry| Format::X86_64.decode(level, entry);
        assert_eq!(x86(0, 0x8000_0000_0000_1002), Entry::Nothing);
        assert_eq!(x86(3, 0x5023), table(0x5000, true, false, true));
        assert_eq!(x86(1, 0x5023), table(0x5000, true, false, true));
        let Entry::Leaf(0x20_0000, leaf) = x86(1, 0x8800_0000_0020_11e3) else { panic!() };
        assert_eq!((leaf.key, leaf.rights.write, leaf.rights.execute), (1, true, false));
        let arm = |level, entry| Format::Aarch64.decode(level, entry);
        assert_eq!(arm(0, 0x5001), Entry::Nothing, "a block where there is none");
        assert_eq!(arm(2, 0x5003), table(0x5000, true, true, true));
        let Entry::Leaf(0x5000, leaf) = arm(0, 0x0060_0000_0000_5783) else { panic!() };
        assert_eq!(leaf.rights, Rights { write: false, user: false, execute: false });
        let Entry::Leaf(_, leaf) = arm(0, 0x0060_0000_0000_5743) else { panic!() };
        assert_eq!(leaf.rights, Rights { write: true, user: true, execute: false });
    }
}
