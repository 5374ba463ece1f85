//! Protection on the linear map: the kernel's mapping of all memory, whose leaf entries say which key each frame carries and
//! whether it can be written.
//!
//! A frame's key is that of the linear-map leaf that maps it, so making a page a page-table page means changing one entry
//! here. Where the backend has no keys, it means taking write permission from that entry, and giving the page its
//! [alias](mod@crate::alias). The map may be made of pages or of 2 MiB or 1 GiB blocks. Changing part of a block splits it, which
//! needs page-table pages; they come from a [`Reserve`] that the caller filled *before*, since allocating one here could mean
//! protecting one again.
//!
//! The linear map's own tables are page-table pages like all others and are protected.
//!
//! # What a change costs
//!
//! | | by key | by alias |
//! |---|---|---|
//! | protecting a page or a block | 1 store, 1 flush | 2 stores, 1 flush: the alias was not valid before |
//! | taking it back | 1 store, 1 flush | 2 stores, 2 flushes: of the linear map's address and of the alias |
//!
//! Either is counted as one [`Event::KeyChange`]. In mode `unbatched` each store has its window; in the others the two share one.
//!
//! # Splitting on arm64
//!
//! Replacing a live block by a table of equal leaves changes the size of a translation without break-before-make, which
//! only CPUs with FEAT_BBM level 2 allow (Arm ARM D8.16.1). On others a kernel must use blocks no larger than what it keys, so
//! that no split happens: 2 MiB blocks and the pool, whose usual unit is 2 MiB.

mod change;

use kpkeys::{Backend, Pkey};

use crate::addr::{Level, PageRange, PhysAddr, VirtAddr};
use crate::alias::Alias;
use crate::entry::{Attrs, Entry, Format};
use crate::error::Error;
use crate::guarded::Kind;
use crate::machine::{Event, Flush, Machine, Memory, Probe};
use crate::ptp::{Class, Ptp};
use crate::section::Section;
use crate::table::{Slot, Table};
use change::{Change, Span, To, maps_all};

/// Page-table pages set aside for splitting blocks of the linear map, and for tables of the alias.
///
/// Four: the two ends of a range may each cut a 2 MiB block, and in a map of 1 GiB blocks each of those a 1 GiB block. With an
/// alias, ranges in one 2 MiB are protected at a time, which needs three: two splits, and one table of the alias.
#[derive(Debug)]
pub struct Reserve {
    pages: [Option<PhysAddr>; Self::CAPACITY],
}

impl Reserve {
    pub(crate) const CAPACITY: usize = 4;

    /// An empty reserve.
    pub const fn new() -> Self {
        Reserve { pages: [const { None }; Self::CAPACITY] }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pages.iter().all(Option::is_some)
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    /// Adds a spare page to a reserve that is not full.
    pub(crate) fn put(&mut self, page: PhysAddr) {
        if let Some(place) = self.pages.iter_mut().find(|place| place.is_none()) {
            *place = Some(page);
        }
    }

    /// A page of the reserve, as a table to be filled and linked.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if it is empty, [`Error::Violation`] if what is in it is no spare page.
    pub(crate) fn take<M: Machine>(
        &mut self,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        let page = self.pages.iter_mut().find_map(Option::take).ok_or(Error::OutOfMemory)?;
        section.claim(page, level, kind)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        self.pages.iter().flatten().copied()
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}

/// The linear map: what it maps, where its tables start, and where its alias is. It never changes. In modes that check it lies where the
/// [types](crate::guarded) begin, since whoever can change it decides which page is protected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<E: Format> {
    memory: Memory<E>,
    root: PhysAddr,
    /// Where page-table pages are stored through, if they are protected by that.
    alias: Option<Alias<E>>,
}

impl<E: Format> Linear<E> {
    pub(crate) fn new(memory: Memory<E>, root: PhysAddr, alias: Option<Alias<E>>) -> Self {
        Linear { memory, root, alias }
    }

    /// Where it is kept where the tables start. For attacks.
    pub(crate) fn root_address(&self) -> *const u64 {
        &raw const self.root.0
    }

