//! Folios: the unit in which user memory is owned, shared and mapped. Order 0 is one page, order 9 is 2 MiB.
//!
//! A folio has one reference count and one map count, in the [word](super::word) of its first frame. Mapping a run of its pages, and
//! giving it back once it is unmapped and flushed, changes both at once by the length of the run.

use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::{Format, Machine, PhysAddr};

use super::buddy::Buddy;
use super::word::{Kind, TooFew, TooMany};
use crate::error::Error;

/// The order of a large folio: 512 pages.
pub const HUGE_ORDER: u8 = 9;

/// A run of pages of one folio: the unit in which references are given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolioRun {
    first: u32,
    pages: u32,
}

impl FolioRun {
    /// How many pages.
    pub fn pages(&self) -> usize {
        self.pages as usize
    }
}

/// The pages of a folio from one of them to its end.
#[derive(Clone, Copy)]
pub(crate) struct FolioPart {
    head: u32,
    pages: u32,
}

impl FolioPart {
    /// How many pages.
    #[inline(always)]
    pub(crate) fn pages(self) -> usize {
        self.pages as usize
    }
}

impl From<TooMany> for Error {
    fn from(_: TooMany) -> Self {
        Error::TooManyReferences
    }
}

impl<E: Format> Buddy<E> {
    /// A new folio that reads as zeroes, with one reference and no mapping.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub(crate) fn new_folio<M: Machine<Format = E>>(
        &self,
        machine: &M,
        order: u8,
    ) -> Result<PhysAddr, Error> {
        let head = self.take_folio(order)?;
        for page in head..head + (1 << order) {
            self.zero(machine, page);
        }
        Ok(self.address(head))
    }

    /// A page of zeroes that stays. Sharing it counts nothing, so that CPUs which read what was never written share no cache line.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn new_zero_page<M: Machine<Format = E>>(
        &self,
        machine: &M,
    ) -> Result<PhysAddr, Error> {
        let number = self.take(0).ok_or(Error::OutOfMemory)?;
        self.meta(number).word.become_kind(Kind::Kept);
        self.zero(machine, number);
        Ok(self.address(number))
    }

    /// A new page with the contents of `source`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn copy_of<M: Machine<Format = E>>(
        &self,
        machine: &M,
        source: PhysAddr,
    ) -> Result<PhysAddr, Error> {
        if self.zero_at_boot && !self.meta(self.number(source)).word.is_touched() {
            return self.new_folio(machine, 0);
        }
        let number = self.take_folio(0)?;
        let copy = self.address(number);
        self.meta(number).word.touch();
        // SAFETY: two frames of data, a page each, that no table page shares; the copy is ours alone.
        unsafe {
            machine
                .data(copy)
                .copy_from_nonoverlapping(machine.data(source), E::PAGE_SIZE as usize);
        }
        Ok(copy)
    }

    /// A folio whose contents are undefined, as a frame number.
    #[inline]
    fn take_folio(&self, order: u8) -> Result<u32, Error> {
        let head = self.take_movable(order).ok_or(Error::OutOfMemory)?;
        let word = &self.meta(head).word;
        word.become_kind(Kind::Folio(order));
        word.refer();
        for tail in head + 1..head + (1 << order) {
            self.meta(tail).word.become_kind(Kind::Tail);
            self.meta(tail).link.store(head, Relaxed);
        }
        Ok(head)
    }

    /// Records that a data frame is about to be written by somebody other than the memory manager.
    pub fn will_write(&self, frame: PhysAddr) {
        self.meta(self.number(frame)).word.touch();
    }

    /// The first mapping of a new folio: its pages are mapped, `pages` of them, and the creator's reference becomes theirs.
    #[inline(always)]
    pub(crate) fn map_new(&self, folio: PhysAddr, pages: usize) {
        self.meta(self.number(folio)).word.map(pages as u32);
    }

    /// Takes a mapping for each of up to `pages` pages from `first`, all of one folio that somebody keeps meanwhile. Returns for how
    /// many.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyReferences`].
    #[inline(always)]
    pub(crate) fn share(&self, first: PhysAddr, pages: usize) -> Result<usize, Error> {
        let (head, pages) = self.run_of(first, pages);
        self.meta(head).word.share(pages)?;
        Ok(pages as usize)
    }

    /// Takes a mapping for each of the first `pages` pages of a part, by whoever has one for each already, and keeps everybody else from
    /// changing those.
    ///
    /// # Errors
    ///
    /// As [`share`](Self::share).
    #[inline(always)]
    pub(crate) fn share_own(&self, part: FolioPart, pages: usize) -> Result<(), Error> {
        Ok(self.meta(part.head).word.share_own(pages as u32)?)
    }

    /// The folio that holds `first`, from there on.
    #[inline(always)]
    pub(crate) fn part_from(&self, first: PhysAddr) -> FolioPart {
        let (head, pages) = self.folio_of(self.number(first));
        FolioPart { head, pages }
    }

    /// A run of pages was unmapped. They stay counted, for [`release_run`](Self::release_run) to give back once no TLB holds them.
    #[inline(always)]
    pub(crate) fn unmapped(&self, first: PhysAddr, pages: usize) -> FolioRun {
        FolioRun { first: self.number(first), pages: pages as u32 }
    }

    /// Gives back the mappings of a run; frees the folio with its last. Mappings that there are not are [refused](Self::refused).
    #[inline(always)]
    pub(crate) fn release_run(&self, run: FolioRun) {
        let (head, _) = self.folio_of(run.first);
        let word = &self.meta(head).word;
        match word.release(run.pages) {
            Ok(true) => self.put(head, word.folio_order().unwrap_or(0)),
            Ok(false) => {}
            Err(TooFew) => self.refuse(),
        }
    }

    /// Whether a page belongs to nobody else: an order-0 folio with one reference.
    pub(crate) fn is_exclusive(&self, page: PhysAddr) -> bool {
        self.meta(self.number(page)).word.is_exclusive()
    }

    /// References and mappings of the folio that holds a frame. Of the page of zeroes none are counted.
    pub fn folio_counts(&self, frame: PhysAddr) -> (u32, u32) {
        self.meta(self.folio_of(self.number(frame)).0).word.counts()
    }

    /// The head of the folio that holds a page, and how many of up to `pages` pages it has from there on.
    #[inline(always)]
    fn run_of(&self, first: PhysAddr, pages: usize) -> (u32, u32) {
        let (head, rest) = self.folio_of(self.number(first));
        (head, rest.min(pages as u32))
    }

    /// The head of the folio that holds a frame, and how many of its pages there are from the frame on.
    #[inline(always)]
    fn folio_of(&self, frame: u32) -> (u32, u32) {
        let meta = self.meta(frame);
        if !meta.word.is_tail() {
            return (frame, 1 << meta.word.folio_order().unwrap_or(0));
        }
        // In what is no folio, or was given back, the link says nothing.
        let head = meta.link.load(Relaxed);
        let order = self.table.get(head as usize).and_then(|head| head.word.folio_order());
        let rest = order.and_then(|order| (1_u32 << order).checked_sub(frame.wrapping_sub(head)));
        match rest.filter(|&rest| rest > 0) {
            Some(rest) => (head, rest),
            None => (frame, 1),
        }
    }

    /// Makes a page read as zeroes.
    #[inline(always)]
    fn zero<M: Machine<Format = E>>(&self, machine: &M, page: u32) {
        if self.meta(page).word.is_touched() || !self.zero_at_boot {
            // SAFETY: the frame was just allocated, so it is data that nobody else uses, 4096 bytes of it.
            unsafe { machine.data(self.address(page)).write_bytes(0, E::PAGE_SIZE as usize) };
        }
    }
}
