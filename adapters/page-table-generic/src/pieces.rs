//! Ranges as the wrapped crate takes them.

use kpkeys_x86_64::pieces::SIZES;
use page_table_generic::{TableMeta, VirtAddr};

pub(crate) const PAGE: usize = SIZES[0];

/// A part of a range that is changed in one window.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) at: VirtAddr,
    pub(crate) bytes: usize,
}

impl Piece {
    pub(crate) fn new(at: VirtAddr, bytes: usize) -> Self {
        Piece { at, bytes }
    }

    /// The last byte.
    pub(crate) fn last(self) -> usize {
        self.at.as_usize() + (self.bytes - 1)
    }
}

/// Whether the wrapped crate takes a range for one, so that something may be stored: what it refuses, it refuses before that.
pub(crate) fn is_range<T: TableMeta>(at: usize, bytes: usize) -> bool {
    let end = at.checked_add(bytes);
    let fits = !T::STRICT_ADDRESS_WIDTH || end.is_some_and(|end| end - 1 < SIZES[3] << 9);
    bytes > 0 && at.is_multiple_of(PAGE) && end.is_some() && fits
}

/// How many tables are needed to split a block of `size` bytes where a range begins and ends in it.
pub(crate) fn splits(piece: Piece, size: usize) -> usize {
    let bounds = [piece.at.as_usize(), piece.last().wrapping_add(1)];
    let mut tables = 0;
    for split in [SIZES[2], SIZES[1]].into_iter().filter(|&split| split <= size) {
        let inside = bounds.map(|bound| (!bound.is_multiple_of(split)).then_some(bound / split));
        let [first, second] = inside;
        tables += first.iter().count() + second.filter(|_| first != second).iter().count();
    }
    tables
}
