//! Mapping: page by page, or with the largest leaves that fit.

use arrayvec::ArrayVec;
use kpkeys::Pkey;

use super::slots_of;
use crate::addr::{Level, PIECE_ENTRIES, PageRange, PhysAddr, VirtAddr};
use crate::entry::{Attrs, Entry, Format};
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Paging, Root};
use crate::section::Section;
use crate::table::Slots;

const _: () = assert!(Pkey::DEFAULT.number() == 0, "an empty entry carries the default key");

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Maps a range page by page; page `i` is mapped to `frame(i)`.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyMapped`] and [`Error::MappedByBlock`] if part of the range translates already, [`Error::NotMappable`]
    /// if the format cannot express a frame or the key, [`Error::OutOfMemory`]; [`Error::Foreign`], [`Error::WrongHalf`] and [`Error::OwnMap`] as for
    /// [`unmap`](Self::unmap). No page of the range is mapped by this call
    /// then; tables may have been linked.
    #[inline(always)]
    #[track_caller]
    pub fn map(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        attrs: Attrs,
        frame: impl FnMut(usize) -> PhysAddr,
    ) -> Result<(), Error> {
        self.check_place(section, root, range)?;
        let template = leaf_template::<M::Format>(attrs)?;
        if range.is_one_piece() {
            return self.map_piece(section, root, range, template, frame);
        }
        self.map_many(section, root, range, template, frame)
    }

    /// [`map`](Self::map) of a range that several tables translate.
    #[inline(never)]
    #[track_caller]
    fn map_many(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        template: Entry,
        mut frame: impl FnMut(usize) -> PhysAddr,
    ) -> Result<(), Error> {
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
    #[track_caller]
    pub fn map_contiguous(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        attrs: Attrs,
        frame: PhysAddr,
    ) -> Result<(), Error> {
        self.check_place(section, root, range)?;
        let mut mapped = 0;
        while mapped < range.pages() {
            let va = range.start().offset_pages::<M::Format>(mapped);
            let pa = frame.offset(mapped as u64 * M::Format::PAGE_SIZE);
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

    #[inline(always)]
    #[track_caller]
    fn map_piece(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        piece: PageRange<M::Format>,
        template: Entry,
        mut frame: impl FnMut(usize) -> PhysAddr,
    ) -> Result<(), Error> {
        let table = self.table_for(section, root, piece.start(), Level::Pte)?;
        let slots = slots_of(table, piece);
        if let Some(taken) = slots.first_taken() {
            return Err(Error::AlreadyMapped(piece.start().offset_pages::<M::Format>(taken)));
        }
        if section.has_gates() {
            return commit(section, slots, template, frame);
        }
        let _lazy = section.lazy();
        section.will_store(piece.pages());
        let mut unmappable = 0;
        section.set_range(slots, |i| {
            let frame = frame(i);
            unmappable |= frame.0;
            Entry(template.0 | M::Format::spelled(frame))
        });
        let unmappable = unmappable & !M::Format::FRAMES;
        if unmappable != 0 {
            // SAFETY: the table was just found below the section's root, and stays in use: callers keep others from freeing tables of the range
            // (crate protocol, *Locks*).
            unsafe { section.get_and_clear_range(slots, |_, _| ()) };
            return Err(Error::NotMappable(PhysAddr(unmappable)));
        }
        Ok(())
    }

    /// Maps the largest leaf or run of leaves that starts at `va`; returns how many pages it covers.
    #[track_caller]
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
        if pages >= block.entry_pages::<M::Format>()
            && va.is_aligned(block.entry_bytes::<M::Format>())
            && pa.is_aligned(block.entry_bytes::<M::Format>())
            && self.map_block(section, root, va, pa, attrs)?
        {
            return Ok(block.entry_pages::<M::Format>());
        }
        let template = leaf_template::<M::Format>(attrs)?;
        let aligned = va.is_aligned(M::Format::CONT_BYTES) && pa.is_aligned(M::Format::CONT_BYTES);
        let (run, template) = if aligned && pages >= M::Format::CONT_PAGES {
            (M::Format::CONT_PAGES, M::Format::contiguous(template))
        } else {
            let to_boundary = M::Format::CONT_PAGES
                - (va.0 / M::Format::PAGE_SIZE) as usize % M::Format::CONT_PAGES;
            (pages.min(to_boundary), template)
        };
        let piece = PageRange::new(va, run)?;
        self.map_piece(section, root, piece, template, |i| {
            pa.offset(i as u64 * M::Format::PAGE_SIZE)
        })?;
        Ok(run)
    }

    /// Maps a 2 MiB block; false if a table is linked there. It may be an empty one, left by mappings that were there before:
    /// tables are not freed on unmap, and it takes pages as well.
    #[track_caller]
    fn map_block(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        va: VirtAddr,
        pa: PhysAddr,
        attrs: Attrs,
    ) -> Result<bool, Error> {
        let entry = M::Format::leaf(Level::Pmd, pa, attrs).ok_or(Error::NotMappable(pa))?;
        let slot =
            self.table_for(section, root, va, Level::Pmd)?.slot(va.index::<M::Format>(Level::Pmd));
        let now = slot.load();
        if M::Format::is_table(Level::Pmd, now) {
            return Ok(false);
        }
        if !now.is_empty() {
            return Err(Error::AlreadyMapped(va));
        }
        section.set_block(slot, Level::Pmd, entry)?;
        Ok(true)
    }

    /// Takes back the first pages of a range that this very operation mapped.
    #[cold]
    fn unmap_first(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        pages: usize,
    ) {
        if let Ok(mapped) = PageRange::new(range.start(), pages) {
            // Cannot cut a block: the range was empty before, and only whole blocks were put there.
            let _ = self.unmap(section, root, mapped, |_, _, _| ());
        }
    }
}

/// Asks for every frame, and then stores, holding each against its type.
#[inline(never)]
#[track_caller]
fn commit<M: Machine>(
    section: &Section<'_, M>,
    slots: Slots<'_>,
    template: Entry,
    frame: impl FnMut(usize) -> PhysAddr,
) -> Result<(), Error> {
    // Filled where it is: collecting would move all of its 4 KiB, however few frames there are.
    let mut frames = ArrayVec::<PhysAddr, PIECE_ENTRIES>::new();
    frames.extend((0..slots.len()).map(frame));
    let unmappable = frames.iter().fold(0, |bits, frame| bits | frame.0) & !M::Format::FRAMES;
    if unmappable != 0 {
        return Err(Error::NotMappable(PhysAddr(unmappable)));
    }
    // There are as many as entries; the default is never reached.
    let frames = &frames[..];
    let frame_of = move |i: usize| frames.get(i).map_or(0, |&frame| M::Format::spelled(frame));
    section.set_leaves(slots, template, move |i| Entry(template.0 | frame_of(i)))
}

/// A PTE with these attributes that maps frame 0: frames are added to it.
#[inline(always)]
fn leaf_template<F: Format>(attrs: Attrs) -> Result<Entry, Error> {
    F::leaf(Level::Pte, PhysAddr(0), attrs).ok_or(Error::KeyOutOfRange(attrs.key))
}
