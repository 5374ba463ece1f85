//! Entry formats: how x86-64 and arm64 spell the same entry. Pure functions of 64-bit values, tested on any host.

mod aarch64;
pub mod indirection;
mod x86_64;

pub use aarch64::Aarch64;
pub use x86_64::X86_64;

use kpkeys::Pkey;

use crate::addr::{Level, PhysAddr};

/// One page-table entry, in some format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// The entry that translates nothing.
    pub const EMPTY: Entry = Entry(0);

    /// Whether the entry is [`EMPTY`](Self::EMPTY).
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "entry {:#018x}", self.0)
    }
}

/// Who a mapping is for and what it allows, apart from keys: the part every format can say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attrs {
    /// Stores are allowed.
    pub write: bool,
    /// Instruction fetches are allowed, to the mapping's own privilege level only.
    pub execute: bool,
    /// The mapping is for user mode; a kernel mapping otherwise.
    pub user: bool,
    /// The page was used since this was last cleared. A clear flag makes the next access fault or set it.
    pub young: bool,
    /// The page was written since this was last cleared.
    pub dirty: bool,
    /// The key of the page.
    pub key: Pkey,
    /// What is behind the mapping.
    pub memory: MemoryType,
}

/// What is behind a mapping, and so how a CPU may treat accesses to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryType {
    /// RAM: cached, read ahead, in any order.
    Normal,
    /// Memory of a device, such as a frame buffer: not cached, stores may be combined and change order. (x86-64: by PWT alone, which is PAT entry 1: a kernel
    /// that uses this makes it write-combining, as CPUs do not start with it; arm64: attribute 2 of `MAIR_EL1`, which must be Normal Non-cacheable.)
    WriteCombining,
    /// Registers of a device: each access is made, once, in order. (x86-64: uncached by PWT and PCD, which is PAT entry 3 as CPUs start with it; arm64:
    /// attribute 1 of `MAIR_EL1`, which the kernel must have for devices, and attribute 0 for RAM.)
    Device,
}

impl Attrs {
    /// Kernel data: writable, never executable, key 0.
    pub const KERNEL_DATA: Attrs = Attrs {
        write: true,
        execute: false,
        user: false,
        young: true,
        dirty: true,
        key: Pkey::DEFAULT,
        memory: MemoryType::Normal,
    };

    /// Registers of a device, for the kernel.
    pub const DEVICE: Attrs = Attrs { memory: MemoryType::Device, ..Attrs::KERNEL_DATA };

    /// User data just touched by a store: writable, not executable, key 0.
    pub const USER_DATA: Attrs = Attrs {
        write: true,
        execute: false,
        user: true,
        young: true,
        dirty: true,
        key: Pkey::DEFAULT,
        memory: MemoryType::Normal,
    };

    /// These attributes without write permission.
    #[must_use]
    pub const fn read_only(self) -> Attrs {
        Attrs { write: false, dirty: false, ..self }
    }

    /// These attributes with another key.
    #[must_use]
    pub const fn with_key(self, key: Pkey) -> Attrs {
        Attrs { key, ..self }
    }
}

