//! arm64, each granule, with 48-bit addresses or 52. Bits from the Arm ARM (DDI 0487) D8.3, "VMSAv8-64 descriptor formats".
//!
//! Write permission is kept in bit 51 and "clean" in bit 7, as the architecture's hardware dirty-state management
//! and permission indirection (where bit 51 is `PIIndex[1]` and bit 7 is `nDirty`) both want it: a writable and
//! dirty page has bit 51 set and bit 7 clear, which also is plain read-write to a CPU with neither feature. A clean
//! writable page has both set: such a CPU faults on its first store, and the handler makes it dirty.

use core::fmt::Debug;
use core::hash::Hash;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use kpkeys::Pkey;

use super::{Attrs, Entry, Format, MemoryType, mappable};
use crate::addr::{Level, PhysAddr};

const VALID: u64 = 1 << 0;
/// Set in table descriptors and, at the last level, in page descriptors; clear in blocks.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// AttrIndx: which attribute of `MAIR_EL1`. The first is RAM's, the second devices', the third that of memory that is not cached.
const ATTRIBUTE: u64 = 0b111 << 2;
const DEVICE: u64 = 1 << 2;
const COMBINING: u64 = 2 << 2;
/// AP[1]: accessible from EL0.
const EL0: u64 = 1 << 6;
/// AP[2] / nDirty: not writable now.
const READ_ONLY: u64 = 1 << 7;
/// SH, where the format has it: inner shareable.
const SHAREABILITY: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// nG: tagged with the ASID; user leaves are.
const NOT_GLOBAL: u64 = 1 << 11;
/// DBM / PIIndex[1]: may be written.
const WRITE: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;
/// Software bit: dirty, though not writable.
const DIRTY_KEPT: u64 = 1 << 55;
/// POIndex, bits 62:60.
const KEY_SHIFT: u32 = 60;
const KEY: u64 = 0x7 << KEY_SHIFT;

/// Where an entry has bits 51:48 of an address, or those of them that it has elsewhere than in their place (Arm ARM D8.3.1 and D8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum High {
    /// Nowhere: addresses have 48 bits.
    None,
    /// 51:50 in bits 9:8, which otherwise say how the memory is shared; that is `TCR_EL1.SH0` and `SH1` then. 49:48 are in their place.
    Shareability,
    /// 51:48 in bits 15:12, which are offset in pages of 64 KiB.
    Page,
}

impl High {
    /// Bits of a physical address that an entry has in their place, from the page's size up.
    const fn in_place(self) -> u64 {
        match self {
            High::None | High::Page => (1 << 48) - 1,
            High::Shareability => (1 << 50) - 1,
        }
    }

    /// Bits of an entry that are bits of the address from elsewhere.
    const fn moved(self) -> u64 {
        match self {
            High::None => 0,
            High::Shareability => SHAREABILITY,
            High::Page => 0xf << 12,
        }
    }

    /// How far these are below their place.
    const fn by(self) -> u32 {
        match self {
            High::None => 0,
            High::Shareability => 42,
            High::Page => 36,
        }
    }
}

/// What a translation granule, and how wide addresses are with it, make of arm64's tables: by `TCR_EL1.TG0` and `TG1`, `T0SZ` and `T1SZ`, and `DS` (Arm
/// ARM D8.2, "Translation process").
pub trait Granule: Copy + Default + Eq + Hash + Debug + Send + Sync + 'static {
    /// A table's entries.
    type Entries: AsRef<[AtomicU64]> + Debug;

    /// The format's name.
    const NAME: &'static str;
    /// See [`Format::PAGE_SHIFT`].
    const PAGE_SHIFT: u32;
    /// See [`Format::ROOT`].
    const ROOT: Level;
    /// See [`Format::INPUT_BITS`].
    const INPUT_BITS: u32;
    /// See [`Format::HALF_BITS`].
    const HALF_BITS: u32;
    /// See [`Format::LARGEST_BLOCK`].
    const LARGEST_BLOCK: Level;
    /// PTEs in a contiguous run (Arm ARM D8.6.1).
    const CONT_PAGES: usize;
    /// Where the high bits of an address are.
    const HIGH: High;
}

