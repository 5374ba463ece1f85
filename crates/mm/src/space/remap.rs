//! mremap: a mapping grows, shrinks or moves, and its pages with it.
//!
//! First all that can fail, then the move, and what each mapping is from now on is settled before it can join another.

use kpkeys_pgtable::{Flush, Format, Level, Machine, PageRange, Root, VirtAddr};

use super::AddressSpace;
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
    /// without starting together, [`Error::OutOfMemory`]. Nothing is changed then.
    pub fn mremap(
        &mut self,
        from: PageRange<M::Format>,
        to: PageRange<M::Format>,
        keeps_old: bool,
    ) -> Result<(), Error> {
        let old = self.vmas.find(from.start()).ok_or(Error::NotMapped(from.start()))?;
        if !old.range.contains(from.start().offset_pages::<M::Format>(from.pages() - 1)) {
            return Err(Error::NotMapped(old.range.end()));
        }
        if to.end().0 > Self::USER_END || to.end().0 == 0 {
            return Err(Error::Occupied(to.start(), to.pages()));
        }
        if from.start() == to.start() {
            return self.resize(from, to);
        }
        if from.start() < to.end() && to.start() < from.end() {
            return Err(Error::Occupied(to.start(), to.pages()));
        }
        let moved = self.relocate(from, to, keeps_old);
        if moved.is_err() {
            self.free_unused_tables(to);
        }
        // Mappings were cut for the move, whether or not it took place.
        self.vmas.join_in(from);
        self.vmas.join_in(to);
        moved
    }

    fn resize(
        &mut self,
        from: PageRange<M::Format>,
        to: PageRange<M::Format>,
    ) -> Result<(), Error> {
        if to.pages() < from.pages() {
            return self.munmap(behind(from, to.pages())?);
        }
        if to.pages() > from.pages() {
            let more = behind(to, from.pages())?;
            if self.vmas.overlaps(more) {
                return Err(Error::Occupied(more.start(), more.pages()));
            }
            self.vmas.extend(from.start(), more.end());
        }
        Ok(())
    }

    fn relocate(
        &mut self,
        from: PageRange<M::Format>,
        to: PageRange<M::Format>,
        keeps_old: bool,
    ) -> Result<(), Error> {
        let moving = PageRange::new(from.start(), from.pages().min(to.pages()))?;
        let old = self.vmas.find(from.start()).ok_or(Error::NotMapped(from.start()))?;
        self.vmas.split_for_move([from, moving, to])?;
        let paging = self.kernel.paging();
        if self.vmas.overlaps(to) {
            self.link_tables(self.root_of(&old), moving, to.start())?;
            // Its tables stay: pages move there.
            self.discard(to);
            self.vmas.remove_inside(to);
        }
        {
            let root = self.root_of(&old);
            paging.move_pages(&paging.section(root), root, moving, to.start())?;
        }
        paging.flush(Flush::User(self.root().frame(), moving));
        let old = self.vmas.find(from.start()).ok_or(Error::NotMapped(from.start()))?;
        self.vmas.insert(old.moved(to, 0));
        if keeps_old {
            self.vmas.change_in(moving, |left| left.owns_pages = false);
            if let Ok(rest) = behind(from, to.pages().min(from.pages())) {
                self.remove_mappings(rest);
            }
        } else {
            self.remove_mappings(from);
        }
        Ok(())
    }

    /// Links the tables that the pages of a range move to.
    fn link_tables(
        &self,
        root: &Root,
        moving: PageRange<M::Format>,
        to: VirtAddr,
    ) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let section = paging.section(root);
        for piece in moving.by_table(Level::Pte) {
            if paging.find_table(root, piece.start(), Level::Pte).is_some() {
                let first = (piece.start().0 - moving.start().0) / M::Format::PAGE_SIZE;
                for page in [first as usize, first as usize + piece.pages() - 1] {
                    paging.table_for(
                        &section,
                        root,
                        to.offset_pages::<M::Format>(page),
                        Level::Pte,
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// The pages of a range behind its first `pages`.
fn behind<E: Format>(range: PageRange<E>, pages: usize) -> Result<PageRange<E>, Error> {
    Ok(PageRange::new(range.start().offset_pages::<E>(pages), range.pages() - pages)?)
}
