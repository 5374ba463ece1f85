//! Single frames of data, owned by a value.

use core::sync::atomic::Ordering;

use kpkeys_pgtable::{Machine, PhysAddr};

use super::buddy::Buddy;
use crate::error::Error;

/// A frame of data that belongs to whoever holds this. Its contents are undefined at first.
#[must_use = "the frame is lost unless it is given back with `Buddy::free_frame`"]
#[derive(Debug)]
pub struct OwnedFrame(PhysAddr);

impl OwnedFrame {
    /// Its address.
    pub fn address(&self) -> PhysAddr {
        self.0
    }
}

impl Buddy {
    /// A frame for data.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new_frame(&self) -> Result<OwnedFrame, Error> {
        let number = self.take(0).ok_or(Error::OutOfMemory)?;
        let frame = self.address(number);
        self.meta(number).refs.store(1, Ordering::Relaxed);
        self.will_write(frame);
        Ok(OwnedFrame(frame))
    }

    /// A frame for data that holds zeroes. What is written to it later counts as its contents.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn new_zeroed_frame<M: Machine>(&self, machine: &M) -> Result<OwnedFrame, Error> {
        let frame = self.new_folio(machine, 0)?;
        self.will_write(frame);
        Ok(OwnedFrame(frame))
    }

    /// Takes a frame back. It is free once no mapping holds it any more.
    pub fn free_frame(&self, frame: OwnedFrame) {
        self.let_go(frame.0);
    }

    /// Keeps a frame from being reused until [`let_go`](Self::let_go): some mapping of it is still to be cleared. False, and
    /// nothing done, if the frame has no owner that counts: a page-table page, the image's, or none of this memory.
    #[inline]
    #[must_use]
    pub(crate) fn hold(&self, frame: PhysAddr) -> bool {
        let one_more = |refs| (refs != 0 && refs < u32::MAX / 2).then(|| refs + 1);
        self.memory.contains(frame, 1)
            && self
                .meta(self.number(frame))
                .refs
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_ok()
    }

    /// Gives up one hold on a frame, or its ownership.
    #[inline]
    pub(crate) fn let_go(&self, frame: PhysAddr) {
        let number = self.number(frame);
        // The last one must see every access made before the others let go.
        if self.meta(number).refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.put(number, 0);
        }
    }
}
