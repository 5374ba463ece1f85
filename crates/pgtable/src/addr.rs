//! Typed addresses, levels and page ranges: an address is not an integer.
//!
//! How large a page is, how many levels there are and how wide an address is the [format](crate::entry) says: what depends on it is a type or a
//! function of it. A range of pages of one format is none of another's.

use core::fmt;
use core::marker::PhantomData;

use crate::entry::Format;

/// Entries of one table that are changed as one piece at most: all of a table of 4 KiB, a part of a larger one. So a gate is as long with
/// large pages as with small ones.
pub const PIECE_ENTRIES: usize = 512;

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
    pub const fn offset_pages<F: Format>(self, pages: usize) -> VirtAddr {
        VirtAddr(self.0 + pages as u64 * F::PAGE_SIZE)
    }

    /// Whether the address is a multiple of `bytes`, a power of two.
    pub const fn is_aligned(self, bytes: u64) -> bool {
        self.0 & (bytes - 1) == 0
    }

    /// Whether a format can translate the address: all bits from [`HALF_BITS`](Format::HALF_BITS) up are equal.
    #[inline(always)]
    pub const fn is_canonical<F: Format>(self) -> bool {
        let unused = u64::BITS - 1 - F::HALF_BITS;
        ((self.0 as i64) << unused >> unused) as u64 == self.0
    }

    /// Whether the address is in the kernel's half.
    #[inline(always)]
    pub const fn is_kernel(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Which entry of a table at `level` translates this address.
    #[inline(always)]
    pub const fn index<F: Format>(self, level: Level) -> usize {
        let entries = if level as u8 == F::ROOT as u8 { F::ROOT_ENTRIES } else { F::ENTRIES };
        (self.0 >> level.shift::<F>()) as usize & (entries - 1)
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

/// A level of the page table: how far above the PTEs, by the name that its entries have with four levels.
///
/// Which is the root's a format says ([`Format::ROOT`]). The sizes below are those of 4 KiB pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Entries that map pages.
    Pte = 0,
    /// Entries that map 2 MiB blocks or point to a table of PTEs.
    Pmd = 1,
    /// Entries that map 1 GiB blocks or point to a table of PMDs.
    Pud = 2,
    /// Entries of 512 GiB: of the root, with four levels.
    Pgd = 3,
    /// Entries of 256 TiB: of the root, with five levels (x86-64: PML5; arm64: level -1).
    Pml5 = 4,
}

impl Level {
    /// All of them, from the last up.
    pub const ALL: [Level; 5] = [Level::Pte, Level::Pmd, Level::Pud, Level::Pgd, Level::Pml5];

    /// Lowest bit of an address that a table at this level looks at.
    #[inline(always)]
    pub const fn shift<F: Format>(self) -> u32 {
        F::PAGE_SHIFT + F::INDEX_BITS * self as u32
    }

    /// Bytes that one entry of this level translates.
    #[inline(always)]
    pub const fn entry_bytes<F: Format>(self) -> u64 {
        1 << self.shift::<F>()
    }

    /// Pages that one entry of this level translates.
    #[inline(always)]
    pub const fn entry_pages<F: Format>(self) -> usize {
        1 << (F::INDEX_BITS * self as u32)
    }

    /// Bytes that one table of this level translates.
    #[inline(always)]
    pub const fn table_bytes<F: Format>(self) -> u64 {
        self.entry_bytes::<F>() << F::INDEX_BITS
    }

    /// The level below, or `None` below [`Level::Pte`].
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Pte => None,
            Level::Pmd => Some(Level::Pte),
            Level::Pud => Some(Level::Pmd),
            Level::Pgd => Some(Level::Pud),
            Level::Pml5 => Some(Level::Pgd),
        }
    }
}

/// A page-aligned range of virtual addresses that a format can translate, which does not wrap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageRange<F: Format> {
    start: VirtAddr,
    pages: usize,
    format: PhantomData<F>,
}

impl<F: Format> fmt::Debug for PageRange<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages at {:?}", self.pages, self.start)
    }
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
            RangeError::Unaligned(va) => write!(f, "{va:?} is not a multiple of the page size"),
            RangeError::Empty(va) => write!(f, "the range at {va:?} has no page"),
            RangeError::NotCanonical(va, pages) => {
                write!(f, "{pages} pages at {va:?} leave the canonical half they start in")
            }
        }
    }
}

impl core::error::Error for RangeError {}

impl<F: Format> PageRange<F> {
    #[inline(always)]
    const fn of(start: VirtAddr, pages: usize) -> Self {
        PageRange { start, pages, format: PhantomData }
    }

