//! The alias: a second mapping of page-table pages, which they are stored through under [`Scheme::Alias`](kpkeys::Scheme::Alias).
//!
//! In the linear map such a page is read-only, always. At a constant distance, in a range of the kernel's half as large as memory,
//! it is mapped once more with the permissions of user data, which PSTATE.PAN (or SMAP) keeps the kernel out of except in windows.
//! Nothing but page-table pages is mapped there.
//!
//! # Programs
//!
//! To a program the alias would be memory of its own. Newer arm64 CPUs keep it out without a look at the tables (E0PD). Elsewhere programs run
//! on tables that lack the alias, whose root entries therefore translate nothing else: where address spaces' roots have a copy of the kernel's
//! half (x86-64), theirs is one without; where that half has a register of its own (arm64), it is loaded with a second root meanwhile
//! ([`Paging::make_programs_kernel_root`](crate::Paging::make_programs_kernel_root)). The alias's leaves are not global, so that no TLB keeps them over the change of roots.
//!
//! # In the other half, in windows alone
//!
//! Where no bit keeps the kernel out (arm64 without PAN), the alias lies in the half that programs have otherwise, in tables with a root of its own, the
//! *window root*. Opening a window loads it, closing loads a root that translates nothing. Its leaves are for the kernel alone and not global: what a
//! TLB keeps of them is used under the identifier that windows load, and under no other. The root is a table of the alias's by its type, so that no thread's
//! can be made of it.
//!
//! # The alias's own tables
//!
//! They are page-table pages like all others, so they are read-only in the linear map and have aliases themselves. Giving a page its
//! alias must not need a page that needs one. So the tables exist before:
//!
//! - Without a pool, any frame may become a page-table page: all tables, down to those of PTEs, are built at the start. That
//!   is one page for each 2 MiB of memory (0.2 %), as much as the tables of a linear map made of pages, which such a
//!   configuration has anyway.
//! - With the pool, tables down to those of PMDs are built at the start: one page for each GiB. A block of 2 MiB of the pool has a
//!   block for its alias. Where memory is fragmented the pool takes smaller blocks; their alias needs a table of PTEs, for
//!   which a page of the [`Reserve`] is used, once for each 2 MiB.
//!
//! A table, once there, stays.

use crate::addr::{Level, PageRange, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::Kind;
use crate::linear::Reserve;
use crate::machine::{Machine, Memory};
use crate::paging::Root;
use crate::section::{Section, Space};
use crate::table::{Slot, Table};

/// Addresses for devices' registers.
const DEVICE_BYTES: u64 = 1 << 21;

/// The range of addresses that page-table pages have a second mapping in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alias<E: Format> {
    memory: Memory<E>,
    start: VirtAddr,
    root: PhysAddr,
    /// The root is the alias's own, loaded in windows alone.
    in_windows: bool,
}

impl<E: Format> Alias<E> {
    /// The alias of `memory` from `start` up, in the tables of a root that does not translate anything there yet: the kernel's, or one of the
    /// alias's own, in the other half. Where other roots have copies of that one's entries, those of the alias must be its own.
    ///
    /// # Errors
    ///
    /// [`Error::AliasMisplaced`].
    pub(crate) fn new(
        memory: Memory<E>,
        start: Option<VirtAddr>,
        root: &Root,
        has_root_copies: bool,
    ) -> Result<Alias<E>, Error> {
        let start = start.ok_or(Error::AliasMisplaced(None))?;
        let misplaced = Error::AliasMisplaced(Some(start));
        let range = PageRange::<E>::new(start, memory.pages).map_err(|_| misplaced)?;
        let linear = PageRange::<E>::new(memory.linear, memory.pages)?;
        let overlaps = range.contains(linear.start()) || linear.contains(range.start());
        let in_windows = root.space() == Space::Alias;
        // One root register for both halves can have no other root for a while.
        let can_be_loaded = !(in_windows && has_root_copies);
        if overlaps
            || !root.is_for::<E>(start)
            || !can_be_loaded
            || !start.is_aligned(Level::Pud.entry_bytes::<E>())
        {
            return Err(misplaced);
        }
        let alias = Alias { memory, start, root: root.frame(), in_windows };
        if has_root_copies && !alias.has_own_root_entries() { Err(misplaced) } else { Ok(alias) }
    }