/// An entry format: 4 levels of 512 entries, 4 KiB pages, 48-bit addresses.
///
/// Functions on an entry that the format did not produce return some answer and never panic: tables may hold
/// what an attacker wrote.
pub trait Format: Send + Sync + Sized + 'static {
    /// The name used on command lines and in results.
    const NAME: &'static str;
    /// How many keys an entry can carry.
    const KEYS: u8;
    /// Whether making a kernel entry valid needs a barrier before the mapping is used: arm64, whose walker may not
    /// see the store, and whose kernel may not take a spurious fault for it (Linux does DSB ISHST; ISB).
    const VALID_KERNEL_STORE_NEEDS_BARRIER: bool;
    /// Whether user roots also hold the kernel's half of the address space (x86-64: one root register).
    const USER_ROOT_HAS_KERNEL_HALF: bool;
    /// Whether naturally aligned runs of [`CONT_PAGES`] equal PTEs can be marked contiguous.
    const HAS_CONT: bool;

    /// An entry that points to the table at `table`.
    fn table(table: PhysAddr, user: bool) -> Entry;

    /// An entry at `level` that maps the page or block at `frame`, or `None` if the level maps no blocks, the frame
    /// is not aligned to it, or the key does not exist.
    fn leaf(level: Level, frame: PhysAddr, attrs: Attrs) -> Option<Entry>;

    /// Whether the entry is valid: translates, or points to a table.
    fn is_present(entry: Entry) -> bool;

    /// Whether an entry found at `level` points to a table.
    fn is_table(level: Level, entry: Entry) -> bool;

    /// The frame or table an entry found at `level` refers to.
    fn frame(level: Level, entry: Entry) -> PhysAddr;

    /// The attributes of a leaf entry.
    fn attrs(entry: Entry) -> Attrs;

    /// The key of a leaf entry.
    fn key(entry: Entry) -> Pkey;

    /// A leaf entry with another key, which must be below [`KEYS`](Self::KEYS).
    fn with_key(entry: Entry, key: Pkey) -> Entry;

    /// Whether a leaf entry allows stores.
    fn is_writable(entry: Entry) -> bool;

    /// A leaf entry without write permission; whether the page was dirty is kept.
    fn write_protected(entry: Entry) -> Entry;

    /// A leaf entry with write permission, dirty: what a write-protected leaf of the linear map was before.
    fn writable(entry: Entry) -> Entry;

    /// An entry at `level` that maps a page or block of page tables a second time, for [`Scheme::Alias`](kpkeys::Scheme::Alias):
    /// marked accessible for user mode, writable, never executable, key 0, not global. `None` as for [`leaf`](Self::leaf).
    fn alias(level: Level, frame: PhysAddr) -> Option<Entry>;

    /// The same for an alias with a root of its own, which is loaded in windows alone: for the kernel alone, and not global either. `None` also where one root register
    /// has both halves.
    fn alias_of_windows(level: Level, frame: PhysAddr) -> Option<Entry>;

    /// A leaf entry with the young flag cleared.
    fn old(entry: Entry) -> Entry;

    /// Whether the young flag is set.
    fn is_young(entry: Entry) -> bool;

    /// Whether a table walker may set a flag of this entry at any moment: it is a valid leaf that is old, or writable and clean.
    fn walker_may_flag(entry: Entry) -> bool;

    /// A PTE marked as part of a run of [`CONT_PAGES`]; unchanged where the format has no such mark.
    fn contiguous(entry: Entry) -> Entry;

    /// Whether a PTE is marked so.
    fn is_contiguous(entry: Entry) -> bool;

    /// Whether an entry at `level` may map a block (or, at [`Level::Pte`], a page).
    #[inline(always)]
    fn maps_blocks(level: Level) -> bool {
        level <= Level::Pud
    }

    /// Whether an entry found at `level` is a valid leaf.
    #[inline(always)]
    fn is_leaf(level: Level, entry: Entry) -> bool {
        Self::is_present(entry) && !Self::is_table(level, entry)
    }
}

/// PTEs in a contiguous run: 64 KiB (arm64 with 4 KiB granule, Arm ARM D8.6.1).
pub const CONT_PAGES: usize = 16;

