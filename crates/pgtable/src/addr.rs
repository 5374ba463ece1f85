//! Typed addresses, levels and page ranges: an address is not an integer.

use core::fmt;

/// Bytes in a page and in a page-table page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes that a contiguous run of PTEs maps: 64 KiB.
pub const CONT_BYTES: u64 = crate::entry::CONT_PAGES as u64 * PAGE_SIZE;
/// Entries in a page-table page.
pub const ENTRIES: usize = 512;
const PAGE_SHIFT: u32 = 12;
/// Bytes of each canonical half of the address space.
const HALF_BYTES: u64 = 1 << 47;
const INDEX_BITS: u32 = 9;

/// A physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

/// A virtual address, canonical or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VirtAddr(pub u64);

impl PhysAddr {
    /// The address `bytes` further up.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self, bytes: u64) -> PhysAddr {
        PhysAddr(self.0 + bytes)
    }

    /// Whether the address is a multiple of `bytes`, a power of two.
    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0 & (bytes - 1) == 0
    }
}

impl VirtAddr {
    /// The address `bytes` further up.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self, bytes: u64) -> VirtAddr {
        VirtAddr(self.0 + bytes)
    }

    /// The address `pages` pages further up.
    #[inline(always)]
    #[must_use]
    pub const fn offset_pages(self, pages: usize) -> VirtAddr {
        VirtAddr(self.0 + pages as u64 * PAGE_SIZE)
    }

    /// Whether the address is a multiple of `bytes`, a power of two.
    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0 & (bytes - 1) == 0
    }

    /// Whether a 48-bit, four-level format can translate the address: bits 63:47 are all equal.
    #[inline(always)]
    pub const fn is_canonical(self) -> bool {
        ((self.0 as i64) << 16 >> 16) as u64 == self.0
    }

    /// Whether the address is in the kernel's half.
    #[inline(always)]
    pub const fn is_kernel(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Which entry of a table at `level` translates this address.
    #[inline(always)]
    pub const fn index(self, level: Level) -> usize {
        (self.0 >> level.shift()) as usize & (ENTRIES - 1)
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pa {:#x}", self.0)
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "va {:#x}", self.0)
    }
}

/// A level of the page table, by the name of its entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Entries that map 4 KiB pages.
    Pte = 0,
    /// Entries that map 2 MiB blocks or point to a table of PTEs.
    Pmd = 1,
    /// Entries that map 1 GiB blocks or point to a table of PMDs.
    Pud = 2,
    /// Entries of the root; they always point to a table.
    Pgd = 3,
}

impl Level {
    /// The levels whose entries may point to tables, from the root down.
    pub(crate) const ABOVE_PTE: [Level; 3] = [Level::Pgd, Level::Pud, Level::Pmd];

    /// Lowest bit of an address that a table at this level looks at.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + INDEX_BITS * self as u32
    }

    /// Bytes that one entry of this level translates.
    #[inline(always)]
    pub const fn entry_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// 4 KiB pages that one entry of this level translates.
    #[inline(always)]
    pub const fn entry_pages(self) -> usize {
        1 << (INDEX_BITS * self as u32)
    }

    /// Bytes that one table of this level translates.
    #[inline(always)]
    pub const fn table_bytes(self) -> u64 {
        self.entry_bytes() << INDEX_BITS
    }

    /// The level below, or `None` below [`Level::Pte`].
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Pte => None,
            Level::Pmd => Some(Level::Pte),
            Level::Pud => Some(Level::Pmd),
            Level::Pgd => Some(Level::Pud),
        }
    }
}

/// A page-aligned range of canonical virtual addresses that does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: VirtAddr,
    pages: usize,
}

/// Why a range is not one: the address or the length is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// The start is not a multiple of the page size.
    Unaligned(VirtAddr),
    /// The range has no page.
    Empty(VirtAddr),
    /// Some address of the range is not canonical, or the range wraps.
    NotCanonical(VirtAddr, usize),
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeError::Unaligned(va) => write!(f, "{va:?} is not a multiple of {PAGE_SIZE}"),
            RangeError::Empty(va) => write!(f, "the range at {va:?} has no page"),
            RangeError::NotCanonical(va, pages) => {
                write!(f, "{pages} pages at {va:?} leave the canonical half they start in")
            }
        }
    }
}

impl core::error::Error for RangeError {}

impl PageRange {
    /// The range of `pages` pages from `start`.
    ///
    /// # Errors
    ///
    /// [`RangeError`], naming what is wrong with it.
    #[inline]
    pub const fn new(start: VirtAddr, pages: usize) -> Result<PageRange, RangeError> {
        if !start.is_aligned(PAGE_SIZE) {
            return Err(RangeError::Unaligned(start));
        }
        if pages == 0 {
            return Err(RangeError::Empty(start));
        }
        // Canonical addresses are those of two halves; the range must end in the one it starts in.
        let pages_to_end = (HALF_BYTES - start.0 % HALF_BYTES) / PAGE_SIZE;
        if start.is_canonical() && pages as u64 <= pages_to_end {
            Ok(PageRange { start, pages })
        } else {
            Err(RangeError::NotCanonical(start, pages))
        }
    }

