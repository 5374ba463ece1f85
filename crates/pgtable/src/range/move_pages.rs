//! Moving mappings: the page-table half of mremap.

use super::slots_of;
use crate::addr::{Level, PIECE_ENTRIES, PageRange, VirtAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Paging, Root};
use crate::section::Section;
use crate::table::Slots;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Moves the pages of a range, the first to `to`, where nothing may be mapped: the page-table half of `mremap`. Both places must
    /// not overlap. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] and [`Error::OutOfMemory`]; [`Error::Foreign`], [`Error::WrongHalf`] and [`Error::OwnMap`] as for
    /// [`unmap`](Self::unmap). No page is moved then, though tables may have been linked.
    pub fn move_pages(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        from: PageRange<M::Format>,
        to: VirtAddr,
    ) -> Result<(), Error> {
        self.check_place(section, root, from)?;
        self.check_place(section, root, PageRange::new(to, from.pages())?)?;
        self.refuse_blocks(root, from.by_table(Level::Pte))?;
        // First all that can fail.
        for (piece, target) in pieces_to(from, to) {
            if self.find_table(root, piece.start(), Level::Pte).is_some() {
                self.table_for(section, root, target, Level::Pte)?;
            }
        }
        for (piece, target) in pieces_to(from, to) {
            let source = self.find_table(root, piece.start(), Level::Pte);
            let tables = source.zip(self.find_table(root, target, Level::Pte));
            if let Some((source, into)) = tables {
                let _lazy = section.lazy();
                section.will_store(2 * piece.pages());
                let into = into.slots(target.index::<M::Format>(Level::Pte), piece.pages());
                move_valid(section, slots_of(source, piece), into)?;
            }
        }
        Ok(())
    }
}

/// The parts of a range that lie in one table, and go to one table when the range moves to `to`.
fn pieces_to<F: Format>(
    from: PageRange<F>,
    to: VirtAddr,
) -> impl Iterator<Item = (PageRange<F>, VirtAddr)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let (source, target) = (from.start().offset_pages::<F>(done), to.offset_pages::<F>(done));
        let in_table = |va: VirtAddr| PIECE_ENTRIES - va.index::<F>(Level::Pte) % PIECE_ENTRIES;
        let pages = (from.pages() - done).min(in_table(source)).min(in_table(target));
        done += pages;
        PageRange::new(source, pages).ok().map(|piece| (piece, target))
    })
}

/// Moves valid entries one by one, each emptied before it is stored anew, so that no walker finds a page twice.
fn move_valid<M: Machine>(
    section: &Section<'_, M>,
    from: Slots<'_>,
    into: Slots<'_>,
) -> Result<(), Error> {
    if section.has_gates() {
        return section.move_valid(from, into);
    }
    for (from, into) in from.iter().zip(into.iter()) {
        if M::Format::is_present(from.load()) {
            // SAFETY: the table was just found below the section's root, and stays in use: callers keep others from freeing tables of the range
            // (crate protocol, *Locks*).
            let entry = unsafe { section.get_and_clear(from) };
            section.set_admitted(into, entry);
        }
    }
    Ok(())
}
