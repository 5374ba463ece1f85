//! Entry formats: how x86-64 and arm64 spell the same entry, and the shape of the tables that it is in. Pure functions of 64-bit values, tested on
//! any host.
//!
//! | format | page | levels | addresses | frames below | blocks | contiguous |
//! |---|---|---|---|---|---|---|
//! | [`X86_64`] | 4 KiB | 4 | 48 bits | 2^48 | 2 MiB, 1 GiB | - |
//! | [`X86_64La57`] | 4 KiB | 5 | 57 bits | 2^52 | 2 MiB, 1 GiB | - |
//! | [`Aarch64`] | 4 KiB | 4 | 48 bits | 2^48 | 2 MiB, 1 GiB | 16 pages |
//! | [`Aarch64_16K`] | 16 KiB | 3 | 48 bits | 2^48 | 32 MiB | 128 pages |
//! | [`Aarch64_64K`] | 64 KiB | 3 | 48 bits | 2^48 | 512 MiB | 32 pages |
//! | [`Aarch64Lpa2`] | 4 KiB | 5 | 52 bits | 2^52 | 2 MiB, 1 GiB, 512 GiB | 16 pages |
//! | [`Aarch64_16KLpa2`] | 16 KiB | 4 | 52 bits | 2^52 | 32 MiB, 64 GiB | 128 pages |
//! | [`Aarch64_64KLpa`] | 64 KiB | 3 | 52 bits | 2^52 | 512 MiB, 4 TiB | 32 pages |
//!
//! Addresses are counted with the bit that tells the halves apart: with 48 bits, each half has 2^47 bytes.

mod aarch64;
pub mod indirection;
mod x86_64;

pub use aarch64::{
    Aarch64, Aarch64_16K, Aarch64_16KLpa2, Aarch64_64K, Aarch64_64KLpa, Aarch64Lpa2, Arm64,
    Granule, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Granule64KLpa, High,
};
pub use x86_64::{Depth, FiveLevels, FourLevels, X86, X86_64, X86_64La57};

use core::fmt::Debug;
use core::hash::Hash;
use core::sync::atomic::AtomicU64;

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

impl Debug for Entry {
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

/// An entry format, and the shape of the tables that have it.
///
/// Functions on an entry that the format did not produce return some answer and never panic: tables may hold
/// what an attacker wrote.
pub trait Format: Copy + Default + Eq + Hash + Debug + Send + Sync + 'static {
    /// A page as large as a table, as entries: [`ENTRIES`](Self::ENTRIES) of them.
    type Entries: AsRef<[AtomicU64]> + Debug;

    /// The lowest bit of an address that is not an offset into a page.
    const PAGE_SHIFT: u32;
    /// The level of a root's entries.
    const ROOT: Level;
    /// Bits of an address below the one that tells the halves of the address space apart, of which all bits above are copies.
    const HALF_BITS: u32;
    /// Bits of an address that tables translate: one more where the root has room for both halves.
    const INPUT_BITS: u32;
    /// Bits of a physical address.
    const FRAME_BITS: u32;
    /// The highest level whose entries may map blocks.
    const LARGEST_BLOCK: Level;
    /// PTEs in a contiguous run, where the format has such; elsewhere how many pages [`map_contiguous`](crate::Paging::map_contiguous) maps at a time.
    const CONT_PAGES: usize;

    /// Bytes in a page, and in a page-table page.
    const PAGE_SIZE: u64 = 1 << Self::PAGE_SHIFT;
    /// Bits of an address that choose an entry of a table.
    const INDEX_BITS: u32 = Self::PAGE_SHIFT - 3;
    /// Entries in a page-table page.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;
    /// Entries of a root that translate something.
    const ROOT_ENTRIES: usize =
        1 << (Self::INPUT_BITS - Self::PAGE_SHIFT - Self::INDEX_BITS * Self::ROOT as u32);
    /// The levels whose entries may point to tables, from the root down.
    const ABOVE_PTE: &'static [Level] = above_pte(Self::ROOT);
    /// Bytes that a contiguous run of PTEs maps.
    const CONT_BYTES: u64 = Self::CONT_PAGES as u64 * Self::PAGE_SIZE;
    /// Bits of a physical address that can be set in that of a frame.
    const FRAMES: u64 = (1 << Self::FRAME_BITS) - Self::PAGE_SIZE;
    /// Bits of a PTE that say which frame it maps.
    const FRAME: u64 = Self::FRAMES;

