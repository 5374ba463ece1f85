//! arm64, 4 KiB granule, 48-bit addresses. Bits from the Arm ARM (DDI 0487) D8.3, "VMSAv8-64 descriptor formats".
//!
//! Write permission is kept in bit 51 and "clean" in bit 7, as the architecture's hardware dirty-state management
//! and permission indirection (where bit 51 is `PIIndex[1]` and bit 7 is `nDirty`) both want it: a writable and
//! dirty page has bit 51 set and bit 7 clear, which also is plain read-write to a CPU with neither feature. A clean
//! writable page has both set: such a CPU faults on its first store, and the handler makes it dirty.

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
const INNER_SHAREABLE: u64 = 0b11 << 8;
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
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// POIndex, bits 62:60.
const KEY_SHIFT: u32 = 60;
const KEY: u64 = 0x7 << KEY_SHIFT;

/// The arm64 format.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64;

impl Format for Aarch64 {
    const NAME: &'static str = "aarch64";
    const KEYS: u8 = 8;
    const VALID_KERNEL_STORE_NEEDS_BARRIER: bool = true;
    const USER_ROOT_HAS_KERNEL_HALF: bool = false;
    const HAS_CONT: bool = true;

    #[inline(always)]
    fn table(table: PhysAddr, _user: bool) -> Entry {
        Entry((table.0 & ADDRESS) | VALID | TABLE_OR_PAGE)
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
            frame.0
                | VALID
                | flag(level == Level::Pte, TABLE_OR_PAGE)
                | INNER_SHAREABLE
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
        let offset = if Self::is_table(level, entry) { 0 } else { level.entry_bytes() - 1 };
        PhysAddr(entry.0 & ADDRESS & !offset)
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