    /// Whether its root entries translate nothing of the linear map.
    pub(crate) fn has_own_root_entries(&self) -> bool {
        let linear = PageRange::new(self.memory.linear, self.memory.pages);
        let is_shared = |range: PageRange<E>| {
            range.by_table(Level::Pud).any(|piece| self.owns_root_entry_of(piece.start()))
        };
        self.start.is_aligned(E::ROOT.entry_bytes::<E>()) && !linear.is_ok_and(is_shared)
    }

    /// Whether the root entry that translates an address translates aliases.
    pub(crate) fn owns_root_entry_of(&self, va: VirtAddr) -> bool {
        let first = va.0 & !(E::ROOT.entry_bytes::<E>() - 1);
        self.overlaps(first, first + (E::ROOT.entry_bytes::<E>() - 1))
    }

    /// Whether it is translated by a root of a space; programs' have nothing of it.
    pub(crate) fn is_in(&self, space: Space) -> bool {
        (space == Space::Alias) == self.in_windows
    }

    /// The address of a frame's alias.
    pub(crate) fn address(&self, frame: PhysAddr) -> VirtAddr {
        self.start.offset(frame.0 - self.memory.start.0)
    }

    /// Whether any of the addresses from `first` to `last` is one for aliases, those of devices included.
    pub(crate) fn overlaps(&self, first: u64, last: u64) -> bool {
        let bytes = self.memory.pages as u64 * E::PAGE_SIZE;
        let is_in = |start: u64, bytes: u64| first <= start + (bytes - 1) && start <= last;
        is_in(self.start.0, bytes) || is_in(self.devices().0, DEVICE_BYTES)
    }

    /// Whether an address is one for aliases, those of devices included.
    pub(crate) fn contains(&self, va: VirtAddr) -> bool {
        self.overlaps(va.0, va.0)
    }

    /// Where devices' registers are that can be written in windows alone: the end of the root entry that the alias ends in.
    fn devices(&self) -> VirtAddr {
        let last = self.start.0 + (self.memory.pages as u64 * E::PAGE_SIZE - 1);
        VirtAddr((last | (E::ROOT.entry_bytes::<E>() - 1)) - (DEVICE_BYTES - 1))
    }

    /// The address of a device's page, if memory leaves room for it.
    pub(crate) fn device(&self, number: usize) -> Option<VirtAddr> {
        let va = self.devices().offset_pages::<E>(number);
        let is_one = (number as u64) < DEVICE_BYTES / E::PAGE_SIZE && self.frame_at(va).is_none();
        is_one.then_some(va)
    }

    /// The frame whose alias is at an address, if it is one for aliases.
    pub(crate) fn frame_at(&self, va: VirtAddr) -> Option<PhysAddr> {
        let frame = self.memory.start.offset(va.0.checked_sub(self.start.0)?);
        self.memory.contains(frame, 1).then_some(frame)
    }

    /// The aliases of frames in memory.
    pub(crate) fn range(&self, start: PhysAddr, pages: usize) -> Result<PageRange<E>, Error> {
        Ok(PageRange::new(self.address(start), pages)?)
    }

    /// All of them.
    pub(crate) fn whole(&self) -> Result<PageRange<E>, Error> {
        self.range(self.memory.start, self.memory.pages)
    }

    /// How many tables [`map`](Self::map) would take from the reserve.
    pub(crate) fn tables_missing<M: Machine<Format = E>>(
        &self,
        machine: &M,
        range: PageRange<E>,
    ) -> usize {
        range
            .by_table(Level::Pte)
            .filter(|piece| !is_whole(piece))
            .filter_map(|piece| self.slot(machine, piece.start()))
            .filter(|slot| slot.load().is_empty())
            .count()
    }