/// Pages of 4 KiB, four levels, blocks of 2 MiB and 1 GiB.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule4K;

impl Granule for Granule4K {
    type Entries = [AtomicU64; 512];

    const NAME: &'static str = "aarch64";
    const PAGE_SHIFT: u32 = 12;
    const ROOT: Level = Level::Pgd;
    const INPUT_BITS: u32 = 48;
    const HALF_BITS: u32 = 47;
    const LARGEST_BLOCK: Level = Level::Pud;
    const CONT_PAGES: usize = 16;
    const HIGH: High = High::None;
}

/// Pages of 16 KiB, three levels, blocks of 32 MiB. Roots translate 47 bits (`TCR_EL1.T0SZ` and `T1SZ` of 17), all of them in a table of full size: with 48 there
/// would be a fourth level of two entries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule16K;

impl Granule for Granule16K {
    type Entries = [AtomicU64; 2048];

    const NAME: &'static str = "aarch64-16k";
    const PAGE_SHIFT: u32 = 14;
    const ROOT: Level = Level::Pud;
    const INPUT_BITS: u32 = 47;
    const HALF_BITS: u32 = 47;
    const LARGEST_BLOCK: Level = Level::Pmd;
    const CONT_PAGES: usize = 128;
    const HIGH: High = High::None;
}

/// Pages of 64 KiB, three levels, blocks of 512 MiB. Of a root, 64 entries are used.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule64K;

impl Granule for Granule64K {
    type Entries = [AtomicU64; 8192];

    const NAME: &'static str = "aarch64-64k";
    const PAGE_SHIFT: u32 = 16;
    const ROOT: Level = Level::Pud;
    const INPUT_BITS: u32 = 48;
    const HALF_BITS: u32 = 47;
    const LARGEST_BLOCK: Level = Level::Pmd;
    const CONT_PAGES: usize = 32;
    const HIGH: High = High::None;
}

/// Pages of 4 KiB with 52-bit addresses (FEAT_LPA2, `TCR_EL1.DS`): five levels, the first of which, level -1, has 16 entries; blocks of 2 MiB, 1 GiB and 512 GiB.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule4KLpa2;

impl Granule for Granule4KLpa2 {
    type Entries = [AtomicU64; 512];

    const NAME: &'static str = "aarch64-lpa2";
    const PAGE_SHIFT: u32 = 12;
    const ROOT: Level = Level::Pml5;
    const INPUT_BITS: u32 = 52;
    const HALF_BITS: u32 = 51;
    const LARGEST_BLOCK: Level = Level::Pgd;
    const CONT_PAGES: usize = 16;
    const HIGH: High = High::Shareability;
}

/// Pages of 16 KiB with 52-bit addresses (FEAT_LPA2, `TCR_EL1.DS`): four levels, the first of which has 32 entries; blocks of 32 MiB and 64 GiB.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule16KLpa2;

impl Granule for Granule16KLpa2 {
    type Entries = [AtomicU64; 2048];

    const NAME: &'static str = "aarch64-16k-lpa2";
    const PAGE_SHIFT: u32 = 14;
    const ROOT: Level = Level::Pgd;
    const INPUT_BITS: u32 = 52;
    const HALF_BITS: u32 = 51;
    const LARGEST_BLOCK: Level = Level::Pud;
    const CONT_PAGES: usize = 128;
    const HIGH: High = High::Shareability;
}

/// Pages of 64 KiB with 52-bit addresses (FEAT_LPA and FEAT_LVA): three levels, blocks of 512 MiB and 4 TiB. Of a root, 1,024 entries are used.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Granule64KLpa;

impl Granule for Granule64KLpa {
    type Entries = [AtomicU64; 8192];

    const NAME: &'static str = "aarch64-64k-lpa";
    const PAGE_SHIFT: u32 = 16;
    const ROOT: Level = Level::Pud;
    const INPUT_BITS: u32 = 52;
    const HALF_BITS: u32 = 51;
    const LARGEST_BLOCK: Level = Level::Pud;
    const CONT_PAGES: usize = 32;
    const HIGH: High = High::Page;
}

/// The arm64 formats.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Arm64<G: Granule>(PhantomData<G>);

