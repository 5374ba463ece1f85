//! Files as an address space sees them: pages that are shared by everybody who maps them.
//!
//! A page is found without a lock, by whoever has a reference to the file: places for pages are only ever added, and each is filled once.
//! What takes pages back has the file for itself.

use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering};

use kpkeys_pgtable::{Format, Machine, PhysAddr, VirtAddr};

use super::file_slots::Slots;
use crate::error::Error;
use crate::frames::{Buddy, OwnedFrame};
use crate::kernel::Kernel;

/// The pages of a file: what Linux's page cache holds of it, all that there is.
///
/// A page is found by its number in the file. One that was never touched is made when it is, and reads as zeroes.
#[must_use = "its frames are lost unless it is given back with `Kernel::close_file`"]
#[derive(Debug)]
pub struct File {
    slots: Slots,
    pages: AtomicUsize,
    /// Pages behind the last one repeat from the first, so that a short file can stand in for a long one whose contents do not matter.
    repeats: bool,
    fault_around: NonZeroUsize,
}

/// Where in a file a mapping begins, and who sees what is written to it.
#[derive(Clone, Copy, Debug)]
pub struct FilePages<'k> {
    /// The file.
    pub file: &'k File,
    /// The file's page at the mapping's first address.
    pub first: usize,
    /// Writes reach everybody who maps the file; otherwise a page is copied before its first write.
    pub shared: bool,
}

impl PartialEq for FilePages<'_> {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.file, other.file)
            && (self.first, self.shared) == (other.first, other.shared)
    }
}

impl Eq for FilePages<'_> {}

impl FilePages<'_> {
    /// The mapping without its first `pages` pages.
    pub(super) fn skip(self, pages: usize) -> Self {
        FilePages { first: self.first.wrapping_add(pages), ..self }
    }

    /// The frame that holds page `page` of the mapping, if there is one yet.
    #[inline(always)]
    pub(super) fn frame(self, page: usize) -> Option<PhysAddr> {
        self.file.frame(self.first.wrapping_add(page))
    }

    /// The frame that holds page `page` of the mapping, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// As [`File::frame_or_new`].
    #[inline(always)]
    pub(super) fn frame_or_new<M: Machine>(
        self,
        kernel: &Kernel<M>,
        page: usize,
    ) -> Result<PhysAddr, Error> {
        self.file.frame_or_new(kernel, self.first.wrapping_add(page))
    }
}

impl File {
    /// A file of frames that somebody had already, such as a device's buffer, with what is in them.
    ///
    /// # Errors
    ///
    /// The frames, if the heap has no room.
    pub fn of(frames: Vec<OwnedFrame>) -> Result<File, Vec<OwnedFrame>> {
        let pages = AtomicUsize::new(frames.len());
        let slots = Slots::holding(frames)?;
        Ok(File { slots, pages, repeats: false, fault_around: NonZeroUsize::MIN })
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::Acquire)
    }

    /// The frame that holds a page. None if no page has that number, or it was never touched.
    #[inline(always)]
    pub fn frame(&self, page: usize) -> Option<PhysAddr> {
        self.slots.get(self.place(page)?)
    }

    /// Which page a number means.
    #[inline(always)]
    fn place(&self, page: usize) -> Option<usize> {
        let pages = self.pages();
        if page < pages { Some(page) } else { self.repeats.then(|| page % pages.max(1)) }
    }

    /// The frame that holds a page, which is made if it was never touched.
    ///
    /// # Errors
    ///
    /// [`Error::BehindEnd`] if no page has that number; [`Error::OutOfMemory`].
    #[inline(always)]
    pub fn frame_or_new<M: Machine>(
        &self,
        kernel: &Kernel<M>,
        page: usize,
    ) -> Result<PhysAddr, Error> {
        let place = self.place(page).ok_or(Error::BehindEnd(page))?;
        match self.slots.get(place) {
            Some(frame) => Ok(frame),
            None => self.slots.fill(kernel, place),
        }
    }

    /// Gives it so many pages, if it has fewer. They read as zeroes, but for those that it had before it was
    /// [shortened](Self::shorten).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn extend(&self, pages: usize) -> Result<(), Error> {
        self.slots.make_room(pages)?;
        self.pages.fetch_max(pages, Ordering::AcqRel);
        Ok(())
    }

    /// Takes all pages but the first `pages` from it, for faults to come: who has one mapped keeps it, and it is there when the file is
    /// extended again.
    pub fn shorten(&self, pages: usize) {
        self.pages.fetch_min(pages, Ordering::AcqRel);
    }

    /// The frame that holds a page, and where that is kept. For attacks.
    pub fn cached(&self, page: usize) -> Option<(PhysAddr, VirtAddr)> {
        self.slots.cached(self.place(page)?)
    }

    /// How many pages a read fault maps, aligned to as many.
    pub(super) fn fault_around(&self) -> usize {
        self.fault_around.get()
    }
}

impl<M: Machine> Kernel<M> {
    /// A file of `pages` pages (at least one) of zeroes, all of them in memory; behind the last they repeat. A read fault maps up to
    /// `fault_around` of them around the one it is for; it is rounded down to a power of two, and at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new_file(&self, pages: usize, fault_around: usize) -> Result<File, Error> {
        let pages = pages.max(1);
        let file = File { repeats: true, ..self.new_sparse_file(pages, fault_around)? };
        for page in 0..pages {
            if let Err(error) = file.frame_or_new(self, page) {
                self.close_file(file);
                return Err(error);
            }
        }
        Ok(file)
    }

    /// A file of `pages` pages, none of which is in memory before it is touched. For `fault_around` see [`new_file`](Self::new_file).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], also if it is larger than all memory.
    pub fn new_sparse_file(&self, pages: usize, fault_around: usize) -> Result<File, Error> {
        let around = fault_around.checked_ilog2().map_or(1, |log| 1 << log);
        let fault_around = NonZeroUsize::new(around).unwrap_or(NonZeroUsize::MIN);
        if pages > self.machine().memory().pages {
            return Err(Error::OutOfMemory);
        }
        let slots = Slots::default();
        let file = File { slots, pages: AtomicUsize::new(0), repeats: false, fault_around };
        file.extend(pages)?;
        Ok(file)
    }

    /// Gives back the pages of a file that is nobody else's, but for the first `pages`.
    pub fn truncate_file(&self, file: &mut File, pages: usize) {
        file.shorten(pages);
        file.slots.take_from(pages, |frame| self.frames().free_frame(frame));
    }

    /// Takes a file back. (That nobody maps it any more is what the borrow in [`FilePages`] is for.)
    pub fn close_file(&self, mut file: File) {
        give_back(&mut file, self.frames());
    }
}

fn give_back<E: Format>(file: &mut File, frames: &Buddy<E>) {
    file.slots.take_from(0, |frame| frames.free_frame(frame));
}