    /// The alias, if page-table pages are protected by one.
    pub(crate) fn alias(&self) -> Option<&Alias<E>> {
        self.alias.as_ref()
    }

    /// Whether some of these addresses are its.
    #[inline(always)]
    pub(crate) fn overlaps(&self, first: VirtAddr, last: VirtAddr) -> bool {
        let end = self.memory.linear.offset_pages::<E>(self.memory.pages);
        first < end && last >= self.memory.linear
    }

    /// The entry of a page, in a map of pages.
    #[inline(always)]
    fn page_at<'m, M: Machine<Format = E>>(
        &self,
        machine: &'m M,
        frame: PhysAddr,
        va: VirtAddr,
    ) -> Result<(Slot<'m>, Entry), Error> {
        // SAFETY: tables of the linear map are never freed.
        let table = unsafe { self.root_table(machine).find(machine, va, Level::Pte) };
        let slot = table.map(|table| table.slot(va.index::<E>(Level::Pte)));
        let found = slot.map(|slot| (slot, slot.load()));
        found
            .filter(|&(_, leaf)| E::is_leaf(Level::Pte, leaf))
            .ok_or_else(|| self.why_no_page(machine, frame))
    }

    #[cold]
    fn why_no_page<M: Machine<Format = E>>(&self, machine: &M, frame: PhysAddr) -> Error {
        let mapped = self.mapped_range(machine, frame, 1);
        mapped.err().unwrap_or(Error::NeedsPageMappedLinearMap)
    }