/// arm64 with pages of 4 KiB.
pub type Aarch64 = Arm64<Granule4K>;
/// arm64 with pages of 16 KiB.
pub type Aarch64_16K = Arm64<Granule16K>;
/// arm64 with pages of 64 KiB.
pub type Aarch64_64K = Arm64<Granule64K>;
/// arm64 with pages of 4 KiB and 52-bit addresses.
pub type Aarch64Lpa2 = Arm64<Granule4KLpa2>;
/// arm64 with pages of 16 KiB and 52-bit addresses.
pub type Aarch64_16KLpa2 = Arm64<Granule16KLpa2>;
/// arm64 with pages of 64 KiB and 52-bit addresses.
pub type Aarch64_64KLpa = Arm64<Granule64KLpa>;

impl<G: Granule> Format for Arm64<G> {
    type Entries = G::Entries;

    const PAGE_SHIFT: u32 = G::PAGE_SHIFT;
    const ROOT: Level = G::ROOT;
    const HALF_BITS: u32 = G::HALF_BITS;
    const INPUT_BITS: u32 = G::INPUT_BITS;
    const FRAME_BITS: u32 = if matches!(G::HIGH, High::None) { 48 } else { 52 };
    const LARGEST_BLOCK: Level = G::LARGEST_BLOCK;
    const CONT_PAGES: usize = G::CONT_PAGES;
    const FRAME: u64 = Self::FRAMES & G::HIGH.in_place() | G::HIGH.moved();
    const NAME: &'static str = G::NAME;
    const KEYS: u8 = 8;
    const VALID_KERNEL_STORE_NEEDS_BARRIER: bool = true;
    const USER_ROOT_HAS_KERNEL_HALF: bool = false;
    const HAS_CONT: bool = true;

    #[inline(always)]
    fn spelled(frame: PhysAddr) -> u64 {
        let high = G::HIGH;
        frame.0 & Self::FRAMES & high.in_place() | frame.0 >> high.by() & high.moved()
    }

    #[inline(always)]
    fn behind(first: Entry, pages: usize) -> Entry {
        let bytes = pages as u64 * Self::PAGE_SIZE;
        if G::HIGH == High::None {
            return Entry(first.0 + bytes);
        }
        let frame = Self::frame(Level::Pte, first).offset(bytes);
        Entry(first.0 & !Self::FRAME | Self::spelled(frame))
    }

    #[inline(always)]
    fn table(table: PhysAddr, _user: bool) -> Entry {
        Entry(Self::spelled(table) | VALID | TABLE_OR_PAGE)
    }

    #[inline(always)]
    fn leaf(level: Level, frame: PhysAddr, attrs: Attrs) -> Option<Entry> {
        if !mappable::<Self>(level, frame, attrs.key) {
            return None;
        }
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let write = match (attrs.write, attrs.dirty) {
            (true, true) => WRITE,
            (true, false) => WRITE | READ_ONLY,
            (false, true) => READ_ONLY | DIRTY_KEPT,
            (false, false) => READ_ONLY,
        };
        let execute = match (attrs.execute, attrs.user) {
            (false, _) => PRIVILEGED_EXECUTE_NEVER | USER_EXECUTE_NEVER,
            (true, true) => PRIVILEGED_EXECUTE_NEVER,
            (true, false) => USER_EXECUTE_NEVER,
        };
        Some(Entry(
            // Aligned and in reach, so that nothing is left to take from it.
            (if G::HIGH == High::None { frame.0 } else { Self::spelled(frame) })
                | VALID
                | flag(level == Level::Pte, TABLE_OR_PAGE)
                | SHAREABILITY & !G::HIGH.moved()
                | write
                | execute
                | flag(attrs.user, EL0 | NOT_GLOBAL)
                | flag(attrs.young, ACCESS_FLAG)
                | match attrs.memory {
                    MemoryType::Normal => 0,
                    MemoryType::WriteCombining => COMBINING,
                    MemoryType::Device => DEVICE,
                }
                | (attrs.key.number() as u64) << KEY_SHIFT,
        ))
    }

    #[inline(always)]
    fn is_present(entry: Entry) -> bool {
        entry.0 & VALID != 0
    }

