//! Pages that mappings show: a file's contents in memory, or what processes share.

use crate::arch::{layout, user};
use crate::memory::paging::memories;
use crate::program::errno::Outcome;
use alloc::boxed::Box;
use kpkeys_mm::File;
use kpkeys_pgtable::PAGE_SIZE;

/// How many pages a read fault maps around the one it is for, as Linux.
const FAULT_AROUND: usize = 16;

/// Pages with contents of their own. They are given back when the last of those who keep them is gone.
pub struct Pages {
    file: *mut File,
    pages: usize,
}

// SAFETY: the pointer is this value's alone until it is dropped, and only read before.
unsafe impl Send for Pages {}
// SAFETY: as above; a `File` is immutable.
unsafe impl Sync for Pages {}

impl Pages {
    /// So many pages of zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn zeroes(bytes: u64) -> Outcome<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1) as usize;
        let file = memories().new_file(pages, FAULT_AROUND)?;
        Ok(Self { file: Box::into_raw(Box::new(file)), pages })
    }

    /// Pages that begin with these bytes; the rest of the last is zero. They may be run.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn holding(contents: &[u8]) -> Outcome<Self> {
        let new = Self::zeroes(contents.len() as u64)?;
        for (page, bytes) in contents.chunks(PAGE_SIZE as usize).enumerate() {
            let at = layout::linear(new.file().frame(page));
            // SAFETY: the frame is the file's own, mapped nowhere else yet, and holds a page.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
            user::publish_code(at, bytes.len());
        }
        Ok(new)
    }

    /// Pages that somebody had already: a device's buffer. None if there are none.
    #[cfg(feature = "vulnerable")]
    pub fn of(frames: alloc::vec::Vec<kpkeys_mm::frames::OwnedFrame>) -> Option<Self> {
        let pages = frames.len();
        let file = File::of(frames)?;
        Some(Self { file: Box::into_raw(Box::new(file)), pages })
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// The file that mappings show. The lifetime is a promise: whoever maps it keeps an `Arc` of this for as long as the mapping is there
    /// (`Memory`).
    pub(super) fn file(&self) -> &'static File {
        // SAFETY: the box lives until `drop`, which runs when nobody keeps this any more.
        unsafe { &*self.file }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and dropped once.
        let file = unsafe { Box::from_raw(self.file) };
        memories().close_file(*file);
    }
}
