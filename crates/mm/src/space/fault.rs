//! Page faults: the first touch of a page, and the first write to a page that others have too.

use arrayvec::ArrayVec;
use kpkeys_pgtable::addr::PIECE_ENTRIES;
use kpkeys_pgtable::table::{Slot, Slots, Table};
use kpkeys_pgtable::{
    Attrs, Entry, Flush, Format, Level, Machine, PageRange, PhysAddr, Section, VirtAddr,
};

use super::AddressSpace;
use super::file::FilePages;
use super::vma::{Backing, MapFlags, Vma};
use crate::error::Error;
use crate::frames::HUGE_ORDER;

/// Entries that are stored one right after the other, by a fault-around or a populate: Linux's default number of pages.
const STORED_TOGETHER: usize = 16;

/// Pages that wait to be stored: the entry of one, or the first of a whole table's.
enum NewPages {
    Small(Entry),
    Large(Entry),
}

impl<M: Machine> AddressSpace<'_, M> {
    /// Handles a fault: makes the page at `va` accessible, for stores too if `write`. Does nothing where the access is allowed
    /// already.
    ///
    /// A page without a file reads as zeroes: reading maps one page of zeroes that everybody shares, writing a page of its own. A
    /// page of a file is mapped where it lies in memory, and with it, on a read, those around it that fit. A page that is
    /// shared privately is copied before it is written. A fault just below a stack extends it.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`], [`Error::Forbidden`], [`Error::BehindEnd`] and [`Error::OutOfMemory`].
    pub fn fault(&mut self, va: VirtAddr, write: bool) -> Result<(), Error> {
        self.kernel.purging_if_short(|| self.try_fault(va, write))
    }

    #[inline(always)]
    fn try_fault(&mut self, va: VirtAddr, write: bool) -> Result<(), Error> {
        let found = self.vmas.find(va);
        let grows = found.is_none();
        let mut vma = found.or_else(|| self.vmas.grown_stack(va)).ok_or(Error::NotMapped(va))?;
        if vma.withheld || write && !vma.flags.write {
            return Err(Error::Forbidden(va));
        }
        let paging = self.kernel.paging();
        let found = paging.find_table(self.root(), va, Level::Pte);
        let present = found
            .map(|table| table.slot(va.index::<M::Format>(Level::Pte)))
            .filter(is_present::<M>);
        match present {
            Some(slot) => self.permit(slot, va, &vma, write)?,
            None => self.mapped_pages += self.map_missing(va, &vma, write)?,
        }
        let makes_own = write && !vma.is_shared() || vma.flags.order == HUGE_ORDER;
        if grows || makes_own && !vma.owns_pages {
            vma.owns_pages |= makes_own;
            self.vmas.update(vma);
        }
        Ok(())
    }

    /// A page that is present: makes it writable, or notes that it is in use.
    fn permit(
        &self,
        slot: Slot<'_>,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        write: bool,
    ) -> Result<(), Error> {
        let entry = slot.load();
        if write && !M::Format::is_writable(entry) && !vma.is_shared() {
            return self.unshare(slot, entry, va, vma.flags);
        }
        let attrs = M::Format::attrs(entry);
        let touched = Attrs {
            young: true,
            dirty: write || attrs.dirty,
            write: write || attrs.write,
            ..attrs
        };
        self.relax(slot, entry, touched)
    }

    /// A page that is missing; returns how many pages were mapped.
    fn map_missing(
        &self,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        write: bool,
    ) -> Result<usize, Error> {
        match vma.backing {
            Backing::File(file) if !write => self.map_around(va, vma, file),
            Backing::File(file) => self.map_for_write(va, vma, file).map(|()| 1),
            _ if vma.flags.order == HUGE_ORDER => {
                let paging = self.kernel.paging();
                let section = paging.section(self.root());
                let table = paging.table_for(&section, self.root(), va, Level::Pte)?;
                self.first_touch(&section, table, va, vma, write)
            }
            _ if write => self.map_new_page(va, vma.flags).map(|()| 1),
            _ => self.map_zeroes(va, vma.flags).map(|()| 1),
        }
    }

    /// Writing what was never written: a page of its own, cleared before any window opens.
    fn map_new_page(&self, va: VirtAddr, flags: MapFlags) -> Result<(), Error> {
        let frames = self.kernel.frames();
        let page = frames.new_folio(self.kernel.machine(), 0)?;
        frames.map_new(page, 1);
        self.map_counted(va, page, writable(flags))
    }

    /// Reading what was never written: the page of zeroes.
    fn map_zeroes(&self, va: VirtAddr, flags: MapFlags) -> Result<(), Error> {
        let zeroes = self.kernel.zero_page();
        self.kernel.frames().share(zeroes, 1)?;
        self.map_counted(va, zeroes, read_only(flags))
    }

    /// Writing a file's page: itself if the mapping is shared, else a copy.
    fn map_for_write(
        &self,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        file: FilePages<'_>,
    ) -> Result<(), Error> {
        let frames = self.kernel.frames();
        let in_memory = file.frame_or_new(self.kernel, page_of(vma, va))?;
        let page = if file.shared {
            frames.share(in_memory, 1)?;
            in_memory
        } else {
            let copy = frames.copy_of(self.kernel.machine(), in_memory)?;
            frames.map_new(copy, 1);
            copy
        };
        self.map_counted(va, page, writable(vma.flags))
    }

    /// Maps a page whose reference and mapping are counted already.
    fn map_counted(&self, va: VirtAddr, page: PhysAddr, attrs: Attrs) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let section = paging.section(self.root());
        let mapped = paging
            .table_for(&section, self.root(), va, Level::Pte)
            .map_err(Error::from)
            .and_then(|table| Ok((table, user_leaf::<M>(page, attrs)?)))
            .and_then(|(table, entry)| {
                let slot = table.slot(va.index::<M::Format>(Level::Pte));
                // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
                Ok(unsafe { section.set(slot, entry) }?)
            });
        if mapped.is_err() {
            let frames = self.kernel.frames();
            frames.release_run(frames.unmapped(page, 1));
        }
        mapped
    }

    /// Reading a file's page: maps it, and those around it that are in memory, in the mapping and in the same table. Each store stands alone,
    /// as in Linux's `filemap_map_pages`, which is no lazy-MMU section; or all together in a gate. Returns how many pages were mapped; if references run out
    /// on the way, those before are mapped, and whoever still misses the page faults again.
    fn map_around(
        &self,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        file: FilePages<'_>,
    ) -> Result<usize, Error> {
        file.frame_or_new(self.kernel, page_of(vma, va))?;
        let paging = self.kernel.paging();
        let section = paging.section(self.root());
        let table = paging.table_for(&section, self.root(), va, Level::Pte)?;
        let around = file.file.fault_around();
        let first = (va.0 / M::Format::PAGE_SIZE) & !(around as u64 - 1);
        let numbers = first..first + around as u64;
        let mut missing =
            numbers.map(|number| VirtAddr(number * M::Format::PAGE_SIZE)).filter(|&page| {
                vma.range.contains(page)
                    && table.slot(page.index::<M::Format>(Level::Pte)).load().is_empty()
            });
        let mut mapped = 0;
        loop {
            // References first, then stores: a window's barriers wait for everything that is under way.
            let mut entries = [(0, Entry::EMPTY); STORED_TOGETHER];
            let shared = self.share_pages(&mut missing, vma, file, &mut entries);
            let count = *shared.as_ref().unwrap_or_else(|(count, _)| count);
            // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
            if let Err(error) = unsafe { section.set_at(table, &entries[..count]) } {
                self.unshare_pages(&entries[..count]);
                return if mapped == 0 { Err(error.into()) } else { Ok(mapped) };
            }
            mapped += count;
            match shared {
                Err((_, error)) if mapped == 0 => return Err(error),
                Ok(STORED_TOGETHER) => {}
                Ok(_) | Err(_) => return Ok(mapped),
            }
        }
    }

    /// Takes references for pages of a file until there are no more of either pages or entries; the entries say what to store where.
    ///
    /// # Errors
    ///
    /// A page without references left, and how many entries there are before it.
    fn share_pages(
        &self,
        pages: &mut impl Iterator<Item = VirtAddr>,
        vma: &Vma<'_, M::Format>,
        file: FilePages<'_>,
        entries: &mut [(usize, Entry)],
    ) -> Result<usize, (usize, Error)> {
        let mut count = 0;
        let in_memory = pages.filter_map(|page| Some((page, file.frame(page_of(vma, page))?)));
        for (place, (page, frame)) in entries.iter_mut().zip(in_memory) {
            let entry =
                user_leaf::<M>(frame, read_only(vma.flags)).map_err(|error| (count, error))?;
            self.kernel.frames().share(frame, 1).map_err(|error| (count, error))?;
            *place = (page.index::<M::Format>(Level::Pte), entry);
            count += 1;
        }
        Ok(count)
    }

    /// Gives back references that [`share_pages`](Self::share_pages) took.
    #[cold]
    fn unshare_pages(&self, entries: &[(usize, Entry)]) {
        let frames = self.kernel.frames();
        for &(_, entry) in entries {
            frames.release_run(frames.unmapped(M::Format::frame(Level::Pte, entry), 1));
        }
    }

    /// Faults every page of a range in, for stores where the mapping allows them, as the kernel does for itself: `MAP_POPULATE`,
    /// `mlock`, the arguments of a new program.
    ///
    /// # Errors
    ///
    /// As [`fault`](Self::fault). Pages before the one that failed are mapped.
    pub fn fault_in(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        for page in 0..range.pages() {
            let va = range.start().offset_pages::<M::Format>(page);
            // Linux asks for write access to private mappings only (`populate_vma_page_range`).
            let write = self.vmas.find(va).is_some_and(|vma| vma.flags.write && !vma.is_shared());
            self.fault(va, write)?;
        }
        Ok(())
    }

    /// Touches every page of a range without files by a store, as a program that fills it would, a table at a time; pages that are
    /// mapped stay as they are.
    ///
    /// # Errors
    ///
    /// As [`fault`](Self::fault). Pages before the one that failed are mapped.
    pub fn populate(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        self.kernel.purging_if_short(|| self.try_populate(range))
    }

    #[inline(always)]
    fn try_populate(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.own_pages_in(range);
        let paging = self.kernel.paging();
        let mut mapped = 0;
        let result = range.by_table(Level::Pte).try_for_each(|piece| {
            let section = paging.section(self.root());
            let table = paging.table_for(&section, self.root(), piece.start(), Level::Pte)?;
            let _lazy = section.lazy();
            let mut done = 0;
            while done < piece.pages() {
                let rest = PageRange::new(
                    piece.start().offset_pages::<M::Format>(done),
                    piece.pages() - done,
                )?;
                let (passed, now) = self.touch_some(&section, table, rest);
                mapped += now;
                done += passed?;
            }
            Ok(())
        });
        self.mapped_pages += mapped;
        result
    }

    /// Touches pages of a piece from its start on: as many as are stored together, or one large folio. Returns how many pages it got past,
    /// and how many of them it mapped.
    #[inline]
    fn touch_some(
        &self,
        section: &Section<'_, M>,
        table: Table<'_, M::Format>,
        piece: PageRange<M::Format>,
    ) -> (Result<usize, Error>, usize) {
        let mut small = ArrayVec::<(usize, Entry), STORED_TOGETHER>::new();
        let mut passed = 0;
        let gathered = loop {
            if passed == piece.pages() || small.is_full() {
                break Ok(passed);
            }
            let va = piece.start().offset_pages::<M::Format>(passed);
            let index = va.index::<M::Format>(Level::Pte);
            let vma = match self.vma_to_write(va) {
                Ok(vma) => vma,
                Err(error) => break Err(error),
            };
            if M::Format::is_present(table.slot(index).load()) {
                passed += 1;
                continue;
            }
            match self.new_pages(table, va, &vma, true) {
                // A large folio may begin before `va`; what matters is how far it reaches. Nothing was gathered: its piece was empty.
                Ok(NewPages::Large(first)) => {
                    return match self.store_large(section, piece_around::<M>(table, va), first) {
                        Ok(()) => (Ok(PIECE_ENTRIES - index % PIECE_ENTRIES), PIECE_ENTRIES),
                        Err(error) => (Err(error), 0),
                    };
                }
                Ok(NewPages::Small(entry)) => {
                    small.push((index, entry));
                    passed += 1;
                }
                Err(error) => break Err(error),
            }
        };
        if !small.is_empty()
            // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
            && let Err(error) = unsafe { section.set_at(table, &small) }
        {
            self.unshare_pages(&small);
            return (Err(error.into()), 0);
        }
        (gathered, small.len())
    }

    fn vma_to_write(&self, va: VirtAddr) -> Result<Vma<'_, M::Format>, Error> {
        let vma = self.vmas.find(va).ok_or(Error::NotMapped(va))?;
        if vma.flags.write && !vma.withheld { Ok(vma) } else { Err(Error::Forbidden(va)) }
    }

    /// Maps a folio of zeroes at an empty entry, or around it; returns how many pages were mapped.
    #[inline]
    fn first_touch(
        &self,
        section: &Section<'_, M>,
        table: Table<'_, M::Format>,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        write: bool,
    ) -> Result<usize, Error> {
        match self.new_pages(table, va, vma, write)? {
            NewPages::Large(first) => {
                self.store_large(section, piece_around::<M>(table, va), first)?;
                Ok(PIECE_ENTRIES)
            }
            NewPages::Small(entry) => {
                let page = M::Format::frame(Level::Pte, entry);
                let slot = table.slot(va.index::<M::Format>(Level::Pte));
                // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
                unsafe { section.set(slot, entry) }
                    .map_err(|error| self.give_up(page, 1, error))?;
                Ok(1)
            }
        }
    }

    fn store_large(
        &self,
        section: &Section<'_, M>,
        slots: Slots<'_>,
        first: Entry,
    ) -> Result<(), Error> {
        section.will_store(PIECE_ENTRIES);
        let folio = M::Format::frame(Level::Pte, first);
        // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
        unsafe { section.set_consecutive(slots, first) }
            .map_err(|error| self.give_up(folio, PIECE_ENTRIES, error))
    }

    /// A folio of zeroes for an empty entry, or for all of its piece of the table if that is empty, as the mapping wants and memory allows.
    #[inline]
    fn new_pages(
        &self,
        table: Table<'_, M::Format>,
        va: VirtAddr,
        vma: &Vma<'_, M::Format>,
        write: bool,
    ) -> Result<NewPages, Error> {
        let frames = self.kernel.frames();
        let attrs = Attrs {
            write: vma.flags.write,
            execute: vma.flags.execute,
            dirty: write,
            ..Attrs::USER_DATA
        };
        if vma.flags.order == HUGE_ORDER
            && fills_piece(vma, va)
            && piece_around::<M>(table, va).iter().all(|slot| slot.load().is_empty())
            && let Ok(folio) = frames.new_folio(self.kernel.machine(), HUGE_ORDER)
        {
            frames.map_new(folio, PIECE_ENTRIES);
            return Ok(NewPages::Large(user_leaf::<M>(folio, attrs)?));
        }
        let page = frames.new_folio(self.kernel.machine(), 0)?;
        frames.map_new(page, 1);
        Ok(NewPages::Small(user_leaf::<M>(page, attrs)?))
    }

    /// Gives back pages that were counted as mapped, and could not be.
    #[cold]
    fn give_up(&self, first: PhysAddr, pages: usize, error: kpkeys_pgtable::Error) -> Error {
        let frames = self.kernel.frames();
        frames.release_run(frames.unmapped(first, pages));
        error.into()
    }

    /// Makes a page writable that was write-protected: as it is if nobody else has it, else by a copy.
    fn unshare(
        &self,
        slot: Slot<'_>,
        entry: Entry,
        va: VirtAddr,
        flags: MapFlags,
    ) -> Result<(), Error> {
        let frames = self.kernel.frames();
        let shared = M::Format::frame(Level::Pte, entry);
        let attrs = writable(flags);
        if frames.is_exclusive(shared) {
            return self.relax(slot, entry, attrs);
        }
        let copy = frames.copy_of(self.kernel.machine(), shared)?;
        frames.map_new(copy, 1);
        let section = self.kernel.paging().section(self.root());
        let leaf = user_leaf::<M>(copy, attrs)?;
        // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
        unsafe { section.establish(slot, leaf) }.map_err(|error| self.give_up(copy, 1, error))?;
        drop(section);
        let page = PageRange::new(VirtAddr(va.0 & !(M::Format::PAGE_SIZE - 1)), 1)?;
        self.kernel.paging().flush(Flush::User(self.root().frame(), page));
        frames.release_run(frames.unmapped(shared, 1));
        Ok(())
    }

    /// Gives an entry more permission or flags. If hardware changed it meanwhile, the access faults again and comes back.
    fn relax(&self, slot: Slot<'_>, entry: Entry, attrs: Attrs) -> Result<(), Error> {
        if let Some(relaxed) =
            M::Format::leaf(Level::Pte, M::Format::frame(Level::Pte, entry), attrs)
            && relaxed != entry
        {
            let section = self.kernel.paging().section(self.root());
            // SAFETY: the table was just found in this address space, and tables are freed by who has it for itself alone.
            unsafe { section.set_access_flags(slot, entry, relaxed) }?;
        }
        Ok(())
    }
}

