//! One change of the linear map's leaves: counting the splits it takes, then making it.

use kpkeys::Pkey;

use crate::addr::{Level, PageRange, VirtAddr};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::Kind;
use crate::linear::Reserve;
use crate::machine::Machine;
use crate::ptp::Ptp;
use crate::section::Section;
use crate::table::{Slot, Table};

/// What a leaf of the linear map is changed to.
#[derive(Clone, Copy)]
pub(super) enum To {
    Key(Pkey),
    ReadOnly,
    Writable,
}

impl To {
    fn apply<F: Format>(self, leaf: Entry) -> Entry {
        match self {
            To::Key(key) => F::with_key(leaf, key),
            To::ReadOnly => F::write_protected(leaf),
            To::Writable => F::writable(leaf),
        }
    }
}

/// Addresses from `first` to `last`, both included, so that the end of the address space needs no special case.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn of<F: Format>(range: PageRange<F>) -> Span {
        Span {
            first: range.start().0,
            last: range.start().0 + (range.pages() as u64 * F::PAGE_SIZE - 1),
        }
    }

    /// What the entry at `level` that translates `va` covers.
    fn of_entry<F: Format>(va: u64, level: Level) -> Span {
        let first = va & !(level.entry_bytes::<F>() - 1);
        Span { first, last: first + (level.entry_bytes::<F>() - 1) }
    }

    fn covers(&self, other: &Span) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    fn intersection(&self, other: &Span) -> Span {
        Span { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// The entries at `level` that this span touches.
    fn entries<F: Format>(self, level: Level) -> impl Iterator<Item = Span> {
        let mut next = Some(self.first);
        core::iter::from_fn(move || {
            let entry = Span::of_entry::<F>(next?, level);
            next = (entry.last < self.last).then(|| entry.last + 1);
            Some(entry)
        })
    }
}

/// Whether leaves below `table`, which is at `level`, translate all of a range.
pub(super) fn maps_all<M: Machine>(
    machine: &M,
    table: Table<'_, M::Format>,
    level: Level,
    range: Span,
) -> bool {
    range.entries::<M::Format>(level).all(|span| {
        let entry = table.slot(VirtAddr(span.first).index::<M::Format>(level)).load();
        // SAFETY: tables of the linear map are never freed.
        match (unsafe { Table::below(machine, level, entry) }, level.below()) {
            (Some(lower), Some(below)) => {
                maps_all(machine, lower, below, range.intersection(&span))
            }
            _ => M::Format::is_leaf(level, entry),
        }
    })
}

/// One change, on its way through the tables.
pub(super) struct Change<'a, 'm, M: Machine> {
    pub(super) section: &'a Section<'m, M>,
    pub(super) root: Table<'m, M::Format>,
    pub(super) range: Span,
    pub(super) to: To,
}

impl<M: Machine> Change<'_, '_, M> {
    fn with_range(&self, range: Span) -> Self {
        Change { range, ..*self }
    }

    /// How many blocks must be split for it: as many pages must be in reserve.
    pub(super) fn splits(&self) -> usize {
        self.splits_in(self.root, M::Format::ROOT)
    }

    /// # Errors
    ///
    /// A reserve with less than [`splits`](Self::splits), or with what is no spare page. Part of the change is made then.
    pub(super) fn make(&self, reserve: &mut Reserve) -> Result<(), Error> {
        self.apply(self.root, M::Format::ROOT, reserve)
    }

    fn splits_in(&self, table: Table<'_, M::Format>, level: Level) -> usize {
        self.edges(level)
            .map(|span| {
                let entry = table.slot(VirtAddr(span.first).index::<M::Format>(level)).load();
                let inner = self.with_range(self.range.intersection(&span));
                if let Some(lower) = self.lower_table(level, entry) {
                    level.below().map_or(0, |below| inner.splits_in(lower, below))
                } else {
                    inner.splits_of_leaf(level)
                }
            })
            .sum()
    }

    /// How many splits a leaf at `level`, partly covered by the range, comes to.
    fn splits_of_leaf(&self, level: Level) -> usize {
        let Some(below) = level.below() else { return 0 };
        let further = self
            .edges(below)
            .map(|span| self.with_range(self.range.intersection(&span)).splits_of_leaf(below));
        1 + further.sum::<usize>()
    }

    /// The entries at `level` that the range covers only in part: the first and the last of those it touches, at most.
    fn edges(&self, level: Level) -> impl Iterator<Item = Span> {
        let first = Span::of_entry::<M::Format>(self.range.first, level);
        let last = Span::of_entry::<M::Format>(self.range.last, level);
        let second = (last.first != first.first).then_some(last);
        let range = self.range;
        // Above the block levels every entry is a table, which is entered whether or not it is covered.
        core::iter::once(first)
            .chain(second)
            .filter(move |span| !range.covers(span) || !M::Format::maps_blocks(level))
    }

    fn apply(
        &self,
        table: Table<'_, M::Format>,
        level: Level,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        for span in self.range.entries::<M::Format>(level) {
            let slot = table.slot(VirtAddr(span.first).index::<M::Format>(level));
            let entry = slot.load();
            let below = level.below();
            if let (Some(lower), Some(below)) = (self.lower_table(level, entry), below) {
                self.with_range(self.range.intersection(&span)).apply(lower, below, reserve)?;
            } else if self.range.covers(&span) {
                self.section.set_upper(slot, self.to.apply::<M::Format>(entry));
            } else if let Some(below) = below {
                let page = reserve.take(self.section, below, Kind::Linear)?;
                let lower = self.split(slot, entry, level, below, page)?;
                self.with_range(self.range.intersection(&span)).apply(lower, below, reserve)?;
            }
        }
        Ok(())
    }

    /// Replaces a block by a table of leaves that say the same.
    fn split<'t>(
        &'t self,
        slot: Slot<'_>,
        block: Entry,
        level: Level,
        below: Level,
        page: Ptp,
    ) -> Result<Table<'t, M::Format>, Error> {
        let lower = page.table(self.section.machine());
        let (start, attrs) = (M::Format::frame(level, block), M::Format::attrs(block));
        self.section.fill(lower, |i| {
            M::Format::leaf(below, start.offset(i as u64 * below.entry_bytes::<M::Format>()), attrs)
                .unwrap_or(Entry::EMPTY)
        });
        self.section.link((slot, block), level, Kind::Linear, false, page)?;
        Ok(lower)
    }

    fn lower_table<'t>(&'t self, level: Level, entry: Entry) -> Option<Table<'t, M::Format>> {
        // SAFETY: tables of the linear map are never freed.
        unsafe { Table::below(self.section.machine(), level, entry) }
    }
}
