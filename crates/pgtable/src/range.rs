//! Operations on ranges: map, unmap, protect, copy, move, and freeing the tables that are left empty.
//!
//! All of them work table by table, one lazy-MMU section each. The caller keeps other users of the same range away.

use core::num::NonZeroUsize;

use kpkeys::Pkey;

use crate::addr::{CONT_BYTES, ENTRIES, Level, PAGE_SIZE, PageRange, PhysAddr, VirtAddr};
use crate::entry::{Attrs, CONT_PAGES, Entry, Format};
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Paging, Root};
use crate::ptp::UnlinkedPtp;
use crate::section::Section;
use crate::table::{Slots, Table};

/// Decides what a copy of a mapping shares: reference counts, as the memory manager keeps them.
pub trait Share {
    /// The error that stops the copy.
    type Error: From<Error>;

    /// Takes references for a run of pages that starts with `first`. `run` is valid entries of the parent, from the first on.
    /// Returns how many of them it took references for: those must be `first` counted up frame by frame,
    /// with the same permissions.
    ///
    /// # Errors
    ///
    /// Stops the copy; nothing was taken for this run.
    fn share(&mut self, first: Entry, run: Slots<'_>) -> Result<NonZeroUsize, Self::Error>;
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Maps a range page by page; page `i` is mapped to `frame(i)`.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyMapped`] and [`Error::MappedByBlock`] if part of the range translates already, [`Error::NotMappable`]
    /// if the format cannot express a frame or the key, [`Error::OutOfMemory`]. No page of the range is mapped by this call
    /// then; tables may have been linked.
    pub fn map(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        attrs: Attrs,
        mut frame: impl FnMut(usize) -> PhysAddr,
    ) -> Result<(), Error> {
        let template = leaf_template::<M::Format>(attrs)?;
        let mut mapped = 0;
        for piece in range.by_table(Level::Pte) {
            let result = self.map_piece(section, root, piece, template, |i| frame(mapped + i));
            if let Err(error) = result {
                self.unmap_first(section, root, range, mapped);
                return Err(error);
            }
            mapped += piece.pages();
        }
        Ok(())
    }

    /// Maps a range to physically contiguous frames from `frame`, with the largest leaves that fit: 2 MiB blocks, runs of 16
    /// pages marked contiguous where the format can, then pages. Each run is one lazy-MMU section.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn map_contiguous(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        attrs: Attrs,
        frame: PhysAddr,
    ) -> Result<(), Error> {
        let mut mapped = 0;
        while mapped < range.pages() {
            let va = range.start().offset_pages(mapped);
            let pa = frame.offset(mapped as u64 * PAGE_SIZE);
            match self.map_largest(section, root, va, pa, range.pages() - mapped, attrs) {
                Ok(pages) => mapped += pages,
                Err(error) => {
                    self.unmap_first(section, root, range, mapped);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Empties every valid entry of a range and passes the first address it translated, its level and what it was. Tables stay
    /// linked, and no TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if the range cuts a block or a contiguous run; nothing is unmapped then.
    pub fn unmap(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        mut was: impl FnMut(VirtAddr, Level, Entry),
    ) -> Result<(), Error> {
        self.refuse_cut_blocks(root, range)?;
        for piece in range.by_table(Level::Pte) {
            let Some(table) = self.find_table(root, piece.start(), Level::Pte) else {
                self.unmap_block(section, root, piece.start(), &mut was);
                continue;
            };
            let _lazy = section.lazy();
            section.will_store(piece.pages());
            for_each_run::<M::Format>(slots_of(table, piece), |first, run| {
                let start = piece.start().offset_pages(first);
                section.get_and_clear_range(run, |i, entry| {
                    was(start.offset_pages(i), Level::Pte, entry)
                });
            });
        }
        Ok(())
    }

    /// Changes every valid PTE of a range. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if any of the range is mapped by a block, or it cuts a contiguous run; nothing is changed then.
    pub fn protect(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        self.refuse_blocks(root, range)?;
        self.refuse_cut_blocks(root, range)?;
        for piece in range.by_table(Level::Pte) {
            if let Some(table) = self.find_table(root, piece.start(), Level::Pte) {
                let _lazy = section.lazy();
                section.will_store(piece.pages());
                for_each_run::<M::Format>(slots_of(table, piece), |_, run| {
                    section.modify_range(run, &change)
                });
            }
        }
        Ok(())
    }

    /// Copies the mappings of a range from one address space to another, write-protected on both sides and old in the copy: the
    /// page-table half of fork with copy-on-write. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// What [`Share`] says, and [`Error::OutOfMemory`]. Pages copied so far stay copied, and shared.
    pub fn copy<S: Share>(
        &self,
        section: &Section<'_, M>,
        from: &Root,
        to: &Root,
        range: PageRange,
        share: &mut S,
    ) -> Result<(), S::Error> {
        for piece in range.by_table(Level::Pte) {
            let Some(parent) = self.find_table(from, piece.start(), Level::Pte) else { continue };
            let child = self.table_for(section, to, piece.start(), Level::Pte)?;
            let _lazy = section.lazy();
            section.will_store(2 * piece.pages());
            copy_table(section, slots_of(parent, piece), slots_of(child, piece), share)?;
        }
        Ok(())
    }

    /// Moves the pages of a range, the first to `to`, where nothing may be mapped: the page-table half of `mremap`. Both places must
    /// not overlap. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] and [`Error::OutOfMemory`]; no page is moved then, though tables may have been linked.
    pub fn move_pages(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        from: PageRange,
        to: VirtAddr,
    ) -> Result<(), Error> {
        self.refuse_blocks(root, from)?;
        // First all that can fail.
        for (piece, target) in pieces_to(from, to) {
            if self.find_table(root, piece.start(), Level::Pte).is_some() {
                self.table_for(section, root, target, Level::Pte)?;
            }
        }
        for (piece, target) in pieces_to(from, to) {
            let source = self.find_table(root, piece.start(), Level::Pte);
            let tables = source.zip(self.find_table(root, target, Level::Pte));
            if let Some((source, into)) = tables {
                let _lazy = section.lazy();
                section.will_store(2 * piece.pages());
                let into = into.slots(target.index(Level::Pte), piece.pages());
                for_each_run::<M::Format>(slots_of(source, piece), |first, run| {
                    move_run(section, run, into.sub(first, run.len()));
                });
            }
        }
        Ok(())
    }

    /// Unlinks every table that translates nothing but addresses from `floor` up to, not including, `ceiling`, and some address of
    /// `range`. All of its entries must be empty. The pages are passed on, to be released with
    /// [`flush_and_release`](Self::flush_and_release).
    pub fn free_tables(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        floor: VirtAddr,
        ceiling: VirtAddr,
        mut unlinked: impl FnMut(UnlinkedPtp),
    ) {
        let last = range.start().0 + (range.pages() as u64 * PAGE_SIZE - 1);
        let free = FreeTables {
            paging: self,
            section,
            floor: floor.0,
            ceiling_last: ceiling.0.wrapping_sub(1),
        };
        free.below(self.root_table(root), Level::Pgd, range.start().0, last, &mut unlinked);
    }

    #[inline]
    fn map_piece(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        piece: PageRange,
        template: Entry,
        mut frame: impl FnMut(usize) -> PhysAddr,
    ) -> Result<(), Error> {
        let table = self.table_for(section, root, piece.start(), Level::Pte)?;
        let slots = slots_of(table, piece);
        if let Some(taken) = slots.iter().position(|slot| !slot.load().is_empty()) {
            return Err(Error::AlreadyMapped(piece.start().offset_pages(taken)));
        }
        let _lazy = section.lazy();
        section.will_store(piece.pages());
        let mut unmappable = 0;
        section.set_range(slots, |i| {
            let frame = frame(i);
            unmappable |= frame.0 & !FRAME_BITS;
            Entry(template.0 | (frame.0 & FRAME_BITS))
        });
        if unmappable != 0 {
            section.get_and_clear_range(slots, |_, _| ());
            return Err(Error::NotMappable(PhysAddr(unmappable)));
        }
        Ok(())
    }

    /// Maps the largest leaf or run of leaves that starts at `va`; returns how many pages it covers.
    fn map_largest(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        pa: PhysAddr,
        pages: usize,
        attrs: Attrs,
    ) -> Result<usize, Error> {
        let block = Level::Pmd;
        if pages >= block.entry_pages()
            && va.is_aligned(block.entry_bytes())
            && pa.is_aligned(block.entry_bytes())
            && self.map_block(section, root, va, pa, attrs)?
        {
            return Ok(block.entry_pages());
        }
        let template = leaf_template::<M::Format>(attrs)?;
        let aligned = va.is_aligned(CONT_BYTES) && pa.is_aligned(CONT_BYTES);
        let (run, template) = if aligned && pages >= CONT_PAGES {
            (CONT_PAGES, M::Format::contiguous(template))
        } else {
            let to_boundary = CONT_PAGES - (va.0 / PAGE_SIZE) as usize % CONT_PAGES;
            (pages.min(to_boundary), template)
        };
        let piece = PageRange::new(va, run)?;
        self.map_piece(section, root, piece, template, |i| pa.offset(i as u64 * PAGE_SIZE))?;
        Ok(run)
    }

    /// Maps a 2 MiB block; false if a table is linked there. It may be an empty one, left by mappings that were there before:
    /// tables are not freed on unmap, and it takes pages as well.
    fn map_block(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        pa: PhysAddr,
        attrs: Attrs,
    ) -> Result<bool, Error> {
        let entry = M::Format::leaf(Level::Pmd, pa, attrs).ok_or(Error::NotMappable(pa))?;
        let slot = self.table_for(section, root, va, Level::Pmd)?.slot(va.index(Level::Pmd));
        let now = slot.load();
        if M::Format::is_table(Level::Pmd, now) {
            return Ok(false);
        }
        if !now.is_empty() {
            return Err(Error::AlreadyMapped(va));
        }
        section.set_upper(slot, entry);
        Ok(true)
    }

    fn unmap_block(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        was: &mut impl FnMut(VirtAddr, Level, Entry),
    ) {
        if let Some((level, slot, entry)) = self.walk(root, va) {
            section.clear_upper(slot);
            was(va, level, entry);
        }
    }

    /// Takes back the first pages of a range that this very operation mapped.
    fn unmap_first(&self, section: &Section<'_, M>, root: &Root, range: PageRange, pages: usize) {
        if let Ok(mapped) = PageRange::new(range.start(), pages) {
            // Cannot cut a block: the range was empty before, and only whole blocks were put there.
            let _ = self.unmap(section, root, mapped, |_, _, _| ());
        }
    }

    /// Refuses a range that begins or ends inside a block or a contiguous run: what is left of it would not be one any more.
    fn refuse_cut_blocks(&self, root: &Root, range: PageRange) -> Result<(), Error> {
        let ends = [range.start(), range.start().offset_pages(range.pages() - 1)];
        for va in ends {
            let Some((level, _, entry)) = self.walk(root, va) else { continue };
            let pages = match level {
                Level::Pte if M::Format::is_contiguous(entry) => CONT_PAGES,
                level => level.entry_pages(),
            };
            let block = VirtAddr(va.0 & !(pages as u64 * PAGE_SIZE - 1));
            if !range.contains(block) || !range.contains(block.offset_pages(pages - 1)) {
                return Err(Error::MappedByBlock(va));
            }
        }
        Ok(())
    }

    fn refuse_blocks(&self, root: &Root, range: PageRange) -> Result<(), Error> {
        for piece in range.by_table(Level::Pte) {
            if let Some((level, _, _)) = self.walk(root, piece.start())
                && level > Level::Pte
            {
                return Err(Error::MappedByBlock(piece.start()));
            }
        }
        Ok(())
    }
}

/// Bits of an entry that hold a 4 KiB frame's address, in both formats.
const FRAME_BITS: u64 = 0x0000_ffff_ffff_f000;

/// A PTE with these attributes that maps frame 0: frames are added to it.
fn leaf_template<F: Format>(attrs: Attrs) -> Result<Entry, Error> {
    F::leaf(Level::Pte, PhysAddr(0), attrs).ok_or(Error::KeyOutOfRange(attrs.key))
}

#[inline(always)]
fn slots_of(table: Table<'_>, piece: PageRange) -> Slots<'_> {
    table.slots(piece.start().index(Level::Pte), piece.pages())
}

/// Passes each run of valid entries with the index of its first.
#[inline(always)]
fn for_each_run<F: Format>(slots: Slots<'_>, mut f: impl FnMut(usize, Slots<'_>)) {
    let mut i = 0;
    while i < slots.len() {
        let run = valid_run::<F>(slots, i);
        if run > 0 {
            f(i, slots.sub(i, run));
        }
        i += run.max(1);
    }
}

/// How many entries from `i` are valid.
#[inline(always)]
fn valid_run<F: Format>(slots: Slots<'_>, i: usize) -> usize {
    (i..slots.len()).take_while(|&j| F::is_present(slots.slot(j).load())).count()
}

#[inline]
fn copy_table<M: Machine, S: Share>(
    section: &Section<'_, M>,
    parent: Slots<'_>,
    child: Slots<'_>,
    share: &mut S,
) -> Result<(), S::Error> {
    let mut i = 0;
    while i < parent.len() {
        let first = parent.slot(i).load();
        if !M::Format::is_present(first) {
            i += 1;
            continue;
        }
        let shared = share.share(first, parent.sub(i, parent.len() - i))?.get();
        if M::Format::is_writable(first) {
            section.wrprotect_range(parent.sub(i, shared));
        }
        let copy = M::Format::old(M::Format::write_protected(first));
        section.set_range(child.sub(i, shared), |page| Entry(copy.0 + page as u64 * PAGE_SIZE));
        i += shared;
    }
    Ok(())
}

/// The parts of a range that lie in one table, and go to one table when the range moves to `to`.
fn pieces_to(from: PageRange, to: VirtAddr) -> impl Iterator<Item = (PageRange, VirtAddr)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let (source, target) = (from.start().offset_pages(done), to.offset_pages(done));
        let in_table = |va: VirtAddr| ENTRIES - va.index(Level::Pte);
        let pages = (from.pages() - done).min(in_table(source)).min(in_table(target));
        done += pages;
        PageRange::new(source, pages).ok().map(|piece| (piece, target))
    })
}

/// Moves valid entries one by one, each cleared before it is stored anew, so that no walker finds a page twice.
fn move_run<M: Machine>(section: &Section<'_, M>, from: Slots<'_>, into: Slots<'_>) {
    for (from, into) in from.iter().zip(into.iter()) {
        let entry = section.get_and_clear(from);
        section.set(into, entry);
    }
}

/// One run of [`Paging::free_tables`].
struct FreeTables<'a, 'm, M: Machine, F: Frames> {
    paging: &'a Paging<M, F>,
    section: &'a Section<'m, M>,
    floor: u64,
    ceiling_last: u64,
}

impl<M: Machine, F: Frames> FreeTables<'_, '_, M, F> {
    /// Unlinks tables below `table`, which is at `level`, that translate addresses from `first` to `last`.
    fn below(
        &self,
        table: Table<'_>,
        level: Level,
        first: u64,
        last: u64,
        unlinked: &mut impl FnMut(UnlinkedPtp),
    ) {
        let Some(below) = level.below() else { return };
        for index in VirtAddr(first).index(level)..=VirtAddr(last).index(level) {
            let slot = table.slot(index);
            let entry = slot.load();
            let Some(lower) = self.paging.lower_table(level, entry) else { continue };
            let span_first =
                (first & !(level.table_bytes() - 1)) + index as u64 * level.entry_bytes();
            let span_last = span_first + (level.entry_bytes() - 1);
            self.below(lower, below, first.max(span_first), last.min(span_last), unlinked);
            if span_first >= self.floor && span_last <= self.ceiling_last {
                self.section.clear_upper(slot);
                unlinked(UnlinkedPtp::new(M::Format::frame(level, entry)));
            }
        }
    }
}

const _: () = assert!(ENTRIES * PAGE_SIZE as usize == Level::Pmd.entry_bytes() as usize);
const _: () = assert!(Pkey::DEFAULT.number() == 0, "an empty entry carries the default key");
