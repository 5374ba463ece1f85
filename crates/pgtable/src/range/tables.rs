//! Unlinking tables that are left empty.

use crate::addr::{Level, PageRange, VirtAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::guarded::Kind;
use crate::machine::{Frames, Machine};
use crate::paging::{Paging, Root};
use crate::ptp::UnlinkedPtp;
use crate::section::Section;
use crate::table::Table;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Unlinks every table that translates nothing but addresses from `floor` up to, not including, `ceiling`, and some address of
    /// `range`. All of its entries must be empty. The pages are passed on, to be released with
    /// [`flush_and_release`](Self::flush_and_release).
    ///
    /// # Errors
    ///
    /// [`Error::TablesStay`] for the tables of the linear map and of the alias, and those right below the kernel's root: nothing is unlinked; [`Error::Foreign`], [`Error::WrongHalf`] and [`Error::OwnMap`] as for
    /// [`unmap`](Self::unmap). In modes that check, [`Error::TableInUse`]
    /// for a table that holds entries, and [`Error::Violation`] for what is no such table by its type: those before it are unlinked, and were
    /// passed on.
    ///
    /// # Safety
    ///
    /// No other operation on addresses that these tables translate is under way, by another CPU or by whoever this is called from: what it has found
    /// would be another table by then.
    #[track_caller]
    pub unsafe fn free_tables(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        floor: VirtAddr,
        ceiling: VirtAddr,
        mut unlinked: impl FnMut(UnlinkedPtp<M::Format>),
    ) -> Result<(), Error> {
        self.check_place(section, root, range)?;
        let last = range.start().0 + (range.pages() as u64 * M::Format::PAGE_SIZE - 1);
        let free = FreeTables {
            paging: self,
            section,
            root,
            floor: floor.0,
            ceiling_last: ceiling.0.wrapping_sub(1),
        };
        free.below(self.root_table(root), M::Format::ROOT, range.start().0, last, &mut unlinked)
    }
}

/// One run of [`Paging::free_tables`].
struct FreeTables<'a, 'm, M: Machine, F: Frames> {
    paging: &'a Paging<M, F>,
    section: &'a Section<'m, M>,
    root: &'a Root,
    floor: u64,
    ceiling_last: u64,
}

impl<M: Machine, F: Frames> FreeTables<'_, '_, M, F> {
    /// Unlinks tables below `table`, which is at `level`, that translate addresses from `first` to `last`.
    #[track_caller]
    fn below(
        &self,
        table: Table<'_, M::Format>,
        level: Level,
        first: u64,
        last: u64,
        unlinked: &mut impl FnMut(UnlinkedPtp<M::Format>),
    ) -> Result<(), Error> {
        let Some(below) = level.below() else { return Ok(()) };
        for index in
            VirtAddr(first).index::<M::Format>(level)..=VirtAddr(last).index::<M::Format>(level)
        {
            let slot = table.slot(index);
            let entry = slot.load();
            let Some(lower) = self.paging.lower_table(level, entry) else { continue };
            let span_first = (first & !(level.table_bytes::<M::Format>() - 1))
                + index as u64 * level.entry_bytes::<M::Format>();
            let span_last = span_first + (level.entry_bytes::<M::Format>() - 1);
            self.below(lower, below, first.max(span_first), last.min(span_last), unlinked)?;
            if span_first >= self.floor && span_last <= self.ceiling_last {
                let va = VirtAddr(span_first);
                let kind = self.paging.kind(self.root, level, va);
                // Other roots have copies of the entries of the kernel's.
                let is_copied = level == M::Format::ROOT && kind != Kind::User;
                if is_copied || matches!(kind, Kind::Linear | Kind::Alias) {
                    return Err(Error::TablesStay(va));
                }
                if self.section.types().is_some() && lower.all().first_taken().is_some() {
                    return Err(Error::TableInUse(va));
                }
                let (first, last) = (first.max(span_first), last.min(span_last));
                let pages = (last - first) / M::Format::PAGE_SIZE + 1;
                let reached = PageRange::new(VirtAddr(first), pages as usize)?;
                let frame = self.section.unlink(slot, level, kind, entry)?;
                unlinked(UnlinkedPtp::new(frame, self.root, reached));
            }
        }
        Ok(())
    }
}