fn is_present<M: Machine>(slot: &Slot<'_>) -> bool {
    M::Format::is_present(slot.load())
}

/// What an entry allows that must fault before it is written.
fn read_only(flags: MapFlags) -> Attrs {
    Attrs { write: false, execute: flags.execute, dirty: false, ..Attrs::USER_DATA }
}

/// What an entry allows that a write has made.
fn writable(flags: MapFlags) -> Attrs {
    Attrs { write: true, execute: flags.execute, dirty: true, ..Attrs::USER_DATA }
}

/// Which page of a mapping an address is in.
fn page_of<E: Format>(vma: &Vma<'_, E>, va: VirtAddr) -> usize {
    ((va.0 - vma.range.start().0) / E::PAGE_SIZE) as usize
}

/// The piece of a table that a large folio around an address fills.
#[inline(always)]
fn piece_around<M: Machine>(table: Table<'_, M::Format>, va: VirtAddr) -> Slots<'_> {
    let index = va.index::<M::Format>(Level::Pte);
    table.slots(index - index % PIECE_ENTRIES, PIECE_ENTRIES)
}

/// Whether the piece of a table around an address lies in its mapping.
fn fills_piece<E: Format>(vma: &Vma<'_, E>, va: VirtAddr) -> bool {
    let start = VirtAddr(va.0 & !(PIECE_ENTRIES as u64 * E::PAGE_SIZE - 1));
    vma.range.contains(start) && vma.range.contains(start.offset_pages::<E>(PIECE_ENTRIES - 1))
}

fn user_leaf<M: Machine>(page: PhysAddr, attrs: Attrs) -> Result<Entry, Error> {
    M::Format::leaf(Level::Pte, page, attrs)
        .ok_or(Error::Tables(kpkeys_pgtable::Error::NotMappable(page)))
}
