//! Folios: the unit in which user memory is owned, shared and mapped. Order 0 is one page, order 9 is 2 MiB.
//!
//! A folio has one reference count and one map count, in its first frame. Mapping a run of its pages changes each once,
//! by the length of the run.

use core::sync::atomic::Ordering;

use kpkeys_pgtable::{Machine, PAGE_SIZE, PhysAddr};

use super::buddy::Buddy;
use super::meta::Kind;
use crate::error::Error;

/// The order of a large folio: 512 pages.
pub const HUGE_ORDER: u8 = 9;

/// References beyond which a folio is not shared further: half of what the counter holds, so that increments in flight on
/// other CPUs cannot overflow it.
const MAX_REFERENCES: u32 = u32::MAX / 2;

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

impl Buddy {
    /// A new folio that reads as zeroes, with one reference and no mapping.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub(crate) fn new_folio<M: Machine>(&self, machine: &M, order: u8) -> Result<PhysAddr, Error> {
        let head = self.take_folio(order)?;
        for page in head..head + (1 << order) {
            self.zero(machine, page);
        }
        Ok(self.address(head))
    }

    /// A page of zeroes that stays: it is the caller's, and others share it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn new_zero_page<M: Machine>(&self, machine: &M) -> Result<PhysAddr, Error> {
        let number = self.take(0).ok_or(Error::OutOfMemory)?;
        self.meta(number).refs.store(1, Ordering::Relaxed);
        self.meta(number).maps.store(0, Ordering::Relaxed);
        self.zero(machine, number);
        Ok(self.address(number))
    }

    /// A new page with the contents of `source`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn copy_of<M: Machine>(
        &self,
        machine: &M,
        source: PhysAddr,
    ) -> Result<PhysAddr, Error> {
        if self.zero_at_boot && !self.meta(self.number(source)).is_touched() {
            return self.new_folio(machine, 0);
        }
        let number = self.take_folio(0)?;
        let copy = self.address(number);
        self.meta(number).touch();
        // SAFETY: two frames of data, a page each, that no table page shares; the copy is ours alone.
        unsafe {
            machine.data(copy).copy_from_nonoverlapping(machine.data(source), PAGE_SIZE as usize);
        }
        Ok(copy)
    }

    /// A folio whose contents are undefined, as a frame number.
    #[inline]
    fn take_folio(&self, order: u8) -> Result<u32, Error> {
        let head = self.take_movable(order).ok_or(Error::OutOfMemory)?;
        let meta = self.meta(head);
        meta.refs.store(1, Ordering::Relaxed);
        meta.maps.store(0, Ordering::Relaxed);
        for tail in head + 1..head + (1 << order) {
            self.meta(tail).set_kind(Kind::Tail);
            self.meta(tail).link.store(head, Ordering::Relaxed);
        }
        Ok(head)
    }

    /// Records that a data frame is about to be written by somebody other than the memory manager.
    pub fn will_write(&self, frame: PhysAddr) {
        self.meta(self.number(frame)).touch();
    }

    /// The first mapping of a new folio: its pages are mapped, `pages` of them, and the creator's reference becomes theirs.
    #[inline(always)]
    pub(crate) fn map_new(&self, folio: PhysAddr, pages: usize) {
        let meta = self.meta(self.number(folio));
        meta.refs.store(pages as u32, Ordering::Relaxed);
        meta.maps.store(pages as u32, Ordering::Relaxed);
    }

    /// Takes a reference and a mapping for each of up to `pages` pages from `first`, all of one folio. Returns for how many.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyReferences`].
    #[inline(always)]
    pub(crate) fn share(&self, first: PhysAddr, pages: usize) -> Result<usize, Error> {
        let first = self.number(first);
        let (head, rest) = self.folio_of(first);
        let pages = pages.min(rest as usize) as u32;
        let meta = self.meta(head);
        if meta.refs.fetch_add(pages, Ordering::Relaxed) > MAX_REFERENCES {
            meta.refs.fetch_sub(pages, Ordering::Relaxed);
            return Err(Error::TooManyReferences);
        }
        meta.maps.fetch_add(pages, Ordering::Relaxed);
        Ok(pages as usize)
    }

    /// How many pages of the folio that holds `first` there are from it on.
    #[inline(always)]
    pub(crate) fn pages_from(&self, first: PhysAddr) -> usize {
        self.folio_of(self.number(first)).1 as usize
    }

    /// A run of pages was unmapped. Their references remain, for [`release_run`](Self::release_run) to give back once no TLB
    /// holds them.
    #[inline(always)]
    pub(crate) fn unmapped(&self, first: PhysAddr, pages: usize) -> FolioRun {
        let first = self.number(first);
        let (head, _) = self.folio_of(first);
        self.meta(head).maps.fetch_sub(pages as u32, Ordering::Relaxed);
        FolioRun { first, pages: pages as u32 }
    }

    /// Gives back a reference for each page of a run; frees the folio with its last.
    #[inline(always)]
    pub(crate) fn release_run(&self, run: FolioRun) {
        let (head, _) = self.folio_of(run.first);
        let meta = self.meta(head);
        // The last reference must see every access made under the others.
        if meta.refs.fetch_sub(run.pages, Ordering::AcqRel) == run.pages {
            let order = self.order(head);
            self.put(head, order);
        }
    }

    /// Whether a page belongs to nobody else: an order-0 folio with one reference.
    pub(crate) fn is_exclusive(&self, page: PhysAddr) -> bool {
        let frame = self.number(page);
        self.meta(frame).kind() == Kind::Used(0)
            && self.meta(frame).refs.load(Ordering::Acquire) == 1
    }

    /// References and mappings of the folio that holds a frame.
    pub fn folio_counts(&self, frame: PhysAddr) -> (u32, u32) {
        let meta = self.meta(self.folio_of(self.number(frame)).0);
        (meta.refs.load(Ordering::Relaxed), meta.maps.load(Ordering::Relaxed))
    }

    /// The head of the folio that holds a frame, and how many of its pages there are from the frame on.
    #[inline(always)]
    fn folio_of(&self, frame: u32) -> (u32, u32) {
        let meta = self.meta(frame);
        match meta.kind() {
            Kind::Used(0) => (frame, 1),
            Kind::Tail => {
                let head = meta.link.load(Ordering::Relaxed);
                (head, head + (1 << self.order(head)) - frame)
            }
            Kind::Used(order) | Kind::Free(order) => (frame, 1 << order),
        }
    }

    #[inline(always)]
    fn order(&self, head: u32) -> u8 {
        match self.meta(head).kind() {
            Kind::Used(order) | Kind::Free(order) => order,
            Kind::Tail => 0,
        }
    }

    /// Makes a page read as zeroes.
    #[inline(always)]
    fn zero<M: Machine>(&self, machine: &M, page: u32) {
        let meta = self.meta(page);
        if meta.is_touched() || !self.zero_at_boot {
            // SAFETY: the frame was just allocated, so it is data that nobody else uses, 4096 bytes of it.
            unsafe { machine.data(self.address(page)).write_bytes(0, PAGE_SIZE as usize) };
        }
    }
}
