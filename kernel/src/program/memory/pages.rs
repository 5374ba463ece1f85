//! Pages that mappings show: a file's contents in memory, or what processes share.
//!
//! They are the only place of what a written file holds: calls copy to and from the frames that mappings show, so each sees what the other
//! writes. A page is made when it is first touched.

use crate::arch::{layout, user};
use crate::lock::expect_irqs_on;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::boot::PhysAddr;
use crate::memory::paging::memories;
use crate::program::errno::{Errno, Outcome};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys_mm::File;
use kpkeys_pgtable::Machine;

/// How many pages a read fault maps around the one it is for, as Linux.
const FAULT_AROUND: usize = 16;
/// The part of memory that files leave to everything else.
const LEFT_BY_FILES: usize = 16;

/// Pages with contents of their own. They are given back when the last of those who keep them is gone.
pub struct Pages {
    file: *mut File,
    /// Something was written since what is in them was last made fit to be run.
    is_written: AtomicBool,
}

// SAFETY: the pointer is this value's alone until it is dropped; before, it is changed only by who has the value for itself.
unsafe impl Send for Pages {}
// SAFETY: as above; a `File` is `Sync`.
unsafe impl Sync for Pages {}

impl Pages {
    /// So many bytes of zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn zeroes(bytes: u64) -> Outcome<Self> {
        Ok(Self::of_file(memories().new_sparse_file(pages_of(bytes)?, FAULT_AROUND)?))
    }

    /// Pages that begin with these bytes; the rest of the last is zero.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn holding(contents: &[u8]) -> Outcome<Self> {
        let new = Self::zeroes(contents.len() as u64)?;
        new.write(0, contents).map_err(|_| Errno::ENOMEM)?;
        Ok(new)
    }

    /// Pages that somebody had already: a device's buffer. None if the heap has no room.
    #[cfg(feature = "vulnerable")]
    pub fn of(frames: alloc::vec::Vec<kpkeys_mm::frames::OwnedFrame>) -> Option<Self> {
        let given_back = |frames: alloc::vec::Vec<_>| {
            frames.into_iter().for_each(|frame| memories().frames().free_frame(frame));
        };
        File::of(frames).map_err(given_back).ok().map(Self::of_file)
    }

    fn of_file(file: File) -> Self {
        Self { file: Box::into_raw(Box::new(file)), is_written: AtomicBool::new(false) }
    }

    /// Makes it so many bytes long, if it is shorter.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`].
    pub fn extend(&self, bytes: u64) -> Outcome<()> {
        let pages = pages_of(bytes)?;
        if pages > memories().machine().memory().pages {
            return Err(Errno::ENOSPC);
        }
        self.file().extend(pages).map_err(|_| Errno::ENOSPC)
    }

    /// Makes it so many bytes long, if it is longer. What is cut off reads as zeroes should it be extended again; who has mapped it keeps
    /// the pages until then.
    pub fn shorten(&mut self, bytes: u64) {
        let pages = bytes.div_ceil(PAGE_SIZE) as usize;
        // SAFETY: made by `Box::into_raw`, and `&mut self` says that nobody else uses the file.
        memories().truncate_file(unsafe { &mut *self.file }, pages);
        self.clear_from(bytes, bytes.next_multiple_of(PAGE_SIZE));
    }

    /// The same while others may have it mapped: the pages stay the file's, and are cleared.
    pub fn shorten_shared(&self, bytes: u64, old_bytes: u64) {
        self.clear_from(bytes, old_bytes.next_multiple_of(PAGE_SIZE));
        self.file().shorten(bytes.div_ceil(PAGE_SIZE) as usize);
    }

    /// Clears what is there between two places.
    fn clear_from(&self, start: u64, end: u64) {
        each_piece(start, end.saturating_sub(start), |page, within, _, len| {
            if let Some(frame) = self.file().frame(page) {
                // SAFETY: `len` bytes within a frame that is the file's own; no reference to it is ever made.
                unsafe { byte_of(frame, within).write_bytes(0, len) };
            }
            Ok(())
        })
        .unwrap_or(());
    }

    /// Copies bytes out, which must be before the end. What was never written is zero.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        each_piece(offset, to.len() as u64, |page, within, done, len| {
            let to = &mut to[done..done + len];
            match self.file().frame(page) {
                // SAFETY: `len` bytes within a frame that is the file's own; programs may change them meanwhile, which bytes can bear.
                Some(frame) => unsafe {
                    core::ptr::copy_nonoverlapping(byte_of(frame, within), to.as_mut_ptr(), len)
                },
                None => to.fill(0),
            }
            Ok(())
        })
        .unwrap_or(());
    }

    /// Copies bytes in, which must be before the end.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`]; what is before the first page that there is no memory for is written.
    pub fn write(&self, offset: u64, from: &[u8]) -> Outcome<()> {
        self.is_written.store(true, Ordering::Release);
        each_piece(offset, from.len() as u64, |page, within, done, len| {
            let frame = match self.file().frame(page) {
                Some(frame) => frame,
                None => self.new_frame(page)?,
            };
            let from = &from[done..done + len];
            // SAFETY: as for `read`.
            unsafe {
                core::ptr::copy_nonoverlapping(from.as_ptr(), byte_of(frame, within), len);
            };
            Ok(())
        })
    }

    fn new_frame(&self, page: usize) -> Outcome<PhysAddr> {
        let memories = memories();
        if memories.frames().free_frames() < memories.machine().memory().pages / LEFT_BY_FILES {
            return Err(Errno::ENOSPC);
        }
        self.file().frame_or_new(memories, page).map_err(|_| Errno::ENOSPC)
    }

    /// Makes what is in them fit to be run.
    pub fn publish(&self) {
        if !self.is_written.swap(false, Ordering::AcqRel) {
            return;
        }
        for frame in (0..self.file().pages()).filter_map(|page| self.file().frame(page)) {
            user::publish_code(layout::linear(frame), PAGE_SIZE as usize);
        }
    }

    /// The file that mappings show. The lifetime is a promise: whoever maps it keeps an `Arc` of this for as long as the mapping is there
    /// (`Memory`).
    pub(super) fn file(&self) -> &'static File {
        // SAFETY: the box lives until `drop`, which runs when nobody keeps this any more; `shorten` has it for itself.
        unsafe { &*self.file }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        expect_irqs_on();
        // SAFETY: made by `Box::into_raw`, and dropped once.
        let file = unsafe { Box::from_raw(self.file) };
        memories().close_file(*file);
    }
}

fn pages_of(bytes: u64) -> Outcome<usize> {
    usize::try_from(bytes.div_ceil(PAGE_SIZE)).map_err(|_| Errno::ENOMEM)
}

fn byte_of(frame: PhysAddr, within: usize) -> *mut u8 {
    layout::linear(frame).wrapping_add(within)
}

/// Calls `f` for the pieces of a range, each within a page: the page, where in it, how much is done, and how long the piece is.
fn each_piece(
    offset: u64,
    len: u64,
    mut f: impl FnMut(usize, usize, usize, usize) -> Outcome<()>,
) -> Outcome<()> {
    let mut done = 0;
    while done < len {
        let at = offset + done;
        let piece = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        f((at / PAGE_SIZE) as usize, (at % PAGE_SIZE) as usize, done as usize, piece as usize)?;
        done += piece;
    }
    Ok(())
}