    /// The name used on command lines and in results.
    const NAME: &'static str;
    /// How many keys an entry can carry.
    const KEYS: u8;
    /// Whether making a kernel entry valid needs a barrier before the mapping is used: arm64, whose walker may not
    /// see the store, and whose kernel may not take a spurious fault for it (Linux does DSB ISHST; ISB).
    const VALID_KERNEL_STORE_NEEDS_BARRIER: bool;
    /// Whether user roots also hold the kernel's half of the address space (x86-64: one root register).
    const USER_ROOT_HAS_KERNEL_HALF: bool;
    /// Whether naturally aligned runs of [`CONT_PAGES`](Self::CONT_PAGES) equal PTEs can be marked contiguous.
    const HAS_CONT: bool;

    /// How an entry spells the address of a frame, of which only [`FRAMES`](Self::FRAMES) are looked at.
    #[inline(always)]
    fn spelled(frame: PhysAddr) -> u64 {
        frame.0 & Self::FRAMES
    }

    /// The PTE that maps the frame so many pages behind the one that `first` maps, which must be below 2^[`FRAME_BITS`](Self::FRAME_BITS) too.
    #[inline(always)]
    fn behind(first: Entry, pages: usize) -> Entry {
        Entry(first.0 + pages as u64 * Self::PAGE_SIZE)
    }

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

    /// A PTE marked as part of a run of [`CONT_PAGES`](Self::CONT_PAGES); unchanged where the format has no such mark.
    fn contiguous(entry: Entry) -> Entry;

    /// Whether a PTE is marked so.
    fn is_contiguous(entry: Entry) -> bool;

    /// Whether an entry at `level` may map a block (or, at [`Level::Pte`], a page).
    #[inline(always)]
    fn maps_blocks(level: Level) -> bool {
        level <= Self::LARGEST_BLOCK
    }

    /// Whether an entry found at `level` is a valid leaf.
    #[inline(always)]
    fn is_leaf(level: Level, entry: Entry) -> bool {
        Self::is_present(entry) && !Self::is_table(level, entry)
    }
}

/// Entries of a root that translate the half of the address space that it is for, the kernel's or the other.
pub(crate) const fn own_half<F: Format>(kernel: bool) -> core::ops::Range<usize> {
    let half = 1 << (F::HALF_BITS - F::ROOT.shift::<F>());
    // Where roots have no room for both halves, either begins at the first entry of its own root.
    if kernel && F::INPUT_BITS > F::HALF_BITS { half..2 * half } else { 0..half }
}

/// Entries of a root that translate the half that it is not for.
pub(crate) const fn other_half<F: Format>(kernel: bool) -> core::ops::Range<usize> {
    if F::INPUT_BITS > F::HALF_BITS { own_half::<F>(!kernel) } else { 0..0 }
}

/// Whether an entry of a root is in the half that the root is for.
#[inline(always)]
pub(crate) fn is_in_half<F: Format>(index: usize, user: bool) -> bool {
    F::INPUT_BITS == F::HALF_BITS || own_half::<F>(false).contains(&index) == user
}

/// The first address that an entry of a root translates, for a root of the kernel's half or of the other where it has no room for both.
pub(crate) const fn root_address<F: Format>(index: usize, kernel: bool) -> u64 {
    let address = (index as u64) << F::ROOT.shift::<F>();
    if F::INPUT_BITS > F::HALF_BITS {
        let unused = u64::BITS - F::INPUT_BITS;
        ((address << unused) as i64 >> unused) as u64
    } else if kernel {
        address | !0 << F::HALF_BITS
    } else {
        address
    }
}

