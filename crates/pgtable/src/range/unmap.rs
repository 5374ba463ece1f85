//! Unmapping.

use super::{Blocks, Piece, slots_of};
use crate::addr::{Level, PageRange, VirtAddr};
use crate::entry::Entry;
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Found, Paging, Root};
use crate::section::Section;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Empties every valid entry of a range and passes the first address it translated, its level and what it was: in mode `fused` before the
    /// PTEs of its table are emptied, else as it is. Tables stay linked, and no TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if the range cuts a block or a contiguous run; [`Error::Foreign`], [`Error::WrongHalf`] and [`Error::OwnMap`] if section, root and range do not
    /// belong together, or the range is no caller's. Nothing is unmapped then.
    #[inline(always)]
    pub fn unmap(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        was: impl FnMut(VirtAddr, Level, Entry),
    ) -> Result<(), Error> {
        self.check_place(section, root, range)?;
        self.unmap_anywhere(section, root, range, was)
    }

    /// [`unmap`](Self::unmap) wherever the range is.
    #[inline(always)]
    pub(crate) fn unmap_anywhere(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        mut was: impl FnMut(VirtAddr, Level, Entry),
    ) -> Result<(), Error> {
        if !range.is_one_piece() {
            return self.unmap_many(section, root, range, was);
        }
        unmap_piece(section, root, self.only_piece(root, range, Blocks::Whole)?, &mut was);
        Ok(())
    }

    /// [`unmap`](Self::unmap) of a range that several tables translate.
    #[inline(never)]
    fn unmap_many(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        mut was: impl FnMut(VirtAddr, Level, Entry),
    ) -> Result<(), Error> {
        self.for_each_piece(root, range, Blocks::Whole, |piece| {
            unmap_piece(section, root, piece, &mut was);
        })
    }
}

#[inline(always)]
fn unmap_piece<M: Machine>(
    section: &Section<'_, M>,
    root: &Root,
    piece: Piece<'_, M::Format>,
    was: &mut impl FnMut(VirtAddr, Level, Entry),
) {
    let start = piece.range.start();
    if section.has_gates() && !root.is_for::<M::Format>(start) {
        // A forged range: nothing is passed to `was` that the gate would not empty.
        return;
    }
    match piece.found {
        Found::Nothing => (),
        Found::Block(level, slot, entry) => {
            // What is refused is reported, and stays as it is.
            if section.clear_block(slot, level).is_ok() {
                was(start, level, entry);
            }
        }
        Found::Table(table) => {
            let _lazy = section.lazy();
            section.will_store(piece.range.pages());
            let was = |i, entry| was(start.offset_pages::<M::Format>(i), Level::Pte, entry);
            // SAFETY: the table was just found below the section's root, and stays in use: callers keep others from freeing tables of the range
            // (crate protocol, *Locks*).
            unsafe { section.get_and_clear_valid(slots_of(table, piece.range), was) };
        }
    }
}
