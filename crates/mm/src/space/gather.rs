//! What an unmap has taken out of the tables, until it is free: flush, then free, and both from here alone.
//!
//! Pages and tables are gathered together with the addresses they were reached by. [`Gather::free`] flushes all these addresses, and only
//! then gives anything back; there is no other way out. Room is on the heap where the heap has it, and for a few in any case, so
//! that unmapping goes on without, flushing more often.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use kpkeys_pgtable::ptp::UnlinkedPtp;
use kpkeys_pgtable::{Entry, Flush, Format, Level, Machine, PageRange, PhysAddr, Root};

use super::vma::part;
use crate::frames::FolioRun;
use crate::kernel::Kernel;

/// Pages gathered before they are flushed and freed, give or take a table: what Linux's `mmu_gather` holds.
const GATHER_PAGES: usize = 10_000;

/// Pages and tables of one address space that are unmapped and wait for a flush to be freed.
pub(super) struct Gather<'a, M: Machine> {
    kernel: &'a Kernel<M>,
    root: &'a Root,
    runs: Few<FolioRun>,
    tables: Few<UnlinkedPtp<M::Format>>,
    /// Every address since the last flush that a page or a table was reached by.
    span: Option<PageRange<M::Format>>,
    /// The run being gathered: consecutive frames, so far of one folio.
    first: PhysAddr,
    run_pages: usize,
    /// How many pages the folio of `first` has from there on.
    folio_pages: usize,
    pages: usize,
    total_pages: usize,
}

impl<'a, M: Machine> Gather<'a, M> {
    pub(super) fn new(kernel: &'a Kernel<M>, root: &'a Root) -> Self {
        Gather {
            kernel,
            root,
            runs: Few::default(),
            tables: Few::default(),
            span: None,
            first: PhysAddr(0),
            run_pages: 0,
            folio_pages: 0,
            pages: 0,
            total_pages: 0,
        }
    }

    /// For how many pages, up to `wanted`, there is room; zero if some must be [freed](Self::free) first.
    pub(super) fn room_for_pages(&mut self, wanted: usize) -> usize {
        self.runs.room(wanted)
    }

    /// Whether there is room for `wanted` tables.
    pub(super) fn has_room_for_tables(&mut self, wanted: usize) -> bool {
        self.tables.room(wanted) == wanted
    }

    /// The entries of a range are about to be cleared, or tables that translate it to be unlinked.
    pub(super) fn reaches(&mut self, range: PageRange<M::Format>) {
        self.span = match self.span {
            None => Some(range),
            Some(span) => part(span.start().min(range.start()), span.end().max(range.end())),
        };
    }

    /// Adds the page of a cleared entry, to the current run if it continues it.
    #[inline(always)]
    pub(super) fn add(&mut self, level: Level, entry: Entry) {
        let page = M::Format::frame(level, entry);
        let continues = self.run_pages < self.folio_pages
            && page.0 == self.first.0 + self.run_pages as u64 * M::Format::PAGE_SIZE;
        if continues {
            self.run_pages += 1;
        } else {
            self.end_run();
            (self.first, self.run_pages, self.folio_pages) =
                (page, 1, self.kernel.frames().part_from(page).pages());
        }
    }

    /// Adds a table that was taken out of its table.
    pub(super) fn add_table(&mut self, table: UnlinkedPtp<M::Format>) {
        self.tables.push(table);
    }

    /// Ends the current run: its mappings are gone.
    #[inline(always)]
    pub(super) fn end_run(&mut self) {
        if self.run_pages > 0 {
            self.runs.push(self.kernel.frames().unmapped(self.first, self.run_pages));
            self.pages += self.run_pages;
            self.total_pages += self.run_pages;
            (self.run_pages, self.folio_pages) = (0, 0);
        }
    }

    /// Whether another table's worth of pages might be too many.
    pub(super) fn is_full(&self) -> bool {
        self.pages + kpkeys_pgtable::addr::PIECE_ENTRIES > GATHER_PAGES
    }

    /// How many pages were gathered in all.
    pub(super) fn total_pages(&self) -> usize {
        self.total_pages
    }

    /// Flushes every address that what is gathered was reached by, and then frees it.
    pub(super) fn free(&mut self) {
        let Some(span) = self.span.take() else { return };
        if self.runs.is_empty() && self.tables.is_empty() {
            return;
        }
        let flush = Flush::User(self.root.frame(), span);
        self.kernel.paging().flush_and_release(flush, self.tables.drain());
        self.runs.drain().for_each(|run| self.kernel.frames().release_run(run));
        self.pages = 0;
    }
}

/// How many there is room for in any case.
const FEW: usize = 16;

/// Values kept on the heap as far as it has room, and a few of them anyhow.
struct Few<T> {
    few: ArrayVec<T, FEW>,
    more: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few { few: ArrayVec::new(), more: Vec::new() }
    }
}

impl<T> Few<T> {
    /// For how many values, up to `wanted`, there is room now.
    fn room(&mut self, wanted: usize) -> usize {
        let few = self.few.remaining_capacity();
        if wanted > few {
            // Refused is answer enough: what is there then is what there is.
            let _ = self.more.try_reserve(wanted - few);
        }
        wanted.min(few + self.more.capacity() - self.more.len())
    }

    /// Adds a value that there is [room](Self::room) for.
    #[inline(always)]
    fn push(&mut self, value: T) {
        if let Err(full) = self.few.try_push(value) {
            self.more.push(full.element());
        }
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty()
    }

    fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.few.drain(..).chain(self.more.drain(..))
    }
}
