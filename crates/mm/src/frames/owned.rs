//! Single frames of data, owned by a value.

use kpkeys_pgtable::PhysAddr;

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
        let frame = self.address(self.take(0).ok_or(Error::OutOfMemory)?);
        self.will_write(frame);
        Ok(OwnedFrame(frame))
    }

    /// Takes a frame back. No mapping of it may be left.
    pub fn free_frame(&self, frame: OwnedFrame) {
        self.put(self.number(frame.0), 0);
    }
}