    /// The range of `pages` pages from `start`.
    ///
    /// # Errors
    ///
    /// [`RangeError`], naming what is wrong with it.
    #[inline]
    pub const fn new(start: VirtAddr, pages: usize) -> Result<PageRange<F>, RangeError> {
        if !start.is_aligned(F::PAGE_SIZE) {
            return Err(RangeError::Unaligned(start));
        }
        if pages == 0 {
            return Err(RangeError::Empty(start));
        }
        // Canonical addresses are those of two halves; the range must end in the one it starts in.
        let half = 1 << F::HALF_BITS;
        let pages_to_end = (half - start.0 % half) / F::PAGE_SIZE;
        if start.is_canonical::<F>() && pages as u64 <= pages_to_end {
            Ok(Self::of(start, pages))
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
        VirtAddr(self.start.0.wrapping_add(self.pages as u64 * F::PAGE_SIZE))
    }

    /// Whether the address lies in the range.
    pub const fn contains(self, va: VirtAddr) -> bool {
        va.0 >= self.start.0 && (va.0 - self.start.0) / F::PAGE_SIZE < self.pages as u64
    }

    /// Whether all of another range lies in this one.
    pub(crate) const fn covers(self, other: PageRange<F>) -> bool {
        self.contains(other.start) && self.contains(other.last_page())
    }

    /// The last page.
    #[inline(always)]
    pub(crate) const fn last_page(self) -> VirtAddr {
        self.start.offset_pages::<F>(self.pages - 1)
    }

    /// Whether it is one of the pieces that [`by_table`](Self::by_table) makes for PTEs.
    #[inline(always)]
    pub(crate) const fn is_one_piece(self) -> bool {
        self.start.index::<F>(Level::Pte) % PIECE_ENTRIES + self.pages <= PIECE_ENTRIES
    }

    /// Cuts the range where tables at `level` end: each piece is translated by one of them. Tables of PTEs with more than [`PIECE_ENTRIES`] make
    /// several pieces of so many.
    #[inline(always)]
    pub const fn by_table(self, level: Level) -> ByTable<F> {
        ByTable { rest: self, level }
    }
}

/// The pieces of a range that one table each translates, in order.
#[derive(Clone, Debug)]
pub struct ByTable<F: Format> {
    rest: PageRange<F>,
    level: Level,
}

impl<F: Format> ByTable<F> {
    /// Bytes from one cut to the next.
    #[inline(always)]
    const fn step(&self) -> u64 {
        match self.level {
            Level::Pte => PIECE_ENTRIES as u64 * F::PAGE_SIZE,
            level => level.table_bytes::<F>(),
        }
    }

    /// The last piece that is still to come.
    #[inline(always)]
    pub(crate) fn last_piece(&self) -> Option<PageRange<F>> {
        let last = self.rest.pages.checked_sub(1)?;
        let page = self.rest.start.offset_pages::<F>(last);
        let in_table = (page.0 & (self.step() - 1)) / F::PAGE_SIZE;
        let before = last.saturating_sub(in_table as usize);
        Some(PageRange::of(self.rest.start.offset_pages::<F>(before), self.rest.pages - before))
    }
}

impl<F: Format> Iterator for ByTable<F> {
    type Item = PageRange<F>;

    #[inline]
    fn next(&mut self) -> Option<PageRange<F>> {
        if self.rest.pages == 0 {
            return None;
        }
        let table = self.step();
        let to_end = (table - (self.rest.start.0 & (table - 1))) / F::PAGE_SIZE;
        let pages = self.rest.pages.min(to_end as usize);
        let piece = PageRange::of(self.rest.start, pages);
        self.rest = PageRange::of(piece.end(), self.rest.pages - pages);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::X86_64;

    type Range = PageRange<X86_64>;

    #[test]
    fn canonical_addresses() {
        assert!(VirtAddr(0x7fff_ffff_ffff).is_canonical::<X86_64>());
        assert!(!VirtAddr(0x8000_0000_0000).is_canonical::<X86_64>());
        assert!(VirtAddr(0xffff_8000_0000_0000).is_canonical::<X86_64>());
    }

    #[test]
    fn ranges_refuse_what_they_cannot_hold() {
        assert_eq!(Range::new(VirtAddr(1), 1), Err(RangeError::Unaligned(VirtAddr(1))));
        assert_eq!(Range::new(VirtAddr(0), 0), Err(RangeError::Empty(VirtAddr(0))));
        for (start, pages) in
            [(0x8000_0000_0000, 1), (0x7fff_ffff_f000, 2), (!0xfff, 2), (0, usize::MAX)]
        {
            assert_eq!(
                Range::new(VirtAddr(start), pages),
                Err(RangeError::NotCanonical(VirtAddr(start), pages))
            );
        }
        let last = Range::new(VirtAddr(!0xfff), 1).unwrap();
        assert_eq!(last.end(), VirtAddr(0));
        assert!(last.contains(VirtAddr(u64::MAX)));
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let range = Range::new(VirtAddr(0x1ff000), 1026).unwrap();
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
