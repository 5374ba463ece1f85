//! Unmapping: clear entries, gather pages and tables, flush, free. In that order, and nothing is freed before the flush.

use alloc::vec::Vec;

use kpkeys_pgtable::ptp::UnlinkedPtp;
use kpkeys_pgtable::{
    Entry, Flush, Format, Level, Machine, PageRange, PhysAddr, Section, VirtAddr,
};

use super::{AddressSpace, USER_END};
use crate::error::Error;
use crate::frames::{Buddy, FolioRun};

/// Pages gathered before they are flushed and freed, give or take a table: what Linux's `mmu_gather` holds.
const GATHER_PAGES: usize = 10_000;

impl<M: Machine> AddressSpace<'_, M> {
    /// Removes every mapping in a range, wholly or in part. Ranges with no mapping are no error.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if the range leaves the user half; nothing is removed then.
    pub fn munmap(&mut self, range: PageRange) -> Result<(), Error> {
        if range.end().0 > USER_END || range.end().0 == 0 {
            return Err(Error::Occupied(range));
        }
        if !self.vmas.overlaps(range) {
            return Ok(());
        }
        self.vmas.split_at_ends_of(range);
        let (floor, ceiling) = self.vmas.neighbours(range, USER_END);
        let parts: Vec<PageRange> = self.vmas.parts_in(range).collect();
        self.vmas.remove(&parts);
        self.unmap_pages(&parts, floor, ceiling);
        Ok(())
    }

    /// Drops the pages of a range and keeps its mappings: they read as zeroes when touched again (`MADV_DONTNEED`).
    pub fn discard(&mut self, range: PageRange) {
        let parts: Vec<PageRange> = self.vmas.parts_in(range).collect();
        // An empty span between floor and ceiling: every table stays.
        self.unmap_pages(&parts, VirtAddr(USER_END), VirtAddr(0));
    }

    /// Unmaps the pages of some ranges and frees every table that lies between `floor` and `ceiling` and translates only them.
    pub(super) fn unmap_pages(&mut self, ranges: &[PageRange], floor: VirtAddr, ceiling: VirtAddr) {
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
        let paging = self.kernel.paging();
        let mut gather = Gather::new(self.kernel.frames());
        let mut tables = Vec::new();
        {
            let section = paging.section(self.root());
            for &range in ranges {
                self.clear_range(&section, range, &mut gather);
            }
            for (i, &range) in ranges.iter().enumerate() {
                // A table that two ranges share goes with the later one.
                let ceiling = if i + 1 == ranges.len() {
                    ceiling
                } else {
                    ranges[i + 1].start().min(ceiling)
                };
                paging.free_tables(&section, self.root(), range, floor, ceiling, |table| {
                    tables.push(table)
                });
            }
        }
        self.mapped_pages -= gather.total_pages;
        let pages = (last.end().0 - first.start().0) / kpkeys_pgtable::PAGE_SIZE;
        let Ok(span) = PageRange::new(first.start(), pages as usize) else { return };
        self.finish(span, gather, tables);
    }

    /// Clears one range table by table, flushing and freeing in between when enough pages are gathered.
    fn clear_range(&self, section: &Section<'_, M>, range: PageRange, gather: &mut Gather<'_>) {
        let paging = self.kernel.paging();
        for piece in range.by_table(Level::Pte) {
            // User memory is mapped by pages alone, so no block can be cut.
            let _ = paging.unmap(section, self.root(), piece, |_, level, entry| {
                gather.add::<M>(level, entry)
            });
            gather.end_run();
            if gather.is_full() {
                section.paused(|| {
                    paging.flush(Flush::User(self.root().frame(), range));
                    gather.release();
                });
            }
        }
    }

    fn finish(&self, span: PageRange, mut gather: Gather<'_>, tables: Vec<UnlinkedPtp>) {
        if !gather.is_empty() || !tables.is_empty() {
            self.kernel.paging().flush_and_release(Flush::User(self.root().frame(), span), tables);
        }
        gather.release();
    }
}

/// Pages that are unmapped, and wait for a flush to be freed.
struct Gather<'a> {
    frames: &'a Buddy,
    runs: Vec<FolioRun>,
    /// The run being gathered: consecutive frames, so far of one folio.
    first: PhysAddr,
    run_pages: usize,
    /// How many pages the folio of `first` has from there on.
    folio_pages: usize,
    pages: usize,
    total_pages: usize,
}

impl<'a> Gather<'a> {
    fn new(frames: &'a Buddy) -> Self {
        Gather {
            frames,
            runs: Vec::new(),
            first: PhysAddr(0),
            run_pages: 0,
            folio_pages: 0,
            pages: 0,
            total_pages: 0,
        }
    }

    /// Adds the page of a cleared entry, to the current run if it continues it.
    #[inline(always)]
    fn add<M: Machine>(&mut self, level: Level, entry: Entry) {
        let page = M::Format::frame(level, entry);
        let continues = self.run_pages < self.folio_pages
            && page.0 == self.first.0 + self.run_pages as u64 * kpkeys_pgtable::PAGE_SIZE;
        if continues {
            self.run_pages += 1;
        } else {
            self.end_run();
            (self.first, self.run_pages, self.folio_pages) =
                (page, 1, self.frames.pages_from(page));
        }
    }

    /// Ends the current run: its mappings are gone.
    #[inline(always)]
    fn end_run(&mut self) {
        if self.run_pages > 0 {
            self.runs.push(self.frames.unmapped(self.first, self.run_pages));
            self.pages += self.run_pages;
            self.total_pages += self.run_pages;
            (self.run_pages, self.folio_pages) = (0, 0);
        }
    }

    /// Whether another table's worth of pages might be too many.
    fn is_full(&self) -> bool {
        self.pages + kpkeys_pgtable::addr::ENTRIES > GATHER_PAGES
    }

    fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Gives back the pages gathered so far. They are flushed.
    fn release(&mut self) {
        self.runs.drain(..).for_each(|run| self.frames.release_run(run));
        self.pages = 0;
    }
}