/// The levels above the last, from `root` down.
const fn above_pte(root: Level) -> &'static [Level] {
    match root {
        Level::Pte => &[],
        Level::Pmd => &[Level::Pmd],
        Level::Pud => &[Level::Pud, Level::Pmd],
        Level::Pgd => &[Level::Pgd, Level::Pud, Level::Pmd],
        Level::Pml5 => &[Level::Pml5, Level::Pgd, Level::Pud, Level::Pmd],
    }
}

/// Whether a frame may be mapped at a level: aligned to it, of an address that the format has, at a level that maps blocks.
fn mappable<F: Format>(level: Level, frame: PhysAddr, key: Pkey) -> bool {
    F::maps_blocks(level)
        && frame.is_aligned(level.entry_bytes::<F>())
        && frame.0 < 1 << F::FRAME_BITS
        && key.number() < F::KEYS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::VirtAddr;
    use std::vec::Vec;

    /// The highest frame that a block of any level can start at.
    fn high_frame<F: Format>() -> PhysAddr {
        PhysAddr(F::FRAMES & !(F::LARGEST_BLOCK.entry_bytes::<F>() - 1))
    }

    /// The levels that blocks and pages are mapped at, and those below the root's entries.
    fn levels<F: Format>() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|&level| level <= F::ROOT)
    }

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
            for level in levels::<F>() {
                let frame = high_frame::<F>();
                let Some(entry) = F::leaf(level, frame, attrs) else {
                    assert!(
                        !F::maps_blocks(level) || attrs.key.number() >= F::KEYS,
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
            let frame = PhysAddr(F::FRAMES);
            let entry = F::leaf(Level::Pte, frame, attrs).unwrap();
            assert_eq!(F::attrs(F::write_protected(entry)), Attrs { write: false, ..attrs });
            assert_eq!(F::attrs(F::writable(entry)), Attrs { write: true, dirty: true, ..attrs });
            assert_eq!(F::attrs(F::old(entry)), Attrs { young: false, ..attrs });
            assert_eq!(F::attrs(F::contiguous(entry)), attrs);
            assert!(!F::is_contiguous(entry));
            assert_eq!(F::is_contiguous(F::contiguous(entry)), F::HAS_CONT);
            for key in (0..F::KEYS).filter_map(Pkey::new) {
                let keyed = F::with_key(entry, key);
                assert_eq!(F::attrs(keyed), attrs.with_key(key));
                assert_eq!(F::frame(Level::Pte, keyed), frame);
            }
        }
    }

    fn protection_of_the_linear_map_can_be_taken_back<F: Format>() {
        for level in levels::<F>().filter(|&level| F::maps_blocks(level)) {
            let data = F::leaf(level, high_frame::<F>(), Attrs::KERNEL_DATA).unwrap();
            assert!(!F::is_writable(F::write_protected(data)));
            assert_eq!(F::writable(F::write_protected(data)), data);
        }
    }

    fn aliases_are_what_user_data_is<F: Format>() {
        for level in levels::<F>().filter(|&level| F::maps_blocks(level)) {
            let frame = high_frame::<F>();
            let alias = F::alias(level, frame).unwrap();
            assert!(F::is_leaf(level, alias));
            assert_eq!(F::frame(level, alias), frame);
            assert_eq!(F::attrs(alias), Attrs::USER_DATA);
            assert_eq!(F::leaf(level, frame, Attrs::USER_DATA), Some(alias), "not global");
        }
        assert_eq!(F::alias(Level::Pmd, PhysAddr(F::PAGE_SIZE)), None, "unaligned block");
        if !F::maps_blocks(F::ROOT) {
            assert_eq!(F::alias(F::ROOT, PhysAddr(0)), None, "no block at the root");
        }
    }

    fn aliases_of_windows_are_the_kernels_alone<F: Format>() {
        for level in levels::<F>().filter(|&level| F::maps_blocks(level)) {
            let frame = high_frame::<F>();
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
            for &level in F::ABOVE_PTE {
                let table = PhysAddr(F::FRAMES & 0x000f_1234_5679_ffff);
                let entry = F::table(table, user);
                assert!(
                    F::is_present(entry) && F::is_table(level, entry) && !F::is_leaf(level, entry)
                );
                assert_eq!(F::frame(level, entry), table);
            }
        }
        assert!(!F::is_present(Entry::EMPTY));
        assert!(!F::is_table(Level::Pmd, Entry::EMPTY));
        assert!(!F::walker_may_flag(Entry::EMPTY));
    }

    fn misfits_are_refused<F: Format>() {
        let attrs = Attrs::KERNEL_DATA;
        assert_eq!(F::leaf(Level::Pmd, PhysAddr(F::PAGE_SIZE), attrs), None, "unaligned block");
        assert_eq!(
            F::leaf(Level::Pte, PhysAddr(1 << F::FRAME_BITS), attrs),
            None,
            "address too large"
        );
        if !F::maps_blocks(F::ROOT) {
            assert_eq!(F::leaf(F::ROOT, PhysAddr(0), attrs), None, "no block at the root");
        }
        let beyond = Pkey::new(F::KEYS).map(|key| attrs.with_key(key));
        if let Some(attrs) = beyond {
            assert_eq!(F::leaf(Level::Pte, PhysAddr(0), attrs), None, "no such key");
        }
    }

    fn the_page_behind_is_the_next<F: Format>() {
        let pages = [0, 1, F::ENTRIES - 1];
        let edges = [30, 47, 48, 50].map(|bit| (1 << bit) - F::PAGE_SIZE);
        for first in edges.into_iter().filter(|&first| first + F::PAGE_SIZE < F::FRAMES) {
            let leaf = |frame| F::leaf(Level::Pte, frame, Attrs::USER_DATA).unwrap();
            for (pages, frame) in
                pages.map(|pages| (pages, PhysAddr(first + pages as u64 * F::PAGE_SIZE)))
            {
                assert_eq!(F::behind(leaf(PhysAddr(first)), pages), leaf(frame), "{frame:?}");
                let template = leaf(PhysAddr(0));
                assert_eq!(Entry(template.0 | F::spelled(frame)), leaf(frame), "{frame:?}");
                assert_eq!(template.0 & F::FRAME, 0, "nothing else is where a frame is");
                assert_eq!((leaf(frame).0 ^ template.0) & !F::FRAME, 0, "{frame:?}");
            }
        }
    }

    fn addresses_are_their_indices<F: Format>() {
        let canonical = |va: u64| VirtAddr(va).is_canonical::<F>();
        let half = 1 << F::HALF_BITS;
        assert!(canonical(half - 1) && canonical(!0 << F::HALF_BITS));
        assert!(!canonical(half) && !canonical((!0 << F::HALF_BITS) - 1));
        for va in [0, half - 1, half >> 1, !0 << F::HALF_BITS, !0, !0 << (F::HALF_BITS - 1)] {
            let (va, kernel) = (VirtAddr(va), VirtAddr(va).is_kernel());
            let root = va.index::<F>(F::ROOT);
            assert!(own_half::<F>(kernel).contains(&root), "{va:?}: {root}");
            assert!(!other_half::<F>(kernel).contains(&root), "{va:?}: {root}");
            assert!(is_in_half::<F>(root, !kernel), "{va:?}: {root}");
            let below = F::ABOVE_PTE[1..].iter().chain([&Level::Pte]);
            let sum = below.fold(root_address::<F>(root, kernel), |sum, &level| {
                sum + va.index::<F>(level) as u64 * level.entry_bytes::<F>()
            });
            assert_eq!(sum, va.0 & !(F::PAGE_SIZE - 1), "{va:?}");
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
        the_page_behind_is_the_next::<F>();
        addresses_are_their_indices::<F>();
        assert_eq!(size_of::<F::Entries>(), F::PAGE_SIZE as usize);
    }

    #[test]
    fn x86_64_keeps_the_contract() {
        the_format_keeps_its_contract::<X86_64>();
    }

    #[test]
    fn x86_64_of_five_levels_keeps_the_contract() {
        the_format_keeps_its_contract::<X86_64La57>();
    }

    #[test]
    fn aarch64_keeps_the_contract() {
        the_format_keeps_its_contract::<Aarch64>();
    }

    #[test]
    fn aarch64_of_other_granules_keeps_the_contract() {
        the_format_keeps_its_contract::<Aarch64_16K>();
        the_format_keeps_its_contract::<Aarch64_64K>();
        the_format_keeps_its_contract::<Aarch64Lpa2>();
        the_format_keeps_its_contract::<Aarch64_16KLpa2>();
        the_format_keeps_its_contract::<Aarch64_64KLpa>();
    }

    /// What a format says of its tables: their entries, those of the root that are used, what an entry of each level translates, and a contiguous run, as
    /// powers of two.
    fn shape<F: Format>() -> (u32, u32, Vec<u32>, u32) {
        let sizes = levels::<F>().map(|level| level.entry_bytes::<F>().ilog2()).collect();
        (F::ENTRIES.ilog2(), F::ROOT_ENTRIES.ilog2(), sizes, F::CONT_BYTES.ilog2())
    }

    /// By the manuals: SDM vol. 3A, figures 4-8 and 4-11; Arm ARM D8.2.6 to D8.2.8 and, for contiguous runs, D8.6.1.
    #[test]
    fn tables_have_the_shapes_of_the_manuals() {
        let four = std::vec![12, 21, 30, 39];
        let five = std::vec![12, 21, 30, 39, 48];
        assert_eq!(shape::<X86_64>(), (9, 9, four.clone(), 16));
        assert_eq!(shape::<X86_64La57>(), (9, 9, five.clone(), 16));
        assert_eq!(shape::<Aarch64>(), (9, 9, four, 16));
        assert_eq!(shape::<Aarch64Lpa2>(), (9, 4, five, 16));
        assert_eq!(shape::<Aarch64_16K>(), (11, 11, std::vec![14, 25, 36], 21));
        assert_eq!(shape::<Aarch64_16KLpa2>(), (11, 5, std::vec![14, 25, 36, 47], 21));
        assert_eq!(shape::<Aarch64_64K>(), (13, 6, std::vec![16, 29, 42], 21));
        assert_eq!(shape::<Aarch64_64KLpa>(), (13, 10, std::vec![16, 29, 42], 21));
    }

    /// Arm ARM D8.3.1 and D8.3.2: 51:48 in bits 15:12 of 64 KiB pages; with DS, 49:48 in their place and 51:50 in bits 9:8, where there is no
    /// shareability then.
    #[test]
    fn high_bits_of_addresses_are_where_the_manual_has_them() {
        fn bits<F: Format>(level: Level, frame: u64) -> u64 {
            let with = |frame| F::leaf(level, PhysAddr(frame), Attrs::USER_DATA).unwrap().0;
            with(frame) ^ with(0)
        }
        assert_eq!(bits::<Aarch64_64KLpa>(Level::Pte, 0xf << 48), 0xf000);
        assert_eq!(
            bits::<Aarch64_64KLpa>(Level::Pmd, 0x5 << 48 | 1 << 47 | 1 << 29),
            0x8000_2000_5000
        );
        assert_eq!(
            bits::<Aarch64Lpa2>(Level::Pte, 0xf << 48 | 1 << 12),
            3 << 48 | 3 << 8 | 1 << 12
        );
        assert_eq!(
            bits::<Aarch64_16KLpa2>(Level::Pud, 1 << 51 | 1 << 48 | 1 << 36),
            1 << 48 | 1 << 9 | 1 << 36
        );
        assert_eq!(bits::<X86_64La57>(Level::Pte, 0xf << 48), 0xf << 48);
        let shareability = |entry: Entry| entry.0 >> 8 & 3;
        let leaf = Aarch64Lpa2::leaf(Level::Pte, PhysAddr(0), Attrs::KERNEL_DATA).unwrap();
        assert_eq!(shareability(leaf), 0, "an address, below 2^50");
        let table = Aarch64_64KLpa::table(PhysAddr(0xa_0000_1234_0000), false);
        assert_eq!(table.0, 0x1234_a003);
    }
}