    #[inline(always)]
    fn is_table(level: Level, entry: Entry) -> bool {
        level != Level::Pte && entry.0 & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    #[inline(always)]
    fn frame(level: Level, entry: Entry) -> PhysAddr {
        let offset = if Self::is_table(level, entry) { 0 } else { level.entry_bytes::<Self>() - 1 };
        let high = G::HIGH;
        let address =
            entry.0 & Self::FRAMES & high.in_place() | (entry.0 & high.moved()) << high.by();
        PhysAddr(address & !offset)
    }

    #[inline(always)]
    fn attrs(entry: Entry) -> Attrs {
        let user = entry.0 & EL0 != 0;
        let never = if user { USER_EXECUTE_NEVER } else { PRIVILEGED_EXECUTE_NEVER };
        Attrs {
            write: Self::is_writable(entry),
            execute: entry.0 & never == 0,
            user,
            young: entry.0 & ACCESS_FLAG != 0,
            dirty: entry.0 & DIRTY_KEPT != 0 || entry.0 & (WRITE | READ_ONLY) == WRITE,
            key: Self::key(entry),
            memory: match entry.0 & ATTRIBUTE {
                0 => MemoryType::Normal,
                COMBINING => MemoryType::WriteCombining,
                _ => MemoryType::Device,
            },
        }
    }

    #[inline(always)]
    fn key(entry: Entry) -> Pkey {
        Pkey::new(((entry.0 & KEY) >> KEY_SHIFT) as u8).unwrap_or(Pkey::DEFAULT)
    }

    #[inline(always)]
    fn with_key(entry: Entry, key: Pkey) -> Entry {
        Entry((entry.0 & !KEY) | ((key.number() as u64) << KEY_SHIFT & KEY))
    }

    #[inline(always)]
    fn is_writable(entry: Entry) -> bool {
        // Either bit alone lets some CPU write. The format always sets `READ_ONLY` where it takes `WRITE` away; an attacker need not.
        entry.0 & (WRITE | READ_ONLY) != READ_ONLY
    }

    #[inline(always)]
    fn write_protected(entry: Entry) -> Entry {
        // A dirty page (bit 51 set, bit 7 clear) keeps that in the software bit.
        let dirty = if entry.0 & (WRITE | READ_ONLY) == WRITE { DIRTY_KEPT } else { 0 };
        Entry((entry.0 & !WRITE) | READ_ONLY | dirty)
    }

    #[inline(always)]
    fn writable(entry: Entry) -> Entry {
        Entry((entry.0 & !(READ_ONLY | DIRTY_KEPT)) | WRITE)
    }

    #[inline(always)]
    fn alias(level: Level, frame: PhysAddr) -> Option<Entry> {
        // AP[1] set, and nG: where EL0 is kept out by its tables, its identifier must know none.
        Self::leaf(level, frame, Attrs::USER_DATA)
    }

    #[inline(always)]
    fn alias_of_windows(level: Level, frame: PhysAddr) -> Option<Entry> {
        // nG: no TLB has it under another identifier than the one that windows load.
        let Entry(leaf) = Self::leaf(level, frame, Attrs::KERNEL_DATA)?;
        Some(Entry(leaf | NOT_GLOBAL))
    }

    #[inline(always)]
    fn old(entry: Entry) -> Entry {
        Entry(entry.0 & !ACCESS_FLAG)
    }

    #[inline(always)]
    fn is_young(entry: Entry) -> bool {
        entry.0 & ACCESS_FLAG != 0
    }

    #[inline(always)]
    fn walker_may_flag(entry: Entry) -> bool {
        // Arm ARM D8.5, FEAT_HAFDBS: the access flag by any use; AP[2] is cleared by a store where DBM is set.
        let old = entry.0 & ACCESS_FLAG == 0;
        let clean = entry.0 & (WRITE | READ_ONLY) == WRITE | READ_ONLY;
        entry.0 & VALID != 0 && (old || clean)
    }

    #[inline(always)]
    fn contiguous(entry: Entry) -> Entry {
        Entry(entry.0 | CONTIGUOUS)
    }

    #[inline(always)]
    fn is_contiguous(entry: Entry) -> bool {
        entry.0 & CONTIGUOUS != 0
    }
}