    fn root_table<'m, M: Machine<Format = E>>(&self, machine: &'m M) -> Table<'m, E> {
        // SAFETY: the root is a table for as long as the machine lives.
        unsafe { Table::at(machine, self.root) }
    }

    /// Where the linear map has frames whose key is to change, if they may be given this key.
    pub(crate) fn key_range(
        &self,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
    ) -> Result<PageRange<E>, Error> {
        let range = self.range(start, pages)?;
        if key.number() >= E::KEYS {
            return Err(Error::KeyOutOfRange(key));
        }
        if self.alias.is_some() && key != Pkey::DEFAULT {
            return Err(Error::NoKeys(key));
        }
        Ok(range)
    }

    /// Where the linear map has frames, if it has them all.
    #[inline]
    pub(crate) fn range(&self, start: PhysAddr, pages: usize) -> Result<PageRange<E>, Error> {
        if !start.is_aligned(E::PAGE_SIZE) || !self.memory.contains(start, pages) {
            return Err(Error::OutsideLinearMap(start, pages));
        }
        Ok(PageRange::new(self.memory.linear_address(start), pages)?)
    }

    /// Where the linear map has frames, if it maps them all: it may have holes, such as device registers between RAM.
    pub(crate) fn mapped_range<M: Machine<Format = E>>(
        &self,
        machine: &M,
        start: PhysAddr,
        pages: usize,
    ) -> Result<PageRange<E>, Error> {
        let range = self.range(start, pages)?;
        if maps_all(machine, self.root_table(machine), E::ROOT, Span::of(range)) {
            Ok(range)
        } else {
            Err(Error::OutsideLinearMap(start, pages))
        }
    }

    /// See [`Ground::set_key`](crate::ground::Ground::set_key), which holds the lock.
    pub(crate) fn set_key<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        self.key_range(start, pages, key)?;
        if !section.machine().backend().sets_keys() {
            return Ok(());
        }
        let range = self.mapped_range(section.machine(), start, pages)?;
        let change = self.change(section, range, To::Key(key));
        if change.splits() > reserve.len() {
            return Err(Error::OutOfMemory);
        }
        change.make(reserve)?;
        changed(section, [range]);
        Ok(())
    }

    /// [`set_key`](Self::set_key) for a page that is the caller's alone, in a map of pages: nothing is split, and nobody else changes the
    /// entry, so that it takes no lock. This is what every page-table page costs that is allocated by itself.
    #[inline(always)]
    pub(crate) fn set_page_key<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        frame: PhysAddr,
        key: Pkey,
    ) -> Result<(), Error> {
        let range = self.range(frame, 1)?;
        if !section.machine().backend().sets_keys() {
            return Ok(());
        }
        let (slot, leaf) = self.page_at(section.machine(), frame, range.start())?;
        section.set_admitted(slot, E::with_key(leaf, key));
        changed(section, [range]);
        Ok(())
    }

    /// See [`Ground::protect`](crate::ground::Ground::protect), which holds the lock.
    pub(crate) fn protect<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
        class: Class,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        let Some(alias) = &self.alias else {
            return self.set_key(section, start, pages, class.key(), reserve);
        };
        let range = self.mapped_range(section.machine(), start, pages)?;
        let second = alias.range(start, pages)?;
        let lazy = section.lazy();
        let change = self.change(section, range, To::ReadOnly);
        let tables = alias.tables_missing(section.machine(), second);
        if tables + change.splits() > reserve.len() {
            return Err(Error::OutOfMemory);
        }
        // First the alias: nobody stores to the page meanwhile, but it may hold the very tables that are changed here.
        alias.map(section, second, reserve)?;
        change.make(reserve)?;
        drop(lazy);
        // The alias was not valid, so no TLB has it.
        changed(section, [range]);
        Ok(())
    }

    /// See [`Ground::unprotect`](crate::ground::Ground::unprotect), which holds the lock.
    pub(crate) fn unprotect<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        let Some(alias) = &self.alias else {
            return self.set_key(section, start, pages, Pkey::DEFAULT, reserve);
        };
        let range = self.mapped_range(section.machine(), start, pages)?;
        let second = alias.range(start, pages)?;
        let lazy = section.lazy();
        let change = self.change(section, range, To::Writable);
        if change.splits() > reserve.len() {
            return Err(Error::OutOfMemory);
        }
        alias.unmap(section, second)?;
        change.make(reserve)?;
        drop(lazy);
        changed(section, [second, range]);
        Ok(())
    }

    /// Takes write permission from frames, whichever the backend is: no alias is given, and nothing is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideLinearMap`]; [`Error::MappedByBlock`] if a block holds other frames too. Nothing is changed then.
    pub(crate) fn make_read_only<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
    ) -> Result<(), Error> {
        let range = self.mapped_range(section.machine(), start, pages)?;
        let change = self.change(section, range, To::ReadOnly);
        if change.splits() > 0 {
            return Err(Error::MappedByBlock(range.start()));
        }
        change.make(&mut Reserve::new())
    }

    /// Gives frames their alias, while they are still writable in the linear map. No flush: the caller issues the barrier.
    pub(crate) fn map_alias<M: Machine<Format = E>>(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        let Some(alias) = &self.alias else { return Ok(()) };
        self.mapped_range(section.machine(), start, pages)?;
        let second = alias.range(start, pages)?;
        if alias.tables_missing(section.machine(), second) > reserve.len() {
            return Err(Error::OutOfMemory);
        }
        alias.map(section, second, reserve)
    }

    /// A change of leaves, to be made from the root. The lock must be held.
    fn change<'a, 'm, M: Machine<Format = E>>(
        &self,
        section: &'a Section<'m, M>,
        range: PageRange<E>,
        to: To,
    ) -> Change<'a, 'm, M> {
        let root = self.root_table(section.machine());
        Change { section, root, range: Span::of(range), to }
    }
}

/// Counts one change of protection, and flushes what TLBs hold of it.
fn changed<M: Machine, const N: usize>(
    section: &Section<'_, M>,
    ranges: [PageRange<M::Format>; N],
) {
    let probe = section.machine().probe();
    probe.count(Event::KeyChange, 1);
    for range in ranges {
        probe.count(Event::TlbFlush, 1);
        section.machine().flush_tlb(Flush::Kernel(range));
    }
}

/// The leaves of the linear map for a run of entries of one table, as it is built: kernel data with key 0.
pub(crate) fn leaf<F: Format>(level: Level, frame: PhysAddr) -> Result<Entry, Error> {
    F::leaf(level, frame, Attrs::KERNEL_DATA).ok_or(Error::NotMappable(frame))
}
