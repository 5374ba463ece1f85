//! Physical memory as the boot loader reported it, until the frame allocator takes over.
//!
//! [`BootMemory`] keeps two lists: all RAM, for the linear map, and the part of it nobody
//! uses yet. Boot code reserves what is occupied and takes what it needs; what is left in
//! [`BootMemory::free`] in the end is the frame allocator's.

use arrayvec::ArrayVec;
use core::fmt;
use kpkeys_pgtable::Format as _;
pub use kpkeys_pgtable::PhysAddr;

/// Bytes of a page of this kernel's tables.
pub const PAGE_SIZE: u64 = crate::arch::Format::PAGE_SIZE;

/// What RAM is rounded to in linear maps: the smallest block of any format. What is around RAM may be no memory, so that larger blocks would reach what must
/// not be reached through caches.
pub const RAM_UNIT: u64 = 2 << 20;

/// Physical addresses `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    /// First address.
    pub start: PhysAddr,
    /// First address behind.
    pub end: PhysAddr,
}

impl PhysRange {
    /// The range from `start` of `len` bytes, cut off at the end of the address space.
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start: PhysAddr(start), end: PhysAddr(start.saturating_add(len)) }
    }

    /// Length in bytes; zero for an inverted range.
    pub const fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whole pages in it.
    pub const fn pages(&self) -> usize {
        (self.len() / PAGE_SIZE) as usize
    }

    /// The address of each page that begins in it, if it begins with one.
    pub fn frames(self) -> impl Iterator<Item = PhysAddr> {
        (self.start.0..self.end.0).step_by(PAGE_SIZE as usize).map(PhysAddr)
    }

    /// Whether the range holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the two share an address.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// Whether the other is a part of it.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// The smallest range of `align`-sized blocks that contains this one.
    pub const fn rounded_out(&self, align: u64) -> Self {
        let start = self.start.0 / align * align;
        let end = self.end.0.div_ceil(align).saturating_mul(align);
        Self { start: PhysAddr(start), end: PhysAddr(end) }
    }

    /// The largest range of `align`-sized blocks inside this one, possibly empty.
    pub const fn rounded_in(&self, align: u64) -> Self {
        let start = self.start.0.div_ceil(align).saturating_mul(align);
        let end = self.end.0 / align * align;
        Self { start: PhysAddr(start), end: PhysAddr(if end < start { start } else { end }) }
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

/// Ranges kept; a map with more pieces loses the smallest use: see [`BootMemory::new`].
const MAX_RANGES: usize = 64;

/// No free range is large enough.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub wanted: u64,
    /// Bytes free in all, in pieces too small.
    pub free: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, free) = (self.wanted / 1024, self.free / 1024);
        write!(f, "no {wanted} KiB of contiguous memory left at boot ({free} KiB free in all)")
    }
}

/// RAM, and what of it is free. Both lists are sorted and free of overlaps.
#[derive(Debug, Default)]
pub struct BootMemory {
    ram: ArrayVec<PhysRange, MAX_RANGES>,
    free: ArrayVec<PhysRange, MAX_RANGES>,
}

impl BootMemory {
    /// Takes in the loader's RAM ranges, in any order, overlapping or touching. Ranges
    /// beyond the list's capacity are left out (never wrong, only unused RAM).
    pub fn new(reported: impl Iterator<Item = PhysRange>) -> Self {
        let mut sorted: ArrayVec<PhysRange, MAX_RANGES> =
            reported.filter(|range| !range.is_empty()).take(MAX_RANGES).collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut ram: ArrayVec<PhysRange, MAX_RANGES> = ArrayVec::new();
        for range in sorted {
            match ram.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ram.push(range),
            }
        }
        let whole_pages = ram.iter().map(|range| range.rounded_in(PAGE_SIZE));
        let free = whole_pages.filter(|range| !range.is_empty()).collect();
        Self { ram, free }
    }

    /// All RAM.
    pub fn ram(&self) -> &[PhysRange] {
        &self.ram
    }

    /// RAM that nobody uses, in whole pages.
    pub fn free(&self) -> &[PhysRange] {
        &self.free
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(PhysRange::len).sum()
    }

    /// Bytes of free RAM.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(PhysRange::len).sum()
    }

    /// RAM that is in use, or is not usable in whole pages.
    pub fn used(&self) -> impl Iterator<Item = PhysRange> {
        self.free.iter().fold(self.ram.clone(), |used, free| without(&used, *free)).into_iter()
    }

    /// Marks every page that `used` touches as not free.
    pub fn reserve(&mut self, used: PhysRange) {
        self.free = without(&self.free, used.rounded_out(PAGE_SIZE));
    }

    /// Makes every page that `hole` touches no RAM at all, so that the linear map leaves it out as far as whole blocks of it go.
    pub fn remove(&mut self, hole: PhysRange) {
        let hole = hole.rounded_out(PAGE_SIZE);
        (self.ram, self.free) = (without(&self.ram, hole), without(&self.free, hole));
    }

    /// Takes `len` bytes, rounded up to pages and aligned to `align`, from the lowest free
    /// range that has them.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] when no single range is large enough.
    pub fn take(&mut self, len: u64, align: u64) -> Result<PhysRange, OutOfMemory> {
        let len = len.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        let fit = |range: &PhysRange| {
            let start = range.start.0.div_ceil(align) * align;
            (start.checked_add(len)? <= range.end.0).then_some(PhysRange::new(start, len))
        };
        let wanted = OutOfMemory { wanted: len, free: self.free_bytes() };
        let taken = self.free.iter().find_map(fit).ok_or(wanted)?;
        self.reserve(taken);
        Ok(taken)
    }
}

/// What is left of ranges outside `hole`.
fn without(ranges: &[PhysRange], hole: PhysRange) -> ArrayVec<PhysRange, MAX_RANGES> {
    let mut left = ArrayVec::<PhysRange, MAX_RANGES>::new();
    for range in ranges {
        let before = PhysRange { start: range.start, end: range.end.min(hole.start) };
        let after = PhysRange { start: range.start.max(hole.end), end: range.end };
        for piece in [before, after] {
            if !piece.is_empty() {
                // A full list drops the piece: the RAM stays unused, never used twice.
                let _ = left.try_push(piece);
            }
        }
    }
    left
}
