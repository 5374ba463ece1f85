//! Page faults: the first touch of a page, and the first write after a fork.

use kpkeys_pgtable::addr::ENTRIES;
use kpkeys_pgtable::table::{Slot, Table};
use kpkeys_pgtable::{
    Attrs, Entry, Flush, Format, Level, Machine, PAGE_SIZE, PageRange, PhysAddr, Section, VirtAddr,
};

use super::AddressSpace;
use super::vma::{MapFlags, Vma};
use crate::error::Error;
use crate::frames::HUGE_ORDER;

impl<M: Machine> AddressSpace<'_, M> {
    /// Handles a fault: makes the page at `va` accessible, for stores too if `write`. A page touched for the first time reads as
    /// zeroes; a page shared since a fork is copied before it is written. Does nothing where the access is allowed already.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`], [`Error::Forbidden`] and [`Error::OutOfMemory`].
    pub fn fault(&mut self, va: VirtAddr, write: bool) -> Result<(), Error> {
        let vma = *self.vmas.find(va).ok_or(Error::NotMapped(va))?;
        if write && !vma.flags.write {
            return Err(Error::Forbidden(va));
        }
        let paging = self.kernel.paging();
        let section = paging.section(self.root());
        let table = paging.table_for(&section, self.root(), va, Level::Pte)?;
        let slot = table.slot(va.index(Level::Pte));
        let entry = slot.load();
        if !M::Format::is_present(entry) {
            self.mapped_pages += self.first_touch(&section, table, va, &vma, write)?;
        } else if write && !M::Format::is_writable(entry) {
            self.unshare(&section, slot, entry, va, vma.flags)?;
        } else {
            let touched = Attrs {
                young: true,
                dirty: write || M::Format::attrs(entry).dirty,
                ..M::Format::attrs(entry)
            };
            self.relax(&section, slot, entry, touched);
        }
        Ok(())
    }

    /// Touches every page of a range by a store, as a program that fills it would; pages that are mapped stay as they are.
    ///
    /// # Errors
    ///
    /// As [`fault`](Self::fault). Pages before the one that failed are mapped.
    pub fn populate(&mut self, range: PageRange) -> Result<(), Error> {
        self.vmas.covered(range)?;
        let paging = self.kernel.paging();
        let mut mapped = 0;
        let result = range.by_table(Level::Pte).try_for_each(|piece| {
            let section = paging.section(self.root());
            let table = paging.table_for(&section, self.root(), piece.start(), Level::Pte)?;
            let _lazy = section.lazy();
            let mut done = 0;
            while done < piece.pages() {
                let va = piece.start().offset_pages(done);
                let vma = self.vmas.find(va).ok_or(Error::NotMapped(va))?;
                if !vma.flags.write {
                    return Err(Error::Forbidden(va));
                }
                done += if M::Format::is_present(table.slot(va.index(Level::Pte)).load()) {
                    1
                } else {
                    let pages = self.first_touch(&section, table, va, vma, true)?;
                    mapped += pages;
                    // A large folio may begin before `va`; what matters is how far it reaches.
                    if pages == 1 { 1 } else { ENTRIES - va.index(Level::Pte) }
                };
            }
            Ok(())
        });
        self.mapped_pages += mapped;
        result
    }

    /// Maps a folio of zeroes at an empty entry, or around it; returns how many pages were mapped.
    #[inline]
    fn first_touch(
        &self,
        section: &Section<'_, M>,
        table: Table<'_>,
        va: VirtAddr,
        vma: &Vma,
        write: bool,
    ) -> Result<usize, Error> {
        let frames = self.kernel.frames();
        let attrs = Attrs {
            write: vma.flags.write,
            execute: vma.flags.execute,
            dirty: write,
            ..Attrs::USER_DATA
        };
        if vma.flags.order == HUGE_ORDER
            && fills_table(vma, va)
            && table.all().iter().all(|slot| slot.load().is_empty())
            && let Ok(folio) = frames.new_folio(self.kernel.machine(), HUGE_ORDER)
        {
            frames.map_new(folio, ENTRIES);
            let first = user_leaf::<M>(folio, attrs)?;
            section.will_store(ENTRIES);
            section.set_range(table.all(), |i| Entry(first.0 + i as u64 * PAGE_SIZE));
            return Ok(ENTRIES);
        }
        let page = frames.new_folio(self.kernel.machine(), 0)?;
        frames.map_new(page, 1);
        section.set(table.slot(va.index(Level::Pte)), user_leaf::<M>(page, attrs)?);
        Ok(1)
    }

    /// Makes a page writable that was write-protected: as it is if nobody else has it, else by a copy.
    fn unshare(
        &self,
        section: &Section<'_, M>,
        slot: Slot<'_>,
        entry: Entry,
        va: VirtAddr,
        flags: MapFlags,
    ) -> Result<(), Error> {
        let frames = self.kernel.frames();
        let shared = M::Format::frame(Level::Pte, entry);
        let attrs = Attrs { write: true, execute: flags.execute, ..Attrs::USER_DATA };
        if frames.is_exclusive(shared) {
            self.relax(section, slot, entry, attrs);
            return Ok(());
        }
        let copy = frames.copy_of(self.kernel.machine(), shared)?;
        frames.map_new(copy, 1);
        section.establish(slot, user_leaf::<M>(copy, attrs)?);
        let page = PageRange::new(VirtAddr(va.0 & !(PAGE_SIZE - 1)), 1)?;
        self.kernel.paging().flush(Flush::User(self.root().frame(), page));
        frames.release_run(frames.unmapped(shared, 1));
        Ok(())
    }

    /// Gives an entry more permission or flags. If hardware changed it meanwhile, the access faults again and comes back.
    fn relax(&self, section: &Section<'_, M>, slot: Slot<'_>, entry: Entry, attrs: Attrs) {
        if let Some(relaxed) =
            M::Format::leaf(Level::Pte, M::Format::frame(Level::Pte, entry), attrs)
            && relaxed != entry
        {
            section.set_access_flags(slot, entry, relaxed);
        }
    }
}

/// Whether the 2 MiB around an address lie in its mapping.
fn fills_table(vma: &Vma, va: VirtAddr) -> bool {
    let start = VirtAddr(va.0 & !(Level::Pmd.entry_bytes() - 1));
    vma.range.contains(start) && vma.range.contains(start.offset_pages(ENTRIES - 1))
}

fn user_leaf<M: Machine>(page: PhysAddr, attrs: Attrs) -> Result<Entry, Error> {
    M::Format::leaf(Level::Pte, page, attrs)
        .ok_or(Error::Tables(kpkeys_pgtable::Error::NotMappable(page)))
}
