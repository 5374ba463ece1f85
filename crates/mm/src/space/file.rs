//! Files as an address space sees them: pages that are in memory already, and shared by everybody who maps them.

use alloc::vec::Vec;
use core::num::NonZeroUsize;

use kpkeys_pgtable::{Machine, PhysAddr, VirtAddr};

use crate::error::Error;
use crate::frames::{Buddy, OwnedFrame};
use crate::heap;
use crate::kernel::Kernel;

/// The pages of a file in memory: what Linux's page cache holds of it, all of it.
///
/// A page is found by its number in the file. Pages behind the last one repeat from the first, so that a short file can stand in
/// for a long one whose contents do not matter.
#[must_use = "its frames are lost unless it is given back with `Kernel::close_file`"]
#[derive(Debug)]
pub struct File {
    frames: Vec<OwnedFrame>,
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

    /// The frame that holds page `page` of the mapping.
    pub(super) fn frame(self, page: usize) -> PhysAddr {
        self.file.frame(self.first.wrapping_add(page))
    }
}

impl File {
    /// A file of frames that somebody had already, such as a device's buffer, with what is in them. None if there are none.
    pub fn of(frames: Vec<OwnedFrame>) -> Option<File> {
        let fault_around = NonZeroUsize::MIN;
        (!frames.is_empty()).then_some(File { frames, fault_around })
    }

    /// The frame that holds a page. Pages behind the last one repeat from the first.
    pub fn frame(&self, page: usize) -> PhysAddr {
        self.frames[page % self.frames.len()].address()
    }

    /// The frame that holds a page, and where that is kept. For attacks.
    pub fn cached(&self, page: usize) -> (PhysAddr, VirtAddr) {
        let cached = &self.frames[page % self.frames.len()];
        (cached.address(), VirtAddr(core::ptr::from_ref(cached).addr() as u64))
    }

    /// How many pages a read fault maps, aligned to as many.
    pub(super) fn fault_around(&self) -> usize {
        self.fault_around.get()
    }

    fn give_back(self, frames: &Buddy) {
        self.frames.into_iter().for_each(|frame| frames.free_frame(frame));
    }
}

impl<M: Machine> Kernel<M> {
    /// A file of `pages` pages (at least one) of zeroes, all of them in memory. A read fault maps up to `fault_around` of them around
    /// the one it is for; it is rounded down to a power of two, and at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new_file(&self, pages: usize, fault_around: usize) -> Result<File, Error> {
        let around = fault_around.checked_ilog2().map_or(1, |log| 1 << log);
        let fault_around = NonZeroUsize::new(around).unwrap_or(NonZeroUsize::MIN);
        let pages = pages.max(1);
        if pages > self.machine().memory().pages {
            return Err(Error::OutOfMemory);
        }
        let mut file = File { frames: heap::with_room_for(pages)?, fault_around };
        for _ in 0..pages {
            match self.purging_if_short(|| self.frames().new_zeroed_frame(self.machine())) {
                Ok(frame) => file.frames.push(frame),
                Err(error) => {
                    file.give_back(self.frames());
                    return Err(error);
                }
            }
        }
        Ok(file)
    }

    /// Takes a file back. (That nobody maps it any more is what the borrow in [`FilePages`] is for.)
    pub fn close_file(&self, file: File) {
        file.give_back(self.frames());
    }
}
