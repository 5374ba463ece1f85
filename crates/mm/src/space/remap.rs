//! mremap: a mapping grows, shrinks or moves, and its pages with it.

use kpkeys_pgtable::{Flush, Machine, PageRange};

use super::vma::Vma;
use super::{AddressSpace, USER_END};
use crate::error::Error;

impl<M: Machine> AddressSpace<'_, M> {
    /// Gives the mapping at `from` the place `to`, over whatever was mapped there. Pages keep their distance from the start; those
    /// that do not fit are unmapped. With `keeps_old` the mapping stays at `from` too, without pages (`MREMAP_DONTUNMAP`).
    ///
    /// Entries move one by one, a table at a time. (Linux moves whole tables where both places are aligned to 2 MiB.)
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] if no one mapping covers `from`, [`Error::Occupied`] if `to` leaves the user half or the ranges overlap
    /// without starting together; nothing is changed then. [`Error::OutOfMemory`]: what was at `to` is unmapped, and the end
    /// that would not have fit.
    pub fn mremap(&mut self, from: PageRange, to: PageRange, keeps_old: bool) -> Result<(), Error> {
        let old = *self.vmas.find(from.start()).ok_or(Error::NotMapped(from.start()))?;
        if !old.range.contains(from.start().offset_pages(from.pages() - 1)) {
            return Err(Error::NotMapped(old.range.end()));
        }
        if to.end().0 > USER_END || to.end().0 == 0 {
            return Err(Error::Occupied(to));
        }
        if from.start() == to.start() {
            return self.resize(&old, from, to);
        }
        if from.start() < to.end() && to.start() < from.end() {
            return Err(Error::Occupied(to));
        }
        self.munmap(to)?;
        if from.pages() > to.pages() {
            self.munmap(behind(from, to.pages())?)?;
        }
        let from = PageRange::new(from.start(), from.pages().min(to.pages()))?;
        self.relocate(from, to, keeps_old)
    }

    fn resize(&mut self, old: &Vma<'_>, from: PageRange, to: PageRange) -> Result<(), Error> {
        if to.pages() < from.pages() {
            return self.munmap(behind(from, to.pages())?);
        }
        if to.pages() > from.pages() {
            let more = behind(to, from.pages())?;
            if self.vmas.overlaps(more) {
                return Err(Error::Occupied(more));
            }
            self.vmas.extend(old.range.start(), more.end());
        }
        Ok(())
    }

    fn relocate(&mut self, from: PageRange, to: PageRange, keeps_old: bool) -> Result<(), Error> {
        self.vmas.split_at_ends_of(from);
        let old = *self.vmas.find(from.start()).ok_or(Error::NotMapped(from.start()))?;
        let paging = self.kernel.paging();
        let moved = {
            let section = paging.section(self.root());
            paging.move_pages(&section, self.root(), from, to.start())
        };
        if let Err(error) = moved {
            self.vmas.join_in(from);
            let (floor, ceiling) = self.vmas.neighbours(to, USER_END);
            self.unmap_pages(&[to], floor, ceiling);
            return Err(error.into());
        }
        paging.flush(Flush::User(self.root().frame(), from));
        self.vmas.add(old.moved(to, 0));
        if keeps_old {
            if let Some(left) = self.vmas.find_mut(from.start()) {
                left.owns_pages = false;
            }
            Ok(())
        } else {
            self.munmap(from)
        }
    }
}

/// The pages of a range behind its first `pages`.
fn behind(range: PageRange, pages: usize) -> Result<PageRange, Error> {
    Ok(PageRange::new(range.start().offset_pages(pages), range.pages() - pages)?)
}