    /// First address.
    #[inline(always)]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// Length in pages, at least one.
    #[inline(always)]
    pub const fn pages(self) -> usize {
        self.pages
    }

    /// First address behind the range. Zero for a range that ends with the address space.
    #[inline(always)]
    pub const fn end(self) -> VirtAddr {
        VirtAddr(self.start.0.wrapping_add(self.pages as u64 * PAGE_SIZE))
    }

    /// Whether the address lies in the range.
    pub const fn contains(self, va: VirtAddr) -> bool {
        va.0 >= self.start.0 && (va.0 - self.start.0) / PAGE_SIZE < self.pages as u64
    }

    /// Whether all of another range lies in this one.
    pub(crate) const fn covers(self, other: PageRange) -> bool {
        self.contains(other.start) && self.contains(other.last_page())
    }

    /// The last page.
    #[inline(always)]
    pub(crate) const fn last_page(self) -> VirtAddr {
        self.start.offset_pages(self.pages - 1)
    }

    /// Whether one table of PTEs translates all of it.
    #[inline(always)]
    pub(crate) const fn is_in_one_table(self) -> bool {
        self.start.index(Level::Pte) + self.pages <= ENTRIES
    }

    /// Cuts the range where tables at `level` end: each piece is translated by one of them.
    #[inline(always)]
    pub const fn by_table(self, level: Level) -> ByTable {
        ByTable { rest: self, level }
    }
}

/// The pieces of a range that one table each translates, in order.
#[derive(Clone, Debug)]
pub struct ByTable {
    rest: PageRange,
    level: Level,
}

impl ByTable {
    /// The last piece that is still to come.
    #[inline(always)]
    pub(crate) fn last_piece(&self) -> Option<PageRange> {
        let last = self.rest.pages.checked_sub(1)?;
        let page = self.rest.start.offset_pages(last);
        let in_table = (page.0 & (self.level.table_bytes() - 1)) / PAGE_SIZE;
        let before = last.saturating_sub(in_table as usize);
        Some(PageRange {
            start: self.rest.start.offset_pages(before),
            pages: self.rest.pages - before,
        })
    }
}

impl Iterator for ByTable {
    type Item = PageRange;

    #[inline]
    fn next(&mut self) -> Option<PageRange> {
        if self.rest.pages == 0 {
            return None;
        }
        let table = self.level.table_bytes();
        let to_end = (table - (self.rest.start.0 & (table - 1))) / PAGE_SIZE;
        let pages = self.rest.pages.min(to_end as usize);
        let piece = PageRange { start: self.rest.start, pages };
        self.rest = PageRange { start: piece.end(), pages: self.rest.pages - pages };
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses() {
        assert!(VirtAddr(0x7fff_ffff_ffff).is_canonical());
        assert!(!VirtAddr(0x8000_0000_0000).is_canonical());
        assert!(VirtAddr(0xffff_8000_0000_0000).is_canonical());
    }

    #[test]
    fn ranges_refuse_what_they_cannot_hold() {
        assert_eq!(PageRange::new(VirtAddr(1), 1), Err(RangeError::Unaligned(VirtAddr(1))));
        assert_eq!(PageRange::new(VirtAddr(0), 0), Err(RangeError::Empty(VirtAddr(0))));
        for (start, pages) in
            [(0x8000_0000_0000, 1), (0x7fff_ffff_f000, 2), (!0xfff, 2), (0, usize::MAX)]
        {
            assert_eq!(
                PageRange::new(VirtAddr(start), pages),
                Err(RangeError::NotCanonical(VirtAddr(start), pages))
            );
        }
        let last = PageRange::new(VirtAddr(!0xfff), 1).unwrap();
        assert_eq!(last.end(), VirtAddr(0));
        assert!(last.contains(VirtAddr(u64::MAX)));
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let range = PageRange::new(VirtAddr(0x1ff000), 1026).unwrap();
        assert_eq!(range.by_table(Level::Pte).last_piece(), range.by_table(Level::Pte).last());
        let pieces: [_; 4] = {
            let mut pieces = range.by_table(Level::Pte);
            core::array::from_fn(|_| pieces.next().map(|p| (p.start().0, p.pages())))
        };
        assert_eq!(
            pieces,
            [
                Some((0x1ff000, 1)),
                Some((0x200000, 512)),
                Some((0x400000, 512)),
                Some((0x600000, 1))
            ]
        );
    }
}
