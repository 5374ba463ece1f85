//! x86-64, with four levels or five. Bits from the Intel SDM vol. 3A, tables 5-15 to 5-20.

use core::fmt::Debug;
use core::hash::Hash;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use kpkeys::Pkey;

use super::{Attrs, Entry, Format, MemoryType, mappable};
use crate::addr::{Level, PhysAddr};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// PWT and PCD (SDM vol. 3A, 4.9.2): with PAT clear, entry 3 of the table of memory types, which is uncached unless a kernel changes it.
const UNCACHED: u64 = COMBINING | CACHE_DISABLE;
/// PWT alone: entry 1, which must be write-combining if a kernel uses it.
const COMBINING: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Maps a block, at [`Level::Pmd`] and [`Level::Pud`]. In a PTE the same bit is PAT, which is never set here.
const BLOCK: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Survives TLB flushes by CR3 write; kernel leaves are global.
const GLOBAL: u64 = 1 << 8;
/// Protection key of a leaf, bits 62:59. Ignored in entries that point to tables.
const KEY_SHIFT: u32 = 59;
const KEY: u64 = 0xf << KEY_SHIFT;

/// How many levels of tables an x86-64 CPU walks: by `CR4.LA57`, bit 12 (SDM vol. 3A 4.5), which cannot change in long mode. The entries of both
/// are the same, and a PML5 entry is what one of the root is with four levels.
pub trait Depth: Copy + Default + Eq + Hash + Debug + Send + Sync + 'static {
    /// The format's name.
    const NAME: &'static str;
    /// The level of a root's entries.
    const ROOT: Level;
    /// Bits of a physical address. The architecture has 52 with either; the four-level format is for machines with less.
    const FRAME_BITS: u32;
}

/// Four levels, 48-bit addresses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct FourLevels;

/// Five levels, 57-bit addresses: LA57, which `CPUID.(EAX=07H,ECX=0):ECX[16]` says a CPU has.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct FiveLevels;

impl Depth for FourLevels {
    const NAME: &'static str = "x86_64";
    const ROOT: Level = Level::Pgd;
    const FRAME_BITS: u32 = 48;
}

impl Depth for FiveLevels {
    const NAME: &'static str = "x86_64-la57";
    const ROOT: Level = Level::Pml5;
    const FRAME_BITS: u32 = 52;
}

/// The x86-64 formats.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct X86<D: Depth>(PhantomData<D>);

/// x86-64 with four levels.
pub type X86_64 = X86<FourLevels>;
/// x86-64 with five levels.
pub type X86_64La57 = X86<FiveLevels>;

impl<D: Depth> Format for X86<D> {
    type Entries = [AtomicU64; 512];

    const PAGE_SHIFT: u32 = 12;
    const ROOT: Level = D::ROOT;
    const HALF_BITS: u32 = Self::INPUT_BITS - 1;
    const INPUT_BITS: u32 = Self::PAGE_SHIFT + Self::INDEX_BITS * (D::ROOT as u32 + 1);
    const FRAME_BITS: u32 = D::FRAME_BITS;
    const LARGEST_BLOCK: Level = Level::Pud;
    const CONT_PAGES: usize = 16;
    const NAME: &'static str = D::NAME;
    const KEYS: u8 = 16;
    const VALID_KERNEL_STORE_NEEDS_BARRIER: bool = false;
    const USER_ROOT_HAS_KERNEL_HALF: bool = true;
    const HAS_CONT: bool = false;

    #[inline(always)]
    fn table(table: PhysAddr, user: bool) -> Entry {
        // Permissions of all levels are combined, so a table allows everything its leaves may.
        Entry(Self::spelled(table) | PRESENT | WRITE | ACCESSED | if user { USER } else { 0 })
    }

    #[inline(always)]
    fn leaf(level: Level, frame: PhysAddr, attrs: Attrs) -> Option<Entry> {
        if !mappable::<Self>(level, frame, attrs.key) {
            return None;
        }
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        Some(Entry(
            frame.0
                | PRESENT
                | flag(level != Level::Pte, BLOCK)
                | flag(attrs.write, WRITE)
                | flag(attrs.user, USER)
                | flag(!attrs.user, GLOBAL)
                | flag(attrs.young, ACCESSED)
                | flag(attrs.dirty, DIRTY)
                | flag(!attrs.execute, NO_EXECUTE)
                | match attrs.memory {
                    MemoryType::Normal => 0,
                    MemoryType::WriteCombining => COMBINING,
                    MemoryType::Device => UNCACHED,
                }
                | (attrs.key.number() as u64) << KEY_SHIFT,
        ))
    }

    #[inline(always)]
    fn is_present(entry: Entry) -> bool {
        entry.0 & PRESENT != 0
    }

    #[inline(always)]
    fn is_table(level: Level, entry: Entry) -> bool {
        level != Level::Pte && entry.0 & (PRESENT | BLOCK) == PRESENT
    }

    #[inline(always)]
    fn frame(level: Level, entry: Entry) -> PhysAddr {
        let offset = if Self::is_table(level, entry) { 0 } else { level.entry_bytes::<Self>() - 1 };
        PhysAddr(entry.0 & Self::FRAMES & !offset)
    }

    #[inline(always)]
    fn attrs(entry: Entry) -> Attrs {
        Attrs {
            write: entry.0 & WRITE != 0,
            execute: entry.0 & NO_EXECUTE == 0,
            user: entry.0 & USER != 0,
            young: entry.0 & ACCESSED != 0,
            dirty: entry.0 & DIRTY != 0,
            key: Self::key(entry),
            memory: match entry.0 & UNCACHED {
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
        Entry((entry.0 & !KEY) | (key.number() as u64) << KEY_SHIFT)
    }

    #[inline(always)]
    fn is_writable(entry: Entry) -> bool {
        entry.0 & WRITE != 0
    }

    #[inline(always)]
    fn write_protected(entry: Entry) -> Entry {
        Entry(entry.0 & !WRITE)
    }

    #[inline(always)]
    fn writable(entry: Entry) -> Entry {
        Entry(entry.0 | WRITE | DIRTY)
    }

    #[inline(always)]
    fn alias(level: Level, frame: PhysAddr) -> Option<Entry> {
        // Not global: no TLB may keep it when a program's root, which lacks the alias, is loaded.
        Self::leaf(level, frame, Attrs::USER_DATA)
    }

    #[inline(always)]
    fn alias_of_windows(_level: Level, _frame: PhysAddr) -> Option<Entry> {
        None
    }

    #[inline(always)]
    fn old(entry: Entry) -> Entry {
        Entry(entry.0 & !ACCESSED)
    }

    #[inline(always)]
    fn is_young(entry: Entry) -> bool {
        entry.0 & ACCESSED != 0
    }

    #[inline(always)]
    fn walker_may_flag(entry: Entry) -> bool {
        // SDM vol. 3A 4.8: accessed by any use, dirty by a store.
        let old = entry.0 & ACCESSED == 0;
        entry.0 & PRESENT != 0 && (old || entry.0 & (WRITE | DIRTY) == WRITE)
    }

    #[inline(always)]
    fn contiguous(entry: Entry) -> Entry {
        entry
    }

    #[inline(always)]
    fn is_contiguous(_: Entry) -> bool {
        false
    }
}
