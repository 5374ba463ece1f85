//! Entries and the words they are in: read at any time, stored with a window.

use core::sync::atomic::{AtomicU64, Ordering};

use kpkeys::{Pkey, Window};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::linear::Linear;

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The key of a leaf: bits 62:59 (Intel SDM vol. 3A 4.6.2).
const KEY_SHIFT: u32 = 59;

/// The flags of an entry that are its key.
pub(crate) const KEY: PageTableFlags = PageTableFlags::from_bits_retain(0xf << KEY_SHIFT);

/// An entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    pub(crate) fn flags(self) -> PageTableFlags {
        PageTableFlags::from_bits_retain(self.0 & !ADDRESS)
    }

    pub(crate) fn has(self, flags: PageTableFlags) -> bool {
        self.0 & flags.bits() == flags.bits()
    }

    pub(crate) fn is_present(self) -> bool {
        self.has(PageTableFlags::PRESENT)
    }

    pub(crate) fn is_leaf(self, level: PageTableLevel) -> bool {
        let maps_block = level != PageTableLevel::Four && self.has(PageTableFlags::HUGE_PAGE);
        self.is_present() && (level == PageTableLevel::One || maps_block)
    }

    /// Whether an entry of the kernel's root, for the upper half, leads to what programs may access: with an alias, that is the alias.
    pub(crate) fn may_be_an_alias(self) -> bool {
        self.has(PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE)
    }

    /// The frame of a table or a small page, or the first of a block.
    pub(crate) fn frame(self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(self.0 & ADDRESS))
    }

    /// Whether a leaf at this level maps a frame that is a multiple of its size. In a block, bit 12 is PAT.
    pub(crate) fn is_aligned(self, level: PageTableLevel) -> bool {
        (self.0 & ADDRESS).is_multiple_of(level.entry_address_space_alignment())
    }

    pub(crate) fn key(self) -> Pkey {
        Pkey::new((self.0 >> KEY_SHIFT & 0xf) as u8).unwrap_or(Pkey::DEFAULT)
    }

    pub(crate) fn with_key(self, key: Pkey) -> Entry {
        Entry(self.0 & !KEY.bits() | u64::from(key.number()) << KEY_SHIFT)
    }

    /// This leaf for a page with this key, where it cannot be written otherwise if the key is that of page tables.
    ///
    /// The CPU ignores the key where supervisor keys are off (Intel SDM vol. 3A 4.6.2). There it says what the page is, as other
    /// pages may be read-only too.
    pub(crate) fn aliased_with_key(self, key: Pkey) -> Entry {
        let Entry(bits) = self.with_key(key);
        let write = PageTableFlags::WRITABLE.bits();
        Entry(if key == Pkey::PAGE_TABLES { bits & !write } else { bits | write })
    }

    /// What a table that stands for this block at `level` has at `index`: the same, smaller.
    pub(crate) fn part(self, level: PageTableLevel, index: u64) -> Entry {
        let Some(below) = level.next_lower_level() else { return self };
        let small = below == PageTableLevel::One;
        let keep = if small { !PageTableFlags::HUGE_PAGE.bits() } else { !0 };
        Entry((self.0 & keep) + index * below.entry_address_space_alignment())
    }

    /// The entry for a table that allows what this leaf does.
    pub(crate) fn pointing_to(self, table: PhysFrame) -> Entry {
        let allows = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::ACCESSED;
        let user = self.flags() & PageTableFlags::USER_ACCESSIBLE;
        Entry(table.start_address().as_u64() | (allows | user).bits())
    }
}

/// The word of memory that holds an entry.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'t> {
    read: &'t AtomicU64,
    /// The same word, where it can be stored to in a window.
    write: *const AtomicU64,
}

impl<'t> Slot<'t> {
    /// # Safety
    ///
    /// `table` has an address in `linear`, and is a table or about to become one for `'t`: all stores to it are by this crate or the wrapped
    /// one, in windows.
    pub(crate) unsafe fn of<L: Linear>(linear: &L, table: PhysFrame, index: usize) -> Slot<'t> {
        let entry = |table: *mut PageTable| table.cast::<AtomicU64>().wrapping_add(index & 511);
        // SAFETY: the pointer is valid for the frame (`Linear`), whose 512 words the index is masked to; a word is changed by others only by
        // atomic or whole stores of 64 bits, by CPUs that set flags.
        let read = unsafe { &*entry(linear.frame_to_pointer(table)) };
        Slot { read, write: entry(linear.writable(table)) }
    }

    pub(crate) fn load(self) -> Entry {
        Entry(self.read.load(Ordering::Acquire))
    }

    pub(crate) fn store(self, _window: &Window<'_>, entry: Entry) {
        // SAFETY: the same word, which can be written here while a window is open (`Linear`).
        unsafe { &*self.write }.store(entry.0, Ordering::Release);
    }
}

/// Where the walk for an address ends: at a leaf, or at an entry that is no table.
#[derive(Clone, Copy)]
pub(crate) struct Place<'t> {
    pub(crate) slot: Slot<'t>,
    pub(crate) level: PageTableLevel,
    pub(crate) entry: Entry,
    /// What the entries above allow, all of them.
    pub(crate) above: PageTableFlags,
}

impl Place<'_> {
    /// Whether this leaf maps a frame at an address.
    pub(crate) fn maps(&self, frame: PhysFrame, address: VirtAddr) -> bool {
        let within = address.as_u64() & (self.level.entry_address_space_alignment() - 1);
        let first = self.entry.frame().start_address().as_u64();
        first + within == frame.start_address().as_u64()
    }
}

/// The walk for an address, down to `lowest` at most.
///
/// # Errors
///
/// The frame of a table that has no address in `linear`.
///
/// # Safety
///
/// `root` is the root of tables.
pub(crate) unsafe fn walk<'t, L: Linear>(
    linear: &L,
    root: PhysFrame,
    va: VirtAddr,
    lowest: PageTableLevel,
) -> Result<Place<'t>, PhysFrame> {
    let (mut table, mut level, mut above) = (root, PageTableLevel::Four, PageTableFlags::all());
    loop {
        linear.address(table).ok_or(table)?;
        // SAFETY: the root, or what a present entry that is no leaf points to, is a table; it has an address.
        let slot = unsafe { Slot::of(linear, table, va.page_table_index(level).into()) };
        let entry = slot.load();
        let ends = level == lowest || !entry.is_present() || entry.is_leaf(level);
        match level.next_lower_level() {
            Some(below) if !ends => level = below,
            _ => return Ok(Place { slot, level, entry, above }),
        }
        above &= entry.flags();
        table = entry.frame();
    }
}

/// Empties every entry of a frame that is about to become a table.
///
/// # Safety
///
/// The frame has an address in `linear`, and nobody but the caller uses it.
pub(crate) unsafe fn zero<L: Linear>(_window: &Window<'_>, linear: &L, frame: PhysFrame) {
    let table: *mut PageTable = linear.writable(frame);
    // SAFETY: the pointer is valid for the frame and writable (`Linear`, and the window); nobody else uses it (caller's promise).
    unsafe { table.write_bytes(0, 1) };
}