    /// Gives frames their alias, with tables from `reserve` where they are missing. Entries that say so already are not stored again.
    ///
    /// # Errors
    ///
    /// A reserve with less than [`tables_missing`](Self::tables_missing), or with what is no spare page. Some frames have theirs then.
    pub(crate) fn map<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        range: PageRange<E>,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        for piece in range.by_table(Level::Pte) {
            let Some(slot) = self.slot(section.machine(), piece.start()) else { continue };
            let now = slot.load();
            if let Some(table) = self.table_of_ptes(section.machine(), now) {
                self.map_pages(section, table, piece);
            } else if !now.is_empty() {
                // A block has them all.
            } else if is_whole(&piece) {
                section.set_upper(slot, self.entry(Level::Pmd, piece.start()));
            } else {
                let page = reserve.take(section, Level::Pte, Kind::Alias)?;
                let table = page.table(section.machine());
                section.fill(table, |index| {
                    let va = VirtAddr(piece.start().0 & !(Level::Pmd.entry_bytes::<E>() - 1));
                    let va = va.offset_pages::<E>(index);
                    if piece.contains(va) { self.entry(Level::Pte, va) } else { Entry::EMPTY }
                });
                section.link((slot, now), Level::Pmd, Kind::Alias, true, page)?;
            }
        }
        Ok(())
    }

    /// Takes their alias from frames. The caller flushes the range.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if they got it together with others, as one block. Nothing is changed then.
    pub(crate) fn unmap<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        range: PageRange<E>,
    ) -> Result<(), Error> {
        let machine = section.machine();
        for piece in range.by_table(Level::Pte).filter(|piece| !is_whole(piece)) {
            if let Some(slot) = self.slot(machine, piece.start())
                && E::is_leaf(Level::Pmd, slot.load())
            {
                return Err(Error::MappedByBlock(piece.start()));
            }
        }
        for piece in range.by_table(Level::Pte) {
            let Some(slot) = self.slot(machine, piece.start()) else { continue };
            let now = slot.load();
            if let Some(table) = self.table_of_ptes(machine, now) {
                section.will_store(piece.pages());
                let slots = table.slots(piece.start().index::<E>(Level::Pte), piece.pages());
                // SAFETY: tables of the alias are never freed.
                unsafe { section.get_and_clear_range(slots, |_, _| ()) };
            } else if !now.is_empty() {
                section.clear_upper(slot);
            }
        }
        Ok(())
    }

    fn map_pages<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        table: Table<'_, E>,
        piece: PageRange<E>,
    ) {
        let slots = table.slots(piece.start().index::<E>(Level::Pte), piece.pages());
        let entry = |index| self.entry(Level::Pte, piece.start().offset_pages::<E>(index));
        if slots.iter().enumerate().any(|(index, slot)| slot.load() != entry(index)) {
            section.will_store(piece.pages());
            section.set_range(slots, entry);
        }
    }

    /// The alias entry that an address must have.
    pub(crate) fn entry(&self, level: Level, va: VirtAddr) -> Entry {
        let frame = self.memory.start.offset(va.0 - self.start.0);
        // Memory and alias start at multiples of 1 GiB, so the frame is aligned as the address is; both formats map it.
        let entry = if self.in_windows {
            E::alias_of_windows(level, frame)
        } else {
            E::alias(level, frame)
        };
        entry.unwrap_or(Entry::EMPTY)
    }

    /// The PMD that translates an address. Tables down to its own exist.
    fn slot<'m, M: Machine<Format = E>>(&self, machine: &'m M, va: VirtAddr) -> Option<Slot<'m>> {
        // SAFETY: the root is a table for ever, and so are tables of the alias.
        let table = unsafe { Table::at(machine, self.root).find(machine, va, Level::Pmd) };
        Some(table?.slot(va.index::<E>(Level::Pmd)))
    }

    fn table_of_ptes<'m, M: Machine<Format = E>>(
        &self,
        machine: &'m M,
        entry: Entry,
    ) -> Option<Table<'m, E>> {
        // SAFETY: tables of the alias are never freed.
        unsafe { Table::below(machine, Level::Pmd, entry) }
    }
}

/// Whether a part of a range is all that one PMD translates.
fn is_whole<E: Format>(piece: &PageRange<E>) -> bool {
    piece.pages() == E::ENTRIES
}