/// Whether a frame may be mapped at a level: aligned to it, within 48 bits, at a level that maps blocks.
fn mappable<F: Format>(level: Level, frame: PhysAddr, key: Pkey) -> bool {
    F::maps_blocks(level)
        && frame.is_aligned(level.entry_bytes())
        && frame.0 < 1 << 48
        && key.number() < F::KEYS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_attrs() -> impl Iterator<Item = Attrs> {
        let memory = [MemoryType::Normal, MemoryType::WriteCombining, MemoryType::Device];
        (0..32u8).flat_map(move |bits| {
            let each = memory
                .into_iter()
                .flat_map(|memory| (0..16u8).filter_map(Pkey::new).map(move |key| (memory, key)));
            each.map(move |(memory, key)| Attrs {
                write: bits & 1 != 0,
                execute: bits & 2 != 0,
                user: bits & 4 != 0,
                young: bits & 8 != 0,
                dirty: bits & 16 != 0,
                key,
                memory,
            })
        })
    }

    fn leaves_round_trip<F: Format>() {
        for attrs in all_attrs() {
            for level in [Level::Pte, Level::Pmd, Level::Pud, Level::Pgd] {
                let frame = PhysAddr(0x7fff_c000_0000);
                let Some(entry) = F::leaf(level, frame, attrs) else {
                    assert!(
                        level == Level::Pgd || attrs.key.number() >= F::KEYS,
                        "{level:?} {attrs:?}"
                    );
                    continue;
                };
                assert!(F::is_leaf(level, entry), "{level:?} {entry:?}");
                assert!(!F::is_table(level, entry), "{level:?} {entry:?}");
                assert_eq!(F::frame(level, entry), frame, "{level:?} {entry:?}");
                assert_eq!(F::attrs(entry), attrs, "{level:?} {entry:?}");
                assert_eq!(F::key(entry), attrs.key);
                assert_eq!(F::is_writable(entry), attrs.write);
                assert_eq!(F::is_young(entry), attrs.young);
                assert_eq!(
                    F::walker_may_flag(entry),
                    !attrs.young || attrs.write && !attrs.dirty,
                    "{attrs:?}"
                );
            }
        }
    }

    fn transformations_change_one_thing<F: Format>() {
        for attrs in all_attrs().filter(|a| a.key.number() < F::KEYS) {
            let entry = F::leaf(Level::Pte, PhysAddr(0x1234_5000), attrs).unwrap();
            assert_eq!(F::attrs(F::write_protected(entry)), Attrs { write: false, ..attrs });
            assert_eq!(F::attrs(F::writable(entry)), Attrs { write: true, dirty: true, ..attrs });
            assert_eq!(F::attrs(F::old(entry)), Attrs { young: false, ..attrs });
            assert_eq!(F::attrs(F::contiguous(entry)), attrs);
            assert!(!F::is_contiguous(entry));
            assert_eq!(F::is_contiguous(F::contiguous(entry)), F::HAS_CONT);
            for key in (0..F::KEYS).filter_map(Pkey::new) {
                let keyed = F::with_key(entry, key);
                assert_eq!(F::attrs(keyed), attrs.with_key(key));
                assert_eq!(F::frame(Level::Pte, keyed), PhysAddr(0x1234_5000));
            }
        }
    }

    fn protection_of_the_linear_map_can_be_taken_back<F: Format>() {
        for level in [Level::Pte, Level::Pmd, Level::Pud] {
            let data = F::leaf(level, PhysAddr(0x7fff_c000_0000), Attrs::KERNEL_DATA).unwrap();
            assert!(!F::is_writable(F::write_protected(data)));
            assert_eq!(F::writable(F::write_protected(data)), data);
        }
    }

    fn aliases_are_what_user_data_is<F: Format>() {
        for level in [Level::Pte, Level::Pmd, Level::Pud] {
            let frame = PhysAddr(0x7fff_c000_0000);
            let alias = F::alias(level, frame).unwrap();
            assert!(F::is_leaf(level, alias));
            assert_eq!(F::frame(level, alias), frame);
            assert_eq!(F::attrs(alias), Attrs::USER_DATA);
            assert_eq!(F::leaf(level, frame, Attrs::USER_DATA), Some(alias), "not global");
        }
        assert_eq!(F::alias(Level::Pmd, PhysAddr(0x1000)), None, "unaligned block");
        assert_eq!(F::alias(Level::Pgd, PhysAddr(0)), None, "no block at the root");
    }

    fn aliases_of_windows_are_the_kernels_alone<F: Format>() {
        for level in [Level::Pte, Level::Pmd, Level::Pud] {
            let frame = PhysAddr(0x7fff_c000_0000);
            let alias = F::alias_of_windows(level, frame);
            assert_eq!(alias.is_none(), F::USER_ROOT_HAS_KERNEL_HALF);
            let Some(alias) = alias else { continue };
            assert!(F::is_leaf(level, alias));
            assert_eq!(F::frame(level, alias), frame);
            assert_eq!(F::attrs(alias), Attrs::KERNEL_DATA);
            assert_ne!(F::leaf(level, frame, Attrs::KERNEL_DATA), Some(alias), "global");
        }
    }

    fn tables_are_tables<F: Format>() {
        for user in [false, true] {
            for level in [Level::Pmd, Level::Pud, Level::Pgd] {
                let entry = F::table(PhysAddr(0x1_2345_6000), user);
                assert!(
                    F::is_present(entry) && F::is_table(level, entry) && !F::is_leaf(level, entry)
                );
                assert_eq!(F::frame(level, entry), PhysAddr(0x1_2345_6000));
            }
        }
        assert!(!F::is_present(Entry::EMPTY));
        assert!(!F::is_table(Level::Pmd, Entry::EMPTY));
        assert!(!F::walker_may_flag(Entry::EMPTY));
    }

    fn misfits_are_refused<F: Format>() {
        let attrs = Attrs::KERNEL_DATA;
        assert_eq!(F::leaf(Level::Pmd, PhysAddr(0x1000), attrs), None, "unaligned block");
        assert_eq!(F::leaf(Level::Pte, PhysAddr(1 << 48), attrs), None, "address too large");
        assert_eq!(F::leaf(Level::Pgd, PhysAddr(0), attrs), None, "no block at the root");
        let beyond = Pkey::new(F::KEYS).map(|key| attrs.with_key(key));
        if let Some(attrs) = beyond {
            assert_eq!(F::leaf(Level::Pte, PhysAddr(0), attrs), None, "no such key");
        }
    }

    fn the_format_keeps_its_contract<F: Format>() {
        leaves_round_trip::<F>();
        transformations_change_one_thing::<F>();
        protection_of_the_linear_map_can_be_taken_back::<F>();
        aliases_are_what_user_data_is::<F>();
        aliases_of_windows_are_the_kernels_alone::<F>();
        tables_are_tables::<F>();
        misfits_are_refused::<F>();
    }

    #[test]
    fn x86_64_keeps_the_contract() {
        the_format_keeps_its_contract::<X86_64>();
    }

    #[test]
    fn aarch64_keeps_the_contract() {
        the_format_keeps_its_contract::<Aarch64>();
    }
}
