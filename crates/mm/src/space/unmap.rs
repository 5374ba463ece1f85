//! Unmapping: clear entries, gather pages and tables, flush, free. In that order; see [`Gather`].

use kpkeys_pgtable::{Format, Level, Machine, PageRange, Root, Section, VirtAddr};

use super::AddressSpace;
use super::gather::Gather;
use crate::error::Error;

impl<M: Machine> AddressSpace<'_, M> {
    /// Removes every mapping in a range, wholly or in part. Ranges with no mapping are no error.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if the range leaves the user half, [`Error::OutOfMemory`] if a mapping had to be cut in two; nothing is
    /// removed then.
    pub fn munmap(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        if range.end().0 > Self::USER_END || range.end().0 == 0 {
            return Err(Error::Occupied(range.start(), range.pages()));
        }
        if self.vmas.overlaps(range) {
            self.vmas.split_at_ends_of(range)?;
            self.remove_mappings(range);
        }
        Ok(())
    }

    /// Removes the mappings inside a range that was split at, and frees the tables that translate nothing else.
    pub(super) fn remove_mappings(&mut self, range: PageRange<M::Format>) {
        let (floor, ceiling) = self.vmas.neighbours(range, Self::USER_END);
        self.unmap_pages(range, floor, ceiling);
        self.vmas.remove_inside(range);
    }

    /// Drops the pages of a range and keeps its mappings: they read as zeroes when touched again (`MADV_DONTNEED`).
    pub fn discard(&mut self, range: PageRange<M::Format>) {
        // An empty span between floor and ceiling: every table stays.
        self.unmap_pages(range, VirtAddr(Self::USER_END), VirtAddr(0));
    }

    /// Unmaps the pages of the mappings in a range and frees every table that lies between `floor` and `ceiling` and translates only
    /// them.
    pub(super) fn unmap_pages(
        &mut self,
        range: PageRange<M::Format>,
        floor: VirtAddr,
        ceiling: VirtAddr,
    ) {
        let unmapped: usize =
            self.roots().map(|root| self.unmap_pages_of(root, range, floor, ceiling)).sum();
        self.mapped_pages -= unmapped;
    }

    /// The same in the tables of one root; returns how many pages were unmapped.
    fn unmap_pages_of(
        &self,
        root: &Root,
        range: PageRange<M::Format>,
        floor: VirtAddr,
        ceiling: VirtAddr,
    ) -> usize {
        let mut gather = Gather::new(self.kernel, root);
        {
            let section = self.kernel.paging().section(root);
            for part in self.vmas.parts_in(range) {
                self.clear(&section, root, part, &mut gather);
            }
            let mut parts = self.vmas.parts_in(range).peekable();
            while let Some(part) = parts.next() {
                // A table that two mappings share goes with the later one.
                let ceiling = parts.peek().map_or(ceiling, |next| next.start().min(ceiling));
                self.free_tables(&section, root, part, (floor, ceiling), &mut gather);
            }
        }
        gather.free();
        gather.total_pages()
    }

    /// Frees the tables of a range that no mapping uses any more, or none did yet.
    pub(super) fn free_unused_tables(&self, range: PageRange<M::Format>) {
        self.roots().for_each(|root| self.free_unused_tables_of(root, range));
    }

    fn free_unused_tables_of(&self, root: &Root, range: PageRange<M::Format>) {
        let mut gather = Gather::new(self.kernel, root);
        {
            let section = self.kernel.paging().section(root);
            for (floor, ceiling) in self.vmas.gaps_in(range, Self::USER_END) {
                let inside = super::vma::part(
                    floor.max(range.start()),
                    VirtAddr(ceiling.0.min(range.end().0)),
                );
                if let Some(gap) = inside {
                    self.free_tables(&section, root, gap, (floor, ceiling), &mut gather);
                }
            }
        }
        gather.free();
    }

    /// Clears a range table by table, flushing and freeing in between when enough pages are gathered, or no more can be.
    pub(super) fn clear(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        gather: &mut Gather<'_, M>,
    ) {
        for mut piece in range.by_table(Level::Pte) {
            loop {
                let pages = gather.room_for_pages(piece.pages());
                if let Ok(now) = PageRange::new(piece.start(), pages) {
                    self.clear_piece(section, root, now, gather);
                }
                if gather.is_full() || pages < piece.pages() {
                    section.paused(|| gather.free());
                }
                match PageRange::new(
                    piece.start().offset_pages::<M::Format>(pages),
                    piece.pages() - pages,
                ) {
                    Ok(rest) => piece = rest,
                    Err(_) => break,
                }
            }
        }
    }

    fn clear_piece(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        piece: PageRange<M::Format>,
        gather: &mut Gather<'_, M>,
    ) {
        let pages = gather.total_pages();
        // User memory is mapped by pages alone, so no block can be cut.
        let _ = self
            .kernel
            .paging()
            .unmap(section, root, piece, |_, level, entry| gather.add(level, entry));
        gather.end_run();
        if gather.total_pages() > pages {
            gather.reaches(piece);
        }
    }

    /// Unlinks the tables of a range whose entries are all empty: those that lie between `floor` and `ceiling`. As many at a time as there is room for.
    fn free_tables(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        (floor, ceiling): (VirtAddr, VirtAddr),
        gather: &mut Gather<'_, M>,
    ) {
        let ceiling_of = |piece: PageRange<M::Format>| {
            if piece.end() == range.end() { ceiling } else { piece.end().min(ceiling) }
        };
        for piece in range.by_table(Level::Pmd) {
            // Tables above a PTE table, but for the root.
            let upper = M::Format::ABOVE_PTE.len() - 1;
            let most = piece.by_table(Level::Pte).count() + upper;
            if gather.has_room_for_tables(most) {
                self.unlink(section, root, piece, (floor, ceiling_of(piece)), gather);
                continue;
            }
            for piece in piece.by_table(Level::Pte) {
                if !gather.has_room_for_tables(1 + upper) {
                    section.paused(|| gather.free());
                }
                self.unlink(section, root, piece, (floor, ceiling_of(piece)), gather);
            }
        }
    }

    fn unlink(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        (floor, ceiling): (VirtAddr, VirtAddr),
        gather: &mut Gather<'_, M>,
    ) {
        let mut unlinked = false;
        let paging = self.kernel.paging();
        // What is refused is no table of this address space, and stays what it is.
        let free = |table| {
            gather.add_table(table);
            unlinked = true;
        };
        // SAFETY: the address space is borrowed for this alone, and `add_table` keeps the page for later.
        let _ = unsafe { paging.free_tables(section, root, range, floor, ceiling, free) };
        if unlinked {
            gather.reaches(range);
        }
    }
}
